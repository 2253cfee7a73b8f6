-- Store all writes and answers and announce them, or nothing. The same commit id again changes nothing.
-- KEYS: commit id, then the leases, then for each write its state and its session, then for each answer its name and
-- its owner's list.
-- ARGV: holder, '1' to release, lease in ms, number of leases, writes and answers, life of a commit id in s, life of a
-- session's index in s, answers kept per owner; then 7 for each write (before, version, data, shape, ttl in ms or '',
-- channel, message) and 2 for each answer (payload, ttl in ms).
local holder, release, lease_ms = ARGV[1], ARGV[2], ARGV[3]
local leases, writes, answers = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local commit_life, session_life, per_owner = ARGV[7], ARGV[8], tonumber(ARGV[9])
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 'done'
end
for i = 1, leases do
  if redis.call('GET', KEYS[1 + i]) ~= holder then
    return 'lost'
  end
end
local first = 1 + leases
for i = 0, writes - 1 do
  local version = redis.call('HGET', KEYS[first + 2 * i + 1], 'v') or '0'
  if version ~= ARGV[10 + 7 * i] then
    return 'stale'
  end
end
for i = 0, writes - 1 do
  local state, session, at = KEYS[first + 2 * i + 1], KEYS[first + 2 * i + 2], 10 + 7 * i
  local version, data, shape, ttl = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  if version == '0' then
    redis.call('DEL', state)
    if session ~= state then
      redis.call('SREM', session, state)
    end
  else
    redis.call('HSET', state, 'v', version, 'd', data, 's', shape)
    if ttl == '' then
      redis.call('PERSIST', state)
    else
      redis.call('PEXPIRE', state, ttl)
    end
    if session ~= state then
      redis.call('SADD', session, state)
      redis.call('EXPIRE', session, session_life)
    end
  end
end
first = first + 2 * writes
local at = 10 + 7 * writes
for i = 0, answers - 1 do
  local name, owner = KEYS[first + 2 * i + 1], KEYS[first + 2 * i + 2]
  redis.call('SET', name, ARGV[at + 2 * i], 'PX', ARGV[at + 2 * i + 1])
  if owner ~= name then
    redis.call('LPUSH', owner, name)
    redis.call('PEXPIRE', owner, ARGV[at + 2 * i + 1])
    while redis.call('LLEN', owner) > per_owner do
      redis.call('DEL', redis.call('RPOP', owner))
    end
  end
end
for i = 1, leases do
  if release == '1' then
    redis.call('DEL', KEYS[1 + i])
  else
    redis.call('PEXPIRE', KEYS[1 + i], lease_ms)
  end
end
redis.call('SET', KEYS[1], '1', 'EX', commit_life)
for i = 0, writes - 1 do
  redis.call('PUBLISH', ARGV[10 + 7 * i + 5], ARGV[10 + 7 * i + 6])
end
return 'ok'
