// Wrong configuration: every mistake in one go, exit code 64, no secret printed.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { program } from './support/stack.js';

const SECRET = 'short-but-secret';

for (const tier of ['backend', 'gateway']) {
  const start = (env) => {
    const { status, stdout, stderr } = spawnSync(program(tier), { env, encoding: 'utf8', timeout: 20_000 });
    return { status, said: stdout + stderr };
  };

  test(`${tier}: all mistakes are named at once`, () => {
    const { status, said } = start({
      SLOTCAST_JWT_SECRET: SECRET,
      SLOTCAST_SHARD_COUNT: '16385',
      SLOTCAST_LISTEN: 'nowhere',
      SLOTCAST_LOG_FORMAT: 'poem',
      SLOTCAST_SESSION_TTL_SECONDS: 'soon',
    });
    assert.equal(status, 64, said);
    const wrong = ['REDIS_URLS', 'JWT_SECRET', 'LISTEN', 'LOG_FORMAT', 'SESSION_TTL_SECONDS'];
    if (tier === 'backend') wrong.push('SHARD_COUNT'); // rooms are made there
    for (const name of wrong) {
      assert.ok(said.includes(`SLOTCAST_${name}`), `${name} in\n${said}`);
    }
    assert.ok(!said.includes(SECRET), 'the secret is not shown');
  });

  test(`${tier}: nothing set at all names what is required`, () => {
    const { status, said } = start({});
    assert.equal(status, 64, said);
    for (const name of ['SLOTCAST_REDIS_URLS', 'SLOTCAST_JWT_SECRET']) assert.ok(said.includes(name), said);
  });
}
