// What an acknowledged message has reached, `SLOTCAST_DURABILITY`: the first gateway waits for a replica, the second does not.
import assert from 'node:assert/strict';
import net from 'node:net';
import { onStack } from './support/stack.js';
import { chatter } from './support/chatter.js';
import { unique } from './support/rest.js';
import { eventually } from './support/wait.js';

const { stack, test } = await onStack({
  gateways: [{ SLOTCAST_DURABILITY: 'replica' }, {}],
  env: { SLOTCAST_SUBSCRIBE_TO: 'master', SLOTCAST_PASSWORD_HASH: 'bcrypt', SLOTCAST_BCRYPT_COST: '4' },
});
const { rest, redis } = stack;
const [careful, quick] = stack.gateways;

const slotOf = (id) => parseInt(id.slice(0, 4), 16);
const ownerOf = (room) => redis.ownerOf(slotOf(room));

/** A new room whose slot has a master that `fits`. */
async function roomOn(user, fits) {
  return eventually('a room on such a master', async () => {
    const room = (await rest.room(user))._id;
    return fits(await ownerOf(room)) && room;
  }, { every: 0 });
}

test('an acknowledgement waits for a replica, and nothing else waits with it', async () => {
  const users = [await rest.user(unique('앨리스')), await rest.user(unique('보비'))];
  const room = (await rest.room(users[0]))._id;
  const master = await ownerOf(room);
  const beside = await roomOn(users[0], (port) => port === master);
  const elsewhere = await roomOn(users[0], (port) => port !== master);
  const a = await chatter(careful.url, users[0]);
  const other = await chatter(careful.url, users[0]);
  const b = await chatter(quick.url, users[1]);
  for (const one of [a, b]) await one.join(room);
  await other.join(elsewhere);
  const replica = await redis.replicaOf(master);

  redis.signal(replica, 'SIGSTOP');
  const since = Date.now();
  let ack;
  const asked = a.ask('chatMessage', { room, type: 'text', content: 'waits' }).then((answer) => { ack = answer; });
  for (const one of [a, b]) await one.hears('waits');
  await other.say(elsewhere, 'another shard goes on');
  await other.join(beside);
  await b.say(room, 'under master');
  await eventually('a second to pass', () => Date.now() - since > 1_000);
  assert.equal(ack, undefined, 'no replica has the message');
  redis.signal(replica, 'SIGCONT');
  await asked;
  assert.equal(ack.ok, true, JSON.stringify(ack));
});

test('a message that no replica gets is refused in time, and may be sent again', async () => {
  const user = await rest.user(unique('앨리스'));
  const room = (await rest.room(user))._id;
  const a = await chatter(careful.url, user);
  await a.join(room);
  const replica = await redis.replicaOf(await ownerOf(room));
  redis.signal(replica, 'SIGSTOP');
  const message = { room, type: 'text', content: 'once', clientMessageId: 'once' };
  const refused = await a.ask('chatMessage', message);
  redis.signal(replica, 'SIGCONT');
  assert.equal(refused.ok, false);
  assert.equal(refused.code, 'MESSAGE_ERROR');
  assert.ok(refused.retryAfter > 0);
  await eventually('the replica to be back', async () => (await a.ask('chatMessage', message)).ok, { within: 20_000 });
  const { messages } = await a.history(room);
  assert.equal(messages.filter((m) => m.content === 'once').length, 1);
});

const RECONNECT = { reconnection: true, reconnectionDelay: 50, reconnectionDelayMax: 200 };

test('a forced failover loses no message that a replica had to have', async () => {
  const SENDERS = 48;
  const SIZE = 4_000;
  const users = [await rest.user(unique('앨리스')), await rest.user(unique('보비'))];
  const room = (await rest.room(users[0]))._id;
  const senders = { careful: [], quick: [] };
  for (let n = 0; n < SENDERS; n += 1) {
    senders.careful.push(await chatter(careful.url, users[0], RECONNECT));
    senders.quick.push(await chatter(quick.url, users[1], RECONNECT));
  }
  for (const one of Object.values(senders).flat()) await one.join(room);
  const master = await ownerOf(room);
  const replica = await redis.replicaOf(master);
  const send = (one, who, n) => {
    const clientMessageId = `${who}-${n}`;
    const content = `${who} ${n} `.padEnd(SIZE, '.');
    return one.ask('chatMessage', { room, type: 'text', content, clientMessageId });
  };

  // The replica does not read. More waits for it than it reads at once when it goes on, and then a takeover:
  // it takes over without the rest.
  redis.signal(replica, 'SIGSTOP');
  const quickAcks = await Promise.all(senders.quick.map((one, n) => send(one, 'quick', n)));
  assert.ok(quickAcks.every((ack) => ack.ok));
  // Who heard of a message that is lost is closed, to load the room anew; what has no answer is sent again.
  const sent = senders.careful.map((one, n) => eventually('an answer', () => send(one, 'careful', n), { within: 40_000 }));
  await senders.careful[0].take('message', (m) => m.content.startsWith(`careful ${SENDERS - 1} `));
  const takeover = net.connect(replica, '127.0.0.1');
  await new Promise((written) => takeover.write('CLUSTER FAILOVER TAKEOVER\r\n', written));
  redis.signal(replica, 'SIGCONT');
  await redis.agree(slotOf(room), replica);
  takeover.destroy();

  const acks = await Promise.all(sent);
  const acked = (list) => list.filter((ack) => ack.ok).map((ack) => ack.messageId);
  const after = await chatter(careful.url, users[0]);
  await after.join(room);
  await eventually('a message on the new master', async () => (await send(after, 'after', 0)).ok, { within: 20_000 });
  const kept = [];
  for (let before, more = true; more; ) {
    const page = await after.history(room, { limit: 100, before });
    kept.unshift(...page.messages);
    before = page.messages[0].timestamp;
    more = page.hasMore;
  }
  const ids = new Set(kept.map((m) => m._id));
  const lost = (list) => acked(list).filter((id) => !ids.has(id)).length;
  console.log(`acknowledged and lost: ${lost(quickAcks)} of ${acked(quickAcks).length} under master, `
    + `${lost(acks)} of ${acked(acks).length} under replica`);
  assert.ok(lost(quickAcks) > 0, 'the replica lagged behind when it took over');
  assert.equal(lost(acks), 0);
  assert.ok(acked(acks).length > 0, 'those that were lost first were stored again');
  const keys = kept.map((m) => m.clientMessageId).filter(Boolean);
  assert.equal(new Set(keys).size, keys.length, 'none is stored twice');
}, { timeout: 90_000 });
