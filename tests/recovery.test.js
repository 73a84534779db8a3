// Connection state recovery by the official client: whoever comes back in time, on any gateway, misses nothing and
// sees nothing twice; whoever cannot is told so.
import assert from 'node:assert/strict';
import { onStack } from './support/stack.js';
import { CLIENTS, chatter } from './support/chatter.js';
import { proxyTo } from './support/proxy.js';
import { unique } from './support/rest.js';
import { eventually } from './support/wait.js';

const GRACE_SECONDS = 2;
const MAX_MISSED = 400;

const { stack, test } = await onStack({
  gateways: 4,
  env: {
    SLOTCAST_GRACE_SECONDS: String(GRACE_SECONDS),
    SLOTCAST_LEASE_SECONDS: '30',
    SLOTCAST_DRAIN_PER_SECOND: '50',
    SLOTCAST_TAIL_CHECK_SECONDS: '1',
    SLOTCAST_RECOVERY_MAX_MESSAGES: String(MAX_MISSED),
  },
});
const { rest } = stack;
const [home, other, doomed, behind] = stack.gateways;

const RECONNECT = { reconnection: true, reconnectionDelay: 20, reconnectionDelayMax: 100 };

/** A user's socket that reaches a gateway through a proxy of its own. */
async function roamer(gateway, user, options = {}) {
  const proxy = await proxyTo(gateway.port);
  const one = await chatter(proxy.url, user, { ...RECONNECT, ...options });
  return Object.assign(one, { proxy });
}

/** Cuts a roamer off, lets `meanwhile` happen, and brings it back at `gateway`; whether it recovered. */
async function away(one, gateway, meanwhile = async () => {}) {
  one.proxy.pointTo(1); // nobody listens there
  one.proxy.cut();
  await one.take('disconnect');
  await meanwhile();
  one.proxy.pointTo(gateway.port);
  await one.take('connect');
  return one.socket.recovered;
}

async function users(...names) {
  return Promise.all(names.map((name) => rest.user(unique(name))));
}

async function roomOf(...members) {
  const room = (await rest.room(members[0].user))._id;
  for (const member of members) await member.join(room);
  return room;
}

/** Two users in a new room that both have heard a message of: one at home, one that roams from `gateway`. */
async function pair(gateway, options) {
  const [anna, bob] = await users('앤', '보비');
  const stays = await chatter(home.url, anna, options);
  const goes = await roamer(gateway, bob, options);
  const room = await roomOf(stays, goes);
  const first = await stays.say(room, 'first');
  await goes.hears('first');
  return { stays, goes, room, first };
}

/** What `one` has on screen of a room, from its events alone. */
function screen(one, room) {
  const messages = one.all('message').filter((message) => message.room === room);
  const reactions = {};
  for (const { messageId, reactions: now } of one.all('messageReactionUpdate')) reactions[messageId] = now;
  const readers = {};
  for (const { userId, messageIds } of one.all('messagesRead')) {
    for (const id of messageIds) (readers[id] ??= new Set()).add(userId);
  }
  return {
    messages: messages.map((message) => message._id),
    reactions,
    readers: Object.fromEntries(Object.entries(readers).map(([id, by]) => [id, [...by].sort()])),
    participants: one.all('participantsUpdate').at(-1)?.map((user) => user._id).sort(),
  };
}

/** Fails unless both see the same of the room from the message `from` on. */
async function seeTheSame(one, two, room, from) {
  const since = (one) => {
    const seen = screen(one, room);
    return { ...seen, messages: seen.messages.slice(seen.messages.indexOf(from)) };
  };
  await eventually('both to see the same', () => {
    assert.deepEqual(since(one), since(two));
    return true;
  }).catch(() => assert.deepEqual(since(one), since(two)));
  assert.equal(new Set(since(one).messages).size, since(one).messages.length, 'nothing twice');
}

for (const [version, io] of CLIENTS) {
  test(`${version}: a client that was cut has what the others have, on another gateway`, async () => {
    const [anna, bob, carol] = await users('앤', '보비', '캐롤');
    const stays = await chatter(home.url, anna, { io });
    const goes = await roamer(home, bob, { io });
    const room = await roomOf(stays, goes);
    const first = await stays.say(room, 'first');
    await goes.hears('first');

    const recovered = await away(goes, other, async () => {
      for (let n = 0; n < 40; n += 1) await stays.say(room, `missed ${n}`);
      stays.emit('messageReaction', { messageId: first.messageId, reaction: '👍', type: 'add' });
      stays.emit('markMessagesAsRead', { messageIds: [first.messageId] });
      const late = await chatter(other.url, carol, { io });
      await late.join(room);
      await stays.take('messageReactionUpdate');
      await stays.take('messagesRead');
      await eventually('carol to be listed', () => stays.all('participantsUpdate').at(-1).length === 3);
    });
    assert.ok(recovered);
    await stays.say(room, 'live again');
    await goes.hears('live again');
    await seeTheSame(goes, stays, room, first.messageId);
    goes.proxy.close();
  });
}

