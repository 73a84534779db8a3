// Files and profile images against one kind of object store: every call, as old and as newer clients make it.
import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { chatter } from './chatter.js';
import {
  MIB,
  beginUpload,
  complete,
  download,
  form,
  photo,
  postForm,
  presign,
  presigned,
  put,
  sha256,
  show,
  upload,
  uploadImage,
  uploaded,
  uploadedDirectly,
  view,
} from './files.js';
import { request } from './http.js';
import { Rest } from './rest.js';
import { onStack } from './stack.js';
import { eventually } from './wait.js';

const ORIGIN = 'https://chat.example';
const UNKNOWN_ID = 'f'.repeat(24);
const URL_SECONDS = 2; // a URL's life is counted in whole seconds: of two, one is certain
const ID = /^[0-9a-f]{24}$/;
const ISO = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
const STORED_NAME = /^\d{13}_[0-9a-f]{16}\.jpg$/;
const IMMUTABLE = 'max-age=31536000, immutable';
const DOCX = 'application/vnd.openxmlformats-officedocument.wordprocessingml.document';
const PNG = Buffer.from(
  'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==',
  'base64',
);
const BEGUN = { 'content-type': 'image/jpeg' };

const NOT_FOUND = '파일을 찾을 수 없습니다.';
const NO_RIGHT = '파일에 접근할 권한이 없습니다.';
const EMPTY = '파일이 비어있습니다.';
const NO_STORE = '파일 저장소가 설정되지 않았습니다.';
const ONLY_IMAGES = '이미지 파일만 업로드할 수 있습니다.';
const IMAGE_TOO_LARGE = '파일 크기는 5MB를 초과할 수 없습니다.';
const FILE_TOO_LARGE = '파일 크기는 50MB를 초과할 수 없습니다.';

/** Name, type and size against the checks of an upload, in their order: each meets all later ones too. */
const REFUSED = [
  [EMPTY, 400, { name: '', type: 'text/plain', size: 0 }],
  ['파일명이 올바르지 않습니다.', 400, { name: '', type: 'text/plain', size: 60 * MIB }],
  ['파일명이 너무 깁니다.', 400, { name: `${'가'.repeat(84)}.txt`, type: 'text/plain', size: 60 * MIB }],
  ['지원하지 않는 파일 형식입니다.', 400, { name: 'a.txt', type: 'text/plain', size: 60 * MIB }],
  ['지원하지 않는 파일 형식입니다.', 400, { name: 'a.zip', type: 'application/zip', size: 10 }],
  ['이미지 확장자가 올바르지 않습니다.', 400, { name: 'a.png', type: 'image/jpeg', size: 60 * MIB }],
  ['이미지 확장자가 올바르지 않습니다.', 400, { name: 'jpg', type: 'image/jpeg', size: 60 * MIB }],
  ['동영상 확장자가 올바르지 않습니다.', 400, { name: 'a.webm', type: 'video/mp4', size: 60 * MIB }],
  ['오디오 확장자가 올바르지 않습니다.', 400, { name: 'a.ogg', type: 'audio/wav', size: 60 * MIB }],
  ['문서 확장자가 올바르지 않습니다.', 400, { name: 'a.doc', type: DOCX, size: 60 * MIB }],
  ['이미지 파일은 10MB를 초과할 수 없습니다.', 413, { name: 'a.jpg', type: 'image/jpeg', size: 10 * MIB + 1 }],
  ['문서 파일은 20MB를 초과할 수 없습니다.', 413, { name: 'a.pdf', type: 'application/pdf', size: 20 * MIB + 1 }],
  ['오디오 파일은 20MB를 초과할 수 없습니다.', 413, { name: 'a.mp3', type: 'audio/mpeg', size: 20 * MIB + 1 }],
  ['동영상 파일은 50MB를 초과할 수 없습니다.', 413, { name: 'a.mp4', type: 'video/mp4', size: 50 * MIB + 1 }],
];

/** The types that may be uploaded, each with an ending, its limit, and whether a browser shows it in place. */
const TAKEN = [
  ['image/jpeg', 'jpg', 10, true],
  ['image/jpeg', 'jpeg', 10, true],
  ['image/png', 'png', 10, true],
  ['image/gif', 'gif', 10, true],
  ['image/webp', 'webp', 10, true],
  ['video/mp4', 'mp4', 50, true],
  ['video/webm', 'webm', 50, true],
  ['video/quicktime', 'mov', 50, false],
  ['audio/mpeg', 'mp3', 20, true],
  ['audio/wav', 'wav', 20, true],
  ['audio/ogg', 'ogg', 20, false],
  ['application/pdf', 'pdf', 20, true],
  ['application/msword', 'doc', 20, false],
  [DOCX, 'docx', 20, false],
];

/** Registers all tests of files on a stack with this kind of object store. */
export async function filesSuite(objects) {
  const { stack, test } = await onStack({
    objects,
    backends: [
      {},
      { SLOTCAST_UPLOAD_URL_SECONDS: String(URL_SECONDS), SLOTCAST_DOWNLOAD_URL_SECONDS: String(URL_SECONDS) },
      { SLOTCAST_MAX_UPLOADS: '1', SLOTCAST_FILE_REDIRECTS: 'false' },
      { SLOTCAST_S3_BUCKET: undefined },
    ],
  });
  const [rest, brief, narrow, bare] = stack.backends.map((backend) => new Rest(backend.url));
  const [east, west] = stack.gateways.map((gateway) => gateway.url);
  const suite = { stack, test, rest, brief, narrow, bare, east, west, store: stack.objects };
  uploads(suite);
  names(suite);
  refusals(suite);
  brokenUploads(suite);
  reading(suite);
  readers(suite);
  deletion(suite);
  directUploads(suite);
  forbiddenUploads(suite);
  completion(suite);
  redirects(suite);
  images(suite);
  directImages(suite);
  everyAnswer(suite);
  failures(suite);
}

// ---- shared by the sections

/** Two users in one new room, each on a gateway of its own. */
async function pair({ rest, east, west }) {
  const [alice, bob] = [await rest.user('앨리스'), await rest.user('보비')];
  const room = (await rest.room(alice))._id;
  const [a, b] = [await chatter(east, alice), await chatter(west, bob)];
  await a.join(room);
  await b.join(room);
  return { alice, bob, room, a, b };
}

/** The same with a file of `bytes` that the first has shown. */
async function shown(suite, bytes = randomBytes(1000), name = 'photo.jpg') {
  const people = await pair(suite);
  const file = await uploaded(suite.rest, people.alice, photo(bytes, name));
  await show(people.a, people.room, file, people.b);
  return { ...people, file, bytes };
}

function refused(answer, status, message, code) {
  assert.equal(answer.status, status, answer.text);
  assert.match(answer.headers['content-type'], /^application\/json/);
  assert.equal(answer.json.success, false);
  if (message !== undefined) assert.equal(answer.json.message, message);
  if (code !== undefined) assert.equal(answer.json.code, code);
}

function retryLater(answer, code) {
  refused(answer, 503, undefined, code);
  assert.match(answer.headers['retry-after'], /^[1-9]\d*$/);
}

/** Fails when the bucket holds something else after `body` than before. */
async function leavesNothing({ store }, body) {
  const before = await store.keys();
  await body();
  await eventually('a bucket as it was before', async () => {
    assert.deepEqual(await store.keys(), before);
    assert.deepEqual(await store.openUploads(), []);
    return true;
  });
}

/** What a part of the stack counts. */
const metrics = async (part) => (await request('GET', `${part.adminUrl}/metrics`)).text;

