-- Slotcast's Redis functions: everything that must happen atomically beside the data.
--
-- Conventions
--   * Every key and channel of a call shares one hash tag, so a call runs on one node.
--   * `room` is the first 12 digits of a room id; ids of its messages begin with it.
--   * Functions answer {'ok', ...} or {'<reason>'}; the reasons are listed at each function.
--   * Bus messages begin with one letter for their kind; `bus.rs` reads them.
--   * Function names end in the library's version, so that two versions live side by side.
local VERSION = '@VERSION@'

-- A repeated append is recognised among this many newest entries, no older than this.
local REPEAT_ENTRIES_MAX = 1000
local REPEAT_WINDOW_MS = 120000
-- Keys remembered for that, over all logs of this node: some ten megabytes.
local RECENT_KEYS_MAX = 100000
-- Runs of read messages remembered for one member; the oldest run is forgotten first.
local READ_RUNS_MAX = 64
-- Rooms that a file may be shown in; the first ones are forgotten.
local FILE_ROOMS_MAX = 32
local RECENT_WINDOW_MS = 600000
-- Changes kept for a room, about, however many come within the window, and bytes of them: large ones
-- leave fewer in the journal.
local CHANGES_MAX = 4096
local CHANGES_BYTES_MAX = 4194304
-- Members that a join lists: for a long list Lua takes six times as long as a plain HVALS.
local LIST_MAX = 256

-- Start of this library on this node in milliseconds, renewed whenever an entry id would not rise.
-- A local of the process: a node that takes over after a failover begins an epoch of its own.
local epoch = nil

-- This node's clock when the call under way began, in milliseconds; set for each call.
local now_ms = 0

-- A master that hung and was replaced wakes up before it hears of it, and would take what waits in its
-- sockets. Every gateway calls `beat` on every node a few times a second, so a node that has run no
-- function for a second has stood still: for a moment it asks callers to try again, and the cluster
-- tells it what has become of its slots. Only for what gateways call: the REST tier calls no beat.
local STALL_MS = 1000
local WARY_MS = 500
local seen_ms, wary_until = nil, 0

local function is_awake()
  if seen_ms and now_ms - seen_ms > STALL_MS then wary_until = now_ms + WARY_MS end
  seen_ms = now_ms
  return now_ms >= wary_until
end

local function awake(callback)
  return function(keys, args)
    if not is_awake() then return redis.error_reply('TRYAGAIN this node stood still') end
    return callback(keys, args)
  end
end

local function integer(number)
  return string.format('%.0f', number)
end

local function split_id(id)
  local entry_epoch, number = string.match(id, '^(%d+)-(%d+)$')
  return tonumber(entry_epoch), tonumber(number)
end

-- ---------------------------------------------------------------------------------------- log
-- An entry is {id, {'t', <ms>, 'k', <idempotency key>, 'm', <message JSON>}}.

local function entry_time(entry) return tonumber(entry[2][2]) end
local function entry_key(entry) return entry[2][4] end
local function entry_json(entry) return entry[2][6] end

local function newest(log)
  return redis.call('XREVRANGE', log, '+', '-', 'COUNT', 1)[1]
end

-- Epoch, number, timestamp and id of the newest entry; zeros for an absent log.
local function tail(log)
  local entry = newest(log)
  if entry then
    local entry_epoch, number = split_id(entry[1])
    return entry_epoch, number, entry_time(entry), entry[1]
  end
  return 0, 0, 0, '0-0'
end

-- Idempotency keys of the newest entries of logs that were asked about lately, by log: {tail = <id
-- of the newest entry known>, keys = {key -> {id, previous}}, order = {key, ...}, first, last}.
-- A cache of this process: it holds while `tail` is the log's newest entry, and is read anew else.
local recent, recent_count = {}, 0

local function remember(known, id, key)
  known.last = known.last + 1
  known.order[known.last] = key
  known.keys[key] = {id, known.tail}
  known.tail = id
  recent_count = recent_count + 1
  if known.last - known.first >= REPEAT_ENTRIES_MAX then
    known.keys[known.order[known.first]] = nil
    known.order[known.first] = nil
    known.first = known.first + 1
    recent_count = recent_count - 1
  end
end

local function forget(log)
  local known = recent[log]
  if known then
    recent_count = recent_count - (known.last - known.first + 1)
    recent[log] = nil
  end
end

-- Keeps the cache of a log in step with an append, if there is one.
local function note_append(log, previous, id, key)
  local known = recent[log]
  if not known then return end
  if known.tail == previous then remember(known, id, key) else forget(log) end
