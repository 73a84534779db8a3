// One HTTP request as it is written, without a client that improves it.
import http from 'node:http';
import { inTime } from './wait.js';

/** Answers `{status, headers, bytes, text, json}`; `json` is undefined when the body is none. */
export function request(method, url, { headers = {}, body } = {}) {
  const answer = new Promise((resolve, reject) => {
    const outgoing = http.request(url, { method, headers, agent: false }, (incoming) => {
      const chunks = [];
      incoming.on('data', (chunk) => chunks.push(chunk));
      incoming.on('error', reject);
      incoming.on('end', () => {
        const bytes = Buffer.concat(chunks);
        const text = bytes.toString('utf8');
        resolve({ status: incoming.statusCode, headers: incoming.headers, bytes, text, json: parsed(text) });
      });
    });
    outgoing.on('error', reject);
    outgoing.end(body);
  });
  return inTime(`${method} ${url}`, answer, 30_000);
}

function parsed(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}