const sameBytes = (answer, bytes) => assert.equal(sha256(answer.bytes), sha256(bytes));
const navigate = { 'sec-fetch-mode': 'navigate' };

// ---- sections

function uploads(suite) {
  const { test, rest, stack, store } = suite;

  test('T16: an upload is answered 200 with what the contract names', async () => {
    const file = photo();
    const user = await rest.user();
    const { success, message, file: got, ...more } = await rest.must(200, upload(rest, user, file));
    assert.deepEqual([success, message, more], [true, '파일 업로드 성공', {}]);
    const { _id, filename, uploadDate, ...told } = got;
    assert.deepEqual(told, { originalname: file.name, mimetype: file.type, size: file.bytes.length });
    assert.match(_id, ID);
    assert.match(filename, STORED_NAME);
    assert.match(uploadDate, ISO);
    assert.ok(Math.abs(Date.parse(uploadDate) - Date.now()) < 60_000, uploadDate);
    assert.deepEqual(await store.bytes(`files/${filename}`), file.bytes);
    assert.equal(await store.has(`uploads/${_id}`), false);
  });

  test('T15: a PNG that is called .jpg stays what it was called', async () => {
    const { a, b, alice, bob, room } = await pair(suite);
    const file = await uploaded(rest, alice, photo(PNG, 'profile.jpg'));
    await show(a, room, file, b);
    const answer = await view(rest, bob, file);
    assert.equal(answer.headers['content-type'], 'image/jpeg');
    sameBytes(answer, PNG);
  });

  test('T4: a file may be viewed on every backend the moment its message is heard', async () => {
    const { a, b, alice, bob, room } = await pair(suite);
    const backends = stack.backends.slice(0, 3).map((backend) => new Rest(backend.url));
    for (let i = 0; i < 10; i += 1) {
      const sent = photo();
      const file = await uploaded(rest, alice, sent);
      await show(a, room, file, b);
      const answers = await Promise.all(backends.map((backend) => view(backend, bob, file)));
      for (const answer of answers) {
        assert.equal(answer.status, 200, answer.text);
        sameBytes(answer, sent.bytes);
      }
    }
  });

  test('a message shows the file as its upload was answered', async () => {
    const { a, b, alice, room } = await pair(suite);
    const file = await uploaded(rest, alice, photo());
    const message = await show(a, room, file, b);
    const { uploadDate, ...told } = file;
    for (const [key, value] of Object.entries(told)) assert.equal(message.file[key], value, key);
    const metadata = { fileType: file.mimetype, fileSize: file.size, originalName: file.originalname };
    assert.deepEqual(message.metadata, metadata);
  });

  test('before its message a file is 404, for its uploader too', async () => {
    const user = await rest.user();
    const file = await uploaded(rest, user, photo());
    for (const read of [view, download]) refused(await read(rest, user, file), 404, NOT_FOUND);
  });

  test('fields may stand before and after the file, and the form may end without a line break', async () => {
    const user = await rest.user();
    const sent = { field: 'file', ...photo(Buffer.from('\r\n--\r\n------WebKitFormBoundary\r\n--\r\n')) };
    const before = [{ field: 'roomId', value: UNKNOWN_ID }, { field: 'other', name: 'x.txt', type: 'text/plain', value: 'x' }];
    const after = [{ field: 'caption', value: '사진' }];
    for (const end of ['--\r\n', '--']) {
      const { file } = await rest.must(200, postForm(rest, user, form([...before, sent, ...after], { end })));
      assert.deepEqual(await store.bytes(`files/${file.filename}`), sent.bytes);
    }
  });

  test('every type with each of its endings is taken, and shown where browsers can', async () => {
    const { a, b, alice, bob, room } = await pair(suite);
    for (const [type, ending, , previewable] of TAKEN) {
      const sent = { name: `a.${ending}`, type, bytes: randomBytes(100) };
      const file = await uploaded(rest, alice, sent);
      assert.ok(file.filename.endsWith(`.${ending}`), file.filename);
      await show(a, room, file, b);
      const seen = await view(rest, bob, file);
      if (previewable) sameBytes(seen, sent.bytes);
      else refused(seen, 415, '미리보기를 지원하지 않는 파일 형식입니다.');
      const got = await download(rest, bob, file);
      assert.equal(got.headers['content-type'], type);
      sameBytes(got, sent.bytes);
    }
  });

  test('files of many MiB come back bit for bit, however they went in and come out', async () => {
    const { a, b, alice, bob, room } = await pair(suite);
    const bytes = randomBytes(9 * MIB + 4321);
    for (const send of [uploaded, uploadedDirectly]) {
      const file = await send(rest, alice, photo(bytes));
      await show(a, room, file, b);
      sameBytes(await view(rest, bob, file), bytes);
      const { location } = (await view(rest, bob, file, { headers: navigate })).headers;
      sameBytes(await request('GET', location), bytes);
    }
  });

  test('a file may be exactly as large as its type allows', async () => {
    const user = await rest.user();
    const file = await uploaded(rest, user, photo(Buffer.alloc(10 * MIB, 'x')));
    assert.equal(file.size, 10 * MIB);
  });
}

