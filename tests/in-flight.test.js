// A Redis master that dies or hangs with hundreds of appends on their way to it.
import assert from 'node:assert/strict';
import { onStack } from './support/stack.js';
import { chatter } from './support/chatter.js';
import { unique } from './support/rest.js';
import { eventually } from './support/wait.js';

const ROOMS = 16;
const SOCKETS_PER_ROOM = 18; // 288 in all, on one gateway: as many commands on its one connection to the master

const { stack, test } = await onStack({ env: { SLOTCAST_SUBSCRIBE_TO: 'replica' } });
const { rest, redis } = stack;
const [gateway, other] = stack.gateways;

const slotOf = (id) => parseInt(id.slice(0, 4), 16);
const texts = (one) => one.all('message').filter((m) => m.type === 'text');

/** Rooms on one master with senders on one gateway and a listener on the other, and a room on another master. */
async function crowd() {
  const user = await rest.user(unique('앨리스'));
  const listening = await rest.user(unique('보비'));
  const master = await redis.ownerOf(slotOf((await rest.room(user))._id));
  const rooms = [];
  let elsewhere;
  while (rooms.length < ROOMS || !elsewhere) {
    const { _id: id } = await rest.room(user);
    if ((await redis.ownerOf(slotOf(id))) === master) rooms.push({ id, senders: [] });
    else elsewhere ??= await chatter(gateway.url, user).then(async (one) => (await one.join(id), { id, one }));
  }
  await Promise.all(rooms.slice(0, ROOMS).map(async (room) => {
    room.listener = await chatter(other.url, listening);
    await room.listener.join(room.id);
    for (let n = 0; n < SOCKETS_PER_ROOM; n += 1) {
      room.senders.push(await chatter(gateway.url, user));
      await room.senders[n].join(room.id);
    }
  }));
  return { master, rooms: rooms.slice(0, ROOMS), elsewhere };
}

const message = (room, n) => ({ room: room.id, type: 'text', content: `message ${n}`, clientMessageId: `message-${n}` });

/** Has every sender send one message while the master reads nothing; resolves when all are on their way. */
async function sendAll({ rooms, elsewhere }) {
  const asked = rooms.map((room) => room.senders.map((one, n) => one.ask('chatMessage', message(room, n))));
  await elsewhere.one.say(elsewhere.id, 'another master answers meanwhile');
  return asked;
}

/** Fails unless every message was accepted or refused, is stored once in the end and was heard in that order. */
async function settled(rooms, asked) {
  let accepted = 0;
  await Promise.all(rooms.map(async (room, i) => {
    for (const [n, ack] of (await Promise.all(asked[i])).entries()) {
      if (ack.ok) {
        accepted += 1;
        continue;
      }
      assert.equal(ack.code, 'MESSAGE_ERROR');
      assert.ok(ack.retryAfter > 0, JSON.stringify(ack));
      await eventually(`message ${n} to be accepted`, async () =>
        (await room.senders[n].ask('chatMessage', message(room, n))).ok, { within: 30_000 });
    }
    await eventually('a later message', async () => (await room.senders[0].ask('chatMessage', message(room, 'later'))).ok);
    const { messages } = await room.senders[0].history(room.id, { limit: 100 });
    const kept = messages.filter((m) => m.type === 'text');
    assert.deepEqual(kept.map((m) => m.clientMessageId).sort(),
      [...room.senders.map((_, n) => `message-${n}`), 'message-later'].sort());
    const ids = kept.map((m) => m._id);
    const heard = () => texts(room.listener).map((m) => m._id);
    await eventually('all to be heard', () => heard().length >= ids.length);
    assert.deepEqual(heard(), ids);
    for (const ack of (await Promise.all(asked[i])).filter(({ ok }) => ok)) assert.ok(ids.includes(ack.messageId));
  }));
  return accepted;
}

