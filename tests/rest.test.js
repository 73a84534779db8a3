// Every REST call but files and profile images: success and each error, with status, body and headers.
import assert from 'node:assert/strict';
import net from 'node:net';
import { onStack } from './support/stack.js';
import { Rest, unique } from './support/rest.js';
import { claimsOf, sign } from './support/token.js';
import { eventually } from './support/wait.js';
import { request } from './support/http.js';

const ORIGIN = 'https://chat.example';
const LIMIT = 3;
const WINDOW_SECONDS = 31_536_000; // a year, the longest: windows end at fixed times, and a test must not straddle two
const SESSION_SECONDS = 2;

const { stack, test } = await onStack({
  gateways: 0,
  backends: [
    {},
    {
      SLOTCAST_ROOMS_RATE_LIMIT: String(LIMIT),
      SLOTCAST_ROOMS_RATE_WINDOW_SECONDS: String(WINDOW_SECONDS),
      SLOTCAST_ALLOWED_ORIGINS: `${ORIGIN},https://other.example`,
      SLOTCAST_PASSWORD_HASH: 'bcrypt',
    },
    { SLOTCAST_SESSION_TTL_SECONDS: String(SESSION_SECONDS) },
  ],
});
const rest = stack.rest;
const limited = new Rest(stack.backends[1].url);
const shortLived = new Rest(stack.backends[2].url);

const ID = /^[0-9a-f]{24}$/;
const SESSION = /^[0-9a-f]{32}$/;
const UNKNOWN_ID = 'f'.repeat(24);
const ISO = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?Z$/;

function isUser(user, expected = {}) {
  assert.match(user._id, ID);
  assert.equal(user.id, user._id);
  assert.equal(typeof user.name, 'string');
  assert.equal(typeof user.email, 'string');
  for (const [key, value] of Object.entries(expected)) assert.equal(user[key], value);
}

function isRoom(room, expected = {}) {
  assert.match(room._id, ID);
  assert.equal(typeof room.name, 'string');
  assert.equal(typeof room.hasPassword, 'boolean');
  assert.match(room.createdAt, ISO);
  assert.ok(Number.isFinite(Date.parse(room.createdAt)));
  for (const participant of room.participants) {
    isUser(participant);
    assert.equal(typeof participant.profileImage, 'string');
  }
  assert.equal(room.participantsCount, room.participants.length);
  assert.equal(typeof room.isCreator, 'boolean');
  assert.ok(Number.isInteger(room.recentMessageCount));
  for (const secret of ['password', 'passwordHash']) assert.ok(!(secret in room));
  for (const [key, value] of Object.entries(expected)) assert.deepEqual(room[key], value);
}

function refused(answer, status, message) {
  assert.equal(answer.status, status, answer.text);
  assert.match(answer.headers['content-type'], /^application\/json/);
  assert.equal(answer.json.success, false);
  assert.equal(typeof answer.json.message, 'string');
  if (message !== undefined) assert.equal(answer.json.message, message);
}

function unauthorized(answer, path) {
  refused(answer, 401);
  assert.match(answer.headers['www-authenticate'], /^Bearer/);
  assert.match(answer.json.code, /^(UNAUTHORIZED|INVALID_TOKEN|TOKEN_EXPIRED)$/);
  assert.equal(answer.json.path, path);
}

/** A VALIDATION_ERROR that names `field`, with `message` among that field's when it is given. */
function invalid(answer, field, message) {
  refused(answer, 400);
  assert.equal(answer.json.code, 'VALIDATION_ERROR');
  const messages = answer.json.errors.filter((e) => e.field === field).map((e) => e.message);
  assert.ok(messages.length > 0, answer.text);
  if (message !== undefined) assert.ok(messages.includes(message), answer.text);
}

const expiredFor = (user, seconds, now = Math.floor(Date.now() / 1000)) =>
  sign({ ...claimsOf(user.token), iat: now - 86_400, exp: now - seconds }, stack.secret);

// ---- health and information

test('health answers on all its paths without a token', async () => {
  for (const path of ['/api/health', '/health']) {
    const answer = await rest.get(path);
    assert.equal(answer.status, 200);
    assert.equal(answer.json.status, 'ok');
    assert.match(answer.json.timestamp, ISO);
    assert.ok(answer.json.env === null || typeof answer.json.env === 'string');
  }
  const plain = await rest.get('/api/v1/health');
  assert.equal(plain.status, 200);
  assert.equal(plain.text.trim(), 'OK');
  const rooms = await rest.get('/api/rooms/health');
  assert.equal(rooms.status, 200);
  assert.equal(rooms.json.success, true);
  assert.equal(rooms.json.services.database.connected, true);
  assert.equal(typeof rooms.json.services.database.latency, 'number');
});

test('HEAD answers like GET without a body', async () => {
  const health = await rest.call('HEAD', '/api/health');
  assert.equal(health.status, 200);
  assert.equal(health.text, '');
  const user = await rest.user();
  assert.equal((await rest.call('HEAD', '/api/rooms', { user })).status, 200);
});

