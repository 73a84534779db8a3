// ./run itself: what it prints, what it keeps, what it names when it cannot, and that it leaves nothing behind.
import assert from 'node:assert/strict';
import { execFileSync, spawn } from 'node:child_process';
import fs from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { afterEach, test } from 'node:test';
import { chatter, closeChatters } from './support/chatter.js';
import { request } from './support/http.js';
import { freeBase } from './support/ports.js';
import { Rest } from './support/rest.js';
import { ROOT } from './support/stack.js';
import { eventually, inTime } from './support/wait.js';

const base = await freeBase();
const folder = path.join(ROOT, '.slotcast', String(base));
const rest = new Rest(`http://127.0.0.1:${base + 1}`);
const LONG = 120_000; // ms for a start, which may build first

const started = new Set();
process.once('exit', () => {
  for (const one of started) one.signal('SIGKILL');
  execFileSync(path.join(ROOT, 'deploy/local/cluster'), ['stop', '--dir', path.join(folder, 'redis')]);
  fs.rmSync(folder, { recursive: true, force: true });
});
for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.once(name, () => process.exit(1));
// A test that failed may have left its run.
afterEach(async () => {
  closeChatters();
  for (const run of started) {
    run.signal('SIGTERM');
    await run.ended();
  }
});

/** A running `./run` in a process group of its own, as a terminal would give it. */
class Run {
  constructor(options = [], env = {}) {
    const profile = process.env.SLOTCAST_PROFILE ?? 'debug';
    this.process = spawn('./run', ['--port-base', String(base), ...options], {
      cwd: ROOT,
      detached: true,
      env: { ...process.env, SLOTCAST_PROFILE: profile, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.output = '';
    for (const stream of [this.process.stdout, this.process.stderr]) {
      stream.on('data', (chunk) => (this.output += chunk));
    }
    this.exit = new Promise((resolve) => this.process.once('close', (code, signal) => resolve({ code, signal })));
    started.add(this);
    this.exit.then(() => started.delete(this));
  }

  /** To the whole group: what Ctrl-C does. */
  signal(name) {
    try {
      process.kill(-this.process.pid, name);
    } catch (error) {
      if (error.code !== 'ESRCH') throw error;
    }
  }

  /** Waits until it has said `text`; fails when it has ended without. */
  async prints(text) {
    const said = () => this.output.includes(text);
    await eventually(`"${text}"`, () => said() || !started.has(this), { within: LONG, every: 10 });
    assert.ok(said(), `ended without "${text}":\n${this.output}`);
  }

  ended() {
    return inTime('the end of ./run', this.exit, LONG);
  }
}

/** Command lines of live processes that have something of this run's folder open. */
function leftovers() {
  const found = [];
  for (const pid of fs.readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const links = [`/proc/${pid}/cwd`, ...fs.readdirSync(`/proc/${pid}/fd`).map((fd) => `/proc/${pid}/fd/${fd}`)];
      if (links.some((link) => fs.readlinkSync(link).startsWith(folder))) {
        found.push(fs.readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' '));
      }
    } catch {
      // It has ended meanwhile, or closed that file.
    }
  }
  return found;
}

const noneLeft = async () => {
  await eventually('every process to be gone', () => leftovers().length === 0).catch(() => {});
  assert.deepEqual(leftovers(), []);
};

/** Uploads a profile image past the backend; answers where it is. */
async function uploadImage(owner) {
  const image = { originalname: 'me.png', mimetype: 'image/png', size: 3 };
  const { image: promised, upload } = (await rest.post('/api/users/profile-image/presign', image, { user: owner })).json;
  const answer = await fetch(upload.url, { method: upload.method, headers: upload.headers, body: 'png' });
  assert.equal(answer.status, 200);
  const completed = await rest.post(`/api/users/profile-image/${promised._id}/complete`, {}, { user: owner });
  return completed.json.imageUrl;
}

const SMALL = ['--masters', '4', '--replicas', '0', '--gateways', '1'];
let user;
let image;

test('it starts everything, says where, and Ctrl-C stops everything', { timeout: 2 * LONG }, async () => {
  const run = new Run();
  await run.prints('Ctrl-C stops everything');
  for (const port of [base + 1, base + 2, base + 3, base + 90]) assert.ok(run.output.includes(`http://127.0.0.1:${port}`), run.output);
  assert.equal((await rest.get('/api/health')).json.status, 'ok');
  for (const admin of [base + 60, base + 70, base + 71]) {
    assert.equal((await request('GET', `http://127.0.0.1:${admin}/ready`)).status, 200);
  }
  user = await rest.user();
  const other = await rest.user();
  const room = (await rest.room(user))._id;
  const a = await chatter(`http://127.0.0.1:${base + 2}`, user);
  const b = await chatter(`http://127.0.0.1:${base + 3}`, other);
  await a.join(room);
  await b.join(room);
  await a.say(room, 'over two gateways');
  await b.hears('over two gateways');
  a.emit('chatMessage', { room, type: 'text', content: 'lbl276sz' });
  assert.equal((await a.take('error')).code, 'MESSAGE_REJECTED');
  image = await uploadImage(user);
  assert.ok(leftovers().length >= 10, 'the search for leftovers sees what runs');
  for (const secret of ['jwt-secret', 's3-secret'].map((name) => path.join(folder, name))) {
    assert.equal(fs.statSync(secret).mode & 0o777, 0o600);
    assert.ok(!run.output.includes(fs.readFileSync(secret, 'utf8')));
  }
  closeChatters();
  run.signal('SIGINT');
  const { code } = await run.ended();
  assert.equal(code, 130, run.output);
  await noneLeft();
});

test('a second start finds the data of the first', { timeout: 2 * LONG }, async () => {
  const run = new Run(['--gateways', '1']);
  await run.prints('Ctrl-C stops everything');
  const { json } = await rest.get('/api/rooms', { user: await rest.login(user) });
  assert.equal(json.metadata.total, 1);
  assert.equal((await rest.get(image)).text, 'png');
  run.signal('SIGTERM');
  assert.equal((await run.ended()).code, 143, run.output);
  await noneLeft();
});

test('a part that dies ends the run, which names it and its log', { timeout: 2 * LONG }, async () => {
  const run = new Run();
  await run.prints('Ctrl-C stops everything');
  const pid = execFileSync('pgrep', ['-P', String(run.process.pid), '-x', 'gateway'], { encoding: 'utf8' }).split('\n')[0];
  process.kill(Number(pid), 'SIGKILL');
  const { code } = await run.ended();
  assert.equal(code, 1);
  assert.match(run.output, /gateway-\d has stopped; see \.slotcast\/\d+\/logs\/gateway-\d\.log/);
  await noneLeft();
});

test('an interruption at any moment of the start leaves nothing', { timeout: 2 * LONG }, async () => {
  const moments = [
    (run) => run.prints('building'),
    (run) => run.prints('starting'),
    () => eventually('a Redis node', () => leftovers().length > 2, { every: 5, within: LONG }),
    () => eventually('the backend', () => leftovers().some((line) => line.includes('backend')), { every: 5, within: LONG }),
  ];
  for (const moment of moments) {
    const run = new Run();
    await moment(run);
    run.signal('SIGINT');
    assert.equal((await run.ended()).code, 130, run.output);
    await noneLeft();
  }
});

test('a busy port is named before anything starts', { timeout: LONG }, async () => {
  for (const port of [base + 1, base + 3, base + 71, base + 90, base + 102]) {
    const server = net.createServer();
    await new Promise((resolve) => server.listen(port, '127.0.0.1', resolve));
    const run = new Run();
    assert.equal((await run.ended()).code, 1);
    assert.match(run.output, new RegExp(`port ${port} is busy`));
    await noneLeft();
    await new Promise((resolve) => server.close(resolve));
  }
});

test('data of another shape is kept until --fresh forgets it', { timeout: 2 * LONG }, async () => {
  const other = new Run(['--masters', '4']);
  assert.equal((await other.ended()).code, 1);
  assert.match(other.output, /holds a cluster of another shape/);
  assert.match(other.output, /--fresh/);
  const run = new Run(['--fresh', ...SMALL]);
  await run.prints('Ctrl-C stops everything');
  const { email, password } = user;
  assert.equal((await rest.post('/api/auth/login', { email, password })).status, 401);
  assert.equal((await rest.get(image)).status, 404);
  run.signal('SIGINT');
  await run.ended();
  await noneLeft();
});

test('a bucket of the caller is used instead of a local one', { timeout: 2 * LONG }, async () => {
  const run = new Run(SMALL, {
    SLOTCAST_S3_BUCKET: 'elsewhere',
    SLOTCAST_S3_ENDPOINT: 'http://127.0.0.1:1',
    SLOTCAST_S3_PATH_STYLE: 'true',
    SLOTCAST_S3_ACCESS_KEY_ID: 'id',
    SLOTCAST_S3_SECRET_ACCESS_KEY: 'secret',
  });
  await run.prints('Ctrl-C stops everything');
  assert.match(run.output, /http:\/\/127\.0\.0\.1:1, bucket elsewhere/);
  assert.ok(!leftovers().some((line) => line.includes('object-store')));
  const file = { originalname: 'a.png', mimetype: 'image/png', size: 3 };
  const { json } = await rest.post('/api/files/presign', file, { user: await rest.user() });
  assert.ok(json.upload.url.startsWith('http://127.0.0.1:1/elsewhere/'), json.upload.url);
  run.signal('SIGINT');
  await run.ended();
  await noneLeft();
});

test('wrong options are named and --help explains', { timeout: LONG }, async () => {
  for (const [options, said] of [
    [['--gateways', '0'], /--gateways must be a number/],
    [['--backends', 'two'], /--backends must be a number/],
    [['--replicas'], /--replicas needs a value/],
    [['--fast'], /unknown option '--fast'/],
  ]) {
    const run = new Run(options);
    assert.equal((await run.ended()).code, 64);
    assert.match(run.output, said);
  }
  const help = new Run(['--help']);
  assert.equal((await help.ended()).code, 0);
  for (const option of ['--gateways', '--backends', '--masters', '--replicas', '--port-base', '--fresh']) {
    assert.ok(help.output.includes(option));
  }
});
