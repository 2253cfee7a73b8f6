-- Renew or give back leases that are still held. KEYS: leases. ARGV: holder, lease in ms or '0' to give back.
local held = 0
for i = 1, #KEYS do
  if redis.call('GET', KEYS[i]) == ARGV[1] then
    held = held + 1
    if ARGV[2] == '0' then
      redis.call('DEL', KEYS[i])
    else
      redis.call('PEXPIRE', KEYS[i], ARGV[2])
    end
  end
end
return held
