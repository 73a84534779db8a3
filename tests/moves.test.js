// Slots and masters that move while people talk: nobody waits for the end of a move, nothing is lost, doubled or reordered.
import assert from 'node:assert/strict';
import { setTimeout as delay } from 'node:timers/promises';
import { onStack } from './support/stack.js';
import { chatter } from './support/chatter.js';
import { unique } from './support/rest.js';
import { eventually } from './support/wait.js';

// Longest time from sending to hearing a message while its slot is between two masters, in ms.
const LIVE_WITHIN = 1_500;
// Pause of a talker after each message, in ms: 60 s of talk are 6,000 messages at most, and 10,000 are allowed.
const BREATH = 10;

// One gateway hears the rooms from the masters, the other from their replicas.
const { stack, test } = await onStack({ gateways: [{}, { SLOTCAST_SUBSCRIBE_TO: 'replica' }] });
const { rest, redis } = stack;

const slotOf = (id) => parseInt(id.slice(0, 4), 16);
const texts = (one) => one.all('message').filter((m) => m.type === 'text');

/** Two users on two gateways in a room of their own. */
async function pair() {
  const users = [await rest.user(unique('앨리스')), await rest.user(unique('보비'))];
  const room = (await rest.room(users[0]))._id;
  const both = [];
  for (const [i, user] of users.entries()) {
    both.push(await chatter(stack.gateways[i].url, user));
    await both[i].join(room);
  }
  return { users, room, both };
}

/** A master that does not own `slot`. */
async function otherMaster(slot) {
  const owner = await redis.ownerOf(slot);
  return (await redis.owners()).find(({ port }) => port !== owner).port;
}

/** Sends one text until it is accepted, under one client message id; answers the message's id. */
async function persist(one, room, content) {
  const clientMessageId = content.replaceAll(' ', '-');
  return eventually(`"${content}" to be accepted`, async () => {
    const ack = await one.ask('chatMessage', { room, type: 'text', content, clientMessageId });
    return ack.ok && ack.messageId;
  }, { within: 30_000, every: 100 });
}

/** Both talk, with a breath after each message, while `body` runs; resolves with the accepted ids. */
async function whileTalking(both, room, body) {
  let talking = true;
  const speak = async (one, who) => {
    const accepted = [];
    for (let n = 0; talking; n += 1) {
      accepted.push(await persist(one, room, `${who} ${n}`));
      await delay(BREATH);
    }
    return accepted;
  };
  const spoken = Promise.all(both.map(speak));
  spoken.catch(() => {}); // told below, unless `body` fails first
  try {
    await body();
  } finally {
    talking = false;
  }
  return (await spoken).flat();
}

/** Fails unless both heard exactly the accepted messages, in the order of the log. */
async function sameForAll(both, room, accepted) {
  await eventually('every message at both', () => both.every((one) => texts(one).length >= accepted.length));
  const [mine, theirs] = both.map((one) => texts(one).map((m) => m._id));
  assert.deepEqual(mine, theirs);
  assert.deepEqual([...mine].sort(), [...accepted].sort());
  const kept = (await wholeHistory(both[0], room)).filter((m) => m.type === 'text').map((m) => m._id);
  assert.deepEqual(kept, mine);
}

/** Every message that the room's log has, oldest first. */
async function wholeHistory(one, room) {
  const pages = [];
  for (let before, more = true; more; ) {
    const page = await one.history(room, { limit: 100, before });
    pages.unshift(page.messages);
    before = page.messages[0].timestamp;
    more = page.hasMore;
  }
  return pages.flat();
}

test('messages are heard at once although their slot is between two masters', async () => {
  const { room, both } = await pair();
  const slot = slotOf(room);
  const accepted = [(await both[0].say(room, 'before')).messageId];
  const move = await redis.beginMove(slot, await otherMaster(slot));
  await redis.moveKeys(move);
  for (let n = 0; n < 30; n += 1) {
    const sender = both[n % 2];
    const since = Date.now();
    accepted.push((await sender.say(room, `between ${n}`)).messageId);
    for (const one of both) await one.hears(`between ${n}`);
    const took = Date.now() - since;
    assert.ok(took < LIVE_WITHIN, `message ${n} was heard after ${took} ms`);
  }
  assert.notEqual(await redis.ownerOf(slot), move.toPort, 'the move is still open');
  await redis.endMove(move);
  accepted.push((await both[1].say(room, 'after')).messageId);
  await sameForAll(both, room, accepted);
});

test('a slot moves there and back under load', async () => {
  const { users, room, both } = await pair();
  const [a, b] = both;
  const slot = slotOf(room);
  const marked = (await a.say(room, 'to be marked')).messageId;
  await b.hears('to be marked');
  const home = await redis.ownerOf(slot);
  const carol = await rest.user(unique('캐롤'));
  const joiner = await chatter(stack.gateways[0].url, carol);
  const spoken = await whileTalking(both, room, async () => {
    for (const port of [await otherMaster(slot), home]) {
      const move = await redis.beginMove(slot, port);
      // What needs several keys may have to wait for the end of the move.
      const joined = joiner.join(room);
      b.emit('messageReaction', { messageId: marked, reaction: '👍', type: 'add' });
      b.emit('markMessagesAsRead', { messageIds: [marked] });
      await redis.moveKeys(move, 1);
      await redis.endMove(move);
      await joined;
      joiner.emit('leaveRoom', room);
      await a.take('message', (m) => m.content === `${carol.name}님이 퇴장하였습니다.`);
    }
  });
  const accepted = [marked, ...spoken];
  assert.ok(accepted.length > 20, `${accepted.length} messages were exchanged`);
  await sameForAll(both, room, accepted);
  await eventually('the reaction and the mark in the history', async () => {
    const pages = await wholeHistory(a, room);
    const message = pages.find((m) => m._id === marked);
    return message.reactions['👍']?.includes(users[1].id) && message.readers.some((r) => r.userId === users[1].id);
  });
  for (const one of both) one.none('error');
});

test('masters change by agreement under load', async () => {
  const { room, both } = await pair();
  const former = await redis.ownerOf(slotOf(room));
  const replica = await redis.replicaOf(former);
  const heard = () => texts(both[0]).length;
  const accepted = await whileTalking(both, room, async () => {
    for (const [port, other] of [[replica, former], [former, replica]]) {
      await redis.failover(port);
      const since = heard();
      await eventually('talk to go on', () => heard() > since + 5);
      await eventually('the former master to follow', () => redis.follows(other));
    }
  });
  await sameForAll(both, room, accepted);
}, { timeout: 120_000 });

test('a replica is killed and comes back under load', async () => {
  const { room, both } = await pair();
  const replica = await redis.replicaOf(await redis.ownerOf(slotOf(room)));
  const goesOn = async () => {
    const since = texts(both[1]).length;
    await eventually('talk to go on', () => texts(both[1]).length > since + 5);
  };
  const accepted = await whileTalking(both, room, async () => {
    redis.signal(replica, 'SIGKILL');
    await goesOn();
    redis.restart(replica);
    await eventually('the replica to follow', () => redis.follows(replica), { within: 20_000 });
    await goesOn();
  });
  await sameForAll(both, room, accepted);
});
