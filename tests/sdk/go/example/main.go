// The Go example of the API documentation, with the write key and the endpoint taken from the
// environment. The printed text does not compile and sends nothing, so this was added: the
// imports of "net", which it uses but does not import, and of "os", for the environment; a use
// of "log", which it imports but does not use, in place of "handle error"; and the call of Close
// at the end, without which the program ends before the SDK sends its queue.
package main

import (
	"gopkg.in/segmentio/analytics-go.v3"
	"log"
	"net"
	"os"
	"time"
)

func main() {
	//if you are using JS SDK 2.0 events structure
	client, _ := analytics.NewWithConfig(os.Getenv("WRITE_KEY"), analytics.Config{Endpoint: os.Getenv("ENDPOINT")})
	//or if you are using deprecated events structure
	//client, _ := analytics.NewWithConfig("Jitsu API key server secret", analytics.Config{Endpoint: "https://Jitsu_host/api/v1/segment/compat"})
	//sending event
	analyticsTraits := analytics.NewTraits().
		SetFirstName("Ned").
		SetLastName("Stark").
		Set("role", "the Lord of Winterfell").
		SetEmail("ned@starkinc.com")
	analyticsContext := &analytics.Context{
		App: analytics.AppInfo{
			Name:    "my_app",
			Version: "1.0",
		},
		Device: analytics.DeviceInfo{
			Manufacturer: "Apple",
			Model:        "iPhone",
			Type:         "mobile",
		},
		Location: analytics.LocationInfo{
			City:      "San Francisco",
			Country:   "US",
			Latitude:  1.0,
			Longitude: 2.0,
			Region:    "CA",
			Speed:     100,
		},
		IP:     net.IPv4(1, 1, 1, 1),
		Traits: analyticsTraits,
	}
	err := client.Enqueue(analytics.Track{
		MessageId:   "track1",
		AnonymousId: "anonym1",
		Event:       "test_track",
		Timestamp:   time.Now(),
		Context:     analyticsContext,
	})
	if err != nil {
		log.Fatal(err)
	}
	client.Close()
}