test('a client of a killed gateway recovers on another', async () => {
  const { stays, goes, room, first } = await pair(doomed);
  goes.proxy.pointTo(1);
  await doomed.signal('SIGKILL');
  await goes.take('disconnect');
  for (let n = 0; n < 10; n += 1) await stays.say(room, `missed ${n}`);
  goes.proxy.pointTo(other.port);
  await goes.take('connect');
  assert.ok(goes.socket.recovered);
  await goes.say(room, 'here again');
  await stays.hears('here again');
  await seeTheSame(goes, stays, room, first.messageId);
  goes.proxy.close();
  await doomed.start();
});

test('clients of a draining gateway recover on others', async () => {
  const names = ['앤', '보비', '캐롤', '데이브', '에리카'];
  const [anna, ...moving] = await users(...names);
  const stays = await chatter(home.url, anna);
  const going = [];
  for (const user of moving) going.push(await roamer(doomed, user));
  const room = await roomOf(stays, ...going);
  const first = await stays.say(room, 'first');
  for (const one of going) {
    await one.hears('first');
    one.proxy.pointTo(other.port);
  }
  const ended = doomed.signal('SIGTERM');
  for (let n = 0; n < 30; n += 1) await stays.say(room, `meanwhile ${n}`);
  await ended;
  for (const one of going) {
    await eventually('the client to be back', () => one.socket.connected);
    assert.ok(one.socket.recovered);
  }
  await stays.say(room, 'all are here');
  for (const one of going) {
    await one.hears('all are here');
    await seeTheSame(one, stays, room, first.messageId);
    one.proxy.close();
  }
  const left = stays.all('message').filter((message) => message.type === 'system' && message.content.includes('퇴장'));
  assert.deepEqual(left, []);
  await doomed.start();
});

test('a client that has seen no event yet recovers, without a room and in one', async () => {
  const [anna, bob] = await users('앤', '보비');
  const stays = await chatter(home.url, anna);
  const goes = await roamer(home, bob);
  assert.ok(await away(goes, other), 'in no room there is nothing to miss');
  const room = await roomOf(stays);
  goes.emit('joinRoom', room);
  await goes.take('joinRoomSuccess');
  assert.ok(await away(goes, home, () => stays.say(room, 'missed')));
  await goes.hears('missed');
  goes.emit('leaveRoom', room);
  await stays.take('userLeft');
  assert.ok(await away(goes, other, () => stays.say(room, 'not for who left')), 'again in no room');
  await stays.say(room, 'neither');
  assert.ok(!goes.all('message').some((message) => message.content.includes('n') && message.content !== 'missed'
    && message.type === 'text'));
  goes.proxy.close();
});

test('a client that loaded older messages last recovers', async () => {
  const { stays, goes, room, first } = await pair(home);
  await goes.history(room); // an event without an argument is among the answers
  assert.ok(await away(goes, other, () => stays.say(room, 'missed')));
  await goes.hears('missed');
  await seeTheSame(goes, stays, room, first.messageId);
  goes.proxy.close();
});

test('a client in several rooms recovers again and again, each time on another gateway', async () => {
  const [anna, bob] = await users('앤', '보비');
  const stays = await chatter(home.url, anna);
  const goes = await roamer(home, bob);
  const rooms = [];
  for (let n = 0; n < 4; n += 1) rooms.push(await roomOf(stays, goes));
  const firsts = {};
  for (const room of rooms) firsts[room] = (await stays.say(room, `first of ${room}`)).messageId;
  for (const room of rooms) await goes.hears(`first of ${room}`);
  for (let round = 0; round < 5; round += 1) {
    const gateway = [other, home, behind][round % 3];
    const recovered = await away(goes, gateway, async () => {
      // One room has much to tell, another nothing, in an order that changes.
      for (let n = 0; n < 12; n += 1) await stays.say(rooms[(round + (n % 3)) % 4], `round ${round}, ${n}`);
    });
    assert.ok(recovered, `round ${round}`);
    // Perhaps cut again while the missed messages are still coming: the offset goes on with each of them.
    if (round % 2) continue;
    await stays.say(rooms[round % 4], `live in round ${round}`);
    await goes.hears(`live in round ${round}`);
  }
  for (const room of rooms) {
    await stays.say(room, `last of ${room}`);
    await goes.hears(`last of ${room}`);
    await seeTheSame(goes, stays, room, firsts[room]);
  }
  goes.proxy.close();
});

