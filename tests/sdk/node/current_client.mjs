// Sends the calls of a JSON file with `@segment/analytics-node`: URL PREFIX WRITE_KEY CALLS_JSON.
// PACKAGE in the environment is the name that the wanted release is installed under.
import { readFileSync } from 'node:fs';

const { Analytics } = await import(process.env.PACKAGE);

const [url, prefix, writeKey, callsPath] = process.argv.slice(2);
const calls = JSON.parse(readFileSync(callsPath, 'utf8'));
// This SDK drops the path of `host`, so every part of it belongs into `path`.
const { origin, pathname } = new URL(url);
const path = `${pathname}${prefix}/v1/batch`.replace('//', '/');
const analytics = new Analytics({ writeKey, host: origin, path });
analytics.on('error', (error) => {
  console.error('not delivered:', error);
  process.exitCode = 1;
});

let delivered = 0;
for (const { type, ...message } of calls) {
  analytics[type](message, (error) => {
    delivered += error ? 0 : 1;
  });
}
await analytics.closeAndFlush({ timeout: 20_000 });
console.log(`delivered ${delivered}`);
