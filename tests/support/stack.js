// A whole Slotcast of real processes on free ports of this machine: Redis Cluster, object store, backends, gateways.
import { execFile, execFileSync, spawn } from 'node:child_process';
import fs from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test as nodeTest, after } from 'node:test';
import { promisify } from 'node:util';
import { Rest } from './rest.js';
import { closeChatters } from './chatter.js';
import { request } from './http.js';
import { objectStore } from './objects.js';
import { freeBase } from './ports.js';
import { Program, ROOT, program } from './program.js';
import { eventually } from './wait.js';

const run = promisify(execFile);

export { ROOT, program };

const CLUSTER = path.join(ROOT, 'deploy/local/cluster');

/** The words of the browser suite, which the contract wants refused. */
export const BANNED = ['b3sig78jv', '9c0hej6x', 'lbl276sz', 'p4e84', 'hy8m', 'ikqy2y'];

/** One backend or gateway process. */
class Part extends Program {
  constructor(name, tier, port, admin, env, dir) {
    super(name, dir);
    Object.assign(this, { tier, port, admin, env });
    this.url = `http://127.0.0.1:${port}`;
    this.adminUrl = `http://127.0.0.1:${admin}`;
  }

  /** Starts the process, with `env` laid over its own, and waits until it is ready. */
  start(env = {}) {
    return this.launch(program(this.tier), [], {
      SLOTCAST_LISTEN: `127.0.0.1:${this.port}`,
      SLOTCAST_ADMIN_LISTEN: `127.0.0.1:${this.admin}`,
      ...this.env,
      ...env,
    });
  }

  /** The status of `/ready`. */
  async ready() {
    return (await request('GET', `${this.adminUrl}/ready`)).status;
  }

  async isReady() {
    return (await this.ready()) === 200;
  }

  /** The value of a metric, with its labels as `/metrics` writes them; 0 while it does not show. */
  async metric(name) {
    const { text } = await request('GET', `${this.adminUrl}/metrics`);
    const line = text.split('\n').find((one) => one.startsWith(`${name} `));
    return line ? Number(line.slice(name.length + 1)) : 0;
  }
}

/** The Redis nodes of a stack. */
class Redis {
  constructor(dir, port, masters, replicas) {
    Object.assign(this, { dir, port, masters, replicas });
    this.ports = Array.from({ length: masters + replicas }, (_, i) => port + i);
  }

  get urls() {
    return this.ports.map((port) => `redis://127.0.0.1:${port}`).join(',');
  }

  async start() {
    const shape = ['--port', this.port, '--masters', this.masters, '--replicas', this.replicas];
    await run(CLUSTER, ['start', '--dir', this.dir, ...shape.map(String)]);
  }

  stop() {
    execFileSync(CLUSTER, ['stop', '--dir', this.dir]);
  }

  async ask(port, ...command) {
    const { stdout } = await run('redis-cli', ['-p', String(port), ...command.map(String)]);
    return stdout.trim();
  }

  /** Ports of the nodes that own slots and answer, with their ranges, as `port` sees them. */
  async owners(port = this.ports[0]) {
    const lines = (await this.ask(port, 'CLUSTER', 'NODES')).split('\n').map((l) => l.split(' '));
    return lines
      .filter((f) => f[2].includes('master') && !f[2].includes('fail') && f.length > 8)
      .map((f) => ({ port: Number(f[1].split('@')[0].split(':')[1]), ranges: f.slice(8) }));
  }

  /** The port of the node that owns `slot`. */
  async ownerOf(slot, port) {
    const holds = (range) => {
      const [from, to = from] = range.split('-').map(Number);
      return slot >= from && slot <= to;
    };
    return (await this.owners(port)).find((node) => node.ranges.some(holds))?.port;
  }

  /** The port of a replica of the master on `port`, once that knows one. */
  async replicaOf(port) {
    const id = await this.ask(port, 'CLUSTER', 'MYID');
    return eventually(`a replica of the master on port ${port}`, async () => {
      const lines = (await this.ask(port, 'CLUSTER', 'REPLICAS', id)).split('\n').map((l) => l.split(' '));
      return Number(lines[0][1].split('@')[0].split(':')[1]);
    });
  }

