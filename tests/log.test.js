// A room's log: found by time and by number however many epochs it has, and cut where the operator says.
import assert from 'node:assert/strict';
import { onStack } from './support/stack.js';
import { chatter } from './support/chatter.js';
import { eventually } from './support/wait.js';

const LENGTH_MAX = 100;

// One shard: every new room begins an epoch for all the others on its node.
const { stack, test } = await onStack({
  masters: 1,
  replicas: 1,
  gateways: [{}, { SLOTCAST_LOG_MAX_LENGTH: String(LENGTH_MAX) }],
  env: { SLOTCAST_SHARD_COUNT: '1' },
});
const { rest } = stack;

test('messages are found by time and by id in a log of many epochs', async () => {
  const user = await rest.user('앨리스');
  const one = await chatter(stack.gateways[0].url, user);
  const room = (await rest.room(user))._id;
  await one.join(room);
  const sent = [];
  for (let epoch = 0; epoch < 12; epoch += 1) {
    for (let n = 0; n <= epoch % 4; n += 1) sent.push(await one.say(room, `${epoch} ${n}`));
    await one.join((await rest.room(user))._id);
  }
  const epochs = new Set(sent.map((ack) => ack.id.split('-')[0]));
  assert.ok(epochs.size >= 12, `${epochs.size} epochs`);
  const numbers = sent.map((ack) => Number(ack.id.split('-')[1]));
  assert.deepEqual(numbers, numbers.map((_, i) => numbers[0] + i), 'numbers have no gap over epochs');

  const all = (await one.history(room, { limit: 100 })).messages.filter((m) => m.type === 'text').map((m) => m._id);
  assert.deepEqual(all, sent.map((ack) => ack.messageId));
  for (const [i, { timestamp }] of sent.entries()) {
    const page = await one.history(room, { limit: 5, before: timestamp });
    const texts = page.messages.filter((m) => m.type === 'text').map((m) => m._id);
    assert.deepEqual(texts, all.slice(Math.max(0, i - 5), i), `before message ${i}`);
  }
  const early = await one.history(room, { before: 1 });
  assert.deepEqual([early.messages, early.hasMore], [[], false]);

  for (const { messageId } of sent) {
    one.emit('messageReaction', { messageId, reaction: '👍', type: 'add' });
    await one.take('messageReactionUpdate', (update) => update.messageId === messageId);
  }
  const elsewhere = sent[0].messageId.slice(0, 20) + (sent[0].messageId.endsWith('0000') ? '0001' : '0000');
  one.emit('messageReaction', { messageId: elsewhere, reaction: '👍', type: 'add' });
  await one.take('error', ({ message }) => message === '메시지를 찾을 수 없습니다.');
});

test('a log is cut to about its largest length, from its old end', async () => {
  const user = await rest.user('보비');
  const one = await chatter(stack.gateways[1].url, user);
  const room = (await rest.room(user))._id;
  await one.join(room);
  const sent = [];
  for (let n = 0; n < 5 * LENGTH_MAX; n += 1) sent.push(await one.say(room, `message ${n}`));
  const [key] = (await stack.redis.ask(stack.redis.ports[0], 'KEYS', `*:log:${room.slice(0, 12)}`)).trim().split('\n');
  const length = Number(await stack.redis.ask(stack.redis.ports[0], 'XLEN', key));
  assert.ok(length >= LENGTH_MAX && length < 3 * LENGTH_MAX, `${length} entries`); // Redis cuts by whole nodes
  await eventually('the newest page', async () => {
    const { messages, hasMore } = await one.history(room, { limit: 30 });
    return hasMore && messages.at(-1)._id === sent.at(-1).messageId;
  });
  const { messages, hasMore } = await one.history(room, { before: sent.at(-length + 2).timestamp });
  assert.ok(messages.length <= 2 && !hasMore, 'what was cut is gone, what is left is whole');
});
