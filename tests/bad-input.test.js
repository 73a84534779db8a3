// What malformed, oversized and hostile input is answered with; nobody else may notice any of it.
import assert from 'node:assert/strict';
import { after } from 'node:test';
import { onStack } from './support/stack.js';
import { chatter } from './support/chatter.js';
import { OP, PATH, RawSocket, frame } from './support/raw.js';
import { claimsOf, sign } from './support/token.js';
import { request } from './support/http.js';
import { eventually, inTime } from './support/wait.js';

const MAX_PAYLOAD = 1_048_576;
const UNKNOWN_ID = 'f'.repeat(24);

const { stack, test } = await onStack({
  gateways: [{ SLOTCAST_PING_INTERVAL_MS: '1000', SLOTCAST_PING_TIMEOUT_MS: '1000' }],
  env: { SLOTCAST_MAX_PAYLOAD_BYTES: String(MAX_PAYLOAD) },
});
const { rest } = stack;
const { url } = stack.gateways[0];

const victim = await rest.user('피해자');
const room = (await rest.room(victim))._id;
const attacker = await rest.user('공격자');

const table = [];
after(() => {
  const width = Math.max(...table.map(([input]) => input.length));
  console.log(table.map(([input, answer]) => `${input.padEnd(width)} -> ${answer}`).join('\n'));
});

/** What the server said to `raw`: its close frame's code, its HTTP status, or how it ended the connection. */
async function answerOf(raw, within) {
  await raw.closed(within).catch(() => {});
  if (raw.closeCode !== undefined) return `close ${raw.closeCode}`;
  if (raw.status !== undefined && raw.status !== 101) return `http ${raw.status}`;
  return raw.end ?? 'open';
}

/** Writes the row, checks the answer, and that a bystander on the same gateway is served as before. */
async function judge(input, answer, expected) {
  table.push([input, answer]);
  assert.match(answer, expected, input);
  const bystander = await chatter(url, victim);
  await bystander.join(room);
  await bystander.say(room, `after: ${input}`.slice(0, 60));
  bystander.close();
}

/** One test: `act` misbehaves on a fresh socket and the server's answer must match `expected`. */
function misbehave(input, open, act, expected, within) {
  test(input, async () => {
    const raw = await open();
    await act(raw);
    const answer = await answerOf(raw, within);
    raw.destroy();
    await judge(input, answer, expected);
  });
}

const dialled = () => RawSocket.dial(url);
const upgraded = () => RawSocket.upgrade(url);
const connected = () => RawSocket.connect(url, attacker);

const CLOSED = /^(close \d+|eof|reset)$/;
const REFUSED = /^(http 4\d\d|eof|reset)$/;

// ---- TCP and HTTP

const http = (input, expected, method, path, headers, version) =>
  misbehave(input, dialled, (raw) => raw.request(method, path, headers, version), expected);

http('HTTP: another path', /^http 4\d\d$/, 'GET', '/elsewhere?EIO=4&transport=websocket');
http('HTTP: EIO=3', /^http 4\d\d$/, 'GET', '/socket.io/?EIO=3&transport=websocket');
http('HTTP: no EIO', /^http 4\d\d$/, 'GET', '/socket.io/?transport=websocket');
http('HTTP: no transport', /^http 4\d\d$/, 'GET', '/socket.io/?EIO=4');
http('HTTP: an unknown transport', /^http 4\d\d$/, 'GET', '/socket.io/?EIO=4&transport=pigeon');
http('HTTP: an unknown sid', /^http 4\d\d$/, 'GET', `${PATH}&sid=nobody`);
http('HTTP: POST', /^http 4\d\d$/, 'POST', PATH, { 'Content-Length': '0' });
http('HTTP: no upgrade', /^http 4\d\d$/, 'GET', PATH, { Connection: 'close', Upgrade: null });
http('HTTP: WebSocket version 8', /^http 4\d\d$/, 'GET', PATH, { 'Sec-WebSocket-Version': '8' });
http('HTTP: no WebSocket key', /^http 4\d\d$/, 'GET', PATH, { 'Sec-WebSocket-Key': null });
http('HTTP: a header of 1 MiB', REFUSED, 'GET', PATH, { 'X-Long': 'x'.repeat(1_048_576) });
http('HTTP: HTTP/1.0', /^(http [45]\d\d|eof|reset)$/, 'GET', PATH, {}, 'HTTP/1.0');
http('HTTP: 10,000 query parameters', /^(http \d+|close \d+|eof|reset|open)$/, 'GET', `${PATH}${'&a=b'.repeat(10_000)}`);
misbehave('TCP: noise instead of HTTP', dialled, (raw) => raw.write(Buffer.alloc(4096, 0xa5)), REFUSED);
misbehave('TCP: a TLS hello', dialled, (raw) => raw.write(Buffer.from('160301020001000001fc0303', 'hex')), /^(http 4\d\d|eof|reset|open)$/, 1_000);
misbehave('TCP: half a handshake, then silence', dialled, (raw) => raw.write(`GET ${PATH} HTTP/1.1\r\nHost: x\r\n`), /./, 1_000);

