// Waiting for conditions: every wait has a deadline, and says what it waited for.
import { setTimeout as delay } from 'node:timers/promises';

/** Longest wait for something that should come at once, in ms. */
export const SOON = 10_000;

/** Resolves with the first truthy result of `probe`; a probe that throws counts as "not yet". */
export async function eventually(what, probe, { within = SOON, every = 50 } = {}) {
  const deadline = Date.now() + within;
  let last;
  for (;;) {
    try {
      const result = await probe();
      if (result) return result;
    } catch (error) {
      last = error;
    }
    if (Date.now() >= deadline) {
      throw new Error(`waited ${within} ms in vain for ${what}`, { cause: last });
    }
    await delay(every);
  }
}

/** `promise`, or an error naming `what` after `within` ms. */
export async function inTime(what, promise, within = SOON) {
  let timer;
  const expired = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`waited ${within} ms in vain for ${what}`)), within);
  });
  try {
    return await Promise.race([promise, expired]);
  } finally {
    clearTimeout(timer);
  }
}
