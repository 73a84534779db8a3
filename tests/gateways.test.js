// Gateways that die or stand still, several at a time or at a bad moment: who is in a room afterwards, and what the
// room was told.
import assert from 'node:assert/strict';
import { onStack } from './support/stack.js';
import { chatter } from './support/chatter.js';
import { unique } from './support/rest.js';
import { eventually } from './support/wait.js';

const LEASE_SECONDS = 2;
const DELAY_MS = 300;
const REAPED = LEASE_SECONDS * 1000 + 15_000; // ms from a gateway's end until its seats are given up

const { stack, test } = await onStack({
  gateways: 4,
  env: {
    SLOTCAST_LEASE_SECONDS: String(LEASE_SECONDS),
    SLOTCAST_GRACE_SECONDS: '1',
    SLOTCAST_DUPLICATE_LOGIN_DELAY_MS: String(DELAY_MS),
  },
});
const { rest } = stack;
const [home, other, third, fourth] = stack.gateways;

const came = ({ name }) => `${name}님이 입장하였습니다.`;
const left = ({ name }) => `${name}님이 퇴장하였습니다.`;

const people = (count) => Promise.all(Array.from({ length: count }, (_, i) => rest.user(unique(`사람${i}`))));

/** A connected socket in a room. */
async function member(gateway, user, room) {
  const one = await chatter(gateway.url, user);
  await one.join(room);
  return one;
}

/** How often `one` heard exactly this. */
const heard = (one, content) => one.all('message').filter((m) => m.content === content).length;

/** Checks who is in a room, by REST and by the last list that `witness` was told. */
async function inRoom(room, witness, users) {
  const ids = users.map(({ id }) => id).sort().join();
  const idsOf = (list) => list.map((p) => p._id).sort().join();
  await eventually('the right participants', () => idsOf(witness.all('participantsUpdate').at(-1)) === ids);
  const { json } = await rest.get(`/api/rooms/${room}`, { user: witness.user });
  assert.equal(idsOf(json.data.participants), ids);
}

/** The leases, claims and dead gateways that Redis knows of. */
async function gatewaysOf(key) {
  const owner = await stack.redis.ownerOf(Number(await stack.redis.ask(stack.redis.ports[0], 'CLUSTER', 'KEYSLOT', key)));
  const text = await stack.redis.ask(owner, 'ZRANGE', key, 0, -1);
  return text === '' ? [] : text.split('\n');
}

/** Waits until nobody is left to clean up after, and `alive` gateways hold a lease. */
const settled = (alive) => eventually('all dead gateways to be reaped', async () => {
  const [leases, reaping] = await Promise.all([gatewaysOf('{gateways}:leases'), gatewaysOf('{gateways}:reaping')]);
  return leases.length === alive && reaping.length === 0;
}, { within: REAPED });

/** Seats under names of gateways that hold no lease: nobody would ever give them up. */
async function strays() {
  const leases = await gatewaysOf('{gateways}:leases');
  const owners = await stack.redis.owners();
  const keys = await Promise.all(owners.map(({ port }) => stack.redis.ask(port, 'KEYS', '*:held:*')));
  const held = keys.flatMap((text) => text.split('\n')).filter((key) => key !== '');
  assert.ok(held.length > 0, 'some seats are held');
  return held.filter((key) => !leases.includes(key.split(':held:')[1]));
}

test('two of four gateways die at once: their users leave once, and a user with a socket elsewhere stays', async () => {
  const users = await people(7);
  const [witness, stays, ...gone] = users;
  const room = (await rest.room(witness))._id;
  const w = await member(home, witness, room);
  const alive = await member(other, stays, room);
  await member(third, stays, room);
  for (const [i, user] of gone.entries()) await member(i % 2 ? third : fourth, user, room);
  await Promise.all([third.signal('SIGKILL'), fourth.signal('SIGKILL')]);

  for (const user of gone) await w.take('message', (m) => m.content === left(user), REAPED);
  await settled(2);
  await alive.say(room, 'I am still here');
  await w.hears('I am still here');
  await inRoom(room, w, [witness, stays]);
  for (const one of [w, alive]) {
    for (const user of gone) assert.equal(heard(one, left(user)), 1, user.name);
    assert.equal(heard(one, left(stays)), 0);
  }
  await Promise.all([third.start(), fourth.start()]);
});

