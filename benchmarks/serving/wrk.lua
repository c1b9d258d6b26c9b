-- wrk -s wrk.lua URL -- FILE LINES: sends the lines of FILE in turn, LINES of them a request (one: as JSON, more:
-- as a stream of lines), and prints what came of it as JSON.

local requests, n = {}, 0

function init(arguments)
  local lines = tonumber(arguments[2])
  local kind = lines > 1 and "application/x-ndjson" or "application/json"
  local body, count = {}, 0
  for line in io.lines(arguments[1]) do
    count = count + 1
    body[count] = line
    if count == lines then
      requests[#requests + 1] = wrk.format("POST", nil, {["Content-Type"] = kind}, table.concat(body, "\n"))
      body, count = {}, 0
    end
  end
end

function request()
  n = n % #requests + 1
  return requests[n]
end

function done(summary, latency)
  local e = summary.errors
  print(string.format(
    'RESULT {"requests": %d, "seconds": %f, "errors": %d, "p50": %d, "p95": %d, "p99": %d}',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50), latency:percentile(95), latency:percentile(99)))
end
