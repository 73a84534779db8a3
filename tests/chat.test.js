// Every socket event but AI, by the official client in two versions, with users spread over two gateways.
import assert from 'node:assert/strict';
import { BANNED, onStack } from './support/stack.js';
import { CLIENTS, Chatter, chatter } from './support/chatter.js';
import { proxyTo } from './support/proxy.js';
import { RawSocket } from './support/raw.js';
import { unique } from './support/rest.js';
import { claimsOf, sign } from './support/token.js';
import { eventually } from './support/wait.js';

const GRACE_MS = 3_000;
const MESSAGE_LIMIT = 3;
const UNKNOWN_ID = 'f'.repeat(24);
const ID = /^[0-9a-f]{24}$/;

const { stack, test } = await onStack({
  gateways: [{}, {}, { SLOTCAST_MESSAGE_RATE_LIMIT: String(MESSAGE_LIMIT) }],
  env: {
    SLOTCAST_GRACE_SECONDS: String(GRACE_MS / 1000),
    SLOTCAST_DUPLICATE_LOGIN_DELAY_MS: '500',
  },
});
const { rest } = stack;
const [east, west, strict] = stack.gateways.map((gateway) => gateway.url);

const NO_ACCESS = '채팅방 접근 권한이 없습니다.';
const joined = (name) => `${name}님이 입장하였습니다.`;
const left = (name) => `${name}님이 퇴장하였습니다.`;

function isMessage(message, expected = {}) {
  assert.match(message._id, ID);
  assert.match(message.room, ID);
  assert.equal(typeof message.content, 'string');
  assert.ok(Number.isInteger(message.timestamp) && Math.abs(message.timestamp - Date.now()) < 300_000);
  assert.deepEqual(message.reactions, expected.reactions ?? {});
  assert.ok(message.readers === undefined || Array.isArray(message.readers));
  for (const [key, value] of Object.entries(expected)) assert.deepEqual(message[key], value);
  if (message.type === 'system') assert.equal(message.sender, undefined);
}

function isSender(sender, user) {
  const { _id, id, name, email, profileImage } = sender;
  const expected = { _id: user.id, id: user.id, name: user.name, email: user.email, profileImage: '' };
  assert.deepEqual({ _id, id, name, email, profileImage }, expected);
}

/** Without `roomCreated`, which comes to every socket whenever any test has made a room. */
const ofRoom = (events) => events.filter((event) => event !== 'roomCreated');
const ids = (users) => users.map((user) => user._id ?? user.id).sort();

/** The text of each system message that `one` received about `name`. */
const systemTexts = (one, name) =>
  one.all('message').filter((m) => m.type === 'system' && m.content.startsWith(name)).map((m) => m.content);

for (const [version, io] of CLIENTS) suite(version, io);

