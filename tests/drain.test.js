// Gateways that are told to stop: at which rate they let their clients go, where these come in again, and what a
// deploy of all gateways leaves behind.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import { onStack } from './support/stack.js';
import { Chatter, chatter } from './support/chatter.js';
import { proxyTo } from './support/proxy.js';
import { RawSocket } from './support/raw.js';
import { unique } from './support/rest.js';
import { eventually, inTime } from './support/wait.js';

const PER_SECOND = 100;
const SOCKETS = 300;
const TALKERS = 12;
const LEASE_SECONDS = 3;

const { stack, test } = await onStack({
  gateways: 3,
  env: {
    SLOTCAST_LEASE_SECONDS: String(LEASE_SECONDS),
    SLOTCAST_GRACE_SECONDS: '1',
    SLOTCAST_DRAIN_SECONDS: '20',
    SLOTCAST_DRAIN_PER_SECOND: String(PER_SECOND),
  },
});
const { rest } = stack;
const again = { reconnection: true, reconnectionDelay: 50, reconnectionDelayMax: 200 };

/** Opens `count` sockets; each notes in `shedAt` when it was told to go. */
async function crowd(url, count) {
  const all = await Promise.all(Array.from({ length: count }, () => RawSocket.upgrade(url)));
  for (const raw of all) {
    await raw.hears((text) => text.startsWith('0'));
    raw.socket.once('data', () => (raw.shedAt = performance.now()));
  }
  return all;
}

test('a drain lets its sockets go at the rate that is set, and a second SIGTERM changes nothing', async () => {
  const [draining] = stack.gateways;
  const all = await crowd(draining.url, SOCKETS);
  const gone = () => all.filter((raw) => raw.shedAt);
  const ended = draining.signal('SIGTERM');
  await eventually('a third to be gone', () => gone().length >= SOCKETS / 3, { every: 10 });
  draining.process.kill('SIGTERM');
  await eventually('all to be gone', () => gone().length === SOCKETS, { every: 10 });
  for (const raw of all) {
    assert.equal(await raw.closed(), 1012);
    raw.destroy();
  }
  assert.deepEqual(await ended, { code: 0, signal: null });

  const times = all.map((raw) => raw.shedAt).sort((x, y) => x - y);
  // Each second by itself, but for the last, which may be shorter.
  const counts = [0, 1].map((s) => times.filter((at) => Math.floor((at - times[0] + 50) / 1000) === s).length);
  // All but the first slice, whose second began before it.
  const first = times.filter((at) => at < times[0] + 50).length;
  const rate = (1000 * (SOCKETS - first)) / (times.at(-1) - times[0]);
  console.log(`${rate.toFixed(1)} sockets a second of ${PER_SECOND}; by the second: ${counts}`);
  assert.ok(Math.abs(rate - PER_SECOND) <= 0.1 * PER_SECOND, `${rate} a second`);
  for (const count of counts) assert.ok(Math.abs(count - PER_SECOND) <= 0.2 * PER_SECOND, `by the second: ${counts}`);
  await draining.start();
});

test('SIGINT ends a drain at once', async () => {
  const gateway = await stack.addGateway({ SLOTCAST_DRAIN_PER_SECOND: '1' });
  const all = await crowd(gateway.url, 10);
  const ended = gateway.signal('SIGTERM');
  await eventually('the first to be gone', () => all.some((raw) => raw.shedAt), { every: 10 });
  gateway.process.kill('SIGINT');
  assert.deepEqual(await inTime('the end', ended, 2_000), { code: 1, signal: null });
  assert.ok(all.some((raw) => !raw.shedAt), 'it did not wait for all');
  for (const raw of all) raw.destroy();
});