test('TCP: half a handshake, then goodbye', async () => {
  const raw = await dialled();
  raw.write(`GET ${PATH} HTTP/1.1\r\n`);
  raw.socket.end();
  await raw.gone();
  await judge('TCP: half a handshake, then goodbye', raw.end, /./);
});

test('TCP: five hundred silent connections', async () => {
  const all = await Promise.all(Array.from({ length: 500 }, dialled));
  await judge('TCP: 500 silent connections', 'others are served', /served/);
  for (const raw of all) raw.destroy();
});

// ---- WebSocket frames (RFC 6455)

const frames = (input, expected, ...bytes) =>
  misbehave(`frame: ${input}`, connected, (raw) => raw.write(Buffer.concat(bytes)), expected);

const text = '42["ping",null]';
const { text: TEXT, binary: BINARY, continuation: CONTINUATION, ping: PING, pong: PONG, close: CLOSE } = OP;
const code = (number, reason = '') => Buffer.concat([Buffer.from([number >> 8, number & 0xff]), Buffer.from(reason, 'latin1')]);

frames('not masked', /^close 1002$/, frame(text, { mask: false }));
for (const rsv of [1, 2, 4]) frames(`reserved bits ${rsv}`, /^close 1002$/, frame(text, { rsv }));
for (const opcode of [3, 7, 11, 15]) frames(`reserved opcode ${opcode}`, /^close 1002$/, frame('', { opcode }));
frames('ping of 126 bytes', /^close 1002$/, frame('x'.repeat(126), { opcode: PING }));
frames('pong of 126 bytes', /^close 1002$/, frame('x'.repeat(126), { opcode: PONG }));
frames('fragmented ping', /^close 1002$/, frame('', { opcode: PING, fin: false }));
frames('continuation of nothing', /^close 1002$/, frame(text, { opcode: CONTINUATION }));
frames('text inside a fragmented text', /^close 1002$/, frame('42[', { fin: false }), frame(text));
frames('binary inside a fragmented text', /^close 1002$/, frame('42[', { fin: false }), frame('x', { opcode: BINARY }));
frames('bad UTF-8', /^close 1007$/, frame(Buffer.from([0x34, 0x32, 0xc3, 0x28])));
frames('a surrogate in UTF-8', /^close 1007$/, frame(Buffer.from([0x34, 0x32, 0xed, 0xa0, 0x80])));
frames('half a character at the end', /^close 1007$/, frame(Buffer.from([0x34, 0x32, 0xe2, 0x82])));
frames('bad UTF-8 over two fragments', /^close 1007$/, frame(Buffer.from([0x34, 0xc3]), { fin: false }), frame(Buffer.from([0x28]), { opcode: CONTINUATION }));
frames('1 TiB announced', /^close 1009$/, frame('x', { length: 2n ** 40n }));
frames('2^63 bytes announced', /^close (1002|1009)$/, frame('x', { length: 2n ** 63n }));
frames('one byte too many announced', /^close 1009$/, frame('x', { length: MAX_PAYLOAD + 1 }));
frames('one byte too many sent', /^close 1009$/, frame('4'.repeat(MAX_PAYLOAD + 1)));
frames('fragments with too large a sum', /^close 1009$/,
  frame('42["', { fin: false }),
  ...Array.from({ length: 9 }, () => frame('x'.repeat(MAX_PAYLOAD / 8), { opcode: CONTINUATION, fin: false })));
frames('a last fragment announced too large', /^close 1009$/,
  frame('x'.repeat(1_000), { fin: false }),
  frame('x', { opcode: CONTINUATION, length: MAX_PAYLOAD - 500 }));
frames('100,000 empty fragments', /^(close 100[289]|open)$/, frame('4', { fin: false }),
  ...Array.from({ length: 100_000 }, () => frame('', { opcode: CONTINUATION, fin: false })));
