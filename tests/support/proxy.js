// A TCP proxy in front of a gateway: cuts connections without a word and leads them elsewhere.
import net from 'node:net';

/** See `proxyTo`. */
class Proxy {
  constructor(port) {
    this.pointTo(port);
    this.pairs = new Set();
    this.server = net.createServer((near) => this.join(near));
  }

  join(near) {
    this.targets.push(this.targets.shift());
    const far = net.connect(this.targets.at(-1), '127.0.0.1');
    const pair = [near, far];
    this.pairs.add(pair);
    for (const [from, to] of [pair, [far, near]]) {
      from.setNoDelay(true);
      from.on('error', () => {});
      from.on('close', () => {
        if (pair.isLost) return;
        to.destroy();
        this.pairs.delete(pair);
      });
      from.pipe(to);
    }
  }

  /** Leads later connections to other ports, in turn. */
  pointTo(...ports) {
    this.targets = ports;
  }

  /** Resets every connection, on both sides. */
  cut() {
    for (const pair of this.pairs) for (const socket of pair) socket.resetAndDestroy();
  }

  /** Carries nothing more on the connections of now; the far side hears nothing, not even their end. */
  lose() {
    for (const pair of this.pairs) {
      pair.isLost = true;
      for (const socket of pair) socket.unpipe().pause();
    }
  }

  close() {
    this.server.close();
    this.cut();
  }
}

/** A proxy to 127.0.0.1:`port`; its address is `url`. */
export async function proxyTo(port) {
  const proxy = new Proxy(port);
  await new Promise((resolve) => proxy.server.listen(0, '127.0.0.1', resolve));
  proxy.url = `http://127.0.0.1:${proxy.server.address().port}`;
  proxy.server.unref();
  return proxy;
}
