// One user's socket, driven by the unmodified socket.io-client, with everything it received in order.
import assert from 'node:assert/strict';
import { io as newest } from 'socket.io-client';
import { io as older } from 'socket.io-client-4-7';
import { SOON, inTime } from './wait.js';

/** The client versions that every chat test runs with. */
export const CLIENTS = [
  ['4.8', newest],
  ['4.7', older],
];

const open = new Set();

/** Closes the sockets of a test. */
export function closeChatters() {
  for (const chatter of open) chatter.close();
  open.clear();
}

/** One socket of one user. */
export class Chatter {
  constructor(url, user, { io = newest, ...options } = {}) {
    this.user = user;
    this.received = []; // {event, args, at} in order of arrival, the socket's own life included
    this.taken = new Set();
    this.waiters = new Set();
    this.socket = io(url, {
      transports: ['websocket'],
      forceNew: true,
      reconnection: false,
      auth: user && { token: user.token, sessionId: user.sessionId },
      ...options,
    });
    open.add(this);
    const note = (event) => (...args) => this.note(event, args);
    this.socket.onAny((event, ...args) => this.note(event, args));
    for (const event of ['connect', 'connect_error', 'disconnect']) this.socket.on(event, note(event));
  }

  note(event, args) {
    this.received.push({ event, args, at: Date.now() });
    for (const waiter of [...this.waiters]) waiter();
  }

  /** Waits until the server has accepted the socket. */
  async connected() {
    await this.take('connect');
    return this;
  }

  /**
   * The first argument of the earliest `event` that matches and was not taken yet, waiting for it if need be.
   */
  async take(event, matches = () => true, within = SOON) {
    const item = await this.next(event, (got) => got.event === event && matches(...got.args), within);
    return item.args[0];
  }

  /** The earliest item of `received` that matches and was not taken yet; `what` names it in the error. */
  async next(what, matches, within = SOON) {
    let look;
    const found = new Promise((resolve) => {
      look = () => {
        const item = this.received.find((got) => !this.taken.has(got) && matches(got));
        if (!item) return;
        this.taken.add(item);
        this.waiters.delete(look);
        resolve(item);
      };
      this.waiters.add(look);
      look();
    });
    try {
      return await inTime(what, found, within);
    } catch (error) {
      error.message += `; received: ${this.summary()}`;
      throw error;
    } finally {
      this.waiters.delete(look);
    }
  }

  /** First arguments of every `event` so far, taken or not. */
  all(event) {
    return this.received.filter((item) => item.event === event).map((item) => item.args[0]);
  }

  /** First arguments of every `event` that no `take` has had. */
  left(event) {
    return this.received
      .filter((item) => item.event === event && !this.taken.has(item))
      .map((item) => item.args[0]);
  }

  /** Fails when an `event` arrived that no `take` has had. */
  none(event) {
    assert.deepEqual(this.left(event), [], `no further '${event}' was due`);
  }

  /** Names of what arrived since item number `from`. */
  order(from = 0) {
    return this.received.slice(from).map((item) => item.event);
  }

  summary() {
    return this.order().slice(-20).join(' ');
  }

  emit(...args) {
    this.socket.emit(...args);
  }

  /** Emits with an acknowledgement and answers what the server said in it. */
  async ask(event, ...args) {
    try {
      return await this.socket.timeout(SOON).emitWithAck(event, ...args);
    } catch (error) {
      throw new Error(`no answer to ${event}: ${error.message}; received: ${this.summary()}`);
    }
  }

  /** Joins a room and answers the payload of `joinRoomSuccess`. */
  async join(roomId) {
    this.emit('joinRoom', roomId);
    const answer = await this.next(
      `an answer to joinRoom ${roomId}`,
      ({ event, args }) =>
        event === 'joinRoomError' || (event === 'joinRoomSuccess' && args[0].roomId === roomId),
    );
    assert.equal(answer.event, 'joinRoomSuccess', JSON.stringify(answer.args));
    return answer.args[0];
  }

  /** Sends a text that must be accepted; answers its acknowledgement. */
  async say(roomId, content, more = {}) {
    const ack = await this.ask('chatMessage', { room: roomId, type: 'text', content, ...more });
    assert.equal(ack?.ok, true, `accepted: ${JSON.stringify(ack)}`);
    return ack;
  }

  /** The room's message with this text. */
  hears(content, within = SOON) {
    return this.take('message', (message) => message.content === content, within);
  }

  /** One page of a room's history. */
  async history(roomId, more = {}) {
    this.emit('fetchPreviousMessages', { roomId, ...more });
    return this.take('previousMessagesLoaded');
  }

  close() {
    this.socket.disconnect();
    open.delete(this);
  }
}

/** A connected socket of `user` at `url`. */
export function chatter(url, user, options) {
  return new Chatter(url, user, options).connected();
}
