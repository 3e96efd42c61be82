-- load.lua - wrk script: each request posts the next of the pictures to /v1/diagnoses as multipart/form-data.
-- Arguments after wrk's "--": a file with one picture's path a line, then the question, then the answers.
local bodies, n, at = {}, 0, 0
local boundary = "jomed-load-7d3f"
local threads = 0

function setup(thread) thread:set("id", threads); threads = threads + 1 end

local function part(name, value) return "--" .. boundary .. "\r\nContent-Disposition: form-data; name=\"" .. name .. "\"\r\n\r\n" .. value .. "\r\n" end

function init(args)
    local rest = part("question", args[2])
    for i = 3, #args do rest = rest .. part("answers", args[i]) end
    for path in io.lines(args[1]) do
        local f = assert(io.open(path, "rb"))
        bodies[n] = "--" .. boundary .. "\r\nContent-Disposition: form-data; name=\"image\"; filename=\"x.png\"\r\nContent-Type: image/png\r\n\r\n"
            .. f:read("*a") .. "\r\n" .. rest .. "--" .. boundary .. "--\r\n"
        f:close()
        n = n + 1
    end
    at = math.floor(n / 2) * id -- threads start apart
end

function request()
    at = (at + 1) % n
    return wrk.format("POST", "/v1/diagnoses", {["Content-Type"] = "multipart/form-data; boundary=" .. boundary}, bodies[at])
end

function done(summary, latency)
    local e = summary.errors
    io.write(string.format("requests %d in %.1f s: %.1f a second; p50 %.1f p99 %.1f ms; errors: connect %d read %d write %d status %d timeout %d\n",
        summary.requests, summary.duration / 1e6, summary.requests / (summary.duration / 1e6), latency:percentile(50) / 1e3,
        latency:percentile(99) / 1e3, e.connect, e.read, e.write, e.status, e.timeout))
end
