// Sends three events with `@jitsu/sdk-js`, the older tracker: URL WRITE_KEY OPTIONS_JSON.
// The tracker tells its caller nothing of their fate but in its log.
import { jitsuClient } from '@jitsu/sdk-js';

const [url, writeKey, options] = process.argv.slice(2);
const tracker = jitsuClient({
  tracking_host: url,
  key: writeKey,
  log_level: 'WARN',
  ...JSON.parse(options),
});
tracker.id({ id: 'user-1', email: 'grüße@shop.example' });
tracker.track('order_completed', {
  // Names that the mapping of Segment's events would move.
  page: 'checkout',
  type: 'button',
  context: { ip: '198.51.100.1' },
  properties: { revenue: 49.5 },
  batch: [1, 2],
});
tracker.rawTrack({
  event_type: 'raw',
  event_id: 'raw-1',
  source_ip: '203.0.113.7',
  user: { id: 'user-2' },
  user_agent: 'curl/7.68.0',
});
