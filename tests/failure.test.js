// What a part's death does to those who stay: gateways killed and drained, a Redis master killed, all of Redis hung.
import assert from 'node:assert/strict';
import { onStack } from './support/stack.js';
import { chatter } from './support/chatter.js';
import { RawSocket } from './support/raw.js';
import { proxyTo } from './support/proxy.js';
import { unique } from './support/rest.js';
import { eventually } from './support/wait.js';

const LEASE_SECONDS = 3;
const DRAIN_SECONDS = 10;

const { stack, test } = await onStack({
  gateways: 3,
  env: {
    SLOTCAST_LEASE_SECONDS: String(LEASE_SECONDS),
    SLOTCAST_GRACE_SECONDS: '1',
    SLOTCAST_DRAIN_SECONDS: String(DRAIN_SECONDS),
    SLOTCAST_DRAIN_PER_SECOND: '2',
  },
});
const { rest } = stack;

const left = (name) => `${name}님이 퇴장하였습니다.`;

test('the users of a killed gateway leave once, when its lease has ended', async () => {
  const users = [];
  for (const name of ['앨리스', '보비', '캐롤', '데이브']) users.push(await rest.user(unique(name)));
  const room = (await rest.room(users[0]))._id;
  const [home, other, doomed] = stack.gateways;
  const places = [home, other, doomed, doomed];
  const sockets = [];
  for (const [i, user] of users.entries()) {
    sockets.push(await chatter(places[i].url, user));
    await sockets[i].join(room);
  }
  const [a, b] = sockets;
  await doomed.signal('SIGKILL');
  await a.say(room, 'those who stay go on');
  await b.hears('those who stay go on');

  const gone = users.slice(2);
  for (const one of [a, b]) {
    for (const { name } of gone) {
      await one.take('message', (m) => m.content === left(name), LEASE_SECONDS * 1000 + 20_000);
    }
    const listed = () => one.all('participantsUpdate').at(-1).map((user) => user.name);
    await eventually('the two who stay to be listed', () => listed().length === 2)
      .catch((error) => assert.fail(`${error.message}; listed: ${listed()}`));
  }
  await a.say(room, 'afterwards');
  await b.hears('afterwards');
  for (const one of [a, b]) {
    const said = one.all('message').filter((m) => gone.some(({ name }) => m.content === left(name)));
    assert.equal(said.length, gone.length);
  }
  const { json } = await rest.get(`/api/rooms/${room}`, { user: users[0] });
  assert.deepEqual(json.data.participants.map((p) => p._id).sort(), [users[0].id, users[1].id].sort());

  await doomed.start();
  const back = await chatter(doomed.url, users[2]);
  await back.join(room);
  await back.say(room, 'back on the restarted gateway');
  await a.hears('back on the restarted gateway');
});

test('a gateway told to stop sheds its sockets, is not ready meanwhile and ends in time', async () => {
  const [home, , draining] = stack.gateways;
  const proxy = await proxyTo(draining.port);
  const users = [];
  for (const name of ['앨리스', '보비', '캐롤', '데이브', '에리카']) users.push(await rest.user(unique(name)));
  const room = (await rest.room(users[0]))._id;
  const a = await chatter(home.url, users[0]);
  await a.join(room);
  const reconnection = { reconnection: true, reconnectionDelay: 50, reconnectionDelayMax: 200 };
  const moving = [];
  for (const user of users.slice(1)) {
    moving.push(await chatter(proxy.url, user, reconnection));
    await moving.at(-1).join(room);
  }

  const since = Date.now();
  const ended = draining.signal('SIGTERM');
  proxy.pointTo(home.port);
  await eventually('the draining gateway to be not ready', async () => (await draining.ready()) === 503, { every: 10 });
  for (const one of moving) {
    assert.notEqual(await one.take('disconnect', undefined, DRAIN_SECONDS * 1000 + 5_000), 'io client disconnect');
    await one.take('connect');
  }
  assert.deepEqual(await ended, { code: 0, signal: null });
  assert.ok(Date.now() - since < DRAIN_SECONDS * 1000 + 5_000);
  await assert.rejects(RawSocket.dial(draining.url), 'nobody listens any more');

  await a.say(room, 'all are here');
  for (const one of moving) await one.hears('all are here');
  for (const { name } of users.slice(1)) assert.ok(!a.all('message').some((m) => m.content === left(name)), name);
  proxy.close();
  await draining.start();
});