end

local function recent_keys(log)
  local known, entry = recent[log], newest(log)
  local tail_id = entry and entry[1] or '0-0'
  if known and known.tail == tail_id then return known.keys end
  forget(log)
  if recent_count > RECENT_KEYS_MAX then recent, recent_count = {}, 0 end
  known = {tail = '0-0', keys = {}, order = {}, first = 1, last = 0}
  recent[log] = known
  local entries = redis.call('XREVRANGE', log, '+', '-', 'COUNT', REPEAT_ENTRIES_MAX)
  for i = #entries, 1, -1 do remember(known, entries[i][1], entry_key(entries[i])) end
  return known.keys
end

-- The entry that carries `key`, with its predecessor's id, if it is recent.
local function find_repeat(log, key)
  local found = recent_keys(log)[key]
  if not found then return nil end
  local entry = redis.call('XRANGE', log, found[1], found[1])[1]
  if not entry or entry_time(entry) < now_ms - REPEAT_WINDOW_MS then return nil end
  return entry, found[2]
end

-- Appends one message and publishes it to the shard's channel, naming its predecessor.
-- `body` is the message's JSON object from behind `_id` and `timestamp`, without the brace.
local function append(log, channel, room, key, length_max, body)
  local last_epoch, last_number, last_time, previous = tail(log)
  if not epoch or last_number == 0 or last_epoch > epoch then
    epoch = math.max(now_ms, last_epoch + 1, (epoch or 0) + 1)
  end
  local number = last_number + 1
  if number > 4294967295 then error('the log of room ' .. room .. ' has no numbers left') end
  local time = math.max(now_ms, last_time + 1)
  local id = integer(epoch) .. '-' .. integer(number)
  local message = room .. string.format('%08x%04x', number, epoch % 65536)
  local json = '{"_id":"' .. message .. '","timestamp":' .. integer(time) .. ',' .. body
  if length_max == '' then
    redis.call('XADD', log, id, 't', integer(time), 'k', key, 'm', json)
  else
    redis.call('XADD', log, 'MAXLEN', '~', length_max, id, 't', integer(time), 'k', key, 'm', json)
  end
  note_append(log, previous, id, key)
  redis.call('SPUBLISH', channel, 'm ' .. room .. ' ' .. id .. ' ' .. previous .. ' ' .. json)
  return {'ok', id, message, integer(time), previous}
end

-- Appends unless `repeated` is '1' and the key is in the recent log already.
local function append_once(log, channel, room, key, length_max, body, repeated)
  if repeated == '1' then
    local entry, previous = find_repeat(log, key)
    if entry then
      local entry_epoch, number = split_id(entry[1])
      local message = room .. string.format('%08x%04x', number, entry_epoch % 65536)
      return {'repeat', entry[1], message, integer(entry_time(entry)), previous}
    end
  end
  return append(log, channel, room, key, length_max, body)
end

-- The newest entry of which `is_before` holds; it must hold of all older ones too. Ids rise with
-- time and number, so this halves the epochs, then the numbers within one: an epoch may be long
-- or hold a single message, and there may be many.
local function newest_where(log, is_before)
  local high = newest(log)
  if not high then return nil end
  if is_before(high) then return high end
  local low = nil
  local low_epoch = split_id(redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1][1]) - 1
  local high_epoch, high_number = split_id(high[1])
  while high_epoch - low_epoch > 1 do
    local middle = math.floor((low_epoch + high_epoch) / 2)
    local upto = integer(middle) .. '-18446744073709551615'
    local probe = redis.call('XREVRANGE', log, upto, '-', 'COUNT', 1)[1]
    if not probe or is_before(probe) then
      low, low_epoch = probe, middle
    else
      high_epoch, high_number = split_id(probe[1])
    end
  end
  local first = redis.call('XRANGE', log, integer(high_epoch) .. '-0', '+', 'COUNT', 1)[1]
  if not is_before(first) then return low end
  local _, low_number = split_id(first[1])
  low = first
  while high_number - low_number > 1 do
    local middle = math.floor((low_number + high_number) / 2)
    local at = integer(high_epoch) .. '-' .. integer(middle)
    local probe = redis.call('XRANGE', log, at, at)[1]
    if is_before(probe) then
      low, low_number = probe, middle
    else
      high_number = middle
    end
  end
  return low
end

