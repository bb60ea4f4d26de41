-- Sends the prepared requests of a folder (00000.http, 00001.http, ...) in turn and prints what
-- came of it as one line of JSON. Called as: wrk [options] -s wrk.lua URL -- FOLDER [START]
-- With START, a number below 2^24, each request has a forwarded address that none had before; the
-- step is odd, so it takes 2^24 requests until one comes again.

local prepared, tails, count, position, address = {}, {}, 0, 0, nil
local NAME, STEP, ALL = "X-Forwarded-For: ", 6700417, 2 ^ 24

function init(args)
  address = tonumber(args[2])
  while true do
    local file = io.open(string.format("%s/%05d.http", args[1], count), "rb")
    if not file then break end
    local text = file:read("*a")
    file:close()
    if address then
      local _, before = text:find(NAME, 1, true)
      local after = text:find("\r\n", before, true)
      prepared[count], tails[count] = text:sub(1, before), text:sub(after)
    else
      prepared[count] = text
    end
    count = count + 1
  end
end

function request()
  local text, tail = prepared[position], tails[position]
  position = (position + 1) % count
  if not address then return text end
  address = (address + STEP) % ALL
  return text .. string.format("81.%d.%d.%d",
    math.floor(address / 65536), math.floor(address / 256) % 256, address % 256) .. tail
end

function done(summary, latency, requests)
  local errors = summary.errors
  print(string.format(
    'RESULT {"answered":%d,"failed":%d,"broken":%d,"seconds":%.6f,' ..
    '"p50_ms":%.3f,"p99_ms":%.3f,"p999_ms":%.3f}',
    summary.requests, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout, summary.duration / 1e6,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3))
end
