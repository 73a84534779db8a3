// Files as clients send and fetch them: forms byte by byte, presigned uploads, messages that show them.
import assert from 'node:assert/strict';
import { createHash, randomBytes } from 'node:crypto';
import { RawSocket } from './raw.js';

const BOUNDARY = '----WebKitFormBoundaryq7Kx0Lw2Tz8mVb1e';
const PART_END = '\r\n';

export const MIB = 1024 * 1024;
export const sha256 = (bytes) => createHash('sha256').update(bytes).digest('hex');

/** A JPEG by its name and type. */
export const photo = (bytes = randomBytes(1000), name = 'photo.jpg') => ({ name, type: 'image/jpeg', bytes });

/** A part of a form: a file, or a plain field `{field, value}`. */
function part({ field, value, name, type, bytes }) {
  const head = [`--${BOUNDARY}`];
  const disposition = `Content-Disposition: form-data; name="${field}"`;
  head.push(name === undefined ? disposition : `${disposition}; filename="${name}"`);
  if (type !== undefined) head.push(`Content-Type: ${type}`);
  return Buffer.concat([Buffer.from(`${head.join('\r\n')}\r\n\r\n`), bytes ?? Buffer.from(value), Buffer.from(PART_END)]);
}

/** The bytes of a form of `parts`; `end` is what follows the last boundary. */
export function form(parts, { end = '--\r\n' } = {}) {
  return Buffer.concat([...parts.map(part), Buffer.from(`--${BOUNDARY}${end}`)]);
}

const FORM_TYPE = `multipart/form-data; boundary=${BOUNDARY}`;

/** Posts a form, as it is, to a call that takes files. */
export function postForm(rest, user, body, { path = '/api/files/upload', headers = {} } = {}) {
  return rest.call('POST', path, { user, headers: { 'content-type': FORM_TYPE, ...headers }, body });
}

/** Uploads a file by a form. */
export function upload(rest, user, file, options) {
  return postForm(rest, user, form([{ field: 'file', ...file }]), options);
}

/** Uploads a profile image by a form. */
export function uploadImage(rest, user, file, options = {}) {
  const body = form([{ field: 'profileImage', ...file }]);
  return postForm(rest, user, body, { ...options, path: '/api/users/profile-image' });
}

/** A file that must be taken; answers what the answer says of it. */
export async function uploaded(rest, user, file) {
  return (await rest.must(200, upload(rest, user, file))).file;
}

/** Begins to upload `body`, of which only the first `sent` bytes follow the head; answers the connection. */
export async function beginUpload(rest, user, body, sent, length = body.length) {
  const raw = await RawSocket.dial(rest.url);
  const head = [
    'POST /api/files/upload HTTP/1.1',
    `Host: ${raw.host}`,
    `x-auth-token: ${user.token}`,
    `Content-Type: ${FORM_TYPE}`,
    `Content-Length: ${length}`,
  ];
  raw.write(`${head.join('\r\n')}\r\n\r\n`);
  raw.write(body.subarray(0, sent));
  return raw;
}

/** Asks where to upload a file of this name, type and number of bytes. */
export function presign(rest, user, { name, type, bytes, size = bytes.length }, path = '/api/files/presign') {
  return rest.post(path, { originalname: name, mimetype: type, size }, { user });
}

/** Where to upload a file to; answers `{file, upload}`. */
export function presigned(rest, user, file) {
  return rest.must(200, presign(rest, user, file));
}

/** PUTs bytes to a presigned URL as a browser does. */
export function put({ url, method, headers }, bytes) {
  return fetch(url, { method, headers, body: bytes });
}

export const complete = (rest, user, id) => rest.post(`/api/files/${id}/complete`, undefined, { user });

/** A file uploaded past the backend; answers what the last answer says of it. */
export async function uploadedDirectly(rest, user, file) {
  const { file: promised, upload: target } = await presigned(rest, user, file);
  const answer = await put(target, file.bytes);
  assert.equal(answer.status, 200, await answer.text());
  return (await rest.must(200, complete(rest, user, promised._id))).file;
}

/** Shows a file in a room by a message; answers the message as `hearer` hears it. */
export async function show(sender, room, file, hearer = sender) {
  sender.emit('chatMessage', { room, type: 'file', content: '', fileData: file });
  return hearer.take('message', (message) => message.type === 'file' && message.file._id === file._id);
}

export const view = (rest, user, file, options = {}) => rest.get(`/api/files/view/${file.filename}`, { user, ...options });
export const download = (rest, user, file, options = {}) => rest.get(`/api/files/download/${file.filename}`, { user, ...options });
