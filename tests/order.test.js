// One order for everyone: two users on two gateways talk at once.
import assert from 'node:assert/strict';
import { onStack } from './support/stack.js';
import { chatter } from './support/chatter.js';
import { eventually } from './support/wait.js';

const EACH = 1_000;
const PAGE = 100;
// Unanswered messages of one user. A client that sends all at once and is too busy to read is shed as slow.
const IN_FLIGHT = 64;

const { stack, test } = await onStack();
const { rest } = stack;

test(`two users exchange ${EACH} messages each, all received once and in one order`, async () => {
  const users = [await rest.user('앨리스'), await rest.user('보비')];
  const room = (await rest.room(users[0]))._id;
  const both = [];
  for (const [i, user] of users.entries()) {
    const one = await chatter(stack.gateways[i].url, user);
    await one.join(room);
    both.push(one);
  }
  const texts = (one) => one.all('message').filter((m) => m.type === 'text');

  const since = Date.now();
  const acks = (await Promise.all(both.map((one, i) => talk(one, room, i)))).flat();
  await eventually('all messages at both', () => both.every((one) => texts(one).length >= 2 * EACH), { within: 60_000 });
  console.log(`${2 * EACH} messages over two gateways in ${Date.now() - since} ms`);

  for (const ack of acks) assert.equal(ack.ok, true, JSON.stringify(ack));
  const [mine, theirs] = both.map((one) => texts(one).map((m) => m._id));
  assert.equal(mine.length, 2 * EACH);
  assert.deepEqual(mine, theirs);
  assert.deepEqual(new Set(mine), new Set(acks.map((ack) => ack.messageId)));
  for (const [i] of users.entries()) {
    const own = texts(both[0]).map((m) => m.content.split(' ')).filter(([who]) => who === String(i));
    assert.deepEqual(own.map(([, n]) => Number(n)), Array.from({ length: EACH }, (_, n) => n));
  }

  const history = await wholeHistory(both[1], room);
  assert.deepEqual(history.filter((m) => m.type === 'text').map((m) => m._id), mine);
  for (let i = 1; i < history.length; i += 1) assert.ok(history[i].timestamp > history[i - 1].timestamp);
}, { timeout: 150_000 });

/** Sends `EACH` messages in order, some ahead of their answers; resolves with the answers. */
async function talk(one, room, who) {
  const answers = [];
  for (let n = 0; n < EACH; n += 1) {
    if (n >= IN_FLIGHT) await answers[n - IN_FLIGHT];
    answers.push(one.ask('chatMessage', { room, type: 'text', content: `${who} ${n}` }));
  }
  return Promise.all(answers);
}

async function wholeHistory(one, room) {
  const pages = [];
  let before;
  for (;;) {
    const page = await one.history(room, { limit: PAGE, before });
    pages.unshift(page.messages);
    if (!page.hasMore) return pages.flat();
    before = page.messages[0].timestamp;
  }
}
