// The object stores that the file tests run on, each with one bucket under the rules that deploy/s3 carries.
import { execFileSync } from 'node:child_process';
import fs from 'node:fs';
import path from 'node:path';
import {
  CreateBucketCommand,
  DeleteObjectCommand,
  GetObjectCommand,
  HeadObjectCommand,
  ListMultipartUploadsCommand,
  ListObjectsV2Command,
  PutBucketCorsCommand,
  PutBucketLifecycleConfigurationCommand,
  PutObjectCommand,
  S3Client,
} from '@aws-sdk/client-s3';
import { request } from './http.js';
import { Program, ROOT, program } from './program.js';
import { eventually } from './wait.js';

const BUCKET = 'slotcast-tests';
const REGION = 'us-east-1';
const ACCESS_KEY_ID = 'AKIASLOTCASTTESTS';
const SECRET_ACCESS_KEY = 'a secret key for the tests';
const CORS = path.join(ROOT, 'deploy/s3/cors.json');
const LIFECYCLE = path.join(ROOT, 'deploy/s3/lifecycle.json');

/** A store of kind `embedded` or `seaweedfs` that lives in `dir` and takes its `ports` from `port` up. */
export function objectStore(kind, dir, port) {
  const Store = { embedded: Embedded, seaweedfs: SeaweedFs }[kind];
  return new Store(dir, port);
}

/** What both have in common: one bucket, and its owner's view of it by the official client. */
class ObjectStore extends Program {
  constructor(name, dir, port) {
    super(name, dir);
    this.data = path.join(dir, name);
    fs.mkdirSync(this.data);
    this.port = port;
    this.url = `http://127.0.0.1:${port}`;
    this.bucket = BUCKET;
    this.client = new S3Client({
      endpoint: this.url,
      region: REGION,
      forcePathStyle: true,
      maxAttempts: 1,
      credentials: { accessKeyId: ACCESS_KEY_ID, secretAccessKey: SECRET_ACCESS_KEY },
    });
  }

  /** What a backend is told of it. */
  get env() {
    return {
      SLOTCAST_S3_ENDPOINT: this.url,
      SLOTCAST_S3_BUCKET: BUCKET,
      SLOTCAST_S3_REGION: REGION,
      SLOTCAST_S3_PATH_STYLE: 'true',
      SLOTCAST_S3_ACCESS_KEY_ID: ACCESS_KEY_ID,
      SLOTCAST_S3_SECRET_ACCESS_KEY: SECRET_ACCESS_KEY,
    };
  }

  async isReady() {
    return (await request('GET', this.url)).status < 500;
  }

  /** Kills it; synchronous, so that it also works while the test process ends. */
  stop() {
    if (this.running) this.process.kill('SIGKILL');
    this.client.destroy();
  }

  ask(Command, input = {}) {
    return this.client.send(new Command({ Bucket: BUCKET, ...input }));
  }

  put(key, bytes, type) {
    return this.ask(PutObjectCommand, { Key: key, Body: bytes, ContentType: type });
  }

  remove(key) {
    return this.ask(DeleteObjectCommand, { Key: key });
  }

  async bytes(key) {
    const { Body } = await this.ask(GetObjectCommand, { Key: key });
    return Buffer.from(await Body.transformToByteArray());
  }

  async has(key) {
    try {
      await this.ask(HeadObjectCommand, { Key: key });
      return true;
    } catch (error) {
      if (error.$metadata?.httpStatusCode === 404) return false;
      throw error;
    }
  }

  /** All keys that begin with `prefix`. */
  async keys(prefix = '') {
    const keys = [];
    for (let token; ; ) {
      const page = await this.ask(ListObjectsV2Command, { Prefix: prefix, ContinuationToken: token });
      keys.push(...(page.Contents ?? []).map((item) => item.Key));
      token = page.NextContinuationToken;
      if (!token) return keys.sort();
    }
  }
}

/** The program that `./run` starts. */
class Embedded extends ObjectStore {
  constructor(dir, port) {
    super('object-store', dir, port);
    this.ports = 1;
  }

