// Measurements of `bench` against real processes: small ones, whose counts must come out even.
import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { onStack, program } from './support/stack.js';

const MOST_SOCKETS = 30; // that the small gateway takes

const { stack, test } = await onStack({
  gateways: [{}, {}, { SLOTCAST_MAX_CONNECTIONS: String(MOST_SOCKETS) }],
});
const [first, second, small] = stack.gateways;

const address = (part) => `127.0.0.1:${part.port}`;
const at = (...gateways) =>
  gateways.flatMap((one) => ['--gateway', address(one), '--gateway-pid', String(one.process.pid)]);

/** Runs a command to its end: its exit code, what it said, and the figures of its report. */
const bench = (command, ...args) => benchWithin('true', command, ...args);

/** The same after a `limit` that the shell sets. */
async function benchWithin(limit, command, ...args) {
  const report = path.join(stack.dir, `${command}-${performance.now()}.json`);
  const env = { PATH: process.env.PATH, SLOTCAST_REDIS_URLS: stack.redis.urls, SLOTCAST_JWT_SECRET: stack.secret };
  const words = [program('bench'), command, ...args, '--report', report].map(String);
  const ran = await new Promise((resolve) => {
    execFile('sh', ['-c', `${limit} && exec "$@"`, 'sh', ...words], { env }, (error, stdout, stderr) =>
      resolve({ code: error?.code ?? 0, stdout, stderr }));
  });
  const figures = fs.existsSync(report) ? JSON.parse(fs.readFileSync(report, 'utf8')).figures : undefined;
  return { ...ran, report, figures };
}

/** A folder in which `bench report` has written README and plots from one result. */
function rendered(name, report) {
  const root = fs.mkdtempSync(path.join(stack.dir, 'rendered-'));
  const results = path.join(root, 'bench/results');
  fs.mkdirSync(results, { recursive: true });
  fs.copyFileSync(report, path.join(results, `${name}.json`));
  const blocks = ['goals', 'numbers', 'faults'].map((block) => `<!-- bench:${block} -->\n<!-- /bench:${block} -->\n`);
  fs.writeFileSync(path.join(root, 'README.md'), blocks.join(''));
  execFileSync(program('bench'), ['report', '--root', root]);
  execFileSync(program('bench'), ['report', '--root', root, '--check']);
  return { results, readme: fs.readFileSync(path.join(root, 'README.md'), 'utf8') };
}

const QUICK = ['--seconds', 2, '--warmup-seconds', 1, '--pause-ms', 500];

test('of what users do all at once, every message is delivered and marked, and every page answered', async () => {
  const [sockets, size, messages] = [40, 4, (40 * 3_000) / 500];
  const ran = await bench('mixed', ...at(first, second), '--sockets', sockets, '--room-size', size, ...QUICK);
  assert.equal(ran.code, 0, ran.stdout + ran.stderr);
  const [run] = ran.figures.runs;
  const { deliveries, marks, history } = run;
  assert.ok(messages - run.messages.accepted <= 4, `${run.messages.accepted} of ${messages} messages`);
  assert.equal(deliveries.due, size * run.messages.accepted);
  assert.equal(deliveries.received, deliveries.due);
  assert.equal(marks.sent, deliveries.received, 'the mark of the sender itself included');
  assert.ok(marks.told > 0 && marks.told <= size * marks.sent, `${marks.told} messagesRead`);
  assert.ok(Math.abs(history.asked - messages / 20) <= 1, `${history.asked} pages asked for`);
  assert.deepEqual([history.answered, history.empty], [history.asked, 0]);
  assert.equal(ran.figures.carried, null);
  for (const role of ['gateways', 'redis_masters', 'redis_replicas']) {
    assert.ok(run.servers[role].cpu_seconds > 0 && run.servers[role].resident_kib > 0, role);
  }
  assert.match(rendered('mixed', ran.report).readme, /^\| 40 users in rooms of 4 on 2 gateways/m);
});

test('a search goes up to its end while all are served in time', async () => {
  const ran = await bench('mixed', ...at(first, second), ...QUICK,
    '--sockets', 16, '--step', 12, '--max', 30, '--p95-ms', 60_000);
  assert.equal(ran.code, 0, ran.stdout + ran.stderr);
  assert.deepEqual(ran.figures.runs.map((stage) => [stage.sockets, stage.fault]), [[16, null], [28, null]]);
  assert.equal(ran.figures.carried, 28);
});

