// Sends the calls of a JSON file with `analytics-node`: URL PREFIX WRITE_KEY CALLS_JSON.
import { readFileSync } from 'node:fs';
import Analytics from 'analytics-node';

const [url, prefix, writeKey, callsPath] = process.argv.slice(2);
const calls = JSON.parse(readFileSync(callsPath, 'utf8'));
const analytics = new Analytics(writeKey, { host: url + prefix });

const answers = calls.map(
  ({ type, ...message }) =>
    new Promise((resolve, reject) => {
      analytics[type](message, (error) => (error ? reject(error) : resolve()));
    }),
);
// The first call went out by itself, the others wait in the queue. A failure of either
// rejects a promise that is awaited nowhere else or here, and so ends the process with 1.
await analytics.flush();
await Promise.all(answers);
console.log(`delivered ${answers.length}`);