test('a full Redis refuses messages clearly, and what was marked as read is stored when there is room again', async () => {
  const users = [await rest.user('앨리스'), await rest.user('보비')];
  const room = (await rest.room(users[0]))._id;
  const [a, b] = [await chatter(stack.gateways[0].url, users[0]), await chatter(stack.gateways[1].url, users[1])];
  for (const one of [a, b]) await one.join(room);
  const { messageId } = await a.say(room, 'to be marked');
  await b.hears('to be marked');
  const port = await stack.redis.ownerOf(parseInt(room.slice(0, 4), 16));

  await stack.redis.ask(port, 'CONFIG', 'SET', 'maxmemory', '1mb');
  b.emit('markMessagesAsRead', { messageIds: [messageId] });
  const message = { room, type: 'text', content: 'too much', clientMessageId: 'too-much' };
  const refused = await a.ask('chatMessage', message);
  assert.equal(refused.ok, false);
  assert.equal(refused.code, 'MESSAGE_ERROR');
  assert.match(refused.message, /저장 공간/);
  assert.ok(!('retryAfter' in refused), JSON.stringify(refused));
  assert.deepEqual(await a.take('error'), { code: refused.code, message: refused.message });
  await eventually('the marks to be refused', () => stack.gateways[1].tail().includes('cannot store read marks'));
  await stack.redis.ask(port, 'CONFIG', 'SET', 'maxmemory', '0');

  assert.equal((await a.ask('chatMessage', message)).ok, true);
  await b.hears('too much');
  await a.take('messagesRead', (read) => read.userId === users[1].id && read.messageIds.includes(messageId));
  b.none('error');
});

test('a killed Redis master costs no accepted message and repeats none', async () => {
  const MESSAGES = 400;
  const users = [await rest.user('앨리스'), await rest.user('보비')];
  const room = (await rest.room(users[0]))._id;
  const both = [];
  for (const [i, user] of users.entries()) {
    both.push(await chatter(stack.gateways[i].url, user));
    await both[i].join(room);
  }
  const slot = parseInt(room.slice(0, 4), 16);
  const port = await stack.redis.ownerOf(slot);
  const survivor = stack.redis.ports.find((other) => other !== port);

  const accepted = [];
  const talk = async (one, who) => {
    for (let n = 0; n < MESSAGES; n += 1) {
      if (who === 0 && n === MESSAGES / 4) stack.redis.signal(port, 'SIGKILL');
      accepted.push(await persist(one, room, `${who} ${n}`));
    }
  };
  const since = Date.now();
  await Promise.all(both.map(talk));
  console.log(`${2 * MESSAGES} messages with a failover among them in ${Date.now() - since} ms`);
  assert.notEqual(await stack.redis.ownerOf(slot, survivor), port);

  const texts = (one) => one.all('message').filter((m) => m.type === 'text').map((m) => m._id);
  await eventually('every message at both', () => both.every((one) => texts(one).length >= accepted.length), { within: 30_000 });
  assert.deepEqual(texts(both[0]), texts(both[1]));
  assert.deepEqual([...texts(both[0])].sort(), [...accepted].sort());

  const kept = [];
  for (let before, more = true; more; ) {
    const page = await both[0].history(room, { limit: 100, before });
    kept.unshift(...page.messages.filter((m) => m.type === 'text').map((m) => m._id));
    before = page.messages[0].timestamp;
    more = page.hasMore;
  }
  assert.deepEqual(kept, texts(both[0]));
  stack.redis.restart(port);
}, { timeout: 120_000 });

/** Sends one text until it is accepted, under one client message id; answers the message's id. */
async function persist(one, room, content) {
  const clientMessageId = content.replace(' ', '-');
  return eventually(`"${content}" to be accepted`, async () => {
    const ack = await one.ask('chatMessage', { room, type: 'text', content, clientMessageId });
    return ack.ok && ack.messageId;
  }, { within: 60_000, every: 100 });
}

test('readiness follows Redis: hung and back', async () => {
  for (const port of stack.redis.ports) stack.redis.signal(port, 'SIGSTOP');
  const all = (status) => async () => (await Promise.all(stack.parts.map((part) => part.ready()))).every((s) => s === status);
  await eventually('every part to be not ready', all(503), { within: 30_000 });
  for (const port of stack.redis.ports) stack.redis.signal(port, 'SIGCONT');
  await eventually('every part to be ready again', all(200), { within: 60_000 });
  const users = [await rest.user('앨리스'), await rest.user('보비')];
  const room = (await rest.room(users[0]))._id;
  const a = await chatter(stack.gateways[0].url, users[0]);
  const b = await chatter(stack.gateways[1].url, users[1]);
  await a.join(room);
  await b.join(room);
  await persist(a, room, 'as before');
  await b.hears('as before');
}, { timeout: 150_000 });
