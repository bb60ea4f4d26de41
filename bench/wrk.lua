-- Sends the prepared requests of a folder (00000.http, 00001.http, ...) in turn and prints what
-- came of it as one line of JSON. Called as: wrk [options] -s wrk.lua URL -- FOLDER

local prepared, count, position = {}, 0, 0

function init(args)
  while true do
    local file = io.open(string.format("%s/%05d.http", args[1], count), "rb")
    if not file then break end
    prepared[count] = file:read("*a")
    file:close()
    count = count + 1
  end
end

function request()
  local text = prepared[position]
  position = (position + 1) % count
  return text
end

function done(summary, latency, requests)
  local errors = summary.errors
  print(string.format(
    'RESULT {"answered":%d,"failed":%d,"broken":%d,"seconds":%.6f,"p50_ms":%.3f,"p99_ms":%.3f}',
    summary.requests, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
