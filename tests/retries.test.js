// The official client's `retries`: it sends one event at a time and repeats it until an ack has come.
import assert from 'node:assert/strict';
import { onStack } from './support/stack.js';
import { CLIENTS, chatter } from './support/chatter.js';
import { proxyTo } from './support/proxy.js';
import { eventually } from './support/wait.js';

const MESSAGES = 400;
const CUTS = 12;

const { stack, test } = await onStack();
const { rest } = stack;

const retrying = { retries: 3, ackTimeout: 10_000 };
const cut = { retries: 50, ackTimeout: 2_000, reconnection: true, reconnectionDelay: 10, reconnectionDelayMax: 50 };

/** Emits through the client's queue; its answer, once the server has given one. */
const queued = (one, ...event) => one.socket.emitWithAck(...event);

for (const [version, io] of CLIENTS) {
  test(`client ${version} with retries waits for nothing but its acks`, async () => {
    const user = await rest.user();
    const room = (await rest.room(user))._id;
    const one = await chatter(stack.gateways[0].url, user, { io, ...retrying });
    const since = Date.now();
    for (const event of [
      ['joinRoom', room],
      ['ping', null],
      ['joinRoomList'],
      ['no such event', 1],
      ['fetchPreviousMessages', 'nonsense'],
      ['fetchPreviousMessages', { roomId: room }],
      ['markMessagesAsRead', { messageIds: [] }],
      ['markMessagesAsRead', 5],
      ['leaveRoom', room],
    ]) assert.equal(await queued(one, ...event), undefined, event[0]);
    const { ok, code } = await queued(one, 'chatMessage', 5);
    assert.deepEqual({ ok, code }, { ok: false, code: 'MESSAGE_ERROR' });
    assert.ok(Date.now() - since < retrying.ackTimeout, 'no event had to be repeated');
  });

  test(`client ${version} with retries stores each message once and in order, however its link is cut`, async () => {
    const users = [await rest.user('앨리스'), await rest.user('보비')];
    const room = (await rest.room(users[0]))._id;
    const proxy = await proxyTo(stack.gateways[0].port);
    const one = await chatter(proxy.url, users[0], { io, ...cut });
    const witness = await chatter(stack.gateways[1].url, users[1]);
    await queued(one, 'joinRoom', room);
    await witness.join(room);

    const texts = Array.from({ length: MESSAGES }, (_, i) => `text ${i}`);
    const cutAfter = new Set(Array.from({ length: CUTS }, () => Math.floor(Math.random() * MESSAGES)));
    const context = `cut after ${[...cutAfter].sort((x, y) => x - y)}`;
    let answered = 0;
    const answers = texts.map(async (content, i) => {
      const message = { room, type: 'text', content, clientMessageId: `m${i}` };
      const answer = await queued(one, 'chatMessage', message);
      assert.equal(answered, i, 'answered in order');
      answered += 1;
      // The next message is on its way, or stored and not answered yet, or neither.
      if (cutAfter.has(i)) setTimeout(() => proxy.cut(), Math.random() * 6);
      return answer;
    });
    const acks = await Promise.all(answers);
    proxy.close();

    for (const ack of acks) assert.equal(ack.ok, true, `${context}: ${JSON.stringify(ack)}`);
    const heard = () => witness.all('message').filter((m) => m.type === 'text');
    await eventually('the witness to hear the last', () => heard().at(-1)?.content === texts.at(-1));
    assert.deepEqual(heard().map((m) => m.content), texts, context);
    assert.deepEqual(heard().map((m) => m._id), acks.map((ack) => ack.messageId), context);
    const cuts = one.all('disconnect').length;
    assert.ok(cuts > 0, 'the link was cut');
    console.log(`${MESSAGES} messages over a link cut ${cuts} times`);
  }, { timeout: 120_000 });
}
