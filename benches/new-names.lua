-- For wrk: every request names a lock that nobody has named before.
local threads = 0
function setup(thread)
  thread:set("thread", threads)
  threads = threads + 1
end
function init(args)
  math.randomseed(os.time() + 7919 * thread)
  prefix = string.format("/v1/acquire/w%d-%08x-", thread, math.random(0, 2 ^ 31 - 1))
  number = 0
end
function request()
  number = number + 1
  return wrk.format("GET", prefix .. number)
end
