// Clients that read more slowly than their rooms write: how much waits for them, who is closed first, and that nobody
// else waits.
import assert from 'node:assert/strict';
import { onStack } from './support/stack.js';
import { chatter } from './support/chatter.js';
import { RawSocket } from './support/raw.js';
import { eventually } from './support/wait.js';

const KIB = 1024;
const ONE_MAX = 256 * KIB; // bytes that may wait for one socket of the first gateway
const EACH_MAX = 700 * KIB; // the same of the second gateway, and for all of its sockets together:
const ALL_MAX = 1_000 * KIB;
const FRAME = 10 * KIB; // one more than may wait is what tells that too much does
const PROMPT = 1_000; // ms in which a message reaches who reads; a slow reader costs 20 s before it is given up

const { stack, test } = await onStack({
  gateways: [
    { SLOTCAST_OUTBOX_MAX_BYTES: String(ONE_MAX) },
    { SLOTCAST_OUTBOX_MAX_BYTES: String(EACH_MAX), SLOTCAST_OUTBOX_TOTAL_MAX_BYTES: String(ALL_MAX) },
  ],
  env: { SLOTCAST_SOCKET_SEND_BUFFER_BYTES: '16384' },
});
const { rest } = stack;
const [bounded, shared] = stack.gateways;

const letters = 'x'.repeat(9_000);
const waiting = (gateway) => gateway.metric('gateway_outbox_bytes');
const shed = (gateway) => gateway.metric('gateway_closes_total{reason="slow"}');

/** A room with somebody who talks in it and reads what is said, and a member who does not read. */
async function roomWithSlowReader(gateway) {
  const [host, guest] = [await rest.user('앨리스'), await rest.user('보비')];
  const room = (await rest.room(host))._id;
  const talker = await chatter(gateway.url, host);
  await talker.join(room);
  const slow = await RawSocket.connect(gateway.url, guest);
  slow.sendEvent('joinRoom', room);
  await slow.hears((text) => text.startsWith('42["joinRoomSuccess"'));
  slow.socket.pause();
  let said = 0;
  let latest = 0;
  /** Says one more thing; how long it took to come back is noted. */
  const say = async () => {
    const content = `${said} ${letters}`;
    said += 1;
    const since = performance.now();
    await talker.say(room, content);
    await talker.hears(content);
    latest = Math.max(latest, performance.now() - since);
  };
  return { room, talker, slow, say, said: () => said, latest: () => latest };
}

/** Reads on: everything that the server had written, up to the end if it has closed. */
const readOn = (raw) => raw.socket.resume();

test('a reader that does not read is closed at its bound, and nobody waits for it', async () => {
  const { talker, slow, say, latest } = await roomWithSlowReader(bounded);
  let most = 0;
  while ((await shed(bounded)) === 0) {
    await say();
    most = Math.max(most, await waiting(bounded));
  }
  assert.ok(most > ONE_MAX / 2, `${most} bytes waited at most`);
  assert.ok(most <= ONE_MAX + FRAME, `${most} bytes waited at most`);
  readOn(slow);
  assert.equal(await slow.closed(), 1008, 'it is told why');
  await eventually('nothing to wait any more', async () => (await waiting(bounded)) === 0);
  assert.equal(await bounded.metric('gateway_outbox_connections'), 0);
  await say();
  assert.ok(latest() < PROMPT, `${latest()} ms`);
  talker.none('disconnect');
  slow.destroy();
});

test('when too much waits for all sockets together, the slowest is closed first and the others get everything', async () => {
  const slowest = await roomWithSlowReader(shared);
  const slower = await roomWithSlowReader(shared);
  const fill = async (one, bytes) => {
    const before = await waiting(shared);
    while ((await waiting(shared)) < before + bytes) await one.say();
  };
  await fill(slowest, 600 * KIB);
  await fill(slower, 300 * KIB);
  assert.equal(await shared.metric('gateway_outbox_connections'), 2);
  assert.equal(await shed(shared), 0);

  let most = 0;
  while ((await shed(shared)) === 0) {
    await slower.say();
    await slowest.say();
    most = Math.max(most, await waiting(shared));
  }
  readOn(slowest.slow);
  assert.equal(await slowest.slow.closed(), 1008, 'the slowest is told why');
  assert.ok(most <= ALL_MAX + 2 * FRAME, `${most} bytes waited at most`);
  assert.equal(await shed(shared), 1);
  await eventually('one to be left', async () => (await shared.metric('gateway_outbox_connections')) === 1);
  for (const { talker, latest } of [slowest, slower]) {
    assert.ok(latest() < PROMPT, `${latest()} ms`);
    talker.none('disconnect');
  }

  readOn(slower.slow);
  const heard = () => slower.slow.texts
    .filter((text) => text.startsWith('42["message"'))
    .map((text) => JSON.parse(text.slice(2))[1])
    .filter((message) => message.type === 'text')
    .map(({ content }) => Number(content.split(' ')[0]));
  await eventually('everything to come', () => heard().length >= slower.said());
  assert.deepEqual(heard(), Array.from({ length: slower.said() }, (_, i) => i));
  for (const { slow } of [slowest, slower]) slow.destroy();
});
