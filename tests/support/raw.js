// WebSocket and TCP by hand: frames and requests that no decent client sends.
import { randomBytes } from 'node:crypto';
import net from 'node:net';
import { SOON, eventually } from './wait.js';

/** The path that the official client asks for. */
export const PATH = '/socket.io/?EIO=4&transport=websocket';

/** Opcodes of RFC 6455 §5.2. */
export const OP = { continuation: 0, text: 1, binary: 2, close: 8, ping: 9, pong: 10 };

/**
 * A client frame of RFC 6455 §5.2. `length` announces another payload length than the payload has,
 * as a 64-bit number; `rsv` is the three reserved bits.
 */
export function frame(payload, { opcode = OP.text, fin = true, rsv = 0, mask = true, length } = {}) {
  const body = Buffer.from(payload);
  const head = [(fin ? 0x80 : 0) | (rsv << 4) | opcode];
  const bit = mask ? 0x80 : 0;
  let size = Buffer.alloc(0);
  if (length !== undefined || body.length > 0xffff) {
    head.push(bit | 127);
    size = Buffer.alloc(8);
    size.writeBigUInt64BE(BigInt(length ?? body.length));
  } else if (body.length > 125) {
    head.push(bit | 126);
    size = Buffer.alloc(2);
    size.writeUInt16BE(body.length);
  } else {
    head.push(bit | body.length);
  }
  if (!mask) return Buffer.concat([Buffer.from(head), size, body]);
  const key = randomBytes(4);
  for (let i = 0; i < body.length; i += 1) body[i] ^= key[i % 4];
  return Buffer.concat([Buffer.from(head), size, key, body]);
}

/** The server frames in `bytes`, as far as they are whole: `{opcode, payload}`. */
function framesIn(bytes) {
  const frames = [];
  let at = 0;
  while (at + 2 <= bytes.length) {
    let length = bytes[at + 1] & 0x7f;
    let start = at + 2;
    if (length === 126) {
      if (start + 2 > bytes.length) break;
      length = bytes.readUInt16BE(start);
      start += 2;
    } else if (length === 127) {
      if (start + 8 > bytes.length) break;
      length = Number(bytes.readBigUInt64BE(start));
      start += 8;
    }
    if (start + length > bytes.length) break;
    frames.push({ opcode: bytes[at] & 0x0f, payload: bytes.subarray(start, start + length) });
    at = start + length;
  }
  return frames;
}

/** A TCP connection with all that it has received. */
export class RawSocket {
  /** Connects to the host and port of `url`. */
  static async dial(url) {
    const { hostname, port } = new URL(url);
    const raw = new RawSocket();
    raw.host = `${hostname}:${port}`;
    raw.bytes = Buffer.alloc(0);
    raw.end = undefined; // how the connection ended: 'eof' or 'reset'
    raw.socket = net.connect(Number(port), hostname);
    raw.socket.setNoDelay(true);
    raw.socket.on('data', (chunk) => (raw.bytes = Buffer.concat([raw.bytes, chunk])));
    raw.socket.on('end', () => (raw.end ??= 'eof'));
    raw.socket.on('error', () => (raw.end ??= 'reset'));
    raw.socket.on('close', () => (raw.end ??= 'eof'));
    await new Promise((resolve, reject) => raw.socket.once('connect', resolve).once('error', reject));
    return raw;
  }

  /** Upgrades to WebSocket. */
  static async upgrade(url) {
    const raw = await RawSocket.dial(url);
    raw.request('GET', PATH);
    await raw.headersDone();
    if (raw.status !== 101) throw new Error(`no upgrade but ${raw.status}`);
    return raw;
  }

  /** Upgrades and connects to the namespace as `user`. */
  static async connect(url, user) {
    const raw = await RawSocket.upgrade(url);
    raw.sendText(`40${JSON.stringify({ token: user.token, sessionId: user.sessionId })}`);
    await raw.hears((text) => text.startsWith('40'));
    return raw;
  }

  /** Writes an upgrade request; a header that is null is left out. */
  request(method, path, headers = {}, version = 'HTTP/1.1') {
    const all = {
      Host: this.host,
      Connection: 'Upgrade',
      Upgrade: 'websocket',
      'Sec-WebSocket-Version': '13',
      'Sec-WebSocket-Key': randomBytes(16).toString('base64'),
      ...headers,
    };
    const lines = Object.entries(all).filter(([, value]) => value !== null);
    this.write(`${method} ${path} ${version}\r\n${lines.map(([k, v]) => `${k}: ${v}\r\n`).join('')}\r\n`);
  }

  write(bytes) {
    if (!this.socket.destroyed) this.socket.write(bytes);
  }

  sendText(text) {
    this.write(frame(text));
  }

  sendEvent(...args) {
    this.sendText(`42${JSON.stringify(args)}`);
  }

  sendClose(code, reason = '') {
    const payload = Buffer.alloc(2);
    payload.writeUInt16BE(code);
    this.write(frame(Buffer.concat([payload, Buffer.from(reason)]), { opcode: OP.close }));
  }

  get headEnd() {
    return this.bytes.indexOf('\r\n\r\n');
  }

  /** The HTTP status, once the head is there. */
  get status() {
    const line = /^HTTP\/1\.[01] (\d{3})/.exec(this.bytes.toString('latin1', 0, 20));
    return line ? Number(line[1]) : undefined;
  }

  headersDone() {
    return eventually('an HTTP answer', () => this.headEnd >= 0, { every: 2 });
  }

  /** Server frames so far. */
  get frames() {
    return this.headEnd < 0 ? [] : framesIn(this.bytes.subarray(this.headEnd + 4));
  }

  /** Payloads of the text frames so far. */
  get texts() {
    return this.frames.filter((f) => f.opcode === OP.text).map((f) => f.payload.toString('utf8'));
  }

  /** The first text frame that matches. */
  hears(matches, within = SOON) {
    return eventually('a text frame', () => this.texts.find((text) => matches(text)), { within, every: 5 });
  }

  /** Code of the server's close frame; 1005 stands for one without a code (RFC 6455 §7.1.5). */
  get closeCode() {
    const close = this.frames.find((f) => f.opcode === OP.close);
    if (!close) return undefined;
    return close.payload.length >= 2 ? close.payload.readUInt16BE(0) : 1005;
  }

  /** Waits until the server has said that it closes, or has closed. */
  closed(within = SOON) {
    return eventually('the end of the connection', () => this.closeCode ?? this.end, { within, every: 5 });
  }

  /** Waits until TCP has ended. */
  gone(within = SOON) {
    return eventually('the end of TCP', () => this.end, { within, every: 5 });
  }

  destroy() {
    this.socket.destroy();
  }
}
