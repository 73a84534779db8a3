// Free ports below the range that the kernel hands to outgoing connections.
import net from 'node:net';

const LOWEST = 10_000;
const HIGHEST = 22_000; // a Redis bus listens 10,000 above its node
const BLOCK = 200;

function isFree(port) {
  return new Promise((resolve) => {
    const server = net.createServer();
    server.once('error', () => resolve(false));
    server.listen(port, '127.0.0.1', () => server.close(() => resolve(true)));
  });
}

/** The first of `BLOCK` ports, picked at random so that two checkouts can test at once. */
export async function freeBase(used = BLOCK) {
  for (;;) {
    const base = LOWEST + BLOCK * Math.floor((Math.random() * (HIGHEST - LOWEST)) / BLOCK);
    const ports = Array.from({ length: used }, (_, i) => base + i);
    const free = await Promise.all([...ports, ...ports.map((p) => p + 10_000)].map(isFree));
    if (free.every(Boolean)) return base;
  }
}
