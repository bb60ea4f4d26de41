// Sends the calls of a JSON file with `@jitsu/js`: URL PREFIX WRITE_KEY CALLS_JSON [s2s].
// The calls of this SDK are track, identify, page and group; with `s2s` it speaks as a server.
import { readFileSync } from 'node:fs';
import { jitsuAnalytics } from '@jitsu/js';

const [url, prefix, writeKey, callsPath, mode] = process.argv.slice(2);
const calls = JSON.parse(readFileSync(callsPath, 'utf8'));
const senders = {
  track: (sdk, { event, properties }, options) => sdk.track(event, properties, options),
  identify: (sdk, { userId, traits }, options) => sdk.identify(userId, traits, options),
  page: (sdk, { name, properties }, options) => sdk.page({ name, ...properties }, options),
  group: (sdk, { groupId, traits }, options) => sdk.group(groupId, traits, options),
};

let failed = 0;
for (const call of calls) {
  // An instance is one visitor, whose traits go into all of its later events. So does the context
  // of a call, even into those of other instances, unless each has a default of its own.
  const sdk = jitsuAnalytics({
    host: `${url}${prefix}`,
    writeKey,
    defaultPayloadContext: {},
    s2s: mode === 's2s',
    errorPolicy(message) {
      console.error('not delivered:', message);
      failed += 1;
    },
  });
  const { anonymousId, userId, context } = call;
  await senders[call.type](sdk, call, { anonymousId, userId, context });
}
console.log(`delivered ${calls.length - failed}`);
process.exitCode = failed ? 1 : 0;
