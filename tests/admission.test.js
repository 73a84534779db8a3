// Who gets in: the bounds on sockets, and clients that find no place and come back by themselves.
import assert from 'node:assert/strict';
import { onStack } from './support/stack.js';
import { CLIENTS, Chatter, chatter } from './support/chatter.js';
import { PATH, RawSocket } from './support/raw.js';
import { eventually } from './support/wait.js';

const PLACES = 3;

const { stack, test } = await onStack({
  gateways: [
    { SLOTCAST_MAX_CONNECTIONS: String(PLACES) },
    { SLOTCAST_CONNECTIONS_PER_ADDRESS: '2' },
    { SLOTCAST_CONNECTIONS_PER_SECOND: '2' },
  ],
});
const { rest } = stack;
const [small, fair, slow] = stack.gateways;
const again = { reconnection: true, reconnectionDelay: 100, reconnectionDelayMax: 300 };

/** Requests that this gateway has answered in this way. */
const answered = (gateway, outcome) => gateway.metric(`gateway_handshakes_total{outcome="${outcome}"}`);

for (const [version, io] of CLIENTS) {
  test(`client ${version} that finds no place comes back by itself and gets in when there is one`, async () => {
    const places = await Promise.all(Array.from({ length: PLACES }, () => RawSocket.upgrade(small.url)));
    const user = await rest.user();
    const room = (await rest.room(user))._id;
    const before = await answered(small, 'full');
    const one = new Chatter(small.url, user, { io, ...again });
    await one.take('connect_error');
    await one.take('connect_error');
    assert.ok((await answered(small, 'full')) >= before + 2);
    places[0].destroy();
    await one.take('connect');
    await one.join(room);
    await one.say(room, 'here I am');
    one.close();
    for (const raw of places) raw.destroy();
    await eventually('all places to be free', async () => (await small.metric('gateway_connections')) === 0);
  });
}

/** What a client from `address` is answered: the status, and the body if it is refused. */
async function knock(gateway, address, open) {
  const raw = await RawSocket.dial(gateway.url);
  open.push(raw);
  raw.request('GET', PATH, { 'X-Forwarded-For': address, Origin: 'https://chat.example' });
  await raw.headersDone();
  if (raw.status === 101) return { status: 101 };
  await raw.gone();
  const [head, body] = raw.bytes.toString().split('\r\n\r\n');
  const retryAfter = Number(/^retry-after: (\d+)$/im.exec(head)?.[1]);
  assert.match(head, /^access-control-allow-origin: https:\/\/chat\.example$/im);
  return { status: raw.status, retryAfter, reason: JSON.parse(body).reason };
}

test('one address has no more than its share, and keeps nobody else out', async () => {
  const open = [];
  const status = async (address) => (await knock(fair, address, open)).status;
  assert.deepEqual([await status('203.0.113.7'), await status('203.0.113.7')], [101, 101]);
  const refused = await knock(fair, '203.0.113.7', open);
  assert.deepEqual({ ...refused, retryAfter: 0 }, { status: 429, retryAfter: 0, reason: 'address' });
  assert.ok(refused.retryAfter >= 1);
  assert.equal(await status('203.0.113.8'), 101);
  open[0].destroy();
  await eventually('a place for the address', async () => (await status('203.0.113.7')) === 101);
  for (const raw of open) raw.destroy();
});

test('clients in a storm get in as fast as the rate allows, and those who are in stay', async () => {
  const inside = await rest.user();
  const room = (await rest.room(inside))._id;
  const early = await chatter(slow.url, inside);
  await early.join(room);
  const users = await Promise.all(Array.from({ length: 8 }, () => rest.user()));
  const since = Date.now();
  const storm = users.map((user) => new Chatter(slow.url, user, again));
  await Promise.all(storm.map((one) => one.take('connect', undefined, 20_000)));
  // Of the eight at most two find a token in store; six come by the rate.
  assert.ok(Date.now() - since >= 2_500, `all were in after ${Date.now() - since} ms`);
  assert.ok(storm.some((one) => one.all('connect_error').length > 0));
  assert.ok((await answered(slow, 'rate')) > 0);
  early.none('disconnect');
  await early.say(room, 'never interrupted');
});