frames('close with one byte', /^close 1002$/, frame('x', { opcode: CLOSE }));
for (const number of [0, 999, 1004, 1005, 1006, 1015, 2999, 65535]) {
  frames(`close with code ${number}`, /^close 1002$/, frame(code(number), { opcode: CLOSE }));
}
frames('close with a reason in bad UTF-8', /^close (1007|1002)$/, frame(code(1000, '\xc3\x28'), { opcode: CLOSE }));
frames('close of 126 bytes', /^close 1002$/, frame(code(1000, 'x'.repeat(124)), { opcode: CLOSE }));
frames('close with code 1000', /^close 1000$/, frame(code(1000), { opcode: CLOSE }));
frames('close without a code', /^(close (1000|1005)|eof)$/, frame('', { opcode: CLOSE }));

misbehave('frame: half of one, then silence', connected, (raw) => raw.write(frame(text).subarray(0, 9)), CLOSED);

test('frame: half of one, then goodbye', async () => {
  const raw = await connected();
  raw.write(frame('x'.repeat(10_000)).subarray(0, 5_000));
  raw.socket.end();
  await raw.gone();
  await judge('frame: half of one, then goodbye', raw.end, /./);
});

test('frame: control frames between fragments, one byte at a time', async () => {
  const raw = await connected();
  const bytes = Buffer.concat([
    frame('42["chatMessage",{"room":', { fin: false }),
    frame('beat', { opcode: PING }),
    frame('"","content":"x"', { opcode: CONTINUATION, fin: false }),
    frame('', { opcode: PONG }),
    frame('}]', { opcode: CONTINUATION }),
  ]);
  for (const byte of bytes) raw.write(Buffer.from([byte]));
  await eventually('the pong', () => raw.frames.find((f) => f.opcode === PONG && f.payload.toString() === 'beat'));
  await raw.hears((answer) => answer.includes('채팅방 정보가 없습니다.'));
  raw.destroy();
  await judge('frame: control frames between fragments', 'served', /served/);
});

test('frame: ten thousand pings', async () => {
  const raw = await connected();
  for (let i = 0; i < 10_000; i += 1) raw.write(frame('beat', { opcode: PING }));
  const answered = () => raw.frames.filter((f) => f.opcode === PONG).length;
  const outcome = await eventually('an outcome', () => raw.closeCode ?? raw.end ?? (answered() === 10_000 && 'all answered'), { every: 50 })
    .catch(() => `${answered()} answered`);
  raw.destroy();
  await judge('frame: 10,000 pings', String(outcome), /./);
});

test('frame: a reader that does not read', async () => {
  const raw = await connected();
  raw.socket.pause();
  for (let i = 0; i < 200_000; i += 1) raw.write(frame('beat'.repeat(30), { opcode: PING }));
  const bystander = await chatter(url, victim);
  await bystander.join(room);
  for (let i = 0; i < 20; i += 1) await bystander.say(room, `beside a flood ${i}`);
  raw.destroy();
  await judge('frame: 200,000 pings and no reading', 'others are served', /served/);
});

// ---- Engine.IO packets

const packets = (layer) => (input, expected, ...bodies) =>
  misbehave(`${layer}: ${input}`, connected, (raw) => bodies.forEach((body) => raw.sendText(body)), expected, 1_000);
const engine = packets('Engine.IO');

engine('an empty packet', /^(close \d+|eof|open)$/, '');
engine('an unknown packet type', /^(close \d+|eof|open)$/, '9hello');
engine('a second open', /^(close \d+|eof|open)$/, '0{}');
engine('a ping from the client', /^(close \d+|eof|open)$/, '2');
engine('an upgrade', /^(close \d+|eof|open)$/, '5');
engine('a pong that nobody asked for', /^open$/, '3', '3', '3');
engine('a close', CLOSED, '1');
misbehave('Engine.IO: no pong', connected, () => {}, CLOSED);
misbehave('Engine.IO: no CONNECT', upgraded, () => {}, CLOSED);

// ---- Socket.IO packets

const socketio = packets('Socket.IO');

