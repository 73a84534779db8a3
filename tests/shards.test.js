// The number of shards may change: what was made before goes on working.
import assert from 'node:assert/strict';
import { onStack } from './support/stack.js';
import { chatter } from './support/chatter.js';

const { stack, test } = await onStack({ env: { SLOTCAST_SHARD_COUNT: '4' } });
const { rest } = stack;

async function restart(shards) {
  await Promise.all(stack.parts.map((part) => part.signal('SIGKILL')));
  for (const part of stack.parts) await part.start({ SLOTCAST_SHARD_COUNT: String(shards) });
}

/** The two users talk in `room`, each on a gateway of its own. */
async function talk(room, [alice, bob], text) {
  const a = await chatter(stack.gateways[0].url, alice);
  const b = await chatter(stack.gateways[1].url, bob);
  await a.join(room);
  await b.join(room);
  const { messageId } = await a.say(room, text);
  await b.hears(text);
  b.emit('markMessagesAsRead', { messageIds: [messageId] });
  await a.take('messagesRead', (mark) => mark.messageIds.includes(messageId));
  a.close();
  b.close();
  return messageId;
}

test('rooms, users and history of other shard counts keep working', async () => {
  let users = [await rest.user('앨리스'), await rest.user('보비')];
  const rooms = [];
  const said = new Map();
  for (const shards of [4, 61, 1, 16_384]) {
    if (rooms.length > 0) {
      await restart(shards);
      users = [await rest.login(users[0]), await rest.login(users[1])];
    }
    for (let i = 0; i < 3; i += 1) rooms.push((await rest.room(users[0]))._id);
    for (const room of rooms) {
      const id = await talk(room, users, `with ${shards} shards`);
      said.set(room, [...(said.get(room) ?? []), id]);
    }
  }
  const one = await chatter(stack.gateways[1].url, users[1]);
  for (const room of rooms) {
    await one.join(room);
    const { messages } = await one.history(room, { limit: 100 });
    const texts = messages.filter((m) => m.type === 'text');
    assert.deepEqual(texts.map((m) => m._id), said.get(room));
  }
  const { json } = await rest.get('/api/rooms?pageSize=50', { user: users[0] });
  assert.deepEqual(json.data.map((room) => room._id).reverse(), rooms);
}, { timeout: 180_000 });