  /** Whether the node on `port` is a replica whose link to its master is up. */
  async follows(port) {
    return (await this.ask(port, 'INFO', 'replication')).includes('master_link_status:up');
  }

  /** Makes a replica the master of its shard, by agreement with the one before, and waits until all know it. */
  async failover(port) {
    const slot = await this.firstSlot(port);
    const isMaster = async () => (await this.ask(port, 'ROLE')).startsWith('master');
    // A failover soon after another one may come to nothing; Redis gives it up after five seconds.
    await eventually(`the node on port ${port} to be master`, async () => {
      await this.ask(port, 'CLUSTER', 'FAILOVER');
      return eventually('the failover', isMaster, { within: 6_000 });
    }, { within: 20_000 });
    await this.agree(slot, port);
  }

  /** A slot of the shard that the node on `port` belongs to. */
  async firstSlot(port) {
    const shards = await this.ask(port, 'CLUSTER', 'NODES');
    const self = shards.split('\n').map((l) => l.split(' ')).find((f) => f[2].includes('myself'));
    const master = self[2].includes('master') ? self[0] : self[3];
    const owner = shards.split('\n').map((l) => l.split(' ')).find((f) => f[0] === master);
    return Number(owner[8].split('-')[0]);
  }

  /** Waits until every node that answers takes `port` for the owner of `slot`. */
  async agree(slot, port) {
    const knows = async (node) => (await this.ownerOf(slot, node)) === port;
    await eventually(`all nodes to know the owner of slot ${slot}`, async () =>
      (await Promise.all(this.ports.map(knows))).every(Boolean), { within: 20_000 });
  }

  /** Moves a slot with its keys to another master. */
  async moveSlot(slot, toPort) {
    const move = await this.beginMove(slot, toPort);
    await this.moveKeys(move);
    await this.endMove(move);
  }

  /** Opens the move of a slot: absent keys are asked for at the new master. */
  async beginMove(slot, toPort) {
    const fromPort = await this.ownerOf(slot);
    const [from, to] = await Promise.all([fromPort, toPort].map((port) => this.ask(port, 'CLUSTER', 'MYID')));
    await this.ask(toPort, 'CLUSTER', 'SETSLOT', slot, 'IMPORTING', from);
    await this.ask(fromPort, 'CLUSTER', 'SETSLOT', slot, 'MIGRATING', to);
    return { slot, fromPort, toPort, to };
  }

  /** Moves what keys the old master still has in the slot, `count` at a time. */
  async moveKeys({ slot, fromPort, toPort }, count = 100) {
    for (;;) {
      const keys = (await this.ask(fromPort, 'CLUSTER', 'GETKEYSINSLOT', slot, count)).split('\n').filter(Boolean);
      if (keys.length === 0) return;
      const moved = await this.ask(fromPort, 'MIGRATE', '127.0.0.1', toPort, '', 0, 5000, 'KEYS', ...keys);
      if (!['OK', 'NOKEY'].includes(moved)) throw new Error(`MIGRATE of slot ${slot}: ${moved}`);
    }
  }

  /** Hands the slot over. */
  async endMove({ slot, fromPort, toPort, to }) {
    for (const port of [toPort, fromPort]) await this.ask(port, 'CLUSTER', 'SETSLOT', slot, 'NODE', to);
    await this.agree(slot, toPort);
  }

  pid(port) {
    return Number(fs.readFileSync(path.join(this.dir, `node-${port}`, 'pid'), 'utf8'));
  }

  signal(port, name) {
    process.kill(this.pid(port), name);
  }

  /** Starts a node again that was killed. */
  restart(port) {
    const home = path.join(this.dir, `node-${port}`);
    const node = spawn('redis-server', [path.join(home, 'redis.conf')], { detached: true, stdio: 'ignore' });
    node.unref();
    fs.writeFileSync(path.join(home, 'pid'), String(node.pid));
  }
}