test('the informational paths answer', async () => {
  const user = await rest.user();
  for (const [path, options] of [['/api', { user }], ['/api/auth', {}]]) {
    const answer = await rest.get(path, options);
    assert.equal(answer.status, 200);
    assert.match(answer.headers['content-type'], /^application\/json/);
  }
  const status = await rest.get('/api/users/status', { user });
  assert.equal(status.status, 200);
  assert.equal(status.json.success, true);
  for (const path of ['health', 'info', 'metrics', 'prometheus']) {
    assert.equal((await rest.get(`/actuator/${path}`)).status, 200, path);
  }
});

test('public paths ignore a stale token', async () => {
  const stale = { token: 'no.such.token' };
  assert.equal((await rest.get('/api/health', stale)).status, 200);
  const email = `${unique('user')}@example.com`;
  const body = { name: '홍길동', email, password: 'Passw0rd!' };
  assert.equal((await rest.post('/api/auth/register', body, stale)).status, 201);
  assert.equal((await rest.post('/api/auth/login', body, stale)).status, 200);
});

test('the admin ports tell life, readiness and metrics', async () => {
  for (const { adminUrl } of stack.backends) {
    assert.equal((await request('GET', `${adminUrl}/live`)).status, 200);
    assert.equal((await request('GET', `${adminUrl}/ready`)).status, 200);
    assert.match((await request('GET', `${adminUrl}/metrics`)).text, /^# TYPE /m);
  }
});

// ---- registration and login

test('registration creates a user with a session', async () => {
  const email = `${unique('User')}@Example.com`;
  const body = { name: '홍길동', email, password: 'Passw0rd!', nickname: 'ignored' };
  const { json } = await rest.post('/api/auth/register', body);
  assert.equal(json.success, true);
  assert.equal(json.message, '회원가입이 완료되었습니다.');
  assert.match(json.sessionId, SESSION);
  isUser(json.user, { name: '홍길동', email: email.toLowerCase(), profileImage: null });
  const profile = await rest.get('/api/users/profile', { token: json.token });
  assert.equal(profile.status, 200);
});

test('registration refuses bad fields by name', async () => {
  const good = { name: '홍길동', email: `${unique('user')}@example.com`, password: 'Passw0rd!' };
  const cases = [
    [{ name: '' }, 'name', undefined],
    [{ name: null }, 'name', undefined],
    [{ name: ' 홍 ' }, 'name', '이름은 2자 이상이어야 합니다.'],
    [{ email: 'no-at.example.com' }, 'email', '올바른 이메일 형식이 아닙니다.'],
    [{ email: 'a b@example.com' }, 'email', '올바른 이메일 형식이 아닙니다.'],
    [{ email: 'a@nodot' }, 'email', '올바른 이메일 형식이 아닙니다.'],
    [{ password: '' }, 'password', undefined],
    [{ password: '12345' }, 'password', '비밀번호는 6자 이상이어야 합니다.'],
  ];
  for (const [change, field, message] of cases) {
    const answer = await rest.post('/api/auth/register', { ...good, ...change });
    invalid(answer, field, message);
    assert.equal(answer.json.message, '입력값이 올바르지 않습니다.');
  }
  const all = await rest.post('/api/auth/register', {});
  assert.deepEqual(new Set(all.json.errors.map((e) => e.field)), new Set(['name', 'email', 'password']));
});

test('a password of more than 72 bytes is refused', async () => {
  const body = { name: '홍길동', email: `${unique('user')}@example.com` };
  for (const password of ['p'.repeat(73), '가'.repeat(25)]) {
    refused(await rest.post('/api/auth/register', { ...body, password }), 400);
  }
  assert.equal((await rest.post('/api/auth/register', { ...body, password: 'p'.repeat(72) })).status, 201);
});

test('an e-mail registers once, whatever its case', async () => {
  const user = await rest.user();
  const body = { name: '다른이', email: user.email.toUpperCase(), password: 'Passw0rd!' };
  refused(await rest.post('/api/auth/register', body), 409, '이미 등록된 이메일입니다.');
});

test('an e-mail registered many times at once has one user', async () => {
  const body = { name: '홍길동', email: `${unique('user')}@example.com`, password: 'Passw0rd!' };
  const answers = await Promise.all(
    [rest, limited, rest, limited, rest].map((one) => one.post('/api/auth/register', body)),
  );
  assert.deepEqual(answers.map((a) => a.status).sort(), [201, 409, 409, 409, 409]);
});

test('login answers the session in body and headers', async () => {
  const user = await rest.user();
  const answer = await rest.post('/api/auth/login', { email: user.email.toUpperCase(), password: user.password });
  assert.equal(answer.status, 200);
  assert.equal(answer.json.success, true);
  assert.equal(answer.json.message, null);
  assert.match(answer.json.sessionId, SESSION);
  assert.match(answer.json.token, /^[A-Za-z0-9._~-]+$/);
  isUser(answer.json.user, { _id: user.id, name: user.name, email: user.email, profileImage: null });
  assert.equal(answer.headers.authorization, `Bearer ${answer.json.token}`);
  assert.equal(answer.headers['x-session-id'], answer.json.sessionId);
  const claims = claimsOf(answer.json.token);
  assert.equal(claims.sub, user.email);
  assert.equal(claims.userId, user.id);
  assert.equal(claims.sessionId, answer.json.sessionId);
  assert.equal(claims.exp - claims.iat, 86_400);
});

test('login works on another backend, for hashes of either kind', async () => {
  const slow = await limited.user();
  assert.notEqual((await rest.login(slow)).sessionId, slow.sessionId);
  const usual = await rest.user();
  assert.notEqual((await limited.login(usual)).sessionId, usual.sessionId);
});

test('login ends the earlier session', async () => {
  const user = await rest.user();
  const later = await rest.login(user);
  unauthorized(await rest.get('/api/users/profile', { user }), '/api/users/profile');
  assert.equal((await rest.get('/api/users/profile', { user: later })).status, 200);
});

test('login refuses blank fields and wrong credentials', async () => {
  const user = await rest.user();
  const login = (email, password) => rest.post('/api/auth/login', { email, password });
  invalid(await login('', user.password), 'email', '이메일을 입력해주세요.');
  invalid(await login('not an address', user.password), 'email', '올바른 이메일 형식이 아닙니다.');
  invalid(await login(user.email, ''), 'password', '비밀번호를 입력해주세요.');
  const message = '이메일 또는 비밀번호가 올바르지 않습니다.';
  refused(await login(user.email, 'Wr0ngPass!'), 401, message);
  refused(await login(`${unique('nobody')}@example.com`, 'Passw0rd!'), 401, message);
  assert.equal((await rest.get('/api/users/profile', { user })).status, 200);
});

// ---- sessions

test('logout ends the session that it names, and only that', async () => {
  const user = await rest.user();
  refused(await rest.post('/api/auth/logout', undefined, { token: user.token }), 400, 'x-session-id 헤더가 필요합니다.');
  const done = { success: true, message: '로그아웃이 완료되었습니다.' };
  const logout = (headers) => rest.post('/api/auth/logout', undefined, { headers });
  const wrong = { 'x-auth-token': user.token, 'x-session-id': '0'.repeat(32) };
  const harmless = [wrong, { 'x-session-id': user.sessionId }, { ...wrong, 'x-auth-token': 'nonsense' }];
  for (const headers of harmless) {
    const answer = await logout(headers);
    assert.equal(answer.status, 200);
    assert.deepEqual(answer.json, done);
    assert.equal((await rest.get('/api/users/profile', { user })).status, 200);
  }
  const answer = await logout({ 'x-auth-token': user.token, 'x-session-id': user.sessionId });
  assert.equal(answer.status, 200);
  assert.deepEqual(answer.json, done);
  unauthorized(await rest.get('/api/users/profile', { user }), '/api/users/profile');
});

test('verify-token tells whose token it is, and why not', async () => {
  const user = await rest.user();
  const verify = (headers) => rest.post('/api/auth/verify-token', undefined, { headers });
  const both = { 'x-auth-token': user.token, 'x-session-id': user.sessionId };
  const good = await verify(both);
  assert.equal(good.status, 200);
  assert.equal(good.json.success, true);
  assert.equal(good.json.message, '토큰이 유효합니다.');
  isUser(good.json.user, { _id: user.id, name: user.name });
  const byQuery = `?token=${user.token}&sessionId=${user.sessionId}`;
  assert.equal((await rest.post(`/api/auth/verify-token${byQuery}`)).status, 200);

  const no = (answer, status, message) => {
    refused(answer, status, message);
    assert.equal(answer.json.user, null);
  };
  const missing = '토큰 또는 세션 ID가 필요합니다.';
  no(await verify({}), 400, missing);
  no(await verify({ 'x-auth-token': user.token }), 400, missing);
  no(await verify({ 'x-session-id': user.sessionId }), 400, missing);
  no(await verify({ ...both, 'x-auth-token': 'nonsense' }), 401, '유효하지 않은 토큰입니다.');
  no(await verify({ ...both, 'x-session-id': '0'.repeat(32) }), 401, '만료된 세션입니다.');
  assert.equal((await verify(both)).status, 200);
  await rest.must(200, rest.call('DELETE', '/api/users/account', { user }));
  no(await verify(both), 401, '사용자를 찾을 수 없습니다.');
});

test('refresh-token issues a token and keeps the session', async () => {
  const user = await rest.user();
  const refresh = (headers) => rest.post('/api/auth/refresh-token', undefined, { headers });
  const both = { 'x-auth-token': user.token, 'x-session-id': user.sessionId };
  for (const token of [user.token, expiredFor(user, 600)]) {
    const { status, json } = await refresh({ ...both, 'x-auth-token': token });
    assert.equal(status, 200);
    assert.equal(json.success, true);
    assert.equal(json.message, '토큰이 갱신되었습니다.');
    assert.equal(json.sessionId, user.sessionId);
    assert.equal((await rest.get('/api/users/profile', { token: json.token })).status, 200);
  }
  const no = (answer, status, message) => {
    refused(answer, status, message);
    assert.equal(answer.json.token, null);
    assert.equal(answer.json.sessionId, null);
  };
  no(await refresh({ 'x-auth-token': user.token }), 400, '토큰 또는 세션 ID가 필요합니다.');
  no(await refresh({ 'x-session-id': user.sessionId }), 400, '토큰 또는 세션 ID가 필요합니다.');
  no(await refresh({ ...both, 'x-session-id': '0'.repeat(32) }), 401, '만료된 세션입니다.');
  no(await refresh({ ...both, 'x-auth-token': 'nonsense' }), 401);
  no(await refresh({ ...both, 'x-auth-token': expiredFor(user, 7_200) }), 401);
  await rest.must(200, rest.call('DELETE', '/api/users/account', { user }));
  no(await refresh(both), 401, '사용자를 찾을 수 없습니다.');
});

test('a session lives while it is used and ends when idle', async () => {
  const user = await shortLived.user();
  const profile = () => shortLived.get('/api/users/profile', { user });
  const idleLimit = Date.now() + 2 * SESSION_SECONDS * 1000;
  await eventually(
    'calls past the idle limit',
    async () => {
      assert.equal((await profile()).status, 200);
      return Date.now() > idleLimit;
    },
    { every: 250 },
  );
  const answer = await eventually(
    'the idle session to end',
    async () => {
      const got = await profile();
      return got.status === 401 && got;
    },
    { every: SESSION_SECONDS * 1000 + 500 },
  );
  unauthorized(answer, '/api/users/profile');
});

// ---- tokens

test('a token is found in header, query and Bearer', async () => {
  const user = await rest.user();
  const path = '/api/users/profile';
  const status = async (options, query = '') => (await rest.get(path + query, options)).status;
  assert.equal(await status({ headers: { 'x-auth-token': user.token } }), 200);
  assert.equal(await status({ token: user.token }), 200);
  assert.equal(await status({}, `?token=${user.token}`), 200);
  assert.equal(await status({ headers: { 'x-auth-token': user.token, authorization: 'Bearer x' } }), 200);
  assert.equal(await status({ headers: { authorization: `bearer ${user.token}` } }), 401);
  const anySession = { 'x-auth-token': user.token, 'x-session-id': '0'.repeat(32) };
  assert.equal(await status({ headers: anySession }), 200);
});

test('a missing, bad, expired or foreign token is 401 with a JSON body', async () => {
  const user = await rest.user();
  const path = '/api/rooms';
  const none = await rest.get(path);
  unauthorized(none, path);
  assert.equal(none.json.message, '인증이 필요합니다.');
  const claims = claimsOf(user.token);
  const bad = [
    'nonsense',
    user.token.slice(0, -3),
    expiredFor(user, 3_600),
    sign(claims, 'another secret that is long enough too'),
    `${Buffer.from('{"alg":"none"}').toString('base64url')}.${user.token.split('.')[1]}.`,
    sign({ ...claims, sessionId: undefined }, stack.secret),
    sign({ ...claims, userId: undefined }, stack.secret),
    sign({ ...claims, sessionId: '0'.repeat(32) }, stack.secret),
  ];
  for (const token of bad) unauthorized(await rest.get(path, { token }), path);
  for (const [method, protectedPath] of [
    ['POST', '/api/rooms'],
    ['GET', `/api/rooms/${UNKNOWN_ID}`],
    ['POST', `/api/rooms/${UNKNOWN_ID}/join`],
    ['GET', '/api/users/profile'],
    ['PUT', '/api/users/profile'],
    ['DELETE', '/api/users/account'],
  ]) {
    unauthorized(await rest.call(method, protectedPath), protectedPath);
  }
});

// ---- users

test('a profile is read and renamed', async () => {
  const user = await rest.user();
  const read = await rest.must(200, rest.get('/api/users/profile', { user }));
  assert.equal(read.success, true);
  isUser(read.user, { _id: user.id, name: user.name, email: user.email, profileImage: '' });

  const name = ' 새 이름 ';
  const put = await rest.must(200, rest.call('PUT', '/api/users/profile', { user, body: { name } }));
  assert.equal(put.success, true);
  assert.equal(put.message, '프로필이 업데이트되었습니다.');
  isUser(put.user, { _id: user.id, name, email: user.email });
  await eventually('the new name', async () => {
    const { json } = await rest.get('/api/users/profile', { user });
    return json.user.name === name;
  });
});

test('a profile refuses blank and short names', async () => {
  const user = await rest.user();
  const put = (body) => rest.call('PUT', '/api/users/profile', { user, body });
  for (const [body, message] of [
    [{ name: '' }, '이름을 입력해주세요.'],
    [{ name: '   ' }, '이름을 입력해주세요.'],
    [{ currentPassword: '', newPassword: 'Passw0rd!' }, '이름을 입력해주세요.'],
    [{ name: ' 가 ' }, '이름은 2자 이상이어야 합니다.'],
  ]) {
    const answer = await put(body);
    invalid(answer, 'name', message);
    assert.equal(answer.json.path, '/api/users/profile');
  }
});

test('a deleted account is gone while its rooms stay', async () => {
  const user = await rest.user();
  const other = await rest.user();
  const room = await rest.room(user);
  const gone = await rest.must(200, rest.call('DELETE', '/api/users/account', { user }));
  assert.deepEqual(gone, { success: true, message: '회원 탈퇴가 완료되었습니다.' });
  const missing = '사용자를 찾을 수 없습니다.';
  await eventually('the profile to be gone', async () => (await rest.get('/api/users/profile', { user })).status === 404);
  refused(await rest.get('/api/users/profile', { user }), 404, missing);
  refused(await rest.call('PUT', '/api/users/profile', { user, body: { name: '새 이름' } }), 404, missing);
  refused(await rest.call('DELETE', '/api/users/account', { user }), 404, missing);
  refused(await rest.post('/api/auth/login', { email: user.email, password: user.password }), 401);
  assert.equal((await rest.get(`/api/rooms/${room._id}`, { user: other })).status, 200);
  assert.equal((await rest.get('/api/rooms', { user: other })).status, 200);
});

// ---- rooms

test('a room is created, read and joined', async () => {
  const owner = await rest.user('방장');
  const guest = await rest.user('손님');
  const name = unique('방');
  const made = await rest.post('/api/rooms', { name: `  ${name} `, description: 'ignored', participants: [] }, { user: owner });
  assert.equal(made.status, 201);
  assert.equal(made.json.success, true);
  const room = made.json.data;
  isRoom(room, { name, hasPassword: false, participantsCount: 1, isCreator: true, recentMessageCount: 0 });
  isUser(room.creator, { _id: owner.id, name: '방장' });
  isUser(room.participants[0], { _id: owner.id });

  const read = await rest.must(200, rest.get(`/api/rooms/${room._id}`, { user: guest }));
  assert.equal(read.success, true);
  isRoom(read.data, { _id: room._id, name, isCreator: false });
  for (const body of [{}, { password: null }, { password: '' }]) {
    const joined = await rest.must(200, rest.join(guest, room._id, body));
    assert.equal(joined.success, true);
    isRoom(joined.data, { _id: room._id, participantsCount: 2, isCreator: false });
    assert.deepEqual(new Set(joined.data.participants.map((p) => p._id)), new Set([owner.id, guest.id]));
  }
});

test('a room refuses bad names and passwords', async () => {
  const user = await rest.user();
  const cases = [
    [{}, 'name'],
    [{ name: '' }, 'name'],
    [{ name: '   ' }, 'name'],
    [{ name: '방' }, 'name'],
    [{ name: 'n'.repeat(101) }, 'name'],
    [{ name: '좋은 방', password: '' }, 'password'],
    [{ name: '좋은 방', password: 'abc' }, 'password'],
    [{ name: '좋은 방', password: 'p'.repeat(101) }, 'password'],
  ];
  for (const [body, field] of cases) {
    const answer = await rest.post('/api/rooms', body, { user });
    invalid(answer, field);
    assert.equal(answer.json.path, '/api/rooms');
  }
  assert.equal((await rest.post('/api/rooms', { name: 'n'.repeat(100) }, { user })).status, 201);
  assert.equal((await rest.post('/api/rooms', { name: '좋은 방', password: null }, { user })).status, 201);
});

test('an unknown or malformed room id is 404', async () => {
  const user = await rest.user();
  const message = '채팅방을 찾을 수 없습니다.';
  for (const id of [UNKNOWN_ID, 'nonsense', '../../etc', 'A'.repeat(24), '%00']) {
    const path = `/api/rooms/${encodeURIComponent(id)}`;
    refused(await rest.get(path, { user }), 404, message);
    refused(await rest.post(`${path}/join`, {}, { user }), 404, message);
  }
});

test('a password room is joined with its password only', async () => {
  const owner = await rest.user();
  const guest = await rest.user();
  const room = await rest.room(owner, { password: '비밀1234' });
  assert.equal(room.hasPassword, true);
  const message = '비밀번호가 일치하지 않습니다.';
  for (const body of [{}, { password: null }, { password: 'wrong' }]) {
    refused(await rest.join(guest, room._id, body), 401, message);
  }
  assert.equal((await rest.get('/api/users/profile', { user: guest })).status, 200);
  const joined = await rest.must(200, rest.join(guest, room._id, { password: '비밀1234' }));
  assert.equal(joined.data.participantsCount, 2);
});

test('the list pages, and tells where it is', async () => {
  const user = await rest.user();
  const mark = unique('paged');
  const names = Array.from({ length: 12 }, (_, i) => `${mark} ${i}`);
  for (const name of names) await rest.room(user, { name });
  const list = (query) => rest.must(200, rest.get(`/api/rooms?search=${mark}&${query}`, { user }));
  await eventually('all rooms to be found', async () => (await list('')).metadata.total === names.length);
  const pages = [];
  for (const page of [0, 1, 2]) pages.push(await list(`page=${page}&pageSize=5`));
  assert.deepEqual(pages[0].metadata, {
    total: 12,
    page: 0,
    pageSize: 5,
    totalPages: 3,
    hasMore: true,
    currentCount: 5,
    sort: { field: 'createdAt', order: 'desc' },
  });
  assert.deepEqual(pages.map((p) => p.metadata.hasMore), [true, true, false]);
  assert.equal(pages[2].metadata.currentCount, 2);
  const listed = pages.flatMap((p) => p.data.map((room) => room.name));
  assert.deepEqual(listed, names.toReversed?.() ?? [...names].reverse());
  for (const page of pages) {
    assert.equal(page.success, true);
    for (const room of page.data) isRoom(room, { isCreator: true });
  }
  const beyond = await list('page=9&pageSize=5');
  assert.deepEqual(beyond.data, []);
  assert.equal(beyond.metadata.hasMore, false);
});

test('the list clamps what is out of range and refuses what is no number', async () => {
  const user = await rest.user();
  const metadata = async (query) => (await rest.must(200, rest.get(`/api/rooms${query}`, { user }))).metadata;
  const usual = await metadata('');
  assert.deepEqual([usual.page, usual.pageSize], [0, 10]);
  assert.deepEqual(usual.sort, { field: 'createdAt', order: 'desc' });
  assert.equal((await metadata('?page=-3')).page, 0);
  assert.equal((await metadata('?pageSize=0')).pageSize, 1);
  assert.equal((await metadata('?pageSize=1000')).pageSize, 50);
  assert.deepEqual((await metadata('?sortField=password&sortOrder=up')).sort, usual.sort);
  refused(await rest.get('/api/rooms?page=two', { user }), 400);
  refused(await rest.get('/api/rooms?pageSize=many', { user }), 400);
});

test('the list sorts by name and by size', async () => {
  const owner = await rest.user();
  const guest = await rest.user();
  const mark = unique('sorted');
  const rooms = [];
  for (const suffix of ['b', 'A', 'c']) rooms.push(await rest.room(owner, { name: `${mark} ${suffix}` }));
  await rest.must(200, rest.join(guest, rooms[2]._id));
  const suffixes = async (query) => {
    const { json } = await rest.get(`/api/rooms?search=${mark}&${query}`, { user: owner });
    return json.data.map((room) => room.name.at(-1)).join('');
  };
  await eventually('all rooms to be found', async () => (await suffixes('')).length === 3);
  assert.equal(await suffixes('sortField=name&sortOrder=asc'), 'Abc');
  assert.equal(await suffixes('sortField=name&sortOrder=desc'), 'cbA');
  assert.equal(await suffixes('sortField=createdAt&sortOrder=asc'), 'bAc');
  await eventually('the larger room first', async () =>
    (await suffixes('sortField=participantsCount&sortOrder=desc')).startsWith('c'));
});

test('the list searches literally, trimmed and whatever the case', async () => {
  const user = await rest.user();
  const mark = unique('Find');
  await rest.room(user, { name: `${mark} 50% [off] *` });
  const found = async (text) => {
    const { json } = await rest.get(`/api/rooms?search=${encodeURIComponent(text)}`, { user });
    return json.data.filter((room) => room.name.startsWith(mark)).length;
  };
  await eventually('the room to be found', async () => (await found(mark)) === 1);
  for (const text of [mark, mark.toLowerCase(), mark.toUpperCase(), `  ${mark}  `, '50% [OFF] *']) {
    assert.equal(await found(text), 1, text);
  }
  for (const text of [`${mark}.*`, '50_', '[of]', '50%%']) assert.equal(await found(text), 0, text);
});

test('a new room is first in the list at once, on every backend', async () => {
  const user = await rest.user();
  for (let i = 0; i < 10; i += 1) {
    const room = await rest.room(user);
    for (const url of [rest, shortLived]) {
      const { json } = await url.get('/api/rooms', { user });
      assert.equal(json.data[0]._id, room._id);
      assert.ok(json.metadata.total >= i + 1);
    }
  }
});

test('the list may be kept by its reader for a second', async () => {
  const user = await rest.user();
  const { headers } = await rest.get('/api/rooms', { user });
  assert.equal(headers['cache-control'], 'private, max-age=1');
});

// ---- rate limit

test('the rooms list counts calls per address and refuses those over the limit', async () => {
  const user = await limited.user();
  const from = (address) => limited.get('/api/rooms', { user, headers: { 'x-forwarded-for': address, origin: ORIGIN } });
  const windowEnd = Math.ceil(Date.now() / 1000 / WINDOW_SECONDS) * WINDOW_SECONDS;
  const secondsLeft = () => Math.ceil(windowEnd - Date.now() / 1000);
  for (let left = LIMIT - 1; left >= 0; left -= 1) {
    const { status, headers } = await from('203.0.113.1, 10.0.0.1');
    assert.equal(status, 200);
    assert.equal(headers['x-ratelimit-limit'], String(LIMIT));
    assert.equal(headers['x-ratelimit-remaining'], String(left));
    assert.equal(headers['x-ratelimit-window'], String(WINDOW_SECONDS));
    assert.equal(headers['x-ratelimit-reset'], String(windowEnd));
  }
  const leftBefore = secondsLeft();
  const answer = await from('203.0.113.1');
  refused(answer, 429, '너무 많은 요청이 발생했습니다. 잠시 후 다시 시도해주세요.');
  const { retryAfter, ...meta } = answer.json.meta;
  assert.deepEqual(meta, { code: 'TOO_MANY_REQUESTS', maxRequests: LIMIT, windowMs: WINDOW_SECONDS * 1000 });
  assert.ok(retryAfter >= secondsLeft() && retryAfter <= leftBefore, `${retryAfter} s`);
  assert.equal(answer.headers['retry-after'], String(retryAfter));
  assert.equal(answer.headers['x-ratelimit-remaining'], '0');
  assert.equal(answer.headers['access-control-allow-origin'], ORIGIN);
  assert.equal((await from('203.0.113.2')).status, 200);
  const anonymous = await limited.get('/api/rooms', { headers: { 'x-forwarded-for': '203.0.113.1' } });
  unauthorized(anonymous, '/api/rooms');
});

// ---- every answer

test('an unknown path under /api is 404', async () => {
  const user = await rest.user();
  const path = '/api/no/such/thing';
  const answer = await rest.get(path, { user });
  refused(answer, 404, '요청하신 리소스를 찾을 수 없습니다.');
  assert.equal(answer.json.path, path);
});

test('a wrong method is 405', async () => {
  const user = await rest.user();
  for (const [method, path] of [
    ['DELETE', '/api/rooms'],
    ['PUT', '/api/auth/login'],
    ['GET', '/api/auth/register'],
    ['PATCH', '/api/users/profile'],
    ['POST', '/api/health'],
  ]) {
    refused(await rest.call(method, path, { user }), 405);
  }
});

test('a body that is no JSON object of the right kind is 400, and no JSON at all 415', async () => {
  const user = await rest.user();
  for (const path of ['/api/auth/register', '/api/auth/login', '/api/rooms']) {
    for (const body of ['{"name":', '', '[1,2]', '"text"', '{"name":{"a":1},"email":5,"password":[]}', '['.repeat(10_000)]) {
      refused(await rest.post(path, body, { user }), 400);
    }
    const headers = { 'content-type': 'text/plain' };
    refused(await rest.post(path, '{"name":"홍길동"}', { user, headers }), 415);
  }
});

test('a body that is far too large is refused', async () => {
  const user = await rest.user();
  const answer = await rest.post('/api/rooms', { name: 'n'.repeat(8_000_000) }, { user }).catch((error) => error);
  // The server may answer and hang up while the client still sends.
  if (answer instanceof Error) assert.match(answer.message, /EPIPE|ECONNRESET|socket hang up/);
  else assert.ok([400, 413].includes(answer.status), answer.text);
  assert.equal((await rest.get('/api/health')).status, 200);
});

test('answers under /api carry the security headers', async () => {
  const user = await rest.user();
  for (const answer of [
    await rest.get('/api/users/profile', { user }),
    await rest.get('/api/users/profile'),
    await rest.get('/api/health'),
    await rest.get('/api/no/such/thing', { user }),
  ]) {
    assert.equal(answer.headers['x-content-type-options'], 'nosniff');
    assert.equal(answer.headers['x-frame-options'], 'DENY');
    assert.equal(answer.headers['x-xss-protection'], '0');
    assert.equal(answer.headers['cache-control'], 'no-cache, no-store, max-age=0, must-revalidate');
    assert.equal(answer.headers.pragma, 'no-cache');
    assert.equal(answer.headers.expires, '0');
  }
});

const words = (header) => (header ?? '').toLowerCase().split(/\s*,\s*/);

test('a preflight is answered', async () => {
  const headers = {
    origin: ORIGIN,
    'access-control-request-method': 'PUT',
    'access-control-request-headers': 'content-type,x-auth-token,x-session-id',
  };
  for (const path of ['/api/rooms', '/api/users/profile', '/api/auth/login']) {
    const answer = await rest.call('OPTIONS', path, { headers });
    assert.ok([200, 204].includes(answer.status));
    assert.equal(answer.headers['access-control-allow-origin'], ORIGIN);
    assert.equal(answer.headers['access-control-allow-credentials'], 'true');
    assert.equal(answer.headers['access-control-max-age'], '3600');
    const methods = words(answer.headers['access-control-allow-methods']);
    for (const method of ['get', 'post', 'put', 'delete', 'options']) assert.ok(methods.includes(method), method);
    const allowed = words(answer.headers['access-control-allow-headers']);
    for (const name of ['content-type', 'authorization', 'x-auth-token', 'x-session-id', 'cache-control', 'pragma']) {
      assert.ok(allowed.includes(name), name);
    }
    const vary = words(answer.headers.vary);
    for (const name of Object.keys(headers)) assert.ok(vary.includes(name), `Vary: ${name}`);
  }
});

test('every answer may be read from another origin, errors too', async () => {
  const user = await rest.user();
  const headers = { origin: ORIGIN };
  const calls = [
    [200, rest.get('/api/health', { headers })],
    [200, rest.get('/api/rooms', { user, headers })],
    [400, rest.post('/api/rooms', { name: '' }, { user, headers })],
    [401, rest.get('/api/rooms', { headers })],
    [404, rest.get(`/api/rooms/${UNKNOWN_ID}`, { user, headers })],
    [404, rest.get('/api/no/such/thing', { user, headers })],
    [405, rest.call('DELETE', '/api/rooms', { user, headers })],
    [415, rest.post('/api/rooms', 'x', { user, headers: { ...headers, 'content-type': 'text/plain' } })],
  ];
  for (const [status, call] of calls) {
    const answer = await call;
    assert.equal(answer.status, status);
    assert.equal(answer.headers['access-control-allow-origin'], ORIGIN, `on ${status}`);
    assert.equal(answer.headers['access-control-allow-credentials'], 'true');
    assert.ok(words(answer.headers.vary).includes('origin'));
    const exposed = words(answer.headers['access-control-expose-headers']);
    for (const name of ['x-auth-token', 'x-session-id']) assert.ok(exposed.includes(name), name);
  }
});

test('an allow-list admits its origins and no others', async () => {
  const allowed = async (origin) =>
    (await limited.get('/api/health', { headers: { origin } })).headers['access-control-allow-origin'];
  assert.equal(await allowed(ORIGIN), ORIGIN);
  assert.equal(await allowed('https://other.example'), 'https://other.example');
  for (const origin of ['https://evil.example', `${ORIGIN}.evil.example`, 'null']) {
    assert.equal(await allowed(origin), undefined);
  }
});

test('a room creation whose client hangs up is still carried out', async () => {
  const user = await rest.user();
  const names = Array.from({ length: 5 }, () => unique('hang up'));
  for (const name of names) await sendAndHangUp('POST', '/api/rooms', user, { name });
  for (const name of names) {
    await eventually(`the room ${name}`, async () => {
      const { json } = await rest.get(`/api/rooms?search=${encodeURIComponent(name)}`, { user });
      return json.metadata.total === 1;
    });
  }
});

function sendAndHangUp(method, path, user, body) {
  const { hostname, port } = new URL(rest.url);
  const json = JSON.stringify(body);
  const head = [
    `${method} ${path} HTTP/1.1`,
    `Host: ${hostname}`,
    `x-auth-token: ${user.token}`,
    'Content-Type: application/json',
    `Content-Length: ${Buffer.byteLength(json)}`,
  ];
  return new Promise((resolve, reject) => {
    const socket = net.connect(port, hostname, () =>
      socket.write(`${head.join('\r\n')}\r\n\r\n${json}`, () => socket.destroy()));
    socket.on('error', reject);
    socket.on('close', resolve);
  });
}

// ---- the description

/** What the contract wants described, with and without parameters. */
const DESCRIBED = [
  'get /api/health',
  'post /api/auth/register',
  'post /api/auth/login',
  'post /api/auth/logout',
  'post /api/auth/verify-token',
  'post /api/auth/refresh-token',
  'get /api/users/profile',
  'put /api/users/profile',
  'delete /api/users/account',
  'get /api/rooms',
  'post /api/rooms',
  'get /api/rooms/{}',
  'post /api/rooms/{}/join',
  'post /api/files/upload',
  'post /api/files/presign',
  'post /api/files/{}/complete',
  'get /api/files/view/{}',
  'get /api/files/download/{}',
  'delete /api/files/{}',
  'post /api/users/profile-image',
  'delete /api/users/profile-image',
  'post /api/users/profile-image/presign',
  'post /api/users/profile-image/{}/complete',
  'get /api/uploads/profiles/{}',
  'get /uploads/profiles/{}',
  'get /uploads/{}',
];

test('the OpenAPI document is served and every path in it answers', async () => {
  const { status, json } = await rest.get('/api/v3/api-docs');
  assert.equal(status, 200);
  assert.match(json.openapi, /^3\./);
  const methods = ['get', 'post', 'put', 'delete', 'patch', 'head'];
  const described = Object.entries(json.paths).flatMap(([path, item]) =>
    Object.keys(item).filter((key) => methods.includes(key)).map((method) => [method, path]));
  const plain = described.map(([method, path]) => `${method} ${path.replace(/\{[^}]*\}/g, '{}')}`);
  for (const call of DESCRIBED) assert.ok(plain.includes(call), `${call} is described`);

  const owner = await rest.user();
  const room = await rest.room(owner);
  for (const [method, path] of described) {
    const user = await rest.user();
    const url = path.replace(/\{[^}]*\}/g, room._id);
    const body = ['post', 'put', 'patch'].includes(method) ? {} : undefined;
    const answer = await rest.call(method.toUpperCase(), url, { user, body });
    const known = answer.status < 500 ? answer.status !== 405 : answer.status === 501; // there is no bucket here
    assert.ok(known, `${method} ${path}: ${answer.status}`);
    assert.notEqual(answer.json?.message, '요청하신 리소스를 찾을 수 없습니다.', `${method} ${path}`);
  }
});