test('who is let go finds the other gateways at their bound, and gets in later without disturbing anybody', async () => {
  const draining = await stack.addGateway();
  const busy = await stack.addGateway({ SLOTCAST_CONNECTIONS_PER_SECOND: '5' });
  const proxy = await proxyTo(draining.port);
  const host = await rest.user();
  const room = (await rest.room(host))._id;
  const resident = await chatter(busy.url, host);
  await resident.join(room);
  const names = Array.from({ length: 15 }, () => unique('손님'));
  const moving = await Promise.all(names.map(async (name) => chatter(proxy.url, await rest.user(name), again)));
  for (const one of moving) await one.join(room);

  proxy.pointTo(busy.port);
  const ended = draining.signal('SIGTERM');
  for (const one of moving) {
    await one.take('disconnect');
    await one.take('connect', undefined, 20_000);
  }
  assert.ok(moving.some((one) => one.all('connect_error').length > 0), 'the bound was reached');
  resident.none('disconnect');
  await resident.say(room, 'all are here');
  for (const one of moving) await one.hears('all are here');
  assert.deepEqual(await ended, { code: 0, signal: null });
  proxy.close();
  await busy.signal('SIGKILL');
});

/** How many dead gateways the gateways that run have cleaned up after. */
function reaped() {
  const logs = stack.gateways.map((gateway) => fs.readFileSync(gateway.log, 'utf8'));
  return logs.join('').split('reaped a dead gateway').length - 1;
}

test('a deploy of all gateways, one after the other, costs no message and nobody their place', async () => {
  const fleet = stack.gateways.slice(0, 3);
  const proxy = await proxyTo(0);
  proxy.pointTo(...fleet.map(({ port }) => port));
  const users = [];
  for (let i = 0; i < TALKERS; i += 1) users.push(await rest.user(unique(`사람${i}`)));
  const room = (await rest.room(users[0]))._id;
  const queue = { ...again, retries: 100, ackTimeout: 2_000 };
  const talkers = users.map((user) => new Chatter(proxy.url, user, queue));
  for (const one of talkers) {
    await one.connected();
    await one.join(room);
  }

  let isOver = false;
  const sent = [];
  const talk = async (one, who) => {
    for (let n = 0; !isOver; n += 1) {
      const content = `text ${who} ${n}`;
      sent.push(content);
      const message = { room, type: 'text', content, clientMessageId: `m${n}` };
      const ack = await one.socket.emitWithAck('chatMessage', message);
      assert.equal(ack.ok, true, `${content}: ${JSON.stringify(ack)}`);
      await new Promise((resolve) => setTimeout(resolve, 20)); // the pace of the talk
    }
  };
  const talks = Promise.all(talkers.map(talk));
  const reapedBefore = reaped();
  for (const gateway of fleet) {
    proxy.pointTo(...fleet.filter((other) => other !== gateway).map(({ port }) => port));
    assert.deepEqual(await gateway.signal('SIGTERM'), { code: 0, signal: null });
    await gateway.start();
    await eventually('everybody to be in again', () => talkers.every((one) => one.socket.connected));
  }
  isOver = true;
  await talks;
  // Their leases end, and others give up what they held.
  await eventually('the old gateways to be reaped', () => reaped() >= reapedBefore + fleet.length, { within: 20_000 });

  const moves = talkers.reduce((sum, one) => sum + one.all('disconnect').length, 0);
  console.log(`${sent.length} messages of ${TALKERS} users, who moved ${moves} times`);
  assert.ok(moves >= TALKERS);
  const reader = await chatter(fleet[0].url, users[0]);
  await reader.join(room);
  const history = [];
  for (let before, more = true; more; ) {
    const page = await reader.history(room, { limit: 100, before });
    history.unshift(...page.messages);
    before = page.messages[0].timestamp;
    more = page.hasMore;
  }
  const kept = history.filter((m) => m.type === 'text').map((m) => m.content);
  assert.deepEqual(kept.sort(), [...sent].sort());
  assert.deepEqual(history.filter((m) => m.content.endsWith('님이 퇴장하였습니다.')), []);
  const joins = history.filter((m) => m.content.endsWith('님이 입장하였습니다.'));
  assert.equal(joins.length, TALKERS);
  const newcomer = await rest.user();
  await (await chatter(fleet[1].url, newcomer)).join(room);
  const ids = [...users, newcomer].map(({ id }) => id).sort();
  const isRight = (list) => list.map((p) => p._id).sort().join() === ids.join();
  for (const one of talkers) {
    await one.take('participantsUpdate', isRight);
    one.none('error');
  }
  const { json } = await rest.get(`/api/rooms/${room}`, { user: users[0] });
  assert.ok(isRight(json.data.participants), JSON.stringify(json.data.participants));
  proxy.close();
}, { timeout: 120_000 });
