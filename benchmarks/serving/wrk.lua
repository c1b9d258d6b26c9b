-- wrk -s wrk.lua URL -- MEDIA LINES FILE...: sends bodies of a media type in turn, and prints what came of it as
-- JSON. A body has LINES lines of the file; with LINES 0, each file is a body.

local requests, n = {}, 0

local function add(media, body)
  requests[#requests + 1] = wrk.format("POST", nil, {["Content-Type"] = media}, body)
end

function init(arguments)
  local media, lines = arguments[1], tonumber(arguments[2])
  for i = 3, #arguments do
    if lines == 0 then
      local file = io.open(arguments[i], "rb")
      add(media, file:read("*a"))
      file:close()
    else
      local body = {}
      for line in io.lines(arguments[i]) do
        body[#body + 1] = line
        if #body == lines then
          add(media, table.concat(body, "\n"))
          body = {}
        end
      end
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