test('a gateway that stands still longer than its lease takes its seats again, each once', async () => {
  const users = await people(4);
  const [witness, both, ...stopped] = users;
  const room = (await rest.room(witness))._id;
  const w = await member(home, witness, room);
  await member(other, both, room);
  await member(fourth, both, room);
  const sockets = [];
  for (const user of stopped) sockets.push(await member(fourth, user, room));
  const rooms = [];
  for (let i = 0; i < 8; i += 1) rooms.push((await rest.room(witness))._id);

  await fourth.signal('SIGSTOP');
  for (const user of stopped) await w.take('message', (m) => m.content === left(user), REAPED);
  await settled(3);
  await inRoom(room, w, [witness, both]);
  // Some come in before the gateway knows that its lease is lost, some while it takes its seats again.
  for (const one of sockets) for (const next of rooms) one.emit('joinRoom', next);
  await fourth.signal('SIGCONT');
  for (const user of stopped) await eventually(`${user.name} to be back`, () => heard(w, came(user)) === 2);
  await settled(4);
  await inRoom(room, w, users);
  for (const [i, one] of sockets.entries()) {
    await one.say(room, `back ${i}`);
    await w.hears(`back ${i}`);
    one.none('disconnect');
  }
  for (const user of stopped) {
    assert.equal(heard(w, left(user)), 1, user.name);
    assert.equal(heard(w, came(user)), 2, 'once at first, and once again');
  }
  assert.equal(heard(w, left(both)), 0);
  assert.equal(heard(w, came(both)), 1);

  for (const one of sockets) for (const next of rooms) await one.take('joinRoomSuccess', ({ roomId }) => roomId === next);
  await eventually('no seat to be held under the old name', async () => (await strays()).length === 0)
    .catch(async (error) => assert.fail(`${error.message}: ${await strays()}`));
  for (const one of sockets) one.close();
  for (const user of stopped) await eventually(`${user.name} to leave`, () => heard(w, left(user)) === 2);
  await inRoom(room, w, [witness, both]);
});

test('a seat that was taken before a gateway knew that its lease was lost is given up with its user', async () => {
  const leasesAt = await stack.redis.ownerOf(Number(await stack.redis.ask(stack.redis.ports[0], 'CLUSTER', 'KEYSLOT', '{gateways}')));
  const isElsewhere = async (id) => (await stack.redis.ownerOf(parseInt(id.slice(0, 4), 16))) !== leasesAt;
  const elsewhere = (what, make, idOf) => eventually(what, async () => {
    const made = await make();
    return (await isElsewhere(idOf(made))) && made;
  });
  const [witness, seated] = await people(2);
  const late = await elsewhere('a user on another master', () => rest.user(unique('지각')), ({ id }) => id);
  const room = await elsewhere('a room on another master', async () => (await rest.room(witness))._id, (id) => id);
  const w = await member(home, witness, room);
  const s = await member(fourth, seated, room);
  const one = await chatter(fourth.url, late);

  await fourth.signal('SIGSTOP');
  await w.take('message', (m) => m.content === left(seated), REAPED);
  await settled(3);
  stack.redis.signal(leasesAt, 'SIGSTOP'); // so that the gateway cannot know
  one.emit('joinRoom', room);
  await fourth.signal('SIGCONT');
  await one.take('joinRoomSuccess').finally(() => stack.redis.signal(leasesAt, 'SIGCONT'));
  await settled(4);
  await inRoom(room, w, [witness, seated, late]);
  await eventually('no seat to be held under the old name', async () => (await strays()).length === 0)
    .catch(async (error) => assert.fail(`${error.message}: ${await strays()}`));
  for (const gone of [one, s]) gone.close();
  await w.take('message', (m) => m.content === left(late));
  await inRoom(room, w, [witness]);
  assert.equal(heard(w, came(late)), 1);
  assert.equal(heard(w, left(late)), 1);
});