function names(suite) {
  const { test, rest } = suite;
  const long = `${'가'.repeat(83)}ab.jpg`; // 255 bytes

  for (const [what, sent, kept, header] of [
    ['Korean and spaces', '내 사진 1.jpg', '내 사진 1.jpg', '%EB%82%B4%20%EC%82%AC%EC%A7%84%201.jpg'],
    ['decomposed Korean', '사진.jpg'.normalize('NFD'), '사진.jpg', '%EC%82%AC%EC%A7%84.jpg'],
    ['slashes of both kinds', '../a\\b/c.jpg', '..abc.jpg', '..abc.jpg'],
    ['quotes', `"it's" 100%;.jpg`, `"it's" 100%;.jpg`, '%22it%27s%22%20100%25%3B.jpg'],
    ['several dots', 'a.b.png.jpg', 'a.b.png.jpg', 'a.b.png.jpg'],
    ['capital letters', 'PHOTO.JPG', 'PHOTO.JPG', 'PHOTO.JPG'],
    ['255 bytes', long, long, encodeURIComponent(long)],
  ]) {
    test(`names: ${what}`, async () => {
      const { a, b, alice, bob, room } = await pair(suite);
      const quoted = sent.replace(/[\\"]/g, '\\$&'); // RFC 822 quoted pairs
      for (const file of [
        await uploaded(rest, alice, photo(randomBytes(10), quoted)),
        await uploadedDirectly(rest, alice, photo(randomBytes(10), sent)),
      ]) {
        assert.equal(file.originalname, kept);
        assert.match(file.filename, STORED_NAME);
        assert.equal((await show(a, room, file, b)).file.originalname, kept);
        const encoded = `filename*=UTF-8''${header}`;
        const seen = (await view(rest, bob, file)).headers['content-disposition'];
        assert.match(seen, /^inline; filename="[ !#-[\]-~]*"; /);
        assert.ok(seen.endsWith(encoded), seen);
        assert.equal((await download(rest, bob, file)).headers['content-disposition'], `attachment; ${encoded}`);
        const { location } = (await view(rest, bob, file, { headers: navigate })).headers;
        assert.equal((await request('GET', location)).headers['content-disposition'], seen);
      }
    });
  }
}

function refusals(suite) {
  const { test, rest, store } = suite;

  test('an upload is checked in the order of the contract, and what is refused leaves nothing', async () => {
    const user = await rest.user();
    await leavesNothing(suite, async () => {
      for (const [message, status, { size, ...file }] of REFUSED) {
        // What is refused by its name or type needs no more bytes than some.
        const bytes = Buffer.alloc(status === 413 ? size : Math.min(size, 10), 'x');
        const answer = await upload(rest, user, { ...file, bytes });
        refused(answer, status, message, status === 413 ? 'FILE_TOO_LARGE' : undefined);
      }
    });
  });

  test('a presigned upload is checked in the same way', async () => {
    const user = await rest.user();
    for (const [message, status, file] of REFUSED) {
      refused(await presign(rest, user, file), status, message, status === 413 ? 'FILE_TOO_LARGE' : undefined);
    }
    for (const [type, ending, limit] of TAKEN) {
      const { file } = await presigned(rest, user, { name: `a.${ending}`, type, size: limit * MIB });
      assert.equal(file.size, limit * MIB);
    }
    for (const body of [{ mimetype: 'image/jpeg', size: 5 }, { originalname: 'a.jpg', size: 5 }]) {
      refused(await rest.post('/api/files/presign', body, { user }), 400);
    }
  });

  test('a presigned upload must tell its size as a whole number', async () => {
    const user = await rest.user();
    for (const size of [undefined, null, -1, 1.5, '5', 'many', [], {}, 1e30]) {
      for (const path of ['/api/files/presign', '/api/users/profile-image/presign']) {
        const answer = await presign(rest, user, { name: 'a.jpg', type: 'image/jpeg', size: size ?? null }, path);
        refused(answer, 400, undefined, 'VALIDATION_ERROR');
        assert.deepEqual(answer.json.errors.map((error) => error.field), ['size']);
      }
    }
    const body = { originalname: 'a.jpg', mimetype: 'image/jpeg' };
    refused(await rest.post('/api/files/presign', body, { user }), 400, undefined, 'VALIDATION_ERROR');
  });

  test('what is announced as too large is refused before it is sent', async () => {
    const user = await rest.user();
    for (const length of [51 * MIB, 60 * MIB, 5_000_000 * MIB]) {
      const raw = await beginUpload(rest, user, Buffer.alloc(0), 0, length);
      await raw.headersDone();
      assert.equal(raw.status, 413);
      const answer = await eventually('the whole answer', () => {
        const [head, body] = raw.bytes.toString('utf8').split('\r\n\r\n');
        return { head, ...JSON.parse(body) };
      });
      assert.equal(answer.message, FILE_TOO_LARGE);
      assert.equal(answer.code, 'FILE_TOO_LARGE');
      assert.equal(answer.path, '/api/files/upload');
      raw.destroy();
    }
  });

  test('a client that goes on sending what is too large still reads why', async () => {
    const user = await rest.user();
    refused(await upload(rest, user, photo(Buffer.alloc(60 * MIB))), 413, FILE_TOO_LARGE, 'FILE_TOO_LARGE');
  });

  test('an upload must announce its length', async () => {
    const user = await rest.user();
    const body = form([{ field: 'file', ...photo() }]);
    const headers = { 'x-auth-token': user.token, 'content-type': `multipart/form-data; boundary=x`, 'transfer-encoding': 'chunked' };
    refused(await request('POST', `${rest.url}/api/files/upload`, { headers, body }), 411);
  });

  test('an upload must be a form', async () => {
    const user = await rest.user();
    for (const type of ['application/json', 'text/plain', 'image/jpeg', 'multipart/form-data']) {
      for (const path of ['/api/files/upload', '/api/users/profile-image']) {
        refused(await rest.call('POST', path, { user, headers: { 'content-type': type }, body: '{"file":"x"}' }), 415);
      }
    }
  });

  test('a form without the file is refused like an empty file', async () => {
    const user = await rest.user();
    const { name, type, bytes } = photo();
    for (const parts of [[{ field: 'files', name, type, bytes }], [{ field: 'caption', value: 'x' }]]) {
      refused(await postForm(rest, user, form(parts)), 400, EMPTY);
    }
  });

  test('files are for those who are logged in', async () => {
    const nobody = undefined;
    await leavesNothing({ store }, async () => {
      for (const answer of [
        await upload(rest, nobody, photo()),
        await presign(rest, nobody, photo()),
        await complete(rest, nobody, UNKNOWN_ID),
        await rest.call('DELETE', `/api/files/${UNKNOWN_ID}`),
        await uploadImage(rest, nobody, photo()),
        await rest.call('DELETE', '/api/users/profile-image'),
        await presign(rest, nobody, photo(), '/api/users/profile-image/presign'),
        await rest.post(`/api/users/profile-image/${UNKNOWN_ID}/complete`),
      ]) {
        refused(answer, 401);
        assert.match(answer.headers['www-authenticate'], /^Bearer/);
      }
    });
  });
}

function brokenUploads(suite) {
  const { test, rest, narrow, stack } = suite;

  test('a form that cannot be read to its end is refused and leaves nothing', async () => {
    const user = await rest.user();
    const whole = form([{ field: 'before', value: 'x' }, { field: 'file', ...photo(randomBytes(3 * MIB)) }]);
    await leavesNothing(suite, async () => {
      for (const broken of [
        whole.subarray(0, whole.length / 2), // in the middle of the file
        whole.subarray(0, -6), // in the middle of the last boundary
        whole.subarray(0, 30), // in the middle of the first one
        whole.subarray(0, 200), // in the middle of a part's head
        Buffer.from('no form at all'),
      ]) {
        refused(await postForm(rest, user, broken), 400, undefined, 'MALFORMED_BODY');
      }
    });
  });

  test('a client that hangs up in the middle leaves nothing, and its place to others', async () => {
    const user = await narrow.user();
    const body = form([{ field: 'file', ...photo(randomBytes(4 * MIB)) }]);
    const probe = () => upload(narrow, user, photo(Buffer.alloc(0)));
    refused(await probe(), 400, EMPTY);
    await leavesNothing(suite, async () => {
      const raw = await beginUpload(narrow, user, body, 2 * MIB);
      await eventually('the one place to be taken', async () => IN_WORK.test(await metrics(stack.backends[2])));
      retryLater(await probe(), 'OVERLOADED');
      raw.destroy();
      await eventually('the place to be free', async () => (await probe()).status === 400);
    });
  });
}

function reading(suite) {
  const { test, rest } = suite;

  test('a view and a download carry the headers of the contract, with and without a body', async () => {
    const { bob, file, bytes } = await shown(suite);
    for (const [read, disposition, caching] of [
      [view, `inline; filename="photo.jpg"; filename*=UTF-8''photo.jpg`, `private, ${IMMUTABLE}`],
      [download, `attachment; filename*=UTF-8''photo.jpg`, 'private, no-cache, no-store, must-revalidate'],
    ]) {
      const url = `/api/files/${read === view ? 'view' : 'download'}/${file.filename}`;
      for (const method of ['GET', 'HEAD']) {
        const answer = await rest.call(method, url, { user: bob });
        assert.equal(answer.status, 200);
        const { headers } = answer;
        assert.equal(headers['content-type'], 'image/jpeg');
        assert.equal(headers['content-length'], '1000');
        assert.equal(headers['content-disposition'], disposition);
        assert.equal(headers['cache-control'], caching);
        assert.equal(headers['accept-ranges'], 'bytes');
        assert.equal(headers['x-content-type-options'], 'nosniff');
        assert.match(headers.etag, /^"[^"]+"$/);
        sameBytes(answer, method === 'GET' ? bytes : Buffer.alloc(0));
      }
    }
  });

  test('whoever holds a file is told so', async () => {
    const { bob, file } = await shown(suite);
    const other = await shown(suite);
    for (const read of [view, download]) {
      const { etag } = (await read(rest, bob, file)).headers;
      for (const held of [etag, `W/${etag}`, `"another", ${etag}`, '*']) {
        const answer = await read(rest, bob, file, { headers: { 'if-none-match': held } });
        assert.equal(answer.status, 304, held);
        assert.equal(answer.headers.etag, etag);
        assert.equal(answer.bytes.length, 0);
      }
      const { headers } = await read(rest, other.bob, other.file);
      assert.notEqual(headers.etag, etag);
      assert.equal((await read(rest, bob, file, { headers: { 'if-none-match': headers.etag } })).status, 200);
    }
  });

  test('one range of a file is answered alone', async () => {
    const { bob, file, bytes } = await shown(suite);
    for (const [range, from, to] of [
      ['bytes=0-99', 0, 99],
      ['bytes=0-0', 0, 0],
      ['bytes=100-499', 100, 499],
      ['bytes=-100', 900, 999],
      ['bytes=-5000', 0, 999],
      ['bytes=900-', 900, 999],
      ['bytes=999-5000', 999, 999],
      ['bytes=0-', 0, 999],
    ]) {
      for (const read of [view, download]) {
        const answer = await read(rest, bob, file, { headers: { range } });
        assert.equal(answer.status, 206, range);
        assert.equal(answer.headers['content-range'], `bytes ${from}-${to}/1000`);
        assert.equal(answer.headers['content-length'], String(to - from + 1));
        assert.equal(answer.headers['content-type'], 'image/jpeg');
        sameBytes(answer, bytes.subarray(from, to + 1));
      }
    }
  });

  test('a range that holds no byte, or is none, is 416', async () => {
    const { bob, file } = await shown(suite);
    for (const range of ['bytes=1000-', 'bytes=1000-2000', 'bytes=-0', 'bytes=5-2', 'bytes=a-b', 'bytes=', 'bytes', 'bytes=-']) {
      const answer = await view(rest, bob, file, { headers: { range } });
      assert.equal(answer.status, 416, range);
      assert.equal(answer.headers['content-range'], 'bytes */1000');
    }
  });

  test('several ranges are answered by the whole file', async () => {
    const { bob, file, bytes } = await shown(suite);
    const answer = await view(rest, bob, file, { headers: { range: 'bytes=0-9,20-29' } });
    assert.equal(answer.status, 200);
    sameBytes(answer, bytes);
  });

  test('names that were never given out are 404, and what is no name 400', async () => {
    const user = await rest.user();
    for (const path of ['/api/files/view/', '/api/files/download/']) {
      refused(await rest.get(`${path}1795332990001_0123456789abcdef.jpg`, { user }), 404, NOT_FOUND);
      for (const name of ['photo.jpg', '1795332990001_0123.jpg', '1795332990001_0123456789ABCDEF.jpg', '%EC%82%AC.jpg', '1_0123456789abcdef']) {
        refused(await rest.get(path + name, { user }), 400, '잘못된 파일명입니다.');
      }
      for (const name of ['..%2F..%2Fetc%2Fpasswd', '%2e%2e%5Cx.jpg', '1795332990001_0123456789abcdef.jpg%2F..']) {
        refused(await rest.get(path + name, { user }), 400, '잘못된 파일 경로입니다.');
      }
    }
  });
}

function readers(suite) {
  const { test, rest, east, west } = suite;

  test('a file is read by those who are in a room that shows it', async () => {
    const { alice, bob, file } = await shown(suite);
    const elsewhere = await pair(suite);
    for (const read of [view, download]) {
      for (const user of [alice, bob]) assert.equal((await read(rest, user, file)).status, 200);
      for (const user of [elsewhere.alice, await rest.user()]) refused(await read(rest, user, file), 403, NO_RIGHT);
    }
  });

  test('who has left the room reads its files no more, and who is back does', async () => {
    const { a, b, bob, room, file } = await shown(suite);
    b.emit('leaveRoom', room);
    await a.take('userLeft', (left) => left.userId === bob.id);
    for (const read of [view, download]) {
      refused(await read(rest, bob, file), 403, NO_RIGHT);
      refused(await read(rest, bob, file, { headers: navigate }), 403, NO_RIGHT);
      refused(await read(rest, bob, file, { headers: { 'if-none-match': '*' } }), 403, NO_RIGHT);
    }
    await b.join(room);
    assert.equal((await view(rest, bob, file)).status, 200);
  });

  test('a file that two rooms show is read in both', async () => {
    const one = await shown(suite);
    const carol = await rest.user('캐럴');
    const second = (await rest.room(one.alice))._id;
    const [a2, c] = [await chatter(east, one.alice), await chatter(west, carol)];
    await a2.join(second);
    await c.join(second);
    await show(a2, second, one.file, c);
    for (const user of [one.bob, carol]) assert.equal((await view(rest, user, one.file)).status, 200);
    c.emit('leaveRoom', second);
    await a2.take('userLeft', (left) => left.userId === carol.id);
    refused(await view(rest, carol, one.file), 403, NO_RIGHT);
    assert.equal((await view(rest, one.bob, one.file)).status, 200);
  });

  test('a token is needed, and may come in the query', async () => {
    const { bob, file } = await shown(suite);
    for (const path of [`/api/files/view/${file.filename}`, `/api/files/download/${file.filename}`]) {
      for (const query of ['', '?token=', '?token=x.y.z', `?sessionId=${bob.sessionId}`]) refused(await rest.get(path + query), 401);
      assert.equal((await rest.get(`${path}?token=${bob.token}&sessionId=${bob.sessionId}&download=true`)).status, 200);
      assert.equal((await rest.get(path, { token: bob.token })).status, 200);
      const later = await rest.login(bob);
      refused(await rest.get(`${path}?token=${bob.token}`), 401);
      Object.assign(bob, later);
    }
  });

  test('a file is sent by its uploader alone', async () => {
    const { alice, a, b, room } = await pair(suite);
    const file = await uploaded(rest, alice, photo());
    const answer = await b.ask('chatMessage', { room, type: 'file', content: '', fileData: file });
    assert.deepEqual([answer.ok, answer.message], [false, '파일을 찾을 수 없거나 접근 권한이 없습니다.']);
    refused(await view(rest, alice, file), 404, NOT_FOUND);
    a.none('error');
  });
}

function deletion(suite) {
  const { test, rest, store } = suite;
  const remove = (user, id) => rest.call('DELETE', `/api/files/${id}`, { user });

  test('a file is deleted by its uploader alone, and is gone then', async () => {
    const { alice, bob, file } = await shown(suite);
    refused(await remove(bob, file._id), 403, '파일을 삭제할 권한이 없습니다.');
    assert.equal((await view(rest, bob, file)).status, 200);
    const { etag } = (await view(rest, bob, file)).headers;
    assert.deepEqual(await rest.must(200, remove(alice, file._id)), { success: true, message: '파일이 삭제되었습니다.' });
    for (const headers of [{}, navigate, { 'if-none-match': etag }]) {
      for (const user of [alice, bob]) refused(await view(rest, user, file, { headers }), 404, NOT_FOUND);
    }
    refused(await remove(alice, file._id), 404, NOT_FOUND);
    assert.equal(await store.has(`files/${file.filename}`), false);
  });

  test('deleting what is no file is 404', async () => {
    const user = await rest.user();
    for (const id of [UNKNOWN_ID, '0'.repeat(24), 'x', 'F'.repeat(24)]) refused(await remove(user, id), 404, NOT_FOUND);
  });

  test('a deleted file is not sent', async () => {
    const { alice, a, room } = await pair(suite);
    const file = await uploaded(rest, alice, photo());
    await rest.must(200, remove(alice, file._id));
    const answer = await a.ask('chatMessage', { room, type: 'file', content: '', fileData: file });
    assert.equal(answer.message, '파일을 찾을 수 없거나 접근 권한이 없습니다.');
  });
}

function directUploads(suite) {
  const { test, rest, store } = suite;

  test('a presigned upload is described as the contract says', async () => {
    const file = photo();
    const before = Date.now();
    const answer = await presigned(rest, await rest.user(), file);
    const { _id, filename, ...told } = answer.file;
    assert.match(_id, ID);
    assert.match(filename, STORED_NAME);
    assert.deepEqual(told, { originalname: file.name, mimetype: file.type, size: file.bytes.length });
    const { url, expiresAt, ...how } = answer.upload;
    assert.deepEqual(how, { method: 'PUT', headers: { 'content-type': file.type } });
    assert.deepEqual(Object.keys(answer).sort(), ['file', 'success', 'upload']);
    assert.match(expiresAt, ISO);
    const left = Date.parse(expiresAt) - before;
    assert.ok(left > 298_000 && left < 360_000, `expires in ${left} ms`);
    const { origin, pathname, searchParams } = new URL(url);
    assert.equal(origin + pathname, `${store.url}/${store.bucket}/uploads/${_id}`);
    assert.equal(searchParams.get('X-Amz-SignedHeaders'), 'content-length;content-type;host');
    assert.equal(searchParams.get('X-Amz-Expires'), '300');
  });

  test('a file goes straight to the store, is completed, sent and viewed', async () => {
    const { a, b, alice, bob, room } = await pair(suite);
    const sent = photo();
    const { file: promised, upload: target } = await presigned(rest, alice, sent);
    assert.equal((await put(target, sent.bytes)).status, 200);
    const { success, message, file, ...more } = await rest.must(200, complete(rest, alice, promised._id));
    assert.deepEqual([success, message, more], [true, '파일 업로드 성공', {}]);
    const { uploadDate, ...told } = file;
    assert.deepEqual(told, promised);
    assert.match(uploadDate, ISO);
    assert.equal(await store.has(`uploads/${file._id}`), false);
    refused(await view(rest, alice, file), 404, NOT_FOUND);
    await show(a, room, file, b);
    const answer = await view(rest, bob, file);
    assert.equal(answer.headers['content-type'], 'image/jpeg');
    sameBytes(answer, sent.bytes);
  });

  test('what is not completed is neither sent nor viewed', async () => {
    const { a, b, alice, room } = await pair(suite);
    const sent = photo();
    const { file, upload: target } = await presigned(rest, alice, sent);
    const nothingThere = async () => {
      const answer = await a.ask('chatMessage', { room, type: 'file', content: '', fileData: file });
      assert.deepEqual([answer.ok, answer.message], [false, '파일을 찾을 수 없거나 접근 권한이 없습니다.']);
      refused(await view(rest, alice, file), 404, NOT_FOUND);
    };
    await nothingThere();
    await put(target, sent.bytes);
    await nothingThere();
    assert.deepEqual(b.all('message').filter((message) => message.type === 'file'), []);
  });
}

function forbiddenUploads(suite) {
  const { test, rest, brief, store } = suite;
  const plain = (method, url, body, headers = BEGUN) =>
    request(method, url, { headers: { ...headers, 'content-length': body.length }, body });

  for (const [what, change, statuses = [403]] of [
    ['a wrong signature', ({ url }) => ({ url: url.replace(/(X-Amz-Signature=)(.)/, (_, name, digit) => name + (digit === '0' ? '1' : '0')) })],
    ['no signature', ({ url }) => ({ url: url.replace(/&?X-Amz-Signature=[^&]*/, '') }), [400, 403]],
    ['a later expiry', ({ url }) => ({ url: url.replace('X-Amz-Expires=300', 'X-Amz-Expires=3000') })],
    ['another key', ({ url }) => ({ url: url.replace(/uploads\/[0-9a-f]{24}/, `uploads/${UNKNOWN_ID}`) })],
    ['a final key', ({ url, file }) => ({ url: url.replace(/uploads\/[0-9a-f]{24}/, `files/${file.filename}`) })],
    ['another bucket', ({ url }) => ({ url: url.replace(store.bucket, `${store.bucket}-2`) })],
    ['another method', () => ({ method: 'DELETE', body: Buffer.alloc(0) })],
    ['too many bytes', ({ body }) => ({ body: Buffer.concat([body, Buffer.from('x')]) })],
    ['too few bytes', ({ body }) => ({ body: body.subarray(1) })],
    ['another type', () => ({ headers: { 'content-type': 'text/html' } })],
    ['no type', () => ({ headers: {} })],
  ]) {
    test(`the store refuses a presigned upload with ${what}`, async () => {
      await leavesNothing(suite, async () => {
        const sent = photo();
        const { file, upload: target } = await presigned(rest, await rest.user(), sent);
        const { method = 'PUT', url = target.url, headers, body = sent.bytes } = change({ url: target.url, file, body: sent.bytes });
        const answer = await plain(method, url, body, headers);
        assert.ok(statuses.includes(answer.status), `${answer.status} ${answer.text}`);
        assert.match(answer.text, /<Error>/);
      });
    });
  }

  test('a presigned URL to upload gives nothing to read', async () => {
    const sent = photo();
    const { upload: target } = await presigned(rest, await rest.user(), sent);
    await put(target, sent.bytes);
    assert.equal((await plain('GET', target.url, Buffer.alloc(0))).status, 403);
  });

  test('a presigned URL to upload expires', async () => {
    const sent = photo();
    const { file, upload: target } = await presigned(brief, await brief.user(), sent);
    assert.equal(new URL(target.url).searchParams.get('X-Amz-Expires'), String(URL_SECONDS));
    assert.equal((await put(target, sent.bytes)).status, 200);
    await eventually('the URL to expire', async () => (await put(target, sent.bytes)).status === 403);
    await store.remove(`uploads/${file._id}`);
    assert.equal((await put(target, sent.bytes)).status, 403);
    assert.equal(await store.has(`uploads/${file._id}`), false);
  });
}

function completion(suite) {
  const { test, rest, brief, store } = suite;

  /** A presigned upload whose bytes are in the store. */
  async function begun(user, sent = photo()) {
    const { file, upload: target } = await presigned(rest, user, sent);
    assert.equal((await put(target, sent.bytes)).status, 200);
    return { file, target, sent };
  }

  test('an upload is completed after its bytes are there', async () => {
    const user = await rest.user();
    const sent = photo();
    const { file, upload: target } = await presigned(rest, user, sent);
    refused(await complete(rest, user, file._id), 409, '파일이 아직 업로드되지 않았습니다.', 'NOT_UPLOADED');
    await put(target, sent.bytes);
    assert.equal((await complete(rest, user, file._id)).status, 200);
  });

  test('an upload is completed by the one who began it', async () => {
    const user = await rest.user();
    const { file } = await begun(user);
    refused(await complete(rest, await rest.user(), file._id), 404, NOT_FOUND);
    for (const id of [UNKNOWN_ID, '0'.repeat(24), 'x']) refused(await complete(rest, user, id), 404, NOT_FOUND);
    const asImage = await rest.post(`/api/users/profile-image/${file._id}/complete`, undefined, { user });
    refused(asImage, 404, NOT_FOUND);
    assert.equal((await complete(rest, user, file._id)).status, 200);
  });

  test('completing again changes nothing and answers the same', async () => {
    const { a, b, alice, bob, room } = await pair(suite);
    const { file, sent } = await begun(alice);
    const first = await rest.must(200, complete(rest, alice, file._id));
    await show(a, room, file, b);
    for (const backend of [rest, brief]) {
      assert.deepEqual(await rest.must(200, complete(backend, alice, file._id)), first);
      sameBytes(await view(rest, bob, file), sent.bytes);
    }
  });

  test('completions at once answer the same', async () => {
    const user = await rest.user();
    for (let i = 0; i < 3; i += 1) {
      const { file, sent } = await begun(user);
      const answers = await Promise.all([rest, brief, rest, brief].map((backend) => complete(backend, user, file._id)));
      for (const answer of answers) {
        assert.equal(answer.status, 200, answer.text);
        assert.deepEqual(answer.json, answers[0].json);
      }
      assert.deepEqual(await store.bytes(`files/${file.filename}`), sent.bytes);
    }
  });

  test('a URL that is still valid changes nothing of what was completed', async () => {
    const { a, b, alice, bob, room } = await pair(suite);
    const { file, target, sent } = await begun(alice);
    const first = await rest.must(200, complete(rest, alice, file._id));
    await show(a, room, file, b);
    assert.equal((await put(target, randomBytes(sent.bytes.length))).status, 200);
    sameBytes(await view(rest, bob, file), sent.bytes);
    assert.deepEqual(await rest.must(200, complete(rest, alice, file._id)), first);
    sameBytes(await view(rest, bob, file), sent.bytes);
    const { location } = (await view(rest, bob, file, { headers: navigate })).headers;
    sameBytes(await request('GET', location), sent.bytes);
  });

  test('headers that an uploader adds do not stay with the file', async () => {
    const { a, b, alice, bob, room } = await pair(suite);
    const { file, target, sent } = await begun(alice);
    const headers = { ...target.headers, 'content-encoding': 'gzip', 'content-language': 'xx' };
    assert.equal((await put({ ...target, headers }, sent.bytes)).status, 200);
    await rest.must(200, complete(rest, alice, file._id));
    await show(a, room, file, b);
    const { location } = (await view(rest, bob, file, { headers: navigate })).headers;
    const answer = await request('GET', location);
    sameBytes(answer, sent.bytes);
    assert.equal(answer.headers['content-encoding'], undefined);
    assert.equal(answer.headers['content-language'], undefined);
  });

  test('until it is completed, an upload may be repeated', async () => {
    const user = await rest.user();
    const { file, target, sent } = await begun(user);
    const later = randomBytes(sent.bytes.length);
    await put(target, later);
    await rest.must(200, complete(rest, user, file._id));
    assert.deepEqual(await store.bytes(`files/${file.filename}`), later);
  });

  for (const [what, bytes, type] of [
    ['of another size', randomBytes(999), 'image/jpeg'],
    ['of another type', randomBytes(1000), 'text/html'],
  ]) {
    test(`bytes ${what} than was said are not completed`, async () => {
      const user = await rest.user();
      const { file } = await presigned(rest, user, photo());
      await store.put(`uploads/${file._id}`, bytes, type);
      refused(await complete(rest, user, file._id), 400, '업로드된 파일이 요청과 다릅니다.', 'UPLOAD_MISMATCH');
      assert.equal(await store.has(`files/${file.filename}`), false);
    });
  }
}

function redirects(suite) {
  const { test, rest, brief, narrow, store } = suite;

  for (const [read, kept, caching] of [
    [view, /^private, max-age=(\d+)$/, `private, ${IMMUTABLE}`],
    [download, /^no-store$/, 'private, no-cache, no-store, must-revalidate'],
  ]) {
    test(`a browser that can follow is led to the store: ${read === view ? 'view' : 'download'}`, async () => {
      const { bob, file, bytes } = await shown(suite, undefined, '내 사진.jpg');
      const direct = await read(rest, bob, file);
      for (const mode of ['navigate', 'no-cors']) {
        const answer = await read(rest, bob, file, { headers: { 'sec-fetch-mode': mode } });
        assert.equal(answer.status, 302);
        const [, seconds = '0'] = kept.exec(answer.headers['cache-control']) ?? assert.fail(answer.headers['cache-control']);
        assert.ok(Number(seconds) < 300, seconds);
        const { origin, pathname } = new URL(answer.headers.location);
        assert.equal(origin + pathname, `${store.url}/${store.bucket}/files/${file.filename}`);
        const got = await request('GET', answer.headers.location);
        assert.equal(got.status, 200, got.text);
        sameBytes(got, bytes);
        for (const name of ['content-type', 'content-length', 'content-disposition']) assert.equal(got.headers[name], direct.headers[name]);
        assert.equal(got.headers['cache-control'], caching);
        const range = await request('GET', answer.headers.location, { headers: { range: 'bytes=10-19' } });
        assert.equal(range.status, 206);
        sameBytes(range, bytes.subarray(10, 20));
      }
    });
  }

  test('who may not be able to follow gets the bytes', async () => {
    const { bob, file, bytes } = await shown(suite);
    for (const headers of [{}, { 'sec-fetch-mode': 'cors' }, { 'sec-fetch-mode': 'same-origin' }]) {
      for (const read of [view, download]) {
        const answer = await read(rest, bob, file, { headers });
        assert.equal(answer.status, 200);
        sameBytes(answer, bytes);
      }
    }
    const answer = await view(narrow, bob, file, { headers: navigate });
    assert.equal(answer.status, 200, 'redirects are off there');
    sameBytes(answer, bytes);
  });

  test('nobody is led to what he may not read', async () => {
    const { file } = await shown(suite);
    refused(await view(rest, await rest.user(), file, { headers: navigate }), 403, NO_RIGHT);
    refused(await view(rest, undefined, file, { headers: navigate }), 401);
  });

  test('a presigned URL to download is for one file, to read, and expires', async () => {
    const { bob, file } = await shown(suite);
    const other = await shown(suite);
    const { location } = (await view(brief, bob, file, { headers: navigate })).headers;
    assert.equal((await request('GET', location)).status, 200);
    for (const [method, url] of [
      ['GET', location.replace(file.filename, other.file.filename)],
      ['GET', location.replace('inline', 'attachment')],
      ['PUT', location],
      ['DELETE', location],
    ]) {
      assert.equal((await request(method, url, { headers: { 'content-length': 0 } })).status, 403, `${method} ${url}`);
    }
    await eventually('the URL to expire', async () => (await request('GET', location)).status === 403);
    assert.equal((await view(brief, bob, file)).status, 200);
  });
}

function images(suite) {
  const { test, rest, store, east, west } = suite;
  const paths = (url) => [url, url.slice('/api'.length), `/uploads/${url.split('/').at(-1)}`];
  const remove = (user) => rest.call('DELETE', '/api/users/profile-image', { user });
  const imageOf = async ({ email, password }) =>
    (await rest.must(200, rest.post('/api/auth/login', { email, password }))).user.profileImage;

  test('a profile image is answered, told by every call, and read by anybody', async () => {
    const user = await rest.user();
    const sent = photo(PNG, 'profile.jpg');
    const { imageUrl, ...answer } = await rest.must(200, uploadImage(rest, user, sent));
    assert.deepEqual(answer, { success: true, message: '프로필 이미지가 업데이트되었습니다.' });
    assert.match(imageUrl, /^\/api\/uploads\/profiles\/\d{13}_[0-9a-f]{16}\.jpg$/);
    assert.equal((await rest.get('/api/users/profile', { user })).json.user.profileImage, imageUrl);
    for (const path of paths(imageUrl)) {
      for (const method of ['GET', 'HEAD']) {
        const got = await rest.call(method, path);
        assert.equal(got.status, 200, path);
        assert.equal(got.headers['content-type'], 'image/jpeg');
        assert.equal(got.headers['content-length'], String(PNG.length));
        assert.equal(got.headers['cache-control'], `public, ${IMMUTABLE}`);
        sameBytes(got, method === 'GET' ? PNG : Buffer.alloc(0));
      }
      const { etag } = (await rest.get(path)).headers;
      assert.equal((await rest.get(path, { headers: { 'if-none-match': etag } })).status, 304);
      const led = await rest.get(path, { headers: { 'sec-fetch-mode': 'no-cors' } });
      assert.equal(led.status, 200, 'a page shows it without a detour');
    }
    assert.equal(await imageOf(user), imageUrl);
    assert.equal(await store.has(`profiles/${imageUrl.split('/').at(-1)}`), true);
  });

  test('a profile image is shown with its user in rooms and messages', async () => {
    const user = await rest.user('앨리스');
    const room = (await rest.room(user))._id;
    const early = await chatter(east, user);
    await early.join(room);
    const { imageUrl } = await rest.must(200, uploadImage(rest, user, photo()));
    const guest = await rest.user('보비');
    const own = (users) => users.find((one) => one._id === user.id)?.profileImage;
    await eventually('the room to know it', async () =>
      own((await rest.get(`/api/rooms/${room}`, { user: guest })).json.data.participants) === imageUrl);
    const b = await chatter(west, guest);
    assert.equal(own((await b.join(room)).participants), imageUrl);
    assert.equal(own(await b.take('participantsUpdate')), imageUrl);
    await early.say(room, 'with a face');
    assert.equal((await b.hears('with a face')).sender.profileImage, imageUrl);
  });

  test('a later profile image takes the place of the one before', async () => {
    const user = await rest.user();
    const { imageUrl: first } = await rest.must(200, uploadImage(rest, user, photo()));
    const sent = { name: 'b.png', type: 'image/png', bytes: randomBytes(500) };
    const { imageUrl: second } = await rest.must(200, uploadImage(rest, user, sent));
    assert.notEqual(second, first);
    assert.equal(await imageOf(user), second);
    const got = await rest.get(second);
    assert.equal(got.headers['content-type'], 'image/png');
    sameBytes(got, sent.bytes);
    await eventually('the first image to be gone', async () => (await rest.get(first)).status === 404);
  });

  test('a profile image can be deleted, again and again', async () => {
    const user = await rest.user();
    const { imageUrl } = await rest.must(200, uploadImage(rest, user, photo()));
    for (let i = 0; i < 2; i += 1) {
      assert.deepEqual(await rest.must(200, remove(user)), { success: true, message: '프로필 이미지가 삭제되었습니다.' });
      assert.equal((await rest.get('/api/users/profile', { user })).json.user.profileImage, '');
    }
    assert.equal(await imageOf(user), '');
    await eventually('the image to be gone', async () => (await rest.get(imageUrl)).status === 404);
    const never = await rest.user();
    await rest.must(200, remove(never));
    assert.equal(await imageOf(never), '');
  });

  test('what is no profile image is refused and leaves nothing', async () => {
    const user = await rest.user();
    await leavesNothing(suite, async () => {
      for (const [message, file] of [
        ['이미지가 제공되지 않았습니다.', photo(Buffer.alloc(0))],
        [IMAGE_TOO_LARGE, photo(Buffer.alloc(5 * MIB + 1))],
        [IMAGE_TOO_LARGE, photo(Buffer.alloc(9 * MIB))],
        [ONLY_IMAGES, { name: 'a.pdf', type: 'application/pdf', bytes: randomBytes(10) }],
        [ONLY_IMAGES, { name: 'a.svg', type: 'image/svg+xml', bytes: randomBytes(10) }],
        [ONLY_IMAGES, { name: 'a.pdf', type: 'image/jpeg', bytes: randomBytes(10) }],
        [ONLY_IMAGES, { name: 'a.jpg', type: 'application/pdf', bytes: randomBytes(10) }],
        ['이미지 확장자가 올바르지 않습니다.', { name: 'a.png', type: 'image/jpeg', bytes: randomBytes(10) }],
      ]) {
        refused(await uploadImage(rest, user, file), 400, message);
      }
      const missing = form([{ field: 'file', ...photo() }]);
      refused(await postForm(rest, user, missing, { path: '/api/users/profile-image' }), 400, '이미지가 제공되지 않았습니다.');
    });
    assert.equal((await rest.get('/api/users/profile', { user })).json.user.profileImage, '');
    const { imageUrl } = await rest.must(200, uploadImage(rest, user, photo(Buffer.alloc(5 * MIB))));
    assert.equal((await rest.get(imageUrl)).bytes.length, 5 * MIB);
  });

  test('profile images that were never given out are 404', async () => {
    for (const path of paths('/api/uploads/profiles/1795332990001_0123456789abcdef.jpg')) refused(await rest.get(path), 404, NOT_FOUND);
    for (const path of paths('/api/uploads/profiles/default.png')) refused(await rest.get(path), 404, NOT_FOUND);
  });

  test('files of messages are no profile images, and the other way round', async () => {
    const { bob, file, alice } = await shown(suite);
    for (const path of paths(`/api/uploads/profiles/${file.filename}`)) refused(await rest.get(path, { user: bob }), 404, NOT_FOUND);
    const { imageUrl } = await rest.must(200, uploadImage(rest, alice, photo()));
    refused(await view(rest, alice, { filename: imageUrl.split('/').at(-1) }), 404, NOT_FOUND);
  });
}

function directImages(suite) {
  const { test, rest, store } = suite;
  const PRESIGN = '/api/users/profile-image/presign';
  const completed = (user, id) => rest.post(`/api/users/profile-image/${id}/complete`, undefined, { user });

  test('a profile image goes straight to the store', async () => {
    const user = await rest.user();
    const sent = photo();
    const { success, image, upload: target } = await rest.must(200, presign(rest, user, sent, PRESIGN));
    assert.equal(success, true);
    assert.deepEqual([image.originalname, image.mimetype, image.size], [sent.name, sent.type, sent.bytes.length]);
    refused(await completed(user, image._id), 409, '파일이 아직 업로드되지 않았습니다.', 'NOT_UPLOADED');
    assert.equal((await put(target, sent.bytes)).status, 200);
    refused(await completed(await rest.user(), image._id), 404, NOT_FOUND);
    refused(await complete(rest, user, image._id), 404, NOT_FOUND);
    const answer = await rest.must(200, completed(user, image._id));
    const imageUrl = `/api/uploads/profiles/${image.filename}`;
    assert.deepEqual(answer, { success: true, message: '프로필 이미지가 업데이트되었습니다.', imageUrl });
    assert.deepEqual(await rest.must(200, completed(user, image._id)), answer);
    assert.equal((await rest.get('/api/users/profile', { user })).json.user.profileImage, imageUrl);
    sameBytes(await rest.get(imageUrl), sent.bytes);
    assert.equal(await store.has(`uploads/${image._id}`), false);
    await put(target, randomBytes(sent.bytes.length));
    sameBytes(await rest.get(imageUrl), sent.bytes);
  });

  test('what is no profile image gets no URL', async () => {
    const user = await rest.user();
    for (const [message, file] of [
      ['이미지가 제공되지 않았습니다.', { name: 'a.jpg', type: 'image/jpeg', size: 0 }],
      [IMAGE_TOO_LARGE, { name: 'a.jpg', type: 'image/jpeg', size: 5 * MIB + 1 }],
      [ONLY_IMAGES, { name: 'a.pdf', type: 'application/pdf', size: 10 }],
      [ONLY_IMAGES, { name: 'a.txt', type: 'image/jpeg', size: 10 }],
      ['이미지 확장자가 올바르지 않습니다.', { name: 'a.gif', type: 'image/webp', size: 10 }],
    ]) {
      refused(await presign(rest, user, file, PRESIGN), 400, message);
    }
  });

  test('a profile image of another size than was said is not completed', async () => {
    const user = await rest.user();
    const { image } = await rest.must(200, presign(rest, user, photo(), PRESIGN));
    await store.put(`uploads/${image._id}`, randomBytes(999), 'image/jpeg');
    refused(await completed(user, image._id), 400, '업로드된 파일이 요청과 다릅니다.', 'UPLOAD_MISMATCH');
    assert.equal((await rest.get('/api/users/profile', { user })).json.user.profileImage, '');
  });
}

function everyAnswer(suite) {
  const { test, rest, bare, stack } = suite;

  test('T18: every answer may be read from another origin, errors too', async () => {
    const { alice, bob, file } = await shown(suite);
    const stranger = await rest.user();
    const headers = { origin: ORIGIN };
    const { imageUrl } = await rest.must(200, uploadImage(rest, alice, photo()));
    const { file: begun } = await presigned(rest, alice, photo());
    const url = `/api/files/view/${file.filename}`;
    const json = { headers: { ...headers, 'content-type': 'application/json' } };
    for (const [status, answer] of [
      [200, await upload(rest, alice, photo(), { headers })],
      [400, await upload(rest, alice, photo(Buffer.alloc(0)), { headers })],
      [400, await postForm(rest, alice, Buffer.from('no form'), { headers })],
      [401, await upload(rest, undefined, photo(), { headers })],
      [413, await upload(rest, alice, photo(Buffer.alloc(51 * MIB)), { headers })],
      [413, await upload(rest, alice, photo(Buffer.alloc(10 * MIB + 1)), { headers })],
      [415, await rest.post('/api/files/upload', '{}', { user: alice, ...json })],
      [501, await upload(bare, alice, photo(), { headers })],
      [200, await rest.get(url, { user: bob, headers })],
      [206, await rest.get(url, { user: bob, headers: { ...headers, range: 'bytes=0-9' } })],
      [302, await rest.get(url, { user: bob, headers: { ...headers, ...navigate } })],
      [304, await rest.get(url, { user: bob, headers: { ...headers, 'if-none-match': '*' } })],
      [401, await rest.get(url, { headers })],
      [403, await rest.get(url, { user: stranger, headers })],
      [404, await rest.get('/api/files/view/1795332990001_0123456789abcdef.jpg', { user: bob, headers })],
      [416, await rest.get(url, { user: bob, headers: { ...headers, range: 'bytes=5000-' } })],
      [409, await rest.call('POST', `/api/files/${begun._id}/complete`, { user: alice, headers })],
      [400, await rest.call('POST', '/api/files/presign', { user: alice, headers, body: {} })],
      [403, await rest.call('DELETE', `/api/files/${file._id}`, { user: bob, headers })],
      [200, await rest.get(imageUrl, { headers })],
      [400, await uploadImage(rest, alice, photo(Buffer.alloc(5 * MIB + 1)), { headers })],
    ]) {
      assert.equal(answer.status, status, answer.text.slice(0, 200));
      assert.equal(answer.headers['access-control-allow-origin'], ORIGIN, `on ${status}`);
      assert.equal(answer.headers['access-control-allow-credentials'], 'true', `on ${status}`);
      assert.match(answer.headers.vary, /\borigin\b/i, `on ${status}`);
    }
    const { headers: exposed } = await rest.get(`/api/files/download/${file.filename}`, { user: bob, headers });
    assert.match(exposed['access-control-expose-headers'], /\bcontent-disposition\b/i);
  });

  test('without a bucket every call for files says so', async () => {
    const { alice, bob, file } = await shown(suite);
    for (const answer of [
      await upload(bare, alice, photo()),
      await presign(bare, alice, photo()),
      await complete(bare, alice, file._id),
      await view(bare, bob, file),
      await download(bare, bob, file),
      await bare.call('DELETE', `/api/files/${file._id}`, { user: alice }),
      await uploadImage(bare, alice, photo()),
      await presign(bare, alice, photo(), '/api/users/profile-image/presign'),
      await bare.post(`/api/users/profile-image/${file._id}/complete`, undefined, { user: alice }),
      await bare.get(`/api/uploads/profiles/${file.filename}`),
    ]) {
      refused(answer, 501, NO_STORE);
    }
    assert.equal((await bare.get('/api/rooms', { user: alice })).status, 200);
  });

  test('both tiers count files', async () => {
    const metric = async (part, pattern) => Number(pattern.exec(await metrics(part))?.[1] ?? 0);
    const [backend] = stack.backends;
    const [gateway] = stack.gateways;
    const sent = /^socketio_messages_total\{(?=.*success)(?=.*file).*\} (\d+)$/m;
    const form = /^file_uploads_total\{(?=.*attachment)(?=.*form).*\} (\d+)$/m;
    const streamed = /^file_deliveries_total\{.*stream.*\} (\d+)$/m;
    const before = [await metric(backend, form), await metric(backend, streamed), await metric(gateway, sent)];
    const { bob, file } = await shown(suite);
    await view(rest, bob, file);
    const after = [await metric(backend, form), await metric(backend, streamed), await metric(gateway, sent)];
    assert.deepEqual(after, before.map((count) => count + 1));
  });
}

const IN_WORK = /^file_uploads_in_flight\{.*\} 1$/m;

function failures(suite) {
  const { test, rest, stack, store } = suite;

  test('while the store is away file calls say so, and work again when it is back', async () => {
    const { alice, bob, file, bytes } = await shown(suite);
    const { imageUrl } = await rest.must(200, uploadImage(rest, alice, photo()));
    const sent = photo();
    const { file: begun, upload: target } = await presigned(rest, alice, sent);
    await put(target, sent.bytes);
    const half = form([{ field: 'file', ...photo(randomBytes(4 * MIB)) }]);
    const raw = await beginUpload(rest, alice, half, 2 * MIB);
    await eventually('an upload in work', async () => IN_WORK.test(await metrics(stack.backends[0])));
    await store.signal('SIGKILL');
    await raw.headersDone();
    assert.equal(raw.status, 503, 'the upload in work');
    raw.destroy();
    const headers = { origin: ORIGIN };
    const away = await view(rest, bob, file, { headers });
    assert.equal(away.headers['access-control-allow-origin'], ORIGIN);
    for (const answer of [
      away,
      await upload(rest, alice, photo()),
      await upload(rest, alice, photo(randomBytes(4 * MIB))),
      await uploadImage(rest, alice, photo()),
      await complete(rest, alice, begun._id),
      await download(rest, bob, file),
      await rest.get(imageUrl),
      await rest.call('DELETE', `/api/files/${file._id}`, { user: alice }),
    ]) {
      retryLater(answer, 'SERVICE_UNAVAILABLE');
    }
    assert.equal((await rest.get('/api/rooms', { user: alice })).status, 200);
    await store.start();
    sameBytes(await view(rest, bob, file), bytes);
    assert.equal((await complete(rest, alice, begun._id)).status, 200);
    assert.equal((await upload(rest, alice, photo())).status, 200);
    assert.equal((await rest.get(imageUrl)).status, 200);
  });
}