socketio('no packet type', CLOSED, '4');
socketio('an unknown packet type', CLOSED, '48');
socketio('a letter for a packet type', CLOSED, '4x');
socketio('an event that is no JSON', CLOSED, '42[');
socketio('an event that is no array', CLOSED, '42{}');
socketio('an event without a name', CLOSED, '42[]');
socketio('an event with a number for a name', /^(close \d+|eof|reset|open)$/, '42[5]');
socketio('a reserved event name', /^(close \d+|eof|reset|open)$/, '42["connect"]', '42["disconnecting"]');
socketio('an ack that nobody asked for', /^open$/, '437[1]');
socketio('an ack without an id', /^(close \d+|eof|reset|open)$/, '43[1]');
socketio('an ack id of 400 digits', /^(close \d+|eof|reset|open)$/, `42${'9'.repeat(400)}["ping",null]`);
socketio('a CONNECT_ERROR from the client', CLOSED, '44{"message":"x"}');
socketio('an event for another namespace', /^(close \d+|eof|reset|open)$/, '42/admin,["x"]');
socketio('more text after the event', CLOSED, '42["ping"]]');
socketio('text where an attachment is due', CLOSED, '451-["chatMessage",{"_placeholder":true,"num":0}]', '42["ping",null]');
socketio('a million attachments announced', CLOSED, '451000000-["x"]');
socketio('attachments that are no number', CLOSED, '45x-["x"]');
socketio('no attachment count', CLOSED, '45["x"]');
socketio('a placeholder out of range', /^(close \d+|eof|reset|open)$/, '451-["x",{"_placeholder":true,"num":9}]');
misbehave('Socket.IO: an attachment that is not due', connected, (raw) => raw.write(frame('x', { opcode: BINARY })), CLOSED);
misbehave('Socket.IO: a flood of attachments', connected, (raw) => {
  raw.sendText('4510-["x",{"_placeholder":true,"num":0}]');
  for (let i = 0; i < 10; i += 1) raw.write(frame(Buffer.alloc(MAX_PAYLOAD - 1), { opcode: BINARY }));
}, /./, 3_000);

test('Socket.IO: an event with an attachment does no harm', async () => {
  const raw = await connected();
  raw.sendText('451-["chatMessage",{"_placeholder":true,"num":0}]');
  raw.write(frame('x', { opcode: BINARY }));
  const answer = await answerOf(raw, 1_000);
  raw.destroy();
  await judge('Socket.IO: an event with an attachment', answer, /^(close \d+|eof|reset|open)$/);
});

for (const [input, body, expected] of [
  ['an event before CONNECT', '42["joinRoom","x"]', CLOSED],
  ['a DISCONNECT before CONNECT', '41', /^(close \d+|eof|reset|open)$/],
  ['a CONNECT that is no JSON', '40{', CLOSED],
  ['a CONNECT with null', '40null', /^(close \d+|eof|reset|open)$/],
  ['a CONNECT with a token of 60 kB', `40{"token":"${'x'.repeat(60_000)}","sessionId":"x"}`, /^(close \d+|eof|reset|open)$/],
  ['a CONNECT with an array', '40[1]', /^(close \d+|eof|reset|open)$/],
]) {
  misbehave(`Socket.IO: ${input}`, upgraded, (raw) => raw.sendText(body), expected, 1_500);
}

test('Socket.IO: a CONNECT that may not', async () => {
  const claims = claimsOf(attacker.token);
  const { sessionId, token } = attacker;
  const past = Math.floor(Date.now() / 1000) - 3_600;
  const none = `${Buffer.from('{"alg":"none"}').toString('base64url')}.${token.split('.')[1]}.`;
  const connect = (auth) => `40${JSON.stringify(auth)}`;
  for (const [input, body, message] of [
    ['without auth', '40', 'Authentication error'],
    ['with numbers', connect({ token: 1, sessionId: 2 }), 'Authentication error'],
    ['with a bad token', connect({ token: 'x.y.z', sessionId }), 'Invalid token'],
    ['with an expired token', connect({ token: sign({ ...claims, exp: past }, stack.secret), sessionId }), 'Invalid token'],
    ['with a foreign key', connect({ token: sign(claims, 'some other secret, long enough as well'), sessionId }), 'Invalid token'],
    ['with no algorithm', connect({ token: none, sessionId }), 'Invalid token'],
    ['with another session', connect({ token, sessionId: '0'.repeat(32) }), 'Invalid session'],
  ]) {
    const raw = await upgraded();
    raw.sendText(body);
    const refusal = await raw.hears((answer) => answer.startsWith('44'));
    assert.deepEqual(JSON.parse(refusal.slice(2)), { message }, input);
    raw.destroy();
    await judge(`Socket.IO: CONNECT ${input}`, refusal, /^44/);
  }
  const raw = await upgraded();
  raw.sendText('40/admin,{}');
  const refusal = await raw.hears((answer) => answer.startsWith('44/admin,'));
  raw.destroy();
  await judge('Socket.IO: CONNECT to another namespace', refusal, /^44/);
});

test('Socket.IO: a second CONNECT', async () => {
  const raw = await connected();
  raw.sendText(`40${JSON.stringify({ token: attacker.token, sessionId: attacker.sessionId })}`);
  const answer = await answerOf(raw, 1_000);
  raw.destroy();
  await judge('Socket.IO: a second CONNECT', answer, /^(close \d+|eof|reset|open)$/);
});

