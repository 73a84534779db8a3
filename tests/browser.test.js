// A real browser on a page of another origin: files by forms and straight to the object store, under the CORS rules of
// deploy/s3, and how it shows them.
import assert from 'node:assert/strict';
import fs from 'node:fs';
import http from 'node:http';
import path from 'node:path';
import { after } from 'node:test';
import { deflateSync } from 'node:zlib';
import { chromium } from 'playwright-core';
import { MIB, sha256 } from './support/files.js';
import { ROOT, onStack } from './support/stack.js';

const { stack, test } = await onStack({ objects: 'embedded', gateways: 1 });
const { rest, objects } = stack;
const gateway = stack.gateways[0].url;

const origin = await servePage();
const browser = await chromium.launch({
  executablePath: '/usr/bin/chromium',
  headless: true,
  chromiumSandbox: false, // it may run as root
  args: [
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
  ],
});
after(() => browser.close());

/** A page with the browser's socket.io-client, at an origin of its own. */
async function servePage() {
  const script = fs.readFileSync(path.join(ROOT, 'tests/node_modules/socket.io-client/dist/socket.io.min.js'));
  const files = {
    '/': ['text/html', '<!doctype html><meta charset="utf-8"><title>chat</title><script src="/socket.io.js"></script>'],
    '/socket.io.js': ['text/javascript', script],
    '/favicon.ico': ['image/x-icon', ''],
  };
  const server = http.createServer((incoming, answer) => {
    const [type, body] = files[incoming.url] ?? ['text/plain', ''];
    answer.writeHead(files[incoming.url] ? 200 : 404, { 'content-type': type });
    answer.end(body);
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  after(() => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${server.address().port}`;
}

/** A picture of `side` × `side` grey points of noise, which no browser can show unless all of it is there. */
function png(side) {
  const rows = Buffer.alloc((side + 1) * side);
  for (let i = 0; i < rows.length; i += 1) rows[i] = i % (side + 1) === 0 ? 0 : (i * 7919) % 251;
  const header = Buffer.alloc(13);
  header.writeUInt32BE(side, 0);
  header.writeUInt32BE(side, 4);
  header.set([8, 0, 0, 0, 0], 8); // 8 bits of grey a point
  return Buffer.concat([
    Buffer.from('\x89PNG\r\n\x1a\n', 'latin1'),
    chunk('IHDR', header),
    chunk('IDAT', deflateSync(rows, { level: 0 })),
    chunk('IEND', Buffer.alloc(0)),
  ]);
}

function chunk(name, data) {
  const body = Buffer.concat([Buffer.from(name), data]);
  const framed = Buffer.alloc(body.length + 8);
  framed.writeUInt32BE(data.length, 0);
  framed.set(body, 4);
  framed.writeUInt32BE(crc32(body), body.length + 4);
  return framed;
}

/** The CRC of ISO 3309 that PNG wants. */
function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

const SIDE = 700;
const PICTURE = png(SIDE);

/** A page whose user has logged in across origins, in a new room of its own. */
async function loggedIn() {
  const { email, password } = await rest.user();
  const page = await browser.newPage();
  await page.goto(origin);
  const user = await page.evaluate(
    async ({ url, email, password, picture }) => {
      window.call = async (path, { headers = {}, ...options } = {}) => {
        const own = window.user ? { 'x-auth-token': window.user.token, 'x-session-id': window.user.sessionId } : {};
        return fetch(url + path, { credentials: 'include', headers: { ...own, ...headers }, ...options });
      };
      window.post = async (path, body) =>
        (await call(path, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })).json();
      window.send = (method, to, body, headers) =>
        new Promise((resolve) => {
          const request = new XMLHttpRequest();
          request.open(method, to);
          for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
          let progress = 0;
          request.upload.onprogress = (event) => (progress = event.loaded);
          request.onloadend = () => resolve({ status: request.status, text: request.responseText, progress });
          request.send(body);
        });
      // Resolves with the shown width of a picture; 0 stands for a broken one.
      window.show = (src) =>
        new Promise((resolve) => {
          const image = document.createElement('img');
          image.onload = image.onerror = () => resolve(image.naturalWidth);
          image.src = src;
          document.body.append(image);
        });
      window.picture = Uint8Array.from(atob(picture), (letter) => letter.charCodeAt(0));
      const { token, sessionId, user } = await post('/api/auth/login', { email, password });
      window.user = { token, sessionId };
      return { id: user._id, token, sessionId };
    },
    { url: rest.url, email, password, picture: PICTURE.toString('base64') },
  );
  const room = (await rest.room(user))._id;
  return { page, user, room };
}

/** Shows a file in a room by a message of the browser's own socket; answers the message. */
function sendMessage(page, room, file) {
  return page.evaluate(
    ({ gateway, room, file }) =>
      new Promise((resolve, reject) => {
        const socket = io(gateway, { transports: ['websocket', 'polling'], auth: user });
        socket.on('connect_error', reject);
        socket.on('joinRoomSuccess', () => socket.emit('chatMessage', { room, type: 'file', content: '', fileData: file }));
        socket.on('message', (message) => {
          if (message.type === 'file') resolve(message);
        });
        socket.on('connect', () => socket.emit('joinRoom', room));
      }),
    { gateway, room, file },
  );
}

const withToken = (call, { filename }, { token, sessionId }) =>
  `${rest.url}/api/files/${call}/${filename}?token=${encodeURIComponent(token)}&sessionId=${encodeURIComponent(sessionId)}`;

/** The origins on the way to an answer, redirects included. */
function stations(response) {
  const urls = [];
  for (let request = response.request(); request; request = request.redirectedFrom()) urls.unshift(new URL(request.url()).origin);
  return urls;
}

test('a page uploads to the store across origins, and shows, reads and saves what it has sent', async () => {
  const { page, user, room } = await loggedIn();
  const name = '내 사진 1.png';
  const uploaded = await page.evaluate(async (originalname) => {
    const { upload, file } = await post('/api/files/presign', { originalname, mimetype: 'image/png', size: picture.length });
    const put = await send(upload.method, upload.url, new Blob([picture]), upload.headers);
    return { put, origin: new URL(upload.url).origin, ...(await post(`/api/files/${file._id}/complete`)) };
  }, name);
  assert.equal(uploaded.put.status, 200, uploaded.put.text);
  assert.equal(uploaded.put.progress, PICTURE.length);
  assert.equal(uploaded.origin, objects.url);
  assert.equal(uploaded.success, true, uploaded.message);
  const { file } = uploaded;
  const message = await sendMessage(page, room, file);
  assert.equal(message.file.originalname, name);

  const [shown, width] = await Promise.all([
    page.waitForResponse((response) => response.url().includes(file.filename) && response.status() === 200),
    page.evaluate((src) => show(src), withToken('view', message.file, user)),
  ]);
  assert.equal(width, SIDE);
  assert.deepEqual(stations(shown), [rest.url, objects.url], 'the backend led it to the store');

  const read = await page.evaluate(async ({ filename }) => {
    const answer = await call(`/api/files/download/${filename}`);
    const digest = new Uint8Array(await crypto.subtle.digest('SHA-256', await answer.arrayBuffer()));
    const hex = [...digest].map((byte) => byte.toString(16).padStart(2, '0')).join('');
    return { status: answer.status, redirected: answer.redirected, disposition: answer.headers.get('content-disposition'), hex };
  }, file);
  const disposition = `attachment; filename*=UTF-8''${encodeURIComponent(name)}`;
  assert.deepEqual(read, { status: 200, redirected: false, disposition, hex: sha256(PICTURE) });

  const [saved] = await Promise.all([
    page.waitForEvent('download'),
    page.evaluate((src) => {
      const frame = document.createElement('iframe');
      frame.style.display = 'none';
      frame.src = src;
      document.body.append(frame);
    }, `${withToken('download', file, user)}&download=true`),
  ]);
  assert.equal(saved.suggestedFilename(), name);
  assert.equal(new URL(saved.url()).origin, objects.url);
  assert.equal(sha256(fs.readFileSync(await saved.path())), sha256(PICTURE));

  const tab = await browser.newPage();
  const opened = await tab.goto(withToken('view', file, user));
  assert.deepEqual(stations(opened), [rest.url, objects.url]);
  assert.equal(opened.headers()['content-type'], 'image/png');
  assert.equal(sha256(await opened.body()), sha256(PICTURE));
});

test('T15 and T16: a page uploads a PNG called .jpg by a form, as ever', async () => {
  const { page, user, room } = await loggedIn();
  const answer = await page.evaluate(async (url) => {
    const form = new FormData();
    form.append('file', new File([picture], 'profile.jpg', { type: 'image/jpeg' }));
    const { status, text } = await send('POST', `${url}/api/files/upload`, form, { 'x-auth-token': user.token });
    return { status, ...JSON.parse(text) };
  }, rest.url);
  assert.equal(answer.status, 200, answer.message);
  assert.deepEqual([answer.file.originalname, answer.file.mimetype, answer.file.size], ['profile.jpg', 'image/jpeg', PICTURE.length]);
  const { file } = await sendMessage(page, room, answer.file);
  assert.equal(await page.evaluate((src) => show(src), withToken('view', file, user)), SIDE);
});

test('a profile image is shown without a token', async () => {
  const { page } = await loggedIn();
  const imageUrl = await page.evaluate(async () => {
    const form = new FormData();
    form.append('profileImage', new File([picture], 'me.png', { type: 'image/png' }));
    return (await (await call('/api/users/profile-image', { method: 'POST', body: form })).json()).imageUrl;
  });
  assert.equal(await page.evaluate((src) => show(src), rest.url + imageUrl), SIDE);
  assert.equal(await page.evaluate((src) => show(src), `${rest.url}/api/uploads/profiles/1795332990001_0123456789abcdef.png`), 0);
});

test('a page can read why the store has refused it', async () => {
  const { page } = await loggedIn();
  const answers = await page.evaluate(async () => {
    const wish = { originalname: 'a.png', mimetype: 'image/png', size: picture.length };
    const { upload } = await post('/api/files/presign', wish);
    const put = async (url, type, body) => {
      const answer = await fetch(url, { method: 'PUT', headers: { 'content-type': type }, body });
      return [answer.status, /<Code>(.*)<\/Code>/.exec(await answer.text())?.[1]];
    };
    return [
      await put(upload.url, 'text/html', picture),
      await put(upload.url, 'image/png', picture.slice(1)),
      await put(upload.url.replace('uploads/', 'files/'), 'image/png', picture),
      (await put(upload.url, 'image/png', picture))[0],
    ];
  });
  const wrong = [403, 'SignatureDoesNotMatch'];
  assert.deepEqual(answers, [wrong, wrong, wrong, 200]);
});

test('a page learns that a file is too large, by fetch and by XMLHttpRequest', async () => {
  const { page } = await loggedIn();
  const answers = await page.evaluate(
    async ({ url, size }) => {
      const form = new FormData();
      form.append('file', new File([new Uint8Array(size)], 'a.mp4', { type: 'video/mp4' }));
      const fetched = await call('/api/files/upload', { method: 'POST', body: form });
      const sent = await send('POST', `${url}/api/files/upload`, form, { 'x-auth-token': user.token });
      return [
        { status: fetched.status, ...(await fetched.json()) },
        { status: sent.status, ...JSON.parse(sent.text || '{}') },
      ];
    },
    { url: rest.url, size: 60 * MIB },
  );
  for (const { status, code, message } of answers) {
    assert.deepEqual([status, code, message], [413, 'FILE_TOO_LARGE', '파일 크기는 50MB를 초과할 수 없습니다.']);
  }
});
