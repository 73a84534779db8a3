// One program that a test file runs: started until it is ready, logged into a file, ended by a signal.
import { spawn } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import { eventually, inTime } from './wait.js';

/** The checkout. */
export const ROOT = path.resolve(import.meta.dirname ?? new URL('.', import.meta.url).pathname, '../..');

const PROGRAMS = path.join(
  path.resolve(ROOT, process.env.CARGO_TARGET_DIR ?? 'target'),
  process.env.SLOTCAST_PROFILE ?? 'debug',
);
/** The built program of a tier. */
export const program = (tier) => path.join(PROGRAMS, tier);

const READY = 30_000; // ms from a program's start until it must be ready
const TAIL = 25; // lines of a log shown when a test fails

/** A program whose subclass says by `isReady()` when it is up. */
export class Program {
  constructor(name, dir) {
    this.name = name;
    this.log = path.join(dir, `${name}.log`);
  }

  /** Starts the process and waits until it is ready. */
  async launch(file, args, env) {
    const log = fs.openSync(this.log, 'a');
    const started = spawn(file, args, { env: { PATH: process.env.PATH, ...env }, stdio: ['ignore', log, log] });
    fs.closeSync(log);
    started.unref();
    this.process = started;
    this.exit = new Promise((resolve) => {
      started.once('error', (error) => resolve({ error: error.message }));
      started.once('exit', (code, signal) => resolve({ code, signal }));
    });
    let ended;
    this.exit.then((exit) => (ended = exit));
    await eventually(`${this.name} to be ready`, async () => ended ?? (await this.isReady()), { within: READY });
    if (ended) throw new Error(`${this.name} ended at once: ${JSON.stringify(ended)}\n${this.tail()}`);
  }

  get running() {
    return this.process && this.process.exitCode === null && this.process.signalCode === null;
  }

  /** Sends a signal and, where it ends the process, waits for that. */
  async signal(name) {
    this.process.kill(name);
    if (name === 'SIGSTOP' || name === 'SIGCONT') return undefined;
    return inTime(`${this.name} to end by ${name}`, this.exit, 60_000);
  }

  /** The last lines of the log. */
  tail() {
    return fs.readFileSync(this.log, 'utf8').trimEnd().split('\n').slice(-TAIL).join('\n');
  }
}