test('a gateway that dies while it cleans up after another leaves the rest to a third', async () => {
  const [witness, ...users] = await people(20);
  const rooms = [];
  for (let i = 0; i < 20; i += 1) rooms.push((await rest.room(witness))._id);
  const reaper = third;
  await Promise.all([other, home].map((gateway) => gateway.signal('SIGKILL')));
  await settled(2);
  const sockets = await Promise.all(users.map((user) => chatter(fourth.url, user)));
  await Promise.all(sockets.map(async (one) => {
    for (const room of rooms) await one.join(room);
  }));
  const watching = await chatter(reaper.url, witness);
  for (const room of rooms) await watching.join(room);
  const leaves = (one) => one.all('message').filter((m) => m.content.endsWith('님이 퇴장하였습니다.'));

  await fourth.signal('SIGKILL');
  // Only one is left to clean up; it dies with the first words of it.
  await watching.take('message', (m) => m.content.endsWith('님이 퇴장하였습니다.'), REAPED);
  await reaper.signal('SIGKILL');
  await home.start();
  const count = async (user) => {
    const lists = await Promise.all(rooms.map((room) => rest.get(`/api/rooms/${room}`, { user })));
    return lists.reduce((sum, { json }) => sum + json.data.participants.length, 0);
  };
  const begun = await count(witness);
  console.log(`${begun} of ${rooms.length * (users.length + 1)} seats were left when the reaper died`);
  assert.ok(begun > rooms.length, 'it had not finished');
  assert.ok(begun < rooms.length * (users.length + 1), 'it had begun');

  const fresh = await chatter(home.url, witness);
  for (const room of rooms) await fresh.join(room);
  await settled(1);
  assert.equal(await count(witness), rooms.length);
  for (const room of rooms) {
    const history = [];
    for (let before, more = true; more; ) {
      const page = await fresh.history(room, { limit: 100, before });
      history.unshift(...page.messages);
      before = page.messages[0].timestamp;
      more = page.hasMore;
    }
    const said = leaves({ all: () => history }).map((m) => m.content);
    for (const user of users) assert.equal(said.filter((content) => content === left(user)).length, 1, user.name);
  }
  for (const gateway of [other, third, fourth]) await gateway.start();
}, { timeout: 90_000 });

test('a login after the gateway of the old one died: one user, who never left', async () => {
  const [witness, user] = await people(2);
  const room = (await rest.room(witness))._id;
  const w = await member(home, witness, room);
  await member(third, user, room);
  await third.signal('SIGKILL');
  const later = await rest.login(user);
  const fresh = await member(other, later, room);
  await settled(3);
  await fresh.say(room, 'it is me');
  await w.hears('it is me');
  await inRoom(room, w, [witness, user]);
  fresh.none('duplicate_login');
  fresh.none('session_ended');
  assert.equal(heard(w, left(user)), 0);
  assert.equal(heard(w, came(user)), 1);
  await third.start();
});

test('a login while the gateway of the old one stands still: the old socket ends when it goes on', async () => {
  const [witness, user] = await people(2);
  const room = (await rest.room(witness))._id;
  const w = await member(home, witness, room);
  const old = await member(third, user, room);
  await third.signal('SIGSTOP');
  const later = await rest.login(user);
  const fresh = await member(other, later, room);
  await settled(3);
  old.emit('chatMessage', { room, type: 'text', content: 'from the past' });
  await third.signal('SIGCONT');
  assert.equal((await old.take('session_ended')).reason, 'duplicate_login');
  await old.take('disconnect');
  await settled(4);
  await fresh.say(room, 'it is me');
  await w.hears('it is me');
  await inRoom(room, w, [witness, user]);
  fresh.none('duplicate_login');
  fresh.none('session_ended');
  assert.equal(heard(w, left(user)), 0);
  assert.equal(heard(w, came(user)), 1);
  assert.equal(heard(w, 'from the past'), 0);
});