test('a client cut at any moment of a stream of messages gets each once, in order', async () => {
  const { stays, goes, room, first } = await pair(home);
  for (let n = 0, cuts = 0; cuts < 20; n += 1) {
    await stays.say(room, `number ${n}`);
    // Now and then before anything has come, mostly in the midst of it.
    const heard = goes.received.at(-1).event === 'message';
    if (n % 7 === 3 && goes.socket.connected && (heard || cuts % 4 === 0)) {
      cuts += 1;
      goes.proxy.pointTo([home, other, behind][cuts % 3].port);
      goes.proxy.cut();
    }
  }
  await stays.say(room, 'last');
  await goes.hears('last');
  await seeTheSame(goes, stays, room, first.messageId);
  goes.proxy.close();
});

test('who was away for longer than the grace period has left, recovers, and is in again', async () => {
  const { stays, goes, room, first } = await pair(home);
  const recovered = await away(goes, other, async () => {
    await stays.take('userLeft', undefined, GRACE_SECONDS * 1000 + 10_000);
    await stays.say(room, 'while away');
  });
  assert.ok(recovered);
  await stays.say(room, 'live again');
  await goes.hears('live again');
  await seeTheSame(goes, stays, room, first.messageId);
  assert.equal(screen(stays, room).participants.length, 2);
  goes.proxy.close();
});

test('who missed too much is told so, and gets nothing of it', async () => {
  const { stays, goes, room } = await pair(home);
  const recovered = await away(goes, other, async () => {
    for (let n = 0; n <= MAX_MISSED; n += 1) await stays.say(room, `missed ${n}`);
  });
  assert.equal(recovered, false);
  await goes.join(room);
  await stays.say(room, 'live again');
  await goes.hears('live again');
  assert.ok(!goes.all('message').some((message) => message.content.startsWith('missed')));
  // The next time it misses little, and goes on from here.
  assert.ok(await away(goes, home, () => stays.say(room, 'little')));
  await goes.hears('little');
  goes.proxy.close();
});

test('a connection that vanished without a word gives its seats to the one that goes on', async () => {
  const { stays, goes, room } = await pair(home);
  goes.proxy.lose(); // the gateway hears nothing of what follows
  goes.proxy.pointTo(other.port);
  goes.socket.io.engine.transport.ws.terminate();
  await goes.take('connect');
  assert.ok(goes.socket.recovered);
  await goes.say(room, 'on the other gateway');
  goes.emit('leaveRoom', room);
  await stays.take('userLeft');
  assert.deepEqual(screen(stays, room).participants, [stays.user.id]);
  goes.proxy.close();
});

test('members of a gateway that missed more than the log holds load the room anew', async () => {
  const [anna, bob] = await users('앤', '보비');
  const stays = await chatter(home.url, anna);
  const goes = await chatter(behind.url, bob, RECONNECT);
  const room = await roomOf(stays, goes);
  await stays.say(room, 'first');
  await goes.hears('first');
  const slot = parseInt(room.slice(0, 4), 16);
  await behind.signal('SIGSTOP');
  for (const port of stack.redis.ports) await stack.redis.ask(port, 'CLIENT', 'KILL', 'TYPE', 'pubsub');
  await eventually('the other gateway to listen again', async () => {
    await stays.say(room, 'probe');
    return stays.all('message').some((message) => message.content === 'probe');
  });
  await stays.say(room, 'one more than the log will hold');
  const owner = await stack.redis.ownerOf(slot);
  const [log] = (await stack.redis.ask(owner, '--scan', '--pattern', `*:log:${room.slice(0, 12)}`)).split('\n');
  assert.equal(Number(await stack.redis.ask(owner, 'XTRIM', log, 'MAXLEN', '1')) > 0, true);
  await behind.signal('SIGCONT');
  await goes.take('disconnect');
  await goes.take('connect');
  assert.equal(goes.socket.recovered, false);
  await goes.join(room);
  await stays.say(room, 'from here on');
  await goes.hears('from here on');
});

test('a message that the bus lost without a trace reaches the room all the same', async () => {
  const [anna] = await users('앤');
  const stays = await chatter(home.url, anna);
  const room = await roomOf(stays);
  const { id } = await stays.say(room, 'heard');
  const owner = await stack.redis.ownerOf(parseInt(room.slice(0, 4), 16));
  const [log] = (await stack.redis.ask(owner, '--scan', '--pattern', `*:log:${room.slice(0, 12)}`)).split('\n');
  const [epoch, number] = id.split('-').map(Number);
  const unheard = JSON.stringify({ _id: `${room.slice(0, 12)}0000ffff0001`, room, content: 'unheard', type: 'system' });
  await stack.redis.ask(owner, 'XADD', log, `${epoch}-${number + 1}`, 't', Date.now(), 'k', 'x', 'm', unheard);
  await stays.hears('unheard');
  await stays.say(room, 'and on');
  await stays.hears('and on');
  assert.deepEqual(stays.all('message').slice(-3).map((message) => message.content), ['heard', 'unheard', 'and on']);
});
