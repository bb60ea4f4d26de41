// Sends the calls of a JSON file with RudderStack's SDK: URL PREFIX WRITE_KEY CALLS_JSON.
// With GZIP=1 in the environment it compresses its requests, which it does unless told otherwise.
import { readFileSync } from 'node:fs';
import Analytics from '@rudderstack/rudder-sdk-node';

const [url, prefix, writeKey, callsPath] = process.argv.slice(2);
const calls = JSON.parse(readFileSync(callsPath, 'utf8'));
const analytics = new Analytics(writeKey, {
  dataPlaneUrl: url + prefix,
  gzip: process.env.GZIP === '1',
  // Without one, a failure of the first call, which goes out by itself, is an unhandled rejection.
  errorHandler: (error) => console.error('not delivered:', error.message),
});

let delivered = 0;
const answers = calls.map(
  ({ type, ...message }) =>
    new Promise((resolve) => {
      analytics[type](message, (error) => {
        delivered += error ? 0 : 1;
        resolve();
      });
    }),
);
// The first call went out by itself, the others wait in the queue.
await analytics.flush();
await Promise.all(answers);
console.log(`delivered ${delivered}`);
process.exitCode = delivered === calls.length ? 0 : 1;
