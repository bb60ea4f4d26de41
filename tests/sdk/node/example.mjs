// The Node.js example of the API documentation, with the write key and the endpoint taken from
// the environment. Added to the printed text: the content of the first call, where it has `{...}`.
// Nothing else is needed: the SDK sends its queue after ten seconds, and Node then exits.
import Analytics from 'analytics-node';
//if you are using JS SDK 2.0 events structure
let analytics = new Analytics(`${process.env.WRITE_KEY}`, {
    host: `${process.env.ENDPOINT}`
})
//or if you are using deprecated events structure
//let analytics = new Analytics(`Jitsu API key server secret`, {
// host: `https://Jitsu_host/api/v1/segment/compat`
//})
analytics.track({anonymousId: 'anonym1', event: 'test_track'});
analytics.identify({
    anonymousId: 'anonym1',
    traits: {
        email: 'newuser@gmail.com'
    }
});