// ---- events

/** An event that may be ignored, refused or closed for; `heard` tells what came back. */
function event(input, body) {
  test(`event: ${input}`, async () => {
    const raw = await connected();
    raw.sendEvent('joinRoom', room);
    await raw.hears((answer) => answer.startsWith('42["joinRoomSuccess"'));
    raw.sendText(body);
    raw.sendEvent('chatMessage', { room: '', content: 'a marker' });
    const outcome = await inTime('an outcome', Promise.race([
      raw.hears((answer) => answer.includes('채팅방 정보가 없습니다.')).then(() => 'served on'),
      raw.closed().then(() => answerOf(raw)),
    ]));
    const error = raw.texts.find((answer) => answer.startsWith('42["error"'));
    const said = error && !error.includes('채팅방 정보가 없습니다.') ? `, ${error.slice(0, 90)}` : '';
    raw.destroy();
    await judge(`event: ${input}`, `${outcome}${said}`, /^(served on|close \d+|eof|reset)/);
  });
}

const json = (...args) => `42${JSON.stringify(args)}`;
event('arrays nested 100,000 deep', `42["chatMessage",${'['.repeat(100_000)}${']'.repeat(100_000)}]`);
event('objects nested 50,000 deep', `42["chatMessage",${'{"a":'.repeat(50_000)}1${'}'.repeat(50_000)}]`);
event('nesting inside a known field', `42["chatMessage",{"room":"${room}","content":"x","fileData":${'['.repeat(50_000)}${']'.repeat(50_000)}}]`);
event('a name of 500 kB', json('x'.repeat(500_000)));
event('10,000 arguments', json('joinRoom', ...Array(10_000).fill(0)));
event('10,000 ids in one mark', json('markMessagesAsRead', { messageIds: Array(10_000).fill(UNKNOWN_ID) }));
event('a text of 300 kB', json('chatMessage', { room, content: 'x'.repeat(300_000) }));
event('a room id of 300 kB', json('chatMessage', { room: 'f'.repeat(300_000), content: 'x' }));
event('numbers where texts are due', json('chatMessage', { room: 5, content: { a: 1 }, type: [] }));
event('a client message id of 65 characters', json('chatMessage', { room, content: 'x', clientMessageId: 'x'.repeat(65) }));
event('a client message id of other characters', json('chatMessage', { room, content: 'x', clientMessageId: '../ {}' }));
event('a reaction of 100 kB', json('messageReaction', { messageId: UNKNOWN_ID, reaction: 'x'.repeat(100_000), type: 'add' }));
event('a limit of 1e300 and a time of -1', json('fetchPreviousMessages', { roomId: room, limit: 1e300, before: -1 }));
event('a time that is none', json('fetchPreviousMessages', { roomId: room, before: 'yesterday' }));
event('NUL and control characters', json('chatMessage', { room, content: 'a\u0000b\u001b[2J' }));
event('a lone surrogate', `42["chatMessage",{"room":"${room}","content":"\\ud800"}]`);
event('a number of 10,000 digits', `42["fetchPreviousMessages",{"roomId":"${room}","before":${'9'.repeat(10_000)}}]`);
event('doubled keys', `42["chatMessage",{"room":"x","room":"${room}","content":"x"}]`);
event('prototype keys', json('chatMessage', JSON.parse('{"__proto__":{"room":"x"},"constructor":1,"room":""}')));

test('event: five thousand unknown events', async () => {
  const raw = await connected();
  for (let i = 0; i < 5_000; i += 1) raw.sendEvent(`unknown ${i}`, { i });
  raw.sendEvent('chatMessage', { room: '', content: 'a marker' });
  const outcome = await inTime('an outcome', Promise.race([
    raw.hears((answer) => answer.includes('채팅방 정보가 없습니다.')).then(() => 'served on'),
    raw.closed().then(() => answerOf(raw)),
  ]), 20_000);
  raw.destroy();
  await judge('event: 5,000 unknown events', outcome, /^(served on|close \d+)/);
});

test('the gateway is as it was after all of this', async () => {
  assert.equal(await stack.gateways[0].ready(), 200);
  assert.ok(stack.gateways[0].running);
  const metrics = await request('GET', `${stack.gateways[0].adminUrl}/metrics`);
  const panics = /^task_panics_total(?:\{[^}]*\})? (\d+)/m.exec(metrics.text);
  if (panics) assert.equal(panics[1], '0');
});