test('a killed master with hundreds of appends in flight', async () => {
  const scene = await crowd();
  redis.signal(scene.master, 'SIGSTOP');
  const asked = await sendAll(scene);
  redis.signal(scene.master, 'SIGKILL');
  const accepted = await settled(scene.rooms, asked);
  console.log(`${accepted} of ${ROOMS * SOCKETS_PER_ROOM} accepted without being sent again`);
  redis.restart(scene.master);
  await eventually('the node to follow', () => redis.follows(scene.master), { within: 30_000 });
}, { timeout: 120_000 });

test('a hung master that goes on after it was replaced', async () => {
  const scene = await crowd();
  const slot = slotOf(scene.rooms[0].id);
  const survivor = redis.ports.find((port) => port !== scene.master);
  redis.signal(scene.master, 'SIGSTOP');
  const asked = await sendAll(scene);
  await eventually('another master', async () => {
    const owner = await redis.ownerOf(slot, survivor);
    return owner && owner !== scene.master;
  }, { within: 30_000 });
  redis.signal(scene.master, 'SIGCONT');
  const accepted = await settled(scene.rooms, asked);
  console.log(`${accepted} of ${ROOMS * SOCKETS_PER_ROOM} accepted without being sent again`);
  await eventually('the node to follow', () => redis.follows(scene.master), { within: 30_000 });
}, { timeout: 120_000 });

test('what a master had still to say when it stood still is heard only if the log has it', async () => {
  const users = [await rest.user(unique('앨리스')), await rest.user(unique('보비'))];
  const room = (await rest.room(users[0]))._id;
  const both = [await chatter(gateway.url, users[0]), await chatter(other.url, users[1])];
  for (const one of both) await one.join(room);
  const { id } = await both[0].say(room, 'before');
  const [epoch, number] = id.split('-').map(Number);
  const slot = slotOf(room);
  const master = await redis.ownerOf(slot);
  const replica = await redis.replicaOf(master);
  const channel = await eventually('the channel at the replica', async () => {
    const channels = (await redis.ask(replica, 'PUBSUB', 'SHARDCHANNELS', '*:rooms')).split('\n');
    const slots = await Promise.all(channels.map((name) => redis.ask(replica, 'CLUSTER', 'KEYSLOT', name)));
    return channels[slots.map(Number).indexOf(slot)];
  }, { within: 30_000 });
  await eventually('both gateways to listen at the replica', async () =>
    (await redis.ask(replica, 'PUBSUB', 'SHARDNUMSUB', channel)).endsWith('2'), { within: 30_000 });
  const suspects = (one) => one.metric('store_suspect_nodes');
  for (const one of [gateway, other]) await eventually('no suspect', async () => await suspects(one) === 0);
  const prefix = room.slice(0, 12);
  const ghost = JSON.stringify({ _id: `${prefix}0000ffff0001`, room, content: 'ghost', type: 'text' });

  redis.signal(master, 'SIGSTOP');
  for (const one of [gateway, other]) {
    await eventually('the master to be suspect', async () => await suspects(one) > 0);
  }
  const published = await redis.ask(replica, 'SPUBLISH', channel, `m ${prefix} ${epoch}-${number + 1} ${id} ${ghost}`);
  assert.equal(Number(published), 2, 'both gateways listen at the replica');
  await eventually('another master', async () => await redis.ownerOf(slot, replica) === replica, { within: 30_000 });
  redis.signal(master, 'SIGCONT');
  await eventually('a message to be accepted', async () =>
    (await both[1].ask('chatMessage', { room, type: 'text', content: 'after', clientMessageId: 'after' })).ok,
  { within: 30_000 });
  for (const one of both) {
    await one.hears('after');
    assert.deepEqual(texts(one).map((m) => m.content), ['before', 'after']);
  }
  await eventually('the node to follow', () => redis.follows(master), { within: 30_000 });
  await eventually('no suspect to be left', async () => await suspects(gateway) === 0);
}, { timeout: 120_000 });
