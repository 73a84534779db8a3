// The REST calls of contract section 1, as a client makes them.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { request } from './http.js';

/** A word that nothing else in this run uses. */
export const unique = (word) => `${word}-${randomBytes(6).toString('hex')}`;

/** The REST tier at one address. */
export class Rest {
  constructor(url) {
    this.url = url;
  }

  /**
   * One call. `user` adds both of its headers as the front-end does, `token` a Bearer header alone;
   * `body` is sent as JSON unless it is a string or bytes, which are sent as they are.
   */
  call(method, path, { user, token, headers = {}, body } = {}) {
    const all = { ...headers };
    if (user) Object.assign(all, { 'x-auth-token': user.token, 'x-session-id': user.sessionId });
    if (token) all.authorization = `Bearer ${token}`;
    let text = body;
    if (body !== undefined && typeof body !== 'string' && !Buffer.isBuffer(body)) text = JSON.stringify(body);
    const typed = Object.keys(all).some((name) => name.toLowerCase() === 'content-type');
    if (text !== undefined && !typed) all['content-type'] = 'application/json';
    if (text !== undefined) all['content-length'] = Buffer.byteLength(text);
    return request(method, this.url + path, { headers: all, body: text });
  }

  get(path, options) {
    return this.call('GET', path, options);
  }

  post(path, body, options = {}) {
    return this.call('POST', path, { ...options, body });
  }

  /** A call that must succeed with `status`; answers its JSON. */
  async must(status, answer) {
    const got = await answer;
    assert.equal(got.status, status, got.text);
    return got.json;
  }

  /** A registered user with a live session. */
  async user(name = '홍길동') {
    const email = `${unique('user')}@example.com`;
    const password = 'Passw0rd!';
    const json = await this.must(201, this.post('/api/auth/register', { name, email, password }));
    return { id: json.user._id, name, email, password, token: json.token, sessionId: json.sessionId };
  }

  /** The same user with a session of a later login, which ends the earlier one. */
  async login(user) {
    const { email, password } = user;
    const json = await this.must(200, this.post('/api/auth/login', { email, password }));
    return { ...user, token: json.token, sessionId: json.sessionId };
  }

  /** A new room's object. */
  async room(user, fields = {}) {
    const body = { name: unique('room'), ...fields };
    return (await this.must(201, this.post('/api/rooms', body, { user }))).data;
  }

  join(user, roomId, body = {}) {
    return this.post(`/api/rooms/${roomId}/join`, body, { user });
  }
}
