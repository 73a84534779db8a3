// The traps of the contract, one test each: what breaks an unmodified client, its suite or its load scripts.
// T15 (file content is not sniffed) and T16 (how an upload answers) are in support/files-suite.js, with what T4 and
// T18 say of files.
import assert from 'node:assert/strict';
import net from 'node:net';
import { onStack } from './support/stack.js';
import { CLIENTS, Chatter, chatter } from './support/chatter.js';
import { unique } from './support/rest.js';
import { eventually } from './support/wait.js';
import { request } from './support/http.js';

const ORIGIN = 'https://chat.example';
const UNKNOWN_ID = 'f'.repeat(24);
const DELAY_MS = 500;

const { stack, test } = await onStack({ env: { SLOTCAST_DUPLICATE_LOGIN_DELAY_MS: String(DELAY_MS) } });
const { rest } = stack;
const [east, west] = stack.gateways.map((gateway) => gateway.url);

/** Two users on two gateways in one new room. */
async function pair() {
  const users = [await rest.user('앨리스'), await rest.user('보비')];
  const room = (await rest.room(users[0]))._id;
  const [a, b] = [await chatter(east, users[0]), await chatter(west, users[1])];
  await a.join(room);
  await b.join(room);
  return { users, room, a, b };
}

test('T1: all ids are 24 lower-case hex digits', async () => {
  const { users, room, a } = await pair();
  const { messageId } = await a.say(room, 'hello');
  const system = a.all('message').find((m) => m.type === 'system');
  for (const id of [room, messageId, system._id, ...users.map((user) => user.id)]) assert.match(id, /^[a-f0-9]{24}$/);
  assert.match(users[0].sessionId, /^[0-9a-f]{32}$/);
});

test('T2: read marks go to the whole room, the reader too, by the message id alone', async () => {
  const { users, room, a, b } = await pair();
  const { messageId } = await a.say(room, 'read me');
  await b.hears('read me');
  for (const [one, user] of [[b, users[1]], [a, users[0]]]) {
    one.emit('markMessagesAsRead', { messageIds: [messageId] });
    for (const each of [a, b]) {
      await each.take('messagesRead', (mark) => mark.userId === user.id && mark.messageIds.includes(messageId));
    }
  }
});

test('T3: what is harmless is never answered with an error', async () => {
  const { room, a, b } = await pair();
  b.emit('markMessagesAsRead', { messageIds: [UNKNOWN_ID] });
  b.emit('markMessagesAsRead', { messageIds: [] });
  b.emit('leaveRoom', UNKNOWN_ID);
  b.emit('joinRoomList');
  b.emit('ping', null);
  b.emit('chatMessage', { room, type: 'text', content: ' ' });
  await b.say(room, 'still typing');
  await a.hears('still typing');
  b.none('error');
});

test('T4: a message can be read everywhere the moment it is heard', async () => {
  const { room, a, b } = await pair();
  for (let i = 0; i < 50; i += 1) {
    a.emit('chatMessage', { room, type: 'text', content: `text ${i}` });
    const heard = await a.hears(`text ${i}`);
    const { messages } = await b.history(room, { limit: 1 });
    assert.equal(messages[0]._id, heard._id);
  }
});

test('T5: a registration whose client hangs up is carried out', async () => {
  const { hostname, port } = new URL(rest.url);
  const emails = Array.from({ length: 5 }, () => `${unique('hasty')}@example.com`);
  const password = 'Passw0rd!';
  for (const email of emails) {
    const body = JSON.stringify({ name: '홍길동', email, password });
    const head = `POST /api/auth/register HTTP/1.1\r\nHost: ${hostname}\r\nContent-Type: application/json\r\n`;
    await new Promise((resolve, reject) => {
      const socket = net.connect(port, hostname, () =>
        socket.write(`${head}Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`, () => socket.destroy()));
      socket.on('error', reject);
      socket.on('close', resolve);
    });
  }
  for (const email of emails) {
    await eventually(`${email} to log in`, async () => (await rest.post('/api/auth/login', { email, password })).status === 200);
  }
});

test('T6: preflights are quick and may be remembered', async () => {
  const headers = { origin: ORIGIN, 'access-control-request-method': 'POST', 'access-control-request-headers': 'content-type' };
  const times = [];
  for (let i = 0; i < 21; i += 1) {
    const since = performance.now();
    const answer = await rest.call('OPTIONS', '/api/auth/register', { headers });
    times.push(performance.now() - since);
    assert.equal(answer.headers['access-control-max-age'], '3600');
    assert.equal(answer.headers['access-control-allow-origin'], ORIGIN);
  }
  const median = times.sort((x, y) => x - y)[10];
  assert.ok(median < 60, `${median} ms, of the 60 that the browser suite passes with`);
});

test('T7: registration answers with a session that works', async () => {
  const user = await rest.user();
  assert.ok(user.token && user.sessionId);
  assert.equal((await rest.post('/api/rooms', { name: '새 방' }, { token: user.token })).status, 201);
  await chatter(west, user);
});

test('T8: a Bearer token alone is enough', async () => {
  const { token } = await rest.user();
  assert.equal((await rest.get('/api/rooms', { token })).status, 200);
  assert.equal((await rest.post('/api/rooms', { name: '새 방' }, { token })).status, 201);
});