test('a search ends with the crowd that is served too late', async () => {
  const ran = await bench('mixed', ...at(first), ...QUICK, '--sockets', 16, '--step', 4, '--max', 40, '--p95-ms', 0);
  assert.equal(ran.code, 0, ran.stdout + ran.stderr);
  assert.equal(ran.figures.runs.length, 1);
  assert.match(ran.figures.runs[0].fault, /^95 % of the deliveries within \d+ ms$/);
  assert.equal(ran.figures.carried, 0);
});

test('a search ends with the crowd that does not get in', async () => {
  const ran = await bench('mixed', ...at(small), ...QUICK,
    '--sockets', MOST_SOCKETS - 10, '--step', 20, '--max', 100, '--p95-ms', 60_000);
  assert.equal(ran.code, 0, ran.stdout + ran.stderr);
  const [carried, refused, ...others] = ran.figures.runs;
  assert.deepEqual([carried.sockets, carried.fault, others], [MOST_SOCKETS - 10, null, []]);
  assert.match(refused.fault, /^not all sockets got into their rooms: .*503/s);
  assert.equal(ran.figures.carried, MOST_SOCKETS - 10);
  const { readme } = rendered('mixed-search', ran.report);
  assert.match(readme, /^\| users carried in rooms of 4 on one gateway.* \| 20 \(with 40: not all sockets got .*\) \|.*\|$/m);
  assert.match(readme, /^\| 20 users in rooms of 4/m);
});

test('fanout beside the bare loop begins only if the sockets of both may be open', async () => {
  const fanout = (limit) => benchWithin(limit, 'fanout', ...at(first), '--sockets', 100, '--with-limit',
    '--rate', 20, '--seconds', 1, '--warmup-seconds', 0);
  const refused = await fanout('ulimit -n 300');
  assert.equal(refused.code, 1, refused.stdout);
  assert.match(refused.stderr, /--with-limit has two sockets open for each member/);
  assert.match(refused.stderr, /328 files would have to be open, and the hard limit is 300/);
  const ran = await fanout('ulimit -n 328');
  assert.equal(ran.code, 0, ran.stdout + ran.stderr);
  assert.equal(ran.figures.runs[0].deliveries.received, ran.figures.runs[0].deliveries.due);
  assert.equal(ran.figures.runs[0].limit.deliveries.received, ran.figures.runs[0].limit.deliveries.due);
});

test('limit raises what its other process may open, too', async () => {
  const ran = await benchWithin('ulimit -S -n 256', 'limit', '--sockets', 400, '--frames-per-write', 1,
    '--seconds', 1, '--warmup-seconds', 0);
  assert.equal(ran.code, 0, ran.stdout + ran.stderr);
  assert.ok(ran.figures.runs[0].deliveries.received > 0);
});

test('in a small ramp nobody fails and nothing is lost; its steps are drawn', async () => {
  const backend = ['--backend', address(stack.backends[0]), '--backend-pid', stack.backends[0].process.pid];
  const ran = await bench('ramp', ...backend, ...at(first, second), '--first', 6, '--step', 3, '--every', 3, '--max', 9);
  assert.equal(ran.code, 0, ran.stdout + ran.stderr);
  const { points, ...figures } = ran.figures;
  assert.deepEqual(points.map((point) => point.failed), [0, 0, 0]);
  assert.equal(points.at(-1).users, 9);
  assert.deepEqual([figures.begun, figures.users_without_failure, figures.failed, figures.lost], [9, 9, 0, 0]);
  assert.deepEqual(figures.failures, {});
  assert.equal(figures.confirmed, figures.sent);
  assert.ok(figures.sent >= 9 && figures.due > figures.sent, `${figures.sent} sent, ${figures.due} due`);
  assert.ok(figures.marks >= figures.delivered && figures.marks_received > 0, JSON.stringify(figures));
  assert.ok(points[0].backend_cpu_cores > 0, 'who comes in has a password hashed');
  const { results, readme } = rendered('ramp', ran.report);
  assert.match(readme, /^\| users who register.* \| 9 \/ [\d,]+ \/ 0 \| `bench ramp`/m);
  assert.match(fs.readFileSync(path.join(results, 'ramp.svg'), 'utf8'), /^<svg/);
}, { timeout: 120_000 });