function suite(version, io) {
  const it = (name, body, options) => test(`${version}: ${name}`, body, options);
  const open = (url, user, options) => chatter(url, user, { io, ...options });

  /** Two users with sockets on two gateways, both in one new room. */
  async function pair() {
    const [alice, bob] = [await rest.user(unique('앨리스')), await rest.user(unique('보비'))];
    const room = (await rest.room(alice))._id;
    const a = await open(east, alice);
    const b = await open(west, bob);
    await a.join(room);
    await b.join(room);
    for (const one of [a, b]) await one.take('message', (m) => m.content === joined(bob.name));
    return { alice, bob, room, a, b };
  }

  /** Emits what must be refused; answers the `error` event and the acknowledgement. */
  async function refusedChat(one, payload) {
    const ack = await one.ask('chatMessage', payload);
    return { ack, error: await one.take('error') };
  }

  // ---- handshake

  it('a socket without a valid token and session is refused with the exact words', async () => {
    const user = await rest.user();
    const claims = claimsOf(user.token);
    const now = Math.floor(Date.now() / 1000);
    const auth = { token: user.token, sessionId: user.sessionId };
    const gone = await rest.user();
    await rest.must(200, rest.call('DELETE', '/api/users/account', { user: gone }));
    const replaced = await rest.user();
    await rest.login(replaced);
    const cases = [
      [undefined, 'Authentication error'],
      [{}, 'Authentication error'],
      [{ sessionId: user.sessionId }, 'Authentication error'],
      [{ token: user.token }, 'Authentication error'],
      [{ token: null, sessionId: null }, 'Authentication error'],
      [{ ...auth, token: 'nonsense' }, 'Invalid token'],
      [{ ...auth, token: sign(claims, 'another secret that is long enough too') }, 'Invalid token'],
      [{ ...auth, token: sign({ ...claims, iat: now - 90_000, exp: now - 3_600 }, stack.secret) }, 'Invalid token'],
      [{ ...auth, sessionId: '0'.repeat(32) }, 'Invalid session'],
      [{ token: replaced.token, sessionId: replaced.sessionId }, 'Invalid session'],
      [{ token: gone.token, sessionId: gone.sessionId }, 'User not found'],
    ];
    for (const [given, message] of cases) {
      const one = new Chatter(east, undefined, { io, auth: given });
      const error = await one.take('connect_error');
      assert.equal(error.message, message, JSON.stringify(given));
      assert.equal(one.socket.active, false);
      one.none('connect');
    }
    await open(east, user);
  });

  // ---- joining and leaving

  it('joining answers, then tells the room in order', async () => {
    const [alice, bob] = [await rest.user('앨리스'), await rest.user(unique('보비'))];
    const room = (await rest.room(alice))._id;
    const a = await open(east, alice);
    const first = await a.join(room);
    assert.deepEqual(ids(first.participants), [alice.id]);
    const b = await open(west, bob);
    const from = b.received.length;
    const answer = await b.join(room);
    const system = await b.take('message');
    await b.take('participantsUpdate', (users) => users.length === 2);

    assert.deepEqual(ofRoom(b.order(from)).slice(0, 3), ['joinRoomSuccess', 'message', 'participantsUpdate']);
    assert.equal(answer.roomId, room);
    assert.deepEqual(ids(answer.participants), ids([alice, bob]));
    assert.equal(answer.hasMore, false);
    assert.deepEqual(answer.activeStreams, []);
    assert.deepEqual(answer.messages.map((m) => m.content), [joined('앨리스'), joined(bob.name)]);
    isMessage(system, { room, type: 'system', content: joined(bob.name) });
    assert.equal(answer.messages.at(-1)._id, system._id);

    assert.equal((await a.take('message', (m) => m.content === joined(bob.name)))._id, system._id);
    const users = await a.take('participantsUpdate', (list) => list.length === 2);
    for (const [user, one] of [[alice, users.find((u) => u._id === alice.id)], [bob, users.find((u) => u._id === bob.id)]]) {
      isSender({ profileImage: '', ...one }, user);
    }
  });

  it('a second tab joins quietly, on whichever gateway', async () => {
    const { alice, room, a, b } = await pair();
    for (const url of [east, west]) {
      const tab = await open(url, alice);
      tab.emit('joinRoom', room);
      assert.deepEqual(await tab.take('joinRoomSuccess'), { roomId: room });
      await a.say(room, `to ${url}`);
      await tab.hears(`to ${url}`);
      await b.hears(`to ${url}`);
      assert.deepEqual(systemTexts(b, alice.name), []);
      tab.none('message');
    }
    assert.equal(a.all('joinRoomSuccess').length, 1);
  });

  it('a room that is unknown is refused, and so is one whose password was not given', async () => {
    const [owner, guest] = [await rest.user(), await rest.user()];
    const room = (await rest.room(owner, { password: 'secret' }))._id;
    const g = await open(west, guest);
    for (const id of [UNKNOWN_ID, 'nonsense']) {
      g.emit('joinRoom', id);
      assert.equal((await g.take('joinRoomError')).message, '채팅방을 찾을 수 없습니다.');
    }
    g.emit('joinRoom', room);
    assert.equal((await g.take('joinRoomError')).message, '비밀번호가 일치하지 않습니다.');

    await (await open(east, owner)).join(room);
    await rest.must(200, rest.join(guest, room, { password: 'secret' }));
    await g.join(room);
    g.emit('leaveRoom', room);
    await eventually('the guest to have left', async () => {
      const { json } = await rest.get(`/api/rooms/${room}`, { user: owner });
      return !ids(json.data.participants).includes(guest.id);
    });
    await g.join(room);
    g.none('joinRoomError');
  });

  it('leaving tells those who stay and nothing to the leaver', async () => {
    const { bob, room, a, b } = await pair();
    const heard = b.received.length;
    b.emit('leaveRoom', room);
    const system = await a.take('message', (m) => m.content === left(bob.name));
    isMessage(system, { room, type: 'system' });
    const users = await a.take('participantsUpdate', (list) => list.length === 1);
    assert.deepEqual(ids(users), [a.user.id]);
    const gone = await a.take('userLeft');
    assert.equal(gone.userId, bob.id);
    assert.equal(gone.userName, bob.name);
    assert.equal(gone.name, bob.name);

    await a.say(room, 'alone');
    const refused = await refusedChat(b, { room, type: 'text', content: 'from outside' });
    assert.equal(refused.error.message, NO_ACCESS);
    const meant = ['error', 'participantsUpdate', 'roomCreated']; // its own refusal, and what every socket hears
    const after = b.received.slice(heard).filter((item) => !meant.includes(item.event));
    assert.deepEqual(after, []);
    a.none('userLeft');
  });

  it('leaving a room that one is not in, or last, is quiet', async () => {
    const user = await rest.user();
    const room = (await rest.room(user))._id;
    const one = await open(east, user);
    one.emit('leaveRoom', room);
    one.emit('leaveRoom', UNKNOWN_ID);
    one.emit('leaveRoom', 'nonsense');
    await one.join(room);
    one.emit('leaveRoom', room);
    await one.join(room);
    await one.say(room, 'back again');
    one.none('error');
  });

  it('a user is in several rooms at once', async () => {
    const { room, a, b } = await pair();
    const second = (await rest.room(a.user))._id;
    await a.join(second);
    await a.say(second, 'only here');
    await a.say(room, 'in both');
    await b.hears('in both');
    assert.equal(b.all('message').some((m) => m.room === second), false);
    await a.hears('only here');
  });

  // ---- the end of a socket

  it('an orderly goodbye leaves at once', async () => {
    for (const goodbye of [(raw) => raw.sendText('41'), (raw) => raw.sendClose(1000), (raw) => raw.sendClose(1001)]) {
      const { room, a } = await pair();
      const carol = await rest.user(unique('캐롤'));
      const raw = await RawSocket.connect(west, carol);
      raw.sendEvent('joinRoom', room);
      await a.take('message', (m) => m.content === joined(carol.name));
      const since = Date.now();
      goodbye(raw);
      await a.take('userLeft', (gone) => gone.userId === carol.id);
      assert.ok(Date.now() - since < GRACE_MS, 'before the grace period could end');
      assert.deepEqual(systemTexts(a, carol.name), [joined(carol.name), left(carol.name)]);
      raw.destroy();
    }
  });

  it('a cut connection leaves when the grace period ends', async () => {
    const { bob, room, a } = await pair();
    const carol = await rest.user(unique('캐롤'));
    const proxy = await proxyTo(stack.gateways[1].port);
    const c = await open(proxy.url, carol);
    await c.join(room);
    await a.take('message', (m) => m.content === joined(carol.name));
    const since = Date.now();
    proxy.close();
    await a.take('userLeft', (gone) => gone.userId === carol.id, GRACE_MS + 10_000);
    assert.ok(Date.now() - since >= GRACE_MS - 100, 'not before the grace period has ended');
    assert.deepEqual(systemTexts(a, carol.name), [joined(carol.name), left(carol.name)]);
    await eventually('the two others to be listed', () => {
      const last = a.all('participantsUpdate').at(-1);
      return last.length === 2 && ids(last).includes(bob.id);
    });
  });

  it('the user stays while another of its sockets is in the room', async () => {
    const { bob, room, a, b } = await pair();
    const tab = await open(east, bob);
    await tab.join(room);
    b.close();
    await a.say(room, 'still two');
    await tab.hears('still two');
    tab.close();
    await a.take('userLeft', (gone) => gone.userId === bob.id);
    assert.deepEqual(systemTexts(a, bob.name), [joined(bob.name), left(bob.name)]);
    const order = a.all('message').map((m) => m.content);
    assert.ok(order.indexOf('still two') < order.indexOf(left(bob.name)));
  });

  for (const [way, cut] of [
    ['its transport is closed', (one) => one.socket.io.engine.close()],
    ['TCP is cut', (_, proxy) => proxy.cut()],
  ]) {
    for (const elsewhere of [false, true]) {
      it(`after ${way} a client is silently back on ${elsewhere ? 'another' : 'the same'} gateway`, async () => {
        const { room, a } = await pair();
        const carol = await rest.user(unique('캐롤'));
        const dave = await rest.user(unique('데이브'));
        const [home, other] = stack.gateways;
        const proxy = await proxyTo(home.port);
        const doomed = await proxyTo(home.port);
        const reconnection = { reconnection: true, reconnectionDelay: 50, reconnectionDelayMax: 200 };
        const c = await open(proxy.url, carol, reconnection);
        const d = await open(doomed.url, dave);
        await c.join(room);
        await d.join(room);
        if (elsewhere) proxy.pointTo(other.port);
        const from = c.received.length;
        cut(c, proxy);
        await c.take('disconnect');
        doomed.close();
        await c.take('connect');
        await a.say(room, 'welcome back');
        await c.hears('welcome back');
        await c.say(room, 'thank you');
        await a.hears('thank you');

        // Dave was cut later and does not return: when he is out, Carol's grace period is over as well.
        await a.take('userLeft', (gone) => gone.userId === dave.id, GRACE_MS + 10_000);
        assert.deepEqual(systemTexts(a, carol.name), [joined(carol.name)]);
        assert.equal(a.all('userLeft').some((gone) => gone.userId === carol.id), false);
        const told = c.order(from);
        for (const event of ['joinRoomSuccess', 'joinRoomError', 'error']) assert.ok(!told.includes(event), event);
        const { json } = await rest.get(`/api/rooms/${room}`, { user: carol });
        assert.ok(ids(json.data.participants).includes(carol.id));
        proxy.close();
      });
    }
  }

  // ---- messages

  it('a text reaches everyone once, trimmed, with its sender', async () => {
    const { alice, room, a, b } = await pair();
    const ack = await a.say(room, '  안녕하세요  ');
    const [mine, theirs] = [await a.hears('안녕하세요'), await b.hears('안녕하세요')];
    assert.deepEqual(mine, theirs);
    isMessage(mine, { room, type: 'text', content: '안녕하세요' });
    isSender(mine.sender, alice);
    assert.equal(ack.messageId, mine._id);
    assert.match(ack.id, /^\d+-\d+$/);
    assert.equal(ack.timestamp, mine.timestamp);
  });

  it('a message needs neither a type nor an acknowledgement, and its text may be called msg', async () => {
    const { room, a, b } = await pair();
    a.emit('chatMessage', { room, content: 'no type' });
    a.emit('chatMessage', { room, type: 'text', content: '  ', msg: 'by msg', unknown: { field: 1 } });
    for (const text of ['no type', 'by msg']) isMessage(await b.hears(text), { type: 'text' });
    a.none('error');
  });

  it('the checks refuse with their codes and words, in their order', async () => {
    const { room, a, b } = await pair();
    const foreign = (await rest.room(b.user))._id;
    const banned = BANNED[0];
    const cases = [
      [null, 'MESSAGE_ERROR', '메시지 데이터가 없습니다.'],
      [{ room: '', type: 'text', content: banned }, 'MESSAGE_ERROR', '채팅방 정보가 없습니다.'],
      [{ type: 'text', content: 'hello' }, 'MESSAGE_ERROR', '채팅방 정보가 없습니다.'],
      [{ room: UNKNOWN_ID, type: 'text', content: banned }, 'MESSAGE_ERROR', NO_ACCESS],
      [{ room: 'nonsense', type: 'text', content: 'hello' }, 'MESSAGE_ERROR', NO_ACCESS],
      [{ room: foreign, type: 'text', content: banned }, 'MESSAGE_ERROR', NO_ACCESS],
      [{ room, type: 'poll', content: banned }, 'MESSAGE_REJECTED', '금칙어가 포함된 메시지는 전송할 수 없습니다.'],
      [{ room, type: 'poll', content: 'hello' }, 'MESSAGE_ERROR', 'Unsupported message type: poll'],
      [{ room, type: 'file', content: '' }, 'MESSAGE_ERROR', '파일 데이터가 올바르지 않습니다.'],
      [{ room, type: 'file', content: '', fileData: {} }, 'MESSAGE_ERROR', '파일 데이터가 올바르지 않습니다.'],
      [{ room, type: 'file', content: '', fileData: { _id: UNKNOWN_ID } }, 'MESSAGE_ERROR', '파일을 찾을 수 없거나 접근 권한이 없습니다.'],
      [{ room, type: 'text', content: '가'.repeat(10_001) }, 'MESSAGE_ERROR', '메시지는 10000자를 초과할 수 없습니다.'],
    ];
    for (const [payload, code, message] of cases) {
      const { ack, error } = await refusedChat(a, payload);
      const what = JSON.stringify(payload)?.slice(0, 100);
      assert.deepEqual({ code: error.code, message: error.message }, { code, message }, what);
      assert.deepEqual({ ok: ack.ok, code: ack.code, message: ack.message }, { ok: false, code, message }, what);
    }
    a.emit('chatMessage', { room, type: 'text', content: '   ' });
    a.emit('chatMessage', { room, type: 'text' });
    await a.say(room, '가'.repeat(10_000));
    const texts = (one) => one.all('message').filter((m) => m.type === 'text').map((m) => m.content.length);
    await b.hears('가'.repeat(10_000));
    assert.deepEqual(texts(b), [10_000]);
    a.none('error');
    b.none('error');
  });

  it('a session replaced by a login can no longer speak, whatever it says', async () => {
    const { bob, room, a, b } = await pair();
    await rest.login(bob);
    await eventually('the login to be known', async () => !(await b.ask('chatMessage', { room, content: 'a' })).ok);
    await b.take('error');
    for (const payload of [{ room, type: 'text', content: 'hello' }, { room: '', content: BANNED[0] }]) {
      const { ack, error } = await refusedChat(b, payload);
      assert.equal(error.code, 'SESSION_EXPIRED');
      assert.equal(error.message, '세션이 만료되었습니다. 다시 로그인해주세요.');
      assert.equal(ack.code, 'SESSION_EXPIRED');
    }
    await a.say(room, 'goes on');
    assert.equal(a.all('message').some((m) => m.content === 'hello'), false);
  });

  it('a banned word anywhere in a text is refused to its sender alone', async () => {
    const { room, a, b } = await pair();
    const texts = [...BANNED, ...BANNED.map((word) => `앞 ${word.toUpperCase()}뒤`), 'zq09993', 'xxzq00000xx'];
    for (const content of texts) {
      const { ack, error } = await refusedChat(a, { room, type: 'text', content });
      assert.equal(error.code, 'MESSAGE_REJECTED');
      assert.equal(error.message, '금칙어가 포함된 메시지는 전송할 수 없습니다.');
      assert.equal(ack.code, 'MESSAGE_REJECTED');
    }
    const caption = { room, type: 'file', content: BANNED[1], fileData: { _id: UNKNOWN_ID } };
    assert.equal((await refusedChat(a, caption)).error.code, 'MESSAGE_REJECTED');
    await a.say(room, BANNED[0].slice(0, -1));
    await b.hears(BANNED[0].slice(0, -1));
    b.none('error');
    assert.equal(b.all('message').filter((m) => m.type === 'text').length, 1);
  });

  it('more messages than the limit are refused with the time to wait', async () => {
    const user = await rest.user();
    const room = (await rest.room(user))._id;
    const one = await open(strict, user);
    await one.join(room);
    for (let i = 0; i < MESSAGE_LIMIT; i += 1) await one.say(room, `${i}`);
    const { ack, error } = await refusedChat(one, { room, type: 'text', content: 'one more' });
    assert.equal(error.code, 'RATE_LIMIT_EXCEEDED');
    assert.equal(error.message, '메시지 전송 횟수 제한을 초과했습니다. 잠시 후 다시 시도해주세요.');
    assert.ok(error.retryAfter > 0 && error.retryAfter <= 60, `${error.retryAfter} s`);
    assert.equal(ack.code, 'RATE_LIMIT_EXCEEDED');
    assert.equal(ack.retryAfter, error.retryAfter);
    const other = await rest.user();
    const b = await open(strict, other);
    await b.join(room);
    await b.say(room, 'another user is free to speak');
  });

  it('a file message shows its file, to its uploader alone to send', async () => {
    const { alice, room, a, b } = await pair();
    const file = `${alice.id.slice(0, 4)}${'5'.repeat(20)}`; // in the slot of its owner
    const fields = { owner: alice.id, filename: '1795332990001_0123456789abcdef.jpg', originalname: '사진 1.jpg', mimetype: 'image/jpeg', size: 1023585 };
    for (const port of stack.redis.ports) {
      const key = (await stack.redis.ask(port, 'KEYS', `*:user:${alice.id}`)).trim().split('\n')[0];
      if (key) await stack.redis.ask(port, 'HSET', key.replace(/:user:.*/, `:file:${file}`), ...Object.entries(fields).flat());
    }
    const say = { room, type: 'file', content: '', fileData: { _id: file } };
    assert.equal((await a.ask('chatMessage', say)).ok, true);
    const { owner, ...shown } = fields;
    for (const one of [a, b]) {
      const message = await one.take('message', (m) => m.type === 'file');
      assert.equal(message.content, '');
      assert.deepEqual(message.file, { _id: file, ...shown });
      assert.deepEqual(message.metadata, { fileType: shown.mimetype, fileSize: shown.size, originalName: shown.originalname });
    }
    const refused = await b.ask('chatMessage', say);
    assert.deepEqual([refused.ok, refused.message], [false, '파일을 찾을 수 없거나 접근 권한이 없습니다.']);
  });

  it('a repeated client message id is stored once', async () => {
    const { room, a, b } = await pair();
    const clientMessageId = unique('cm');
    const first = await a.say(room, 'once', { clientMessageId });
    const again = await a.say(room, 'once', { clientMessageId });
    assert.deepEqual([again.messageId, again.id, again.timestamp], [first.messageId, first.id, first.timestamp]);
    const theirs = await b.say(room, 'mine', { clientMessageId });
    assert.notEqual(theirs.messageId, first.messageId);
    for (const one of [a, b]) {
      assert.equal((await one.hears('once')).clientMessageId, clientMessageId);
      await one.hears('mine');
      assert.equal(one.all('message').filter((m) => m.content === 'once').length, 1);
    }
    const { messages } = await b.history(room);
    assert.deepEqual(messages.filter((m) => m.type === 'text').map((m) => m.content), ['once', 'mine']);
  });

  it('every event is answered once it is done with, ping with nothing in it, and unknown ones do no harm', async () => {
    const { room, a, b } = await pair();
    const events = [
      ['ping', null],
      ['joinRoomList'],
      ['no such event', { with: ['data'] }],
      ['fetchPreviousMessages', 5],
      ['markMessagesAsRead', 'nor this'],
      ['messageReaction'],
      ['joinRoom', { room }],
      ['leaveRoom'],
    ];
    const answers = [];
    for (const event of events) a.emit(...event, (...args) => answers.push([event[0], ...args]));
    for (const event of events) a.emit(...event);
    a.emit('chatMessage', 'not an object');
    const refused = await a.ask('chatMessage', 'not an object');
    assert.equal(refused.code, 'MESSAGE_ERROR');
    assert.deepEqual(answers, events.map(([name]) => [name]));
    await a.say(room, 'still here');
    await b.hears('still here');
    assert.equal(a.socket.connected, true);
  });

  // ---- history

  it('history pages backwards, whatever form the time has', async () => {
    const { room, a, b } = await pair();
    for (let i = 0; i < 61; i += 1) await a.say(room, `text ${i}`);
    await b.hears('text 60');
    const start = b.received.length;
    const pages = [await b.history(room, { limit: 30 })];
    assert.deepEqual(ofRoom(b.order(start)).slice(0, 2), ['messageLoadStart', 'previousMessagesLoaded']);
    const forms = [(ms) => ms, (ms) => new Date(ms).toISOString()];
    for (const form of forms) {
      const before = form(pages.at(-1).messages[0].timestamp);
      pages.push(await b.history(room, { limit: 30, before }));
    }
    assert.deepEqual(pages.map((p) => p.hasMore), [true, true, false]);
    assert.deepEqual(pages.map((p) => p.messages.length), [30, 30, 3]);
    const all = [...pages].reverse().flatMap((p) => p.messages);
    const texts = Array.from({ length: 61 }, (_, i) => `text ${i}`);
    assert.deepEqual(all.map((m) => m.content), [joined(a.user.name), joined(b.user.name), ...texts]);
    for (let i = 1; i < all.length; i += 1) assert.ok(all[i].timestamp > all[i - 1].timestamp);
    for (const message of all) isMessage(message, { room });

    const before = String(all[10].timestamp);
    const few = await b.history(room, { limit: 4, before });
    assert.deepEqual(few.messages.map((m) => m._id), all.slice(6, 10).map((m) => m._id));
    assert.equal(few.hasMore, true);
    const first = await b.history(room, { before: all[0].timestamp });
    assert.deepEqual([first.messages, first.hasMore], [[], false]);

    for (const limit of [0, -5, undefined]) assert.equal((await b.history(room, { limit })).messages.length, 30);
    const more = Array.from({ length: 60 }, (_, i) => a.say(room, `more ${i}`));
    await Promise.all(more);
    assert.equal((await b.history(room, { limit: 1_000 })).messages.length, 100);
    b.none('error');
  });

  it('a joiner is given the last thirty messages', async () => {
    const { room, a } = await pair();
    for (let i = 0; i < 40; i += 1) await a.say(room, `text ${i}`);
    const carol = await rest.user(unique('캐롤'));
    const answer = await (await open(west, carol)).join(room);
    assert.equal(answer.hasMore, true);
    assert.deepEqual(
      answer.messages.map((m) => m.content),
      [...Array.from({ length: 29 }, (_, i) => `text ${i + 11}`), joined(carol.name)],
    );
    await eventually('the recent messages to be counted', async () => {
      const { json } = await rest.get(`/api/rooms/${room}`, { user: carol });
      return json.data.recentMessageCount >= 40;
    });
  });

  it('history is for those in the room', async () => {
    const { room } = await pair();
    const stranger = await open(east, await rest.user());
    for (const roomId of [room, UNKNOWN_ID]) {
      stranger.emit('fetchPreviousMessages', { roomId, limit: 30 });
      const error = await stranger.take('error');
      assert.deepEqual([error.code, error.message], ['LOAD_ERROR', NO_ACCESS]);
    }
    stranger.none('previousMessagesLoaded');
  });

  it('a REST join admits to speaking and reading before the socket has joined', async () => {
    const { room, a } = await pair();
    const carol = await rest.user(unique('캐롤'));
    await rest.must(200, rest.join(carol, room));
    const c = await open(west, carol);
    await c.say(room, 'by REST');
    await a.hears('by REST');
    const { messages } = await c.history(room);
    assert.equal(messages.at(-1).content, 'by REST');
    assert.deepEqual(systemTexts(a, carol.name), []);
  });

  it('loading messages marks them read without a word, from the next load on', async () => {
    const { bob, room, a, b } = await pair();
    const { messageId } = await a.say(room, 'read me');
    await b.hears('read me');
    const readers = async () => {
      const { messages } = await b.history(room);
      return (messages.find((m) => m._id === messageId).readers ?? []).map((r) => r.userId);
    };
    assert.deepEqual(await readers(), []);
    await eventually('the reader to be kept', async () => (await readers()).includes(bob.id));
    a.none('messagesRead');
  });

  // ---- read marks and reactions

  it('a read mark is told to the whole room, the reader included', async () => {
    const { alice, bob, room, a, b } = await pair();
    const { messageId } = await a.say(room, 'read me');
    await b.hears('read me');
    b.emit('markMessagesAsRead', { messageIds: [messageId] });
    for (const one of [a, b]) {
      const { userId, messageIds } = await one.take('messagesRead');
      assert.deepEqual([userId, messageIds], [bob.id, [messageId]]);
    }
    a.emit('markMessagesAsRead', { messageIds: [messageId], roomId: room });
    for (const one of [a, b]) assert.equal((await one.take('messagesRead')).userId, alice.id);
    await eventually('both readers in the history', async () => {
      const { messages } = await a.history(room);
      const readers = messages.find((m) => m._id === messageId).readers;
      assert.deepEqual(readers.map((r) => r.userId).sort(), [alice.id, bob.id].sort());
      for (const { readAt } of readers) assert.equal(typeof readAt, 'number');
      return true;
    });
  });

  it('many marks are gathered into few events, and a mark that changes nothing makes none', async () => {
    const { bob, room, a, b } = await pair();
    const acks = await Promise.all(Array.from({ length: 50 }, (_, i) => a.say(room, `text ${i}`)));
    const all = acks.map((ack) => ack.messageId);
    await b.hears('text 49');
    for (const id of all) b.emit('markMessagesAsRead', { messageIds: [id] });
    const told = () => a.all('messagesRead').flatMap((mark) => mark.messageIds);
    await eventually('all marks', () => told().length >= all.length);
    assert.deepEqual(told().sort(), [...all].sort());
    assert.ok(a.all('messagesRead').length <= 10, `${a.all('messagesRead').length} events for 50 marks`);
    const events = a.all('messagesRead').length;

    b.emit('markMessagesAsRead', { messageIds: all });
    const { messageId } = await a.say(room, 'one more');
    await b.hears('one more');
    b.emit('markMessagesAsRead', { messageIds: [messageId] });
    await a.take('messagesRead', (mark) => mark.userId === bob.id && mark.messageIds.includes(messageId));
    assert.deepEqual(told().slice(all.length), [messageId]);
    assert.equal(a.all('messagesRead').length, events + 1);
  });

  it('marks of unknown, foreign and malformed ids are ignored', async () => {
    const { room, a, b } = await pair();
    const { messageId: foreign } = await (async () => {
      const owner = await rest.user();
      const other = (await rest.room(owner))._id;
      const one = await open(east, owner);
      await one.join(other);
      return one.say(other, 'elsewhere');
    })();
    const { messageId } = await a.say(room, 'here');
    await b.hears('here');
    const carol = await rest.user(unique('캐롤'));
    await (await open(east, carol)).join(room);
    const system = await b.take('message', (m) => m.content === joined(carol.name));
    for (const messageIds of [[], [UNKNOWN_ID], ['nonsense'], [foreign], [null, 5], undefined]) {
      b.emit('markMessagesAsRead', { messageIds });
    }
    b.emit('markMessagesAsRead', null);
    b.emit('markMessagesAsRead', { messageIds: [messageId, foreign, UNKNOWN_ID] });
    b.emit('markMessagesAsRead', { messageIds: [system._id] });
    const marked = () => a.all('messagesRead').flatMap((mark) => mark.messageIds);
    await eventually('both marks', () => marked().length >= 2);
    assert.deepEqual(marked().sort(), [messageId, system._id].sort());
    b.none('error');
  });

  it('a reaction is added, repeated and removed', async () => {
    const { alice, bob, room, a, b } = await pair();
    const { messageId } = await a.say(room, 'react');
    const sorted = (reactions) =>
      JSON.stringify(Object.entries(reactions).map(([emoji, users]) => [emoji, [...users].sort()]).sort());
    const react = async (one, fields, expected) => {
      one.emit('messageReaction', { messageId, ...fields });
      const becomes = (update) => update.messageId === messageId && sorted(update.reactions) === sorted(expected);
      await a.take('messageReactionUpdate', becomes);
      await b.take('messageReactionUpdate', becomes);
    };
    await react(b, { reaction: '😀', type: 'add' }, { '😀': [bob.id] });
    await react(a, { emoji: '😀', type: 'add' }, { '😀': [alice.id, bob.id] });
    b.emit('messageReaction', { messageId, reaction: '😀', type: 'add' });
    await react(b, { reaction: '👍', type: 'add' }, { '😀': [alice.id, bob.id], '👍': [bob.id] });
    const { messages } = await a.history(room);
    const kept = messages.find((m) => m._id === messageId).reactions;
    assert.equal(sorted(kept), sorted({ '😀': [alice.id, bob.id], '👍': [bob.id] }));

    await react(b, { reaction: '👍', type: 'remove' }, { '😀': [alice.id, bob.id] });
    b.emit('messageReaction', { messageId, reaction: '👍', type: 'remove' });
    await react(b, { reaction: '😀', type: 'remove' }, { '😀': [alice.id] });
    await react(a, { reaction: '😀', type: 'remove' }, {});
    a.none('error');
    b.none('error');
  });

  it('a reaction is refused for unknown messages, unknown types and strangers', async () => {
    const { room, a, b } = await pair();
    const { messageId } = await a.say(room, 'react');
    const add = { messageId, reaction: '😀', type: 'add' };
    for (const [payload, message] of [
      [{ ...add, messageId: UNKNOWN_ID }, '메시지를 찾을 수 없습니다.'],
      [{ ...add, messageId: 'nonsense' }, '메시지를 찾을 수 없습니다.'],
      [{ ...add, type: 'toggle' }, '지원하지 않는 리액션 타입입니다.'],
    ]) {
      b.emit('messageReaction', payload);
      assert.equal((await b.take('error')).message, message);
    }
    const stranger = await open(east, await rest.user());
    stranger.emit('messageReaction', add);
    assert.equal(typeof (await stranger.take('error')).message, 'string');
    await a.say(room, 'afterwards');
    await b.hears('afterwards');
    for (const one of [a, b, stranger]) one.none('messageReactionUpdate');
  });

  // ---- rooms

  it('a new room is told to every socket', async () => {
    const { a, b } = await pair();
    const outsider = await open(west, await rest.user());
    const owner = await rest.user();
    const rooms = [await rest.room(owner), await rest.room(owner), await rest.room(owner, { password: 'secret' })];
    for (const one of [a, b, outsider]) {
      for (const room of rooms) {
        const told = await one.take('roomCreated', (got) => got._id === room._id);
        assert.equal(told.name, room.name);
        assert.equal(told.hasPassword, room.hasPassword);
        assert.ok(Number.isFinite(Date.parse(told.createdAt)));
        assert.deepEqual(ids(told.participants), [owner.id]);
        assert.ok(!('password' in told));
      }
    }
  });

  it('a REST join is told inside the room only', async () => {
    const { room, a, b } = await pair();
    const carol = await rest.user('캐롤');
    const outsider = await open(west, await rest.user());
    await rest.must(200, rest.join(carol, room));
    for (const one of [a, b]) {
      const told = await one.take('roomUpdated', (got) => ids(got.participants).includes(carol.id));
      assert.equal(told._id, room);
      assert.ok(Number.isFinite(Date.parse(told.createdAt)));
    }
    const next = await rest.room(carol);
    await outsider.take('roomCreated', (got) => got._id === next._id);
    outsider.none('roomUpdated');
  });

  // ---- sessions on sockets

  it('a later login on another socket ends the earlier one, after its warning', async () => {
    const { bob, room, a, b } = await pair();
    const later = await rest.login(bob);
    const renewed = await open(east, later, { extraHeaders: { 'user-agent': 'Test/1.0' } });
    await renewed.join(room);
    const warning = await b.take('duplicate_login');
    assert.equal(warning.type, 'new_login_attempt');
    assert.ok(warning.deviceInfo && typeof warning.deviceInfo === 'string');
    assert.ok(warning.ipAddress && typeof warning.ipAddress === 'string');
    assert.ok(Math.abs(warning.timestamp - Date.now()) < 60_000);
    const ended = await b.take('session_ended');
    assert.deepEqual(ended, { reason: 'duplicate_login', message: '다른 기기에서 로그인하여 현재 세션이 종료되었습니다.' });
    assert.equal(await b.take('disconnect'), 'io server disconnect');
    const order = b.order().filter((event) => /login|session|disconnect/.test(event));
    assert.deepEqual(order, ['duplicate_login', 'session_ended', 'disconnect']);

    await renewed.say(room, 'I am back');
    await a.hears('I am back');
    renewed.none('duplicate_login');
    renewed.none('session_ended');
    assert.equal(renewed.socket.connected, true);
    assert.deepEqual(systemTexts(a, bob.name).filter((text) => text === left(bob.name)), []);
  });

  it('a socket without a user agent warns as Unknown', async () => {
    const user = await rest.user();
    const old = await open(east, user);
    const raw = await RawSocket.connect(west, await rest.login(user));
    assert.equal((await old.take('duplicate_login')).deviceInfo, 'Unknown');
    await old.take('session_ended');
    raw.destroy();
  });

  it('a second tab of the same session ends nothing', async () => {
    const { bob, b } = await pair();
    const tabs = [await open(east, bob), await open(west, bob)];
    const other = await rest.user();
    const old = await open(west, other);
    await open(east, await rest.login(other));
    await old.take('session_ended');
    for (const one of [b, ...tabs]) {
      one.none('duplicate_login');
      one.none('session_ended');
      assert.equal(one.socket.connected, true);
    }
  });

  it('a logout is told to all sockets of the user and to nobody else', async () => {
    const { bob, a, b } = await pair();
    const tab = await open(east, bob);
    await rest.must(200, rest.post('/api/auth/logout', undefined, { user: bob }));
    for (const one of [b, tab]) {
      assert.deepEqual(await one.take('session_ended'), { reason: 'logout', message: '로그아웃되었습니다.' });
    }
    a.none('session_ended');
  });

  it('force_login ends the socket that shows its own token', async () => {
    const { alice, bob, b } = await pair();
    for (const token of ['nonsense', alice.token]) {
      b.emit('force_login', { token });
      assert.equal((await b.take('error')).message, '세션 종료 중 오류가 발생했습니다.');
    }
    b.emit('force_login', { token: bob.token });
    const ended = await b.take('session_ended');
    assert.deepEqual(ended, { reason: 'force_logout', message: '다른 기기에서 로그인하여 현재 세션이 종료되었습니다.' });
    assert.equal(await b.take('disconnect'), 'io server disconnect');
  });
}