  start() {
    const { port, data } = this;
    const args = { listen: `127.0.0.1:${port}`, data, bucket: BUCKET, cors: CORS, lifecycle: LIFECYCLE };
    return this.launch(program('object-store'), Object.entries(args).flatMap(([name, value]) => [`--${name}`, value]), {
      SLOTCAST_S3_ACCESS_KEY_ID: ACCESS_KEY_ID,
      SLOTCAST_S3_SECRET_ACCESS_KEY: SECRET_ACCESS_KEY,
    });
  }

  /** Files of what was begun and neither completed nor aborted; S3's call to list that it does not know. */
  async openUploads() {
    const names = fs.readdirSync(this.data).filter((name) => /\.upload(_id)?-/.test(name));
    return [...names, ...fs.readdirSync(path.join(this.data, '.drafts'))];
  }
}

/**
 * A server that shares no code with ours: the `weed` of SeaweedFS, whose parts each listen twice.
 *
 * It takes all of the two rule files. Its lifecycle rules are carried out by workers that are not started here.
 */
class SeaweedFs extends ObjectStore {
  constructor(dir, port) {
    super('seaweedfs', dir, port);
    this.ports = 8;
  }

  async start() {
    execFileSync(path.join(ROOT, 'deploy/local/install-seaweedfs'), { stdio: ['ignore', 'ignore', 'inherit'] });
    await this.launch(path.join(ROOT, 'target/tools/seaweedfs/bin/weed'), ['-logtostderr', 'server', ...this.options()], {
      HOME: this.data, // it reads settings from there
    });
    await eventually('a bucket to write to', () => this.prepare());
  }

  options() {
    const { port, data } = this;
    return Object.entries({
      ip: '127.0.0.1',
      'ip.bind': '127.0.0.1',
      dir: data,
      's3': true,
      's3.port': port,
      's3.port.grpc': port + 1,
      's3.port.iceberg': 0,
      's3.port.lance': 0,
      's3.localSocket': path.join(data, 's3.sock'),
      's3.config': this.identities(),
      's3.iam': false,
      filer: true,
      'filer.port': port + 2,
      'filer.port.grpc': port + 3,
      'filer.localSocket': path.join(data, 'filer.sock'),
      'master.port': port + 4,
      'master.port.grpc': port + 5,
      'master.electionTimeout': '500ms',
      'master.heartbeatInterval': '100ms',
      'master.telemetry': false,
      'master.volumeSizeLimitMB': 128,
      'volume.port': port + 6,
      'volume.port.grpc': port + 7,
      'volume.max': 64,
    }).map(([name, value]) => `-${name}=${value}`);
  }

  /** Keys of the multipart uploads that are neither completed nor aborted. */
  async openUploads() {
    const { Uploads = [] } = await this.ask(ListMultipartUploadsCommand);
    return Uploads.map((upload) => upload.Key);
  }

  identities() {
    const file = path.join(this.data, 'identities.json');
    const credentials = [{ accessKey: ACCESS_KEY_ID, secretKey: SECRET_ACCESS_KEY }];
    fs.writeFileSync(file, JSON.stringify({ identities: [{ name: 'tests', credentials, actions: ['Admin'] }] }));
    return file;
  }

  async prepare() {
    await this.ask(CreateBucketCommand).catch((error) => {
      if (!/^BucketAlready/.test(error.name)) throw error;
    });
    const json = (file) => JSON.parse(fs.readFileSync(file, 'utf8'));
    await this.ask(PutBucketCorsCommand, { CORSConfiguration: json(CORS) });
    await this.ask(PutBucketLifecycleConfigurationCommand, { LifecycleConfiguration: json(LIFECYCLE) });
    await this.put('probe', 'is there a volume?', 'text/plain');
    await this.remove('probe');
    return true;
  }

  stop() {
    super.stop();
    // It lays these beside its own folder, wherever that is.
    for (const [part, offset] of [['s3', 1], ['filer', 3], ['master', 5], ['volume', 7]]) {
      fs.rmSync(`/tmp/seaweedfs-${part}-grpc-${this.port + offset}.sock`, { force: true });
    }
  }
}
