// What a chat message costs Redis: one function call, seen by MONITOR on every master.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { onStack } from './support/stack.js';
import { chatter } from './support/chatter.js';
import { eventually } from './support/wait.js';

const MESSAGES = 1_000;
const USERS = 10;

const { stack, test } = await onStack();
const { rest } = stack;

/** Commands that clients of a node send, by name; what functions call inside is left out. */
function monitor(port) {
  const child = spawn('redis-cli', ['-p', String(port), 'monitor'], { stdio: ['ignore', 'pipe', 'ignore'] });
  const seen = { commands: [], listening: false, stop: () => child.kill() };
  let rest = '';
  child.stdout.on('data', (bytes) => {
    const lines = (rest + bytes).split('\n');
    rest = lines.pop();
    for (const line of lines) {
      if (line === 'OK') seen.listening = true;
      const [, source, words] = line.match(/^[\d.]+ \[\d+ ([^\]]+)\] (.*)$/) ?? [];
      if (!source || source === 'lua') continue;
      const [command, first] = [...words.matchAll(/"((?:[^"\\]|\\.)*)"/g)].map((match) => match[1]);
      seen.commands.push(command.toUpperCase().startsWith('FCALL') ? first.replace(/_[0-9a-f]+$/, '') : command.toUpperCase());
    }
  });
  return seen;
}

test(`${MESSAGES} messages are ${MESSAGES} function calls and nothing else`, async () => {
  const owner = await rest.user('앨리스');
  const room = (await rest.room(owner))._id;
  const members = [];
  for (let i = 0; i < USERS; i += 1) {
    const one = await chatter(stack.gateways[i % stack.gateways.length].url, await rest.user(`사용자 ${i}`));
    await one.join(room);
    members.push(one);
  }
  for (const one of members) {
    await one.take('participantsUpdate', (list) => list.length === USERS + 1);
    await one.say(room, 'the first message may check the session');
  }
  const monitors = stack.redis.ports.map(monitor);
  try {
    await eventually('every monitor', () => monitors.every((one) => one.listening));
    for (const one of monitors) one.commands.length = 0;
    await Promise.all(members.map(async (one, i) => {
      for (let n = 0; n < MESSAGES / USERS; n += 1) {
        const ack = await one.socket.timeout(20_000).emitWithAck('chatMessage', { room, content: `${i} ${n}` });
        assert.equal(ack.ok, true, JSON.stringify(ack));
      }
    }));
    const counts = {};
    await eventually('every call in the monitors', () => {
      const calls = monitors.flatMap((one) => one.commands);
      for (const name of new Set(calls)) counts[name] = calls.filter((call) => call === name).length;
      return counts.append_message >= MESSAGES;
    });
    console.log(`commands during ${MESSAGES} messages: ${JSON.stringify(counts)}`);
    assert.equal(counts.append_message, MESSAGES);
    // What runs by the clock, the greeting of a replica that has just come into the slot map, and what masters send to
    // their replicas: messages, and the leases that were renewed.
    const clock = ['renew_lease', 'beat', 'read_tails', 'PING', 'CLUSTER', 'ZREVRANGE'];
    const aside = [...clock, 'HELLO', 'CLIENT', 'TIME', 'REPLCONF', 'XADD', 'ZADD'];
    assert.deepEqual(Object.keys(counts).filter((name) => !['append_message', ...aside].includes(name)), []);
    assert.ok((counts.XADD ?? 0) <= MESSAGES, 'a replica gets each message once');
    // One of each gateway may have been on its way when the monitors began.
    assert.ok((counts.ZADD ?? 0) <= (counts.renew_lease ?? 0) + stack.gateways.length, 'and each renewed lease');
  } finally {
    for (const one of monitors) one.stop();
  }
}, { timeout: 60_000 });
