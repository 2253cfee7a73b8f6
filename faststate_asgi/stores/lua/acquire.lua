-- Take the turn on all keys and load them, and recall answers, or nothing.
-- KEYS: for each key its lease, its fence and its state; then answers. ARGV: holder, lease in ms, life of a fence in s,
-- number of keys.
local count = tonumber(ARGV[4])
for i = 1, count do
  local held = redis.call('GET', KEYS[3 * i - 2])
  if held and held ~= ARGV[1] then
    return {0}
  end
end
local fence = 0
local result = {1, 0}
for i = 1, count do
  redis.call('SET', KEYS[3 * i - 2], ARGV[1], 'PX', ARGV[2])
  fence = math.max(fence, redis.call('INCR', KEYS[3 * i - 1]))
  redis.call('EXPIRE', KEYS[3 * i - 1], ARGV[3])
  local found = redis.call('HMGET', KEYS[3 * i], 'v', 'd', 's')
  result[#result + 1] = found[1] or ''
  result[#result + 1] = found[2] or ''
  result[#result + 1] = found[3] or ''
end
for i = 3 * count + 1, #KEYS do
  result[#result + 1] = redis.call('GET', KEYS[i]) or ''
end
result[2] = fence
return result