/** See `onStack`. */
class Stack {
  constructor({ masters = 3, replicas = 3, gateways = 2, backends = 1, objects, env = {} }) {
    const settings = (parts) => (typeof parts === 'number' ? Array(parts).fill({}) : parts);
    Object.assign(this, { shape: { masters, replicas }, gatewayEnvs: settings(gateways), backendEnvs: settings(backends) });
    this.objectsKind = objects;
    this.dir = fs.mkdtempSync(path.join(os.tmpdir(), 'slotcast-test-'));
    this.secret = 'a secret for the tests, which is long enough';
    this.env = {
      SLOTCAST_JWT_SECRET: this.secret,
      SLOTCAST_LOG: process.env.SLOTCAST_LOG ?? 'info',
      SLOTCAST_BANNED_WORDS_FILE: this.bannedWords(),
      ...env,
    };
    this.gateways = [];
    this.backends = [];
  }

  /** 10,000 words: the six of the browser suite and others that no test text contains. */
  bannedWords() {
    const file = path.join(this.dir, 'banned-words.txt');
    const others = Array.from({ length: 10_000 - BANNED.length }, (_, i) => `zq${String(i).padStart(5, '0')}`);
    fs.writeFileSync(file, [...BANNED, ...others].join('\n') + '\n');
    return file;
  }

  async start() {
    const { masters, replicas } = this.shape;
    for (let tries = 1; ; tries += 1) {
      this.base = await freeBase();
      this.redis = new Redis(path.join(this.dir, `redis-${tries}`), this.base, masters, replicas);
      try {
        await this.redis.start();
        break;
      } catch (error) {
        if (tries === 5) throw error;
      }
    }
    this.env.SLOTCAST_REDIS_URLS = this.redis.urls;
    this.nextPort = this.base + masters + replicas;
    if (this.objectsKind) await this.startObjects();
    for (const env of this.backendEnvs) await this.addBackend(env);
    for (const env of this.gatewayEnvs) await this.addGateway(env);
    this.rest = new Rest(this.backends[0].url);
  }

  async startObjects() {
    this.objects = objectStore(this.objectsKind, this.dir, this.nextPort);
    this.nextPort += this.objects.ports;
    await this.objects.start();
  }

  async add(tier, parts, env) {
    const name = `${tier}-${parts.length}`;
    const part = new Part(name, tier, this.nextPort, this.nextPort + 1, { ...this.env, ...env }, this.dir);
    this.nextPort += 2;
    parts.push(part);
    await part.start();
    return part;
  }

  addBackend(env = {}) {
    return this.add('backend', this.backends, { ...this.objects?.env, ...env });
  }

  addGateway(env = {}) {
    return this.add('gateway', this.gateways, env);
  }

  get parts() {
    return [...this.gateways, ...this.backends];
  }

  /** Kills what runs; synchronous, so that it also works while this process ends. */
  stop() {
    for (const part of this.parts) if (part.running) part.process.kill('SIGKILL');
    this.objects?.stop();
    if (this.redis) this.redis.stop();
    fs.rmSync(this.dir, { recursive: true, force: true, maxRetries: 5 }); // what was killed may still write
    this.gateways = [];
    this.backends = [];
    this.redis = undefined;
    this.objects = undefined;
  }

  /** The last lines of every part's log. */
  logs() {
    const programs = this.objects ? [...this.parts, this.objects] : this.parts;
    return programs.map((part) => `---- ${part.name}\n${part.tail()}`).join('\n');
  }
}

/**
 * Starts a stack for a test file and stops it after the file's last test.
 *
 * `gateways` and `backends` are counts, or lists of environments (one a part); `env` goes to every part.
 * `objects` names the object store that the backends get, by default none: `embedded` or `seaweedfs`.
 * The returned `test` closes the test's sockets at its end and shows the logs when it fails.
 */
export async function onStack(options = {}) {
  const stack = new Stack(options);
  process.once('exit', () => stack.stop());
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.once(name, () => process.exit(1));
  await stack.start();
  after(() => stack.stop());
  const test = (name, body, { timeout = 60_000 } = {}) =>
    nodeTest(name, { timeout }, async (context) => {
      try {
        await body(context);
      } catch (error) {
        console.error(`---- "${name}" failed; the ends of the logs:\n${stack.logs()}`);
        throw error;
      } finally {
        closeChatters();
      }
    });
  return { stack, test };
}
