// Command client sends the calls of a JSON file with the Go SDK: URL PREFIX WRITE_KEY CALLS_JSON.
// RETRY_AFTER_MS in the environment is the time between its tries, instead of the SDK's own.
package main

import (
	"encoding/json"
	"fmt"
	"log"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/segmentio/analytics-go/v3"
)

// outcome counts what the SDK says about each message; batches report from their own goroutines.
type outcome struct {
	delivered, failed int32
	open              sync.WaitGroup
}

func (o *outcome) Success(analytics.Message) {
	atomic.AddInt32(&o.delivered, 1)
	o.open.Done()
}

func (o *outcome) Failure(_ analytics.Message, err error) {
	log.Printf("not delivered: %v", err)
	atomic.AddInt32(&o.failed, 1)
	o.open.Done()
}

// decode reads one call into the SDK's own type for it.
func decode(call json.RawMessage) (analytics.Message, error) {
	var header struct{ Type string }
	if err := json.Unmarshal(call, &header); err != nil {
		return nil, err
	}
	messages := map[string]analytics.Message{
		"track":    &analytics.Track{},
		"identify": &analytics.Identify{},
		"page":     &analytics.Page{},
		"screen":   &analytics.Screen{},
		"group":    &analytics.Group{},
		"alias":    &analytics.Alias{},
	}
	message, ok := messages[header.Type]
	if !ok {
		return nil, fmt.Errorf("unknown type %q", header.Type)
	}
	return message, json.Unmarshal(call, message)
}

func main() {
	url, prefix, writeKey, callsPath := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	text, err := os.ReadFile(callsPath)
	if err != nil {
		log.Fatal(err)
	}
	var calls []json.RawMessage
	if err := json.Unmarshal(text, &calls); err != nil {
		log.Fatal(err)
	}

	var sent outcome
	config := analytics.Config{
		Endpoint: url + prefix,
		Interval: 100 * time.Millisecond,
		Callback: &sent,
	}
	if text := os.Getenv("RETRY_AFTER_MS"); text != "" {
		wait, err := time.ParseDuration(text + "ms")
		if err != nil {
			log.Fatal(err)
		}
		config.RetryAfter = func(int) time.Duration { return wait }
	}
	client, err := analytics.NewWithConfig(writeKey, config)
	if err != nil {
		log.Fatal(err)
	}
	for _, call := range calls {
		message, err := decode(call)
		if err != nil {
			log.Fatal(err)
		}
		sent.open.Add(1)
		if err := client.Enqueue(message); err != nil {
			log.Fatal(err)
		}
	}
	// Closing the client ends its tries, so it has to wait for their outcome.
	sent.open.Wait()
	if err := client.Close(); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("delivered %d\n", sent.delivered)
	if sent.failed > 0 {
		os.Exit(1)
	}
}