test('T9: unknown fields are ignored and room names may repeat', async () => {
  const { users, room, a, b } = await pair();
  const body = { name: unique('방'), description: 'load test', participants: ['x'], extra: { deep: [1] } };
  for (let i = 0; i < 2; i += 1) assert.equal((await rest.post('/api/rooms', body, { user: users[0] })).status, 201);
  const { messageId } = await a.say(room, 'read me', { extra: 1 });
  b.emit('markMessagesAsRead', { roomId: room, messageIds: [messageId], extra: true });
  await a.take('messagesRead', (mark) => mark.messageIds.includes(messageId));
});

test('T10: a failed login is 401 and a repeated registration 409', async () => {
  const { email, password, name } = await rest.user();
  assert.equal((await rest.post('/api/auth/login', { email, password: 'Wr0ngPass!' })).status, 401);
  const unknown = `${unique('nobody')}@example.com`;
  assert.equal((await rest.post('/api/auth/login', { email: unknown, password })).status, 401);
  assert.equal((await rest.post('/api/auth/register', { name, email, password })).status, 409);
});

test('T11: each joinRoom is answered once, and nothing else brings that answer', async () => {
  const { room, a, b } = await pair();
  for (let joins = 2; joins <= 4; joins += 1) {
    await a.join(room);
    await a.say(room, `after join ${joins}`);
    await a.hears(`after join ${joins}`);
    assert.equal(a.all('joinRoomSuccess').length, joins);
  }
  assert.equal(b.all('joinRoomSuccess').length, 1);
});

test('T12: a user who never called the REST join may read and enter a room', async () => {
  const { room, a } = await pair();
  const guest = await rest.user();
  assert.equal((await rest.get(`/api/rooms/${room}`, { user: guest })).status, 200);
  const one = await chatter(west, guest);
  await one.join(room);
  await one.say(room, 'by the link');
  await a.hears('by the link');
});

test('T13: the end of an old session reaches the old sockets only', async () => {
  const user = await rest.user();
  const room = (await rest.room(user))._id;
  const old = [await chatter(east, user), await chatter(west, user)];
  const later = await rest.login(user);
  const fresh = [await chatter(east, later), await chatter(west, later)];
  for (const one of fresh) await one.join(room);
  for (const one of old) {
    assert.equal((await one.take('session_ended')).reason, 'duplicate_login');
    await one.take('disconnect');
  }
  for (const one of fresh) {
    await one.say(room, 'still here');
    one.none('session_ended');
    one.none('duplicate_login');
    assert.equal(one.socket.connected, true);
  }
});

test('T14: rooms carry a date that parses, users a name and an e-mail', async () => {
  const { users, room, a, b } = await pair();
  const next = await rest.room(users[0]);
  await rest.must(200, rest.join(await rest.user(), room));
  const rooms = [
    next,
    await a.take('roomCreated', (told) => told._id === next._id),
    await b.take('roomUpdated', (told) => told._id === room),
    (await rest.get(`/api/rooms/${room}`, { user: users[1] })).json.data,
    ...(await rest.get('/api/rooms', { user: users[1] })).json.data,
  ];
  for (const one of rooms) {
    assert.ok(Number.isFinite(Date.parse(one.createdAt)), JSON.stringify(one));
    assert.ok(Array.isArray(one.participants));
  }
  const people = [
    ...rooms.flatMap((one) => one.participants),
    ...(await b.take('participantsUpdate')),
    ...b.all('joinRoomSuccess')[0].participants,
    (await rest.get('/api/users/profile', { user: users[0] })).json.user,
  ];
  for (const person of people) {
    assert.equal(typeof person.name, 'string');
    assert.equal(typeof person.email, 'string');
    assert.ok(person.id && person.id === person._id);
  }
});

test('T17: 61 messages in a row are accepted, faster than any script sends them', async () => {
  const { room, a, b } = await pair();
  for (let i = 0; i < 61; i += 1) await a.say(room, `text ${i}`);
  await b.hears('text 60');
  a.none('error');
  assert.equal(b.all('message').filter((m) => m.type === 'text').length, 61);
});

test('T18: answers to another origin name it and allow credentials, whatever their status', async () => {
  const user = await rest.user();
  const headers = { origin: ORIGIN };
  for (const [status, call] of [
    [200, rest.get('/api/rooms', { user, headers })],
    [401, rest.get('/api/rooms', { headers })],
    [401, rest.post('/api/auth/login', { email: 'a@b.cd', password: 'wrong one' }, { headers })],
    [404, rest.get(`/api/rooms/${UNKNOWN_ID}`, { user, headers })],
    [400, rest.post('/api/rooms', {}, { user, headers })],
  ]) {
    const answer = await call;
    assert.equal(answer.status, status);
    assert.equal(answer.headers['access-control-allow-origin'], ORIGIN);
    assert.equal(answer.headers['access-control-allow-credentials'], 'true');
  }
  const health = await request('GET', `${rest.url}/api/health`, { headers });
  assert.notEqual(health.headers['access-control-allow-origin'], '*');
});

for (const [version, io] of CLIENTS) {
  test(`a front-end's list of transports works with client ${version}`, async () => {
    const user = await rest.user();
    const one = new Chatter(east, user, { io, transports: ['websocket', 'polling'] });
    await one.connected();
    assert.equal(one.socket.io.engine.transport.name, 'websocket');
  });
}