-- The entry of message `id` (24 digits).
local function find_message(log, id)
  local number, bits = tonumber(string.sub(id, 13, 20), 16), tonumber(string.sub(id, 21), 16)
  local entry = newest_where(log, function(other)
    local _, other_number = split_id(other[1])
    return other_number <= number
  end)
  if not entry then return nil end
  local entry_epoch, found = split_id(entry[1])
  if found ~= number or entry_epoch % 65536 ~= bits then return nil end
  return entry
end

-- Id of the newest entry older than `time`.
local function newest_before(log, time)
  local entry = newest_where(log, function(other) return entry_time(other) < time end)
  return entry and entry[1]
end

-- Up to `limit` entries older than `before` (milliseconds, '' for all), oldest first, as
-- {has_more, {message, json, ...}}, and the numbers of these messages.
local function page(log, before, limit)
  local from = '+'
  if before ~= '' then from = newest_before(log, tonumber(before)) end
  if not from then return 0, {}, {} end
  local entries = redis.call('XREVRANGE', log, from, '-', 'COUNT', limit + 1)
  local has_more = 0
  if #entries > limit then
    has_more = 1
    table.remove(entries)
  end
  local messages, numbers = {}, {}
  for i = #entries, 1, -1 do
    local _, number = split_id(entries[i][1])
    numbers[#numbers + 1] = integer(number)
    messages[#messages + 1] = integer(number)
    messages[#messages + 1] = entry_json(entries[i])
  end
  return has_more, messages, numbers
end

-- ------------------------------------------------------------------------------------ changes
-- Reactions and read marks in the order in which they came, for whoever was away: an entry is
-- {id, {'p', <id of the entry before>, 'c', <kind> <fields>}}, as published on the bus. Entries older
-- than the window go; the first one left tells by its predecessor what is missing. A room with seats
-- always has this key: a slot that moves answers TRYAGAIN as long as one of a call's keys is absent.

local function newest_change(changes)
  local entry = newest(changes)
  return entry and entry[1] or '0-0'
end

local function add_change(changes, window_ms, change)
  local previous = newest_change(changes)
  local oldest = integer(math.max(now_ms - window_ms, 0))
  local id = redis.call('XADD', changes, 'MINID', '~', oldest, '*', 'p', previous, 'c', change)
  local most = math.min(CHANGES_MAX, math.ceil(CHANGES_BYTES_MAX / #change))
  if redis.call('XLEN', changes) > most then
    redis.call('XTRIM', changes, 'MAXLEN', '~', most)
  end
  return id, previous
end

-- Notes a change and publishes it. `fields` follow the kind.
local function publish_change(changes, window_ms, channel, room, kind, fields)
  local id, previous = add_change(changes, window_ms, kind .. ' ' .. fields)
  redis.call('SPUBLISH', channel, table.concat({kind, room, id, previous, fields}, ' '))
end

-- ------------------------------------------------------------------------------------- reads
-- What a member has read is `<ms of the newest mark> <first>-<last>,<first>-<last>...`: runs of
-- message numbers, rising. Reading everything costs one run, however long the room is. Under
-- `<user>` stands what the room was told; under `~<user>` what a page showed, without a word: a
-- mark of the same messages is still news to the room.

local function parse_runs(text)
  local runs = {}
  for first, last in string.gmatch(text or '', '(%d+)%-(%d+)') do
    runs[#runs + 1] = {tonumber(first), tonumber(last)}
  end
  return runs
end

local function format_runs(runs, time)
  local parts = {}
  for i = math.max(1, #runs - READ_RUNS_MAX + 1), #runs do
    parts[#parts + 1] = integer(runs[i][1]) .. '-' .. integer(runs[i][2])
  end
  return integer(time) .. ' ' .. table.concat(parts, ',')
end

-- Adds `first`..`last` to the runs; false when all of it was there.
local function add_run(runs, first, last)
  local at = #runs
  while at > 0 and runs[at][1] > first do at = at - 1 end
  local under = runs[at]
  if under and under[2] >= last then return false end
  if under and under[2] >= first - 1 then
    under[2] = last
  else
    at = at + 1
    table.insert(runs, at, {first, last})
  end
  while runs[at + 1] and runs[at + 1][1] <= runs[at][2] + 1 do
    runs[at][2] = math.max(runs[at][2], runs[at + 1][2])
    table.remove(runs, at + 1)
  end
  return true
end

-- Marks the messages of a page as read by its reader, quietly.
local function mark_page(reads, user, numbers)
  if #numbers == 0 then return end
  local field = '~' .. user
  local runs = parse_runs(redis.call('HGET', reads, field))
  if add_run(runs, tonumber(numbers[1]), tonumber(numbers[#numbers])) then
    redis.call('HSET', reads, field, format_runs(runs, now_ms))
  end
end

local function reactions_of(reactions, numbers)
  if #numbers == 0 then return {} end
  return redis.call('HMGET', reactions, unpack(numbers))
end

-- {has_more, {number, json, ...}, {reactions JSON or nil per message}, {user, runs, ...}}, and the
-- numbers of the messages.
local function gather_page(log, reads, reactions, before, limit)
  local has_more, messages, numbers = page(log, before, limit)
  local marks = redis.call('HGETALL', reads)
  return {has_more, messages, reactions_of(reactions, numbers), marks}, numbers
end

-- The same, and from then on its reader has read it.
local function read_page(log, reads, reactions, user, before, limit)
  local answer, numbers = gather_page(log, reads, reactions, before, limit)
  mark_page(reads, user, numbers)
  return answer
end

-- -------------------------------------------------------------------------------------- seats
-- seats: user -> gateways (8 digits each, separated by spaces) that hold a socket of the user in
-- the room. held: the gateway's own list of `<room> <user>`, for whoever reaps a dead gateway.

local function take_seat(seats, held, changes, room, user, gateway)
  if redis.call('PERSIST', changes) == 0 and redis.call('EXISTS', changes) == 0 then
    add_change(changes, 0, '')
  end
  local seat = redis.call('HGET', seats, user)
  if not seat then
    redis.call('HSET', seats, user, gateway)
  elseif not string.find(seat, gateway, 1, true) then
    redis.call('HSET', seats, user, seat .. ' ' .. gateway)
  end
  redis.call('SADD', held, room .. ' ' .. user)
  return seat
end

-- Gives the seat up; true when it was the user's last one in the room. Of an empty room the changes
-- are kept for `window_ms`.
local function leave_seat(seats, held, changes, window_ms, room, user, gateway)
  redis.call('SREM', held, room .. ' ' .. user)
  local seat = redis.call('HGET', seats, user)
  if not seat or not string.find(seat, gateway, 1, true) then return false end
  local others = {}
  for other in string.gmatch(seat, '%x+') do
    if other ~= gateway then others[#others + 1] = other end
  end
  if #others == 0 then
    redis.call('HDEL', seats, user)
    if redis.call('EXISTS', seats) == 0 then redis.call('PEXPIRE', changes, window_ms) end
    return true
  end
  redis.call('HSET', seats, user, table.concat(others, ' '))
  return false
end

-- ---------------------------------------------------------------------------- room functions

-- KEYS log | ARGV channel room key length_max body repeated [not_after_ms]
-- After `not_after_ms` (of this node's clock) nobody waits for the answer: a node that hung and was
-- replaced meanwhile must not tell rooms of messages that the new master may have too.
-- -> {'ok' or 'repeat', position, message, timestamp, previous position}, or an error LATE
local function append_message(keys, args)
  if args[7] and now_ms > tonumber(args[7]) then
    return redis.error_reply('LATE nobody waits for the answer any more')
  end
  return append_once(keys[1], args[1], args[2], args[3], args[4], args[5], args[6])
end

-- KEYS room members admitted | ARGV creator creator_json field value ...
-- -> {'ok'} {'taken'}
local function create_room(keys, args)
  if redis.call('EXISTS', keys[1]) == 1 then return {'taken'} end
  redis.call('HSET', keys[1], unpack(args, 3))
  redis.call('HSET', keys[2], args[1], args[2])
  redis.call('SADD', keys[3], args[1])
  return {'ok'}
end

-- KEYS room members admitted | ARGV user user_json
-- -> {'ok'} {'unknown'}
local function admit(keys, args)
  if redis.call('EXISTS', keys[1]) == 0 then return {'unknown'} end
  redis.call('HSET', keys[2], args[1], args[2])
  redis.call('SADD', keys[3], args[1])
  return {'ok'}
end

-- KEYS room members admitted seats held log reads reactions changes
-- ARGV channel room user gateway user_json key length_max body page_limit repeated
-- -> {'joined', newest change, position, previous position, members (none: more than LIST_MAX),
--     has_more, messages, reactions, reads}
--    {'seated', newest change, newest position} {'unknown'} {'refused'}
local function join(keys, args)
  local room, members, admitted, seats = keys[1], keys[2], keys[3], keys[4]
  local held, log, reads, reactions, changes = keys[5], keys[6], keys[7], keys[8], keys[9]
  local channel, prefix, user, gateway = args[1], args[2], args[3], args[4]
  local name, password = unpack(redis.call('HMGET', room, 'name', 'password'))
  if not name then return {'unknown'} end
  local seat = redis.call('HEXISTS', seats, user) == 1
  if password and not seat and redis.call('SISMEMBER', admitted, user) == 0 then
    return {'refused'}
  end
  redis.call('HSET', members, user, args[5])
  take_seat(seats, held, changes, prefix, user, gateway)
  local change = newest_change(changes)
  if seat and not (args[10] == '1' and find_repeat(log, args[6])) then
    local _, _, _, position = tail(log)
    return {'seated', change, position}
  end
  local entry = append_once(log, channel, prefix, args[6], args[7], args[8], args[10])
  redis.call('SPUBLISH', channel, 'p ' .. prefix)
  local list = redis.call('HLEN', members) <= LIST_MAX and redis.call('HVALS', members) or {}
  return {'joined', change, entry[2], entry[5], list,
    unpack(read_page(log, reads, reactions, user, '', tonumber(args[9])))}
end

-- KEYS seats held log changes | ARGV room user gateway
-- -> {'ok', newest change, newest position} {'gone'}
local function restore(keys, args)
  if redis.call('HEXISTS', keys[1], args[2]) == 0 then return {'gone'} end
  take_seat(keys[1], keys[2], keys[4], args[1], args[2], args[3])
  local _, _, _, position = tail(keys[3])
  return {'ok', newest_change(keys[4]), position}
end

-- KEYS log | ARGV position count | read only
-- The messages after a position, oldest first. 'far' when the log does not lead on from there: it was
-- trimmed, or what stood there was lost with its master.
-- -> {'ok', epoch of this node, {position, json, ...}} {'far'}
local function read_log(keys, args)
  local log, position, count = keys[1], args[1], tonumber(args[2])
  local _, number = split_id(position)
  local from = number == 0 and '-' or position
  local entries = redis.call('XRANGE', log, from, '+', 'COUNT', count + 1)
  if number == 0 then
    local _, first = split_id(entries[1] and entries[1][1] or '0-1')
    if first ~= 1 then return {'far'} end
    entries[count + 1] = nil
  elseif not entries[1] or entries[1][1] ~= position then
    return {'far'}
  else
    table.remove(entries, 1)
  end
  local messages = {}
  for _, entry in ipairs(entries) do
    messages[#messages + 1] = entry[1]
    messages[#messages + 1] = entry_json(entry)
  end
  -- What this node appends from here on bears this epoch or a later one.
  if not epoch then epoch = now_ms end
  return {'ok', integer(epoch), messages}
end

-- KEYS changes | ARGV id count | read only
-- The changes after one, oldest first; 'far' when the journal does not lead on from there: some are
-- gone, or what stood there was lost with its master.
-- -> {'ok', {id, change, ...}} {'far'}
local function read_changes(keys, args)
  local id = args[1]
  local entries = redis.call('XRANGE', keys[1], '(' .. id, '+', 'COUNT', tonumber(args[2]))
  local leads_on = entries[1] and entries[1][2][2] or newest_change(keys[1])
  if leads_on ~= id then return {'far'} end
  local changes = {}
  for _, entry in ipairs(entries) do
    changes[#changes + 1] = entry[1]
    changes[#changes + 1] = entry[2][4]
  end
  return {'ok', changes}
end

-- KEYS log changes log changes ... | read only
-- -> {'ok', {newest position, newest change, ...}}
local function read_tails(keys)
  local tails = {}
  for i = 1, #keys, 2 do
    local _, _, _, position = tail(keys[i])
    tails[i], tails[i + 1] = position, newest_change(keys[i + 1])
  end
  return {'ok', tails}
end

-- KEYS members seats held log changes
-- ARGV channel room user gateway key length_max body leaver_json window_ms
-- -> {'left'} {'stays'}
local function leave(keys, args)
  local channel, room, user = args[1], args[2], args[3]
  if not leave_seat(keys[2], keys[3], keys[5], args[9], room, user, args[4]) then
    return {'stays'}
  end
  redis.call('HDEL', keys[1], user)
  append(keys[4], channel, room, args[5], args[6], args[7])
  redis.call('SPUBLISH', channel, 'p ' .. room .. ' ' .. args[8])
  return {'left'}
end

-- KEYS members | ARGV channel room user user_json
-- -> {'ok'} {'gone'}
local function update_member(keys, args)
  if redis.call('HEXISTS', keys[1], args[3]) == 0 then return {'gone'} end
  redis.call('HSET', keys[1], args[3], args[4])
  redis.call('SPUBLISH', args[1], 'p ' .. args[2])
  return {'ok'}
end

-- KEYS log reads reactions members | ARGV user before limit
-- -> {'ok', has_more, messages, reactions, reads} {'refused'}
local function history(keys, args)
  if redis.call('HEXISTS', keys[4], args[1]) == 0 then return {'refused'} end
  return {'ok', unpack(read_page(keys[1], keys[2], keys[3], args[1], args[2], tonumber(args[3])))}
end

-- KEYS log reads reactions members | ARGV user before limit | read only, marks nothing
-- -> {'ok', has_more, messages, reactions, reads} {'refused'}
local function look_back(keys, args)
  if redis.call('HEXISTS', keys[4], args[1]) == 0 then return {'refused'} end
  local answer = gather_page(keys[1], keys[2], keys[3], args[2], tonumber(args[3]))
  return {'ok', unpack(answer)}
end

-- KEYS log members reads changes
-- ARGV channel room window_ms user message,message... user message,...
-- Marks are gathered by the gateway, many readers a call; what changes nothing is not published.
-- -> {'ok'}
local function mark_read(keys, args)
  local _, last = tail(keys[1])
  local changes = {}
  for i = 4, #args, 2 do
    local user, fresh = args[i], {}
    if redis.call('HEXISTS', keys[2], user) == 1 then
      local runs = parse_runs(redis.call('HGET', keys[3], user))
      for message in string.gmatch(args[i + 1], '%x+') do
        local number = tonumber(string.sub(message, 13, 20), 16)
        if number >= 1 and number <= last and add_run(runs, number, number) then
          fresh[#fresh + 1] = message
        end
      end
      if #fresh > 0 then
        redis.call('HSET', keys[3], user, format_runs(runs, now_ms))
        changes[#changes + 1] = user .. ' ' .. table.concat(fresh, ',')
      end
    end
  end
  if #changes > 0 then
    publish_change(keys[4], args[3], args[1], args[2], 'r', table.concat(changes, ' '))
  end
  return {'ok'}
end

-- KEYS log members reactions changes
-- ARGV channel room message user reaction add|remove kinds_max window_ms
-- -> {'ok'} {'refused'} {'unknown'} {'full'}
local function react(keys, args)
  local message, user, reaction = args[3], args[4], args[5]
  if redis.call('HEXISTS', keys[2], user) == 0 then return {'refused'} end
  if not find_message(keys[1], message) then return {'unknown'} end
  local field = integer(tonumber(string.sub(message, 13, 20), 16))
  local users_by_reaction = cjson.decode(redis.call('HGET', keys[3], field) or '{}')
  local users, kinds = {}, 0
  for _ in pairs(users_by_reaction) do kinds = kinds + 1 end
  if args[6] == 'add' and not users_by_reaction[reaction] and kinds >= tonumber(args[7]) then
    return {'full'}
  end
  for _, other in ipairs(users_by_reaction[reaction] or {}) do
    if other ~= user then users[#users + 1] = other end
  end
  if args[6] == 'add' then users[#users + 1] = user end
  users_by_reaction[reaction] = users
  if #users == 0 then users_by_reaction[reaction] = nil end
  local json = cjson.encode(users_by_reaction)
  if next(users_by_reaction) then
    redis.call('HSET', keys[3], field, json)
  else
    redis.call('HDEL', keys[3], field)
  end
  publish_change(keys[4], args[8], args[1], args[2], 'a', message .. ' ' .. json)
  return {'ok'}
end

-- KEYS room members log | read only, for replicas as well
-- -> {'ok', {field, value, ...}, members, count of messages of the last ten minutes} {'unknown'}
local function describe_room(keys)
  local record = redis.call('HGETALL', keys[1])
  if #record == 0 then return {'unknown'} end
  local _, last = tail(keys[3])
  local recent = 0
  if last > 0 then
    local before = newest_before(keys[3], now_ms - RECENT_WINDOW_MS)
    local _, oldest = split_id(before or redis.call('XRANGE', keys[3], '-', '+', 'COUNT', 1)[1][1])
    recent = last - oldest
    if not before then recent = recent + 1 end
  end
  return {'ok', record, redis.call('HVALS', keys[2]), recent}
end

-- ---------------------------------------------------------------------------- user functions

-- KEYS session | ARGV channel user session ttl_ms field value ...
-- Replaces whatever session the user had and tells the gateways which one is left.
-- -> {'ok'}
local function replace_session(keys, args)
  redis.call('DEL', keys[1])
  redis.call('HSET', keys[1], 'id', args[3], 'unannounced', '1', unpack(args, 5))
  redis.call('PEXPIRE', keys[1], args[4])
  redis.call('SPUBLISH', args[1], 's ' .. args[2] .. ' ' .. args[3])
  return {'ok'}
end

-- KEYS session | ARGV channel user session
-- -> {'ok'} {'invalid'}
local function end_session(keys, args)
  if redis.call('HGET', keys[1], 'id') ~= args[3] then return {'invalid'} end
  redis.call('DEL', keys[1])
  redis.call('SPUBLISH', args[1], 'o ' .. args[2])
  return {'ok'}
end

-- KEYS session connections | ARGV session ttl_ms
-- -> {'ok'} {'invalid'}
local function touch_session(keys, args)
  if redis.call('HGET', keys[1], 'id') ~= args[1] then return {'invalid'} end
  redis.call('PEXPIRE', keys[1], args[2])
  redis.call('PEXPIRE', keys[2], args[2])
  return {'ok'}
end

-- connections: pid -> `<session> <live|parked|taken> <generation> <ms> <room> <room>...`: the rooms
-- that a connection had, so that the client finds them again on any gateway. Connections that go on
-- under one pid count generations; the word of an older one counts no more. What was not live is
-- forgotten when it is older than the window.

-- KEYS user session connections
-- ARGV channel user session ttl_ms pid notice_json window_ms repeated new_pid
-- Admits a socket: checks and touches the session, tells the user's older sockets once a session,
-- and takes over the rooms of the connection `pid` (or, without one, of parked connections). What
-- was taken stays to be taken by the same `pid` again, and without one by a repeated call: the
-- answer may be lost. A connection that succeeds none is remembered under `new_pid`.
-- -> {'ok', name, email, profile image or '', generation (0 if `pid` is not known), {room, ...}}
--    {'invalid'} {'gone'}
local function connect(keys, args)
  local session, pid = args[3], args[5]
  if redis.call('HGET', keys[2], 'id') ~= session then return {'invalid'} end
  local name, email, image = unpack(redis.call('HMGET', keys[1], 'name', 'email', 'profileImage'))
  if not name then return {'gone'} end
  redis.call('PEXPIRE', keys[2], args[4])
  if redis.call('HDEL', keys[2], 'unannounced') == 1 then
    redis.call('SPUBLISH', args[1], 'c ' .. args[2] .. ' ' .. session .. ' ' .. args[6])
  end
  local rooms, generation = {}, 0
  local connections = redis.call('HGETALL', keys[3])
  for i = 1, #connections, 2 do
    local other = connections[i]
    local of, state, last, ms, list =
      string.match(connections[i + 1], '^(%x+) (%a+) (%d+) (%d+)(.*)$')
    if of ~= session or (state ~= 'live' and tonumber(ms) < now_ms - args[7]) then
      redis.call('HDEL', keys[3], other)
    elseif other == pid or (pid == '' and (state == 'parked' or args[8] == '1' and state == 'taken')) then
      local taken = 'taken ' .. last
      if other == pid then
        generation = tonumber(last) + 1
        taken = 'live ' .. integer(generation)
      end
      redis.call('HSET', keys[3], other, session .. ' ' .. taken .. ' ' .. integer(now_ms) .. list)
      for room in string.gmatch(list, '%x+') do rooms[#rooms + 1] = room end
    end
  end
  if generation == 0 then
    redis.call('HSET', keys[3], args[9], session .. ' live 0 ' .. integer(now_ms))
    redis.call('PEXPIRE', keys[3], args[4])
  end
  return {'ok', name, email, image or '', generation, rooms}
end

-- KEYS connections | ARGV pid session live|parked generation rooms ttl_ms
-- -> {'ok'}
local function hold_connection(keys, args)
  local record = redis.call('HGET', keys[1], args[1]) or ''
  local state, generation = string.match(record, '^%x+ (%a+) (%d+)')
  local is_superseded = generation and tonumber(generation) > tonumber(args[4])
  if is_superseded or (state == 'taken' and args[3] == 'parked') then return {'ok'} end
  record = {args[2], args[3], args[4], integer(now_ms) .. args[5]}
  redis.call('HSET', keys[1], args[1], table.concat(record, ' '))
  redis.call('PEXPIRE', keys[1], args[6])
  return {'ok'}
end

-- KEYS connections | ARGV pid generation
-- -> {'ok'}
local function forget_connection(keys, args)
  local generation = string.match(redis.call('HGET', keys[1], args[1]) or '', '^%x+ %a+ (%d+)')
  if generation and tonumber(generation) <= tonumber(args[2]) then
    redis.call('HDEL', keys[1], args[1])
  end
  return {'ok'}
end

-- KEYS user | ARGV image ('' for none)
-- -> {'ok', name, email, image before or ''} {'gone'}
local function set_profile_image(keys, args)
  local name, email, before = unpack(redis.call('HMGET', keys[1], 'name', 'email', 'profileImage'))
  if not name then return {'gone'} end
  redis.call('HSET', keys[1], 'profileImage', args[1])
  return {'ok', name, email, before or ''}
end

-- ---------------------------------------------------------------------------- file functions

-- KEYS file | ARGV user room
-- -> {'ok', filename, original name, media type, size} {'unknown'}
local function share_file(keys, args)
  local user, room = args[1], args[2]
  local file = redis.call('HMGET', keys[1], 'owner', 'rooms', 'filename', 'originalname', 'mimetype', 'size')
  if file[1] ~= user then return {'unknown'} end
  local rooms = {}
  for other in string.gmatch(file[2] or '', '%x+') do
    if other ~= room then rooms[#rooms + 1] = other end
  end
  rooms[#rooms + 1] = room
  if #rooms > FILE_ROOMS_MAX then table.remove(rooms, 1) end
  redis.call('HSET', keys[1], 'rooms', table.concat(rooms, ' '))
  return {'ok', file[3], file[4], file[5], file[6]}
end

-- ------------------------------------------------------------------------- gateway functions

-- KEYS leases reaping | ARGV gateway ttl_ms 1 if the gateway has held a lease|0
-- Renews the gateway's lease and hands out one dead gateway to reap, to one reaper at a time. A
-- gateway that others took for dead is told until it goes on under another name.
-- -> {'ok', dead gateway or ''} {'lost'}
local function renew_lease(keys, args)
  local leases, reaping, gateway = keys[1], keys[2], args[1]
  local until_ms = integer(now_ms + args[2])
  if args[3] == '1' and not redis.call('ZSCORE', leases, gateway) then return {'lost'} end
  local latest = redis.call('ZREVRANGE', leases, 0, 0, 'WITHSCORES')[2]
  if latest and tonumber(latest) < now_ms then
    -- Nobody could renew for a whole lease: it is Redis that was away, not the gateways.
    for _, other in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
      redis.call('ZADD', leases, until_ms, other)
    end
  end
  redis.call('ZADD', leases, until_ms, gateway)
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', integer(now_ms))) do
    redis.call('ZREM', leases, other)
    redis.call('ZADD', reaping, 0, other)
  end
  local dead = redis.call('ZRANGEBYSCORE', reaping, '-inf', integer(now_ms), 'LIMIT', 0, 1)[1]
  if dead then redis.call('ZADD', reaping, until_ms, dead) end
  return {'ok', dead or ''}
end

-- KEYS - | read only, for replicas as well
-- -> {'ok'}
local function beat()
  is_awake()
  return {'ok'}
end

-- ------------------------------------------------------------------------------ registration

local function register(name, callback, flags)
  redis.register_function{
    function_name = name .. '_' .. VERSION,
    callback = function(keys, args)
      local time = redis.call('TIME')
      now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
      return callback(keys, args)
    end,
    flags = flags or {},
  }
end

local READ_ONLY = {'no-writes'}

register('append_message', awake(append_message))
register('create_room', create_room)
register('admit', admit)
register('join', awake(join))
register('restore', awake(restore))
register('leave', awake(leave))
register('update_member', awake(update_member))
register('history', history)
register('mark_read', awake(mark_read))
register('react', awake(react))
register('share_file', share_file)
register('set_profile_image', set_profile_image)
register('replace_session', replace_session)
register('end_session', end_session)
register('touch_session', touch_session)
register('connect', awake(connect))
register('hold_connection', awake(hold_connection))
register('forget_connection', forget_connection)
register('renew_lease', awake(renew_lease))
register('describe_room', describe_room, READ_ONLY)
register('read_log', awake(read_log), READ_ONLY)
register('read_tails', awake(read_tails), READ_ONLY)
register('read_changes', awake(read_changes), READ_ONLY)
register('look_back', look_back, READ_ONLY)
register('beat', beat, READ_ONLY)
