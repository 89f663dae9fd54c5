-- wrk's script: posts the bodies of a file (tests/benchmarks/bodies.py) in turn; prints its figures as one JSON line at the end.
-- Arguments: the file, the number of the body to begin after, and the bodies' Content-Encoding or nothing.
local requests, position = {}, 0

function init(arguments)
  local headers = { ["Content-Type"] = "application/json" }
  if arguments[3] and arguments[3] ~= "" then headers["Content-Encoding"] = arguments[3] end
  position = tonumber(arguments[2])
  local file = assert(io.open(arguments[1], "rb"))
  for line in function() return file:read("*l") end do
    requests[#requests + 1] = wrk.format("POST", nil, headers, file:read(tonumber(line)))
  end
  file:close()
end

function request()
  position = position % #requests + 1
  return requests[position]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '{"requests":%d,"seconds":%.6f,"refused":%d,"broken":%d,"p50_ms":%.3f,"p99_ms":%.3f,"p999_ms":%.3f,"max_ms":%.3f}\n',
    summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3, latency.max / 1e3))
end
