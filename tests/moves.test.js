// Slots and masters that move while people talk: nobody waits for the end of a move, nothing is lost, doubled or reordered.
import assert from 'node:assert/strict';
import { onStack } from './support/stack.js';
import { chatter } from './support/chatter.js';
import { unique } from './support/rest.js';
import { eventually } from './support/wait.js';

// Longest time from sending to hearing a message while its slot is between two masters, in ms.
const LIVE_WITHIN = 1_500;

const { stack, test } = await onStack();
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

/** Both talk, one message after the other, until `end` is called; then resolves with the accepted ids. */
function talk(both, room) {
  let talking = true;
  const speak = async (one, who) => {
    const accepted = [];
    for (let n = 0; talking; n += 1) accepted.push(await persist(one, room, `${who} ${n}`));
    return accepted;
  };
  const spoken = Promise.all(both.map(speak));
  return {
    async end() {
      talking = false;
      return (await spoken).flat();
    },
  };
}

/** Fails unless both heard exactly the accepted messages, in the order of the log. */
async function sameForAll(both, room, accepted) {
  await eventually('every message at both', () => both.every((one) => texts(one).length >= accepted.length));
  const [mine, theirs] = both.map((one) => texts(one).map((m) => m._id));
  assert.deepEqual(mine, theirs);
  assert.deepEqual([...mine].sort(), [...accepted].sort());
  const kept = [];
  for (let before, more = true; more; ) {
    const page = await both[0].history(room, { limit: 100, before });
    kept.unshift(...page.messages.filter((m) => m.type === 'text').map((m) => m._id));
    before = page.messages[0].timestamp;
    more = page.hasMore;
  }
  assert.deepEqual(kept, mine);
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
