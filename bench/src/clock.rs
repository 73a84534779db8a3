//! The machine's monotonic clock (`CLOCK_MONOTONIC`): one time for all processes on it.

use rustix::{
    thread::clock_nanosleep_absolute,
    time::{ClockId, Timespec, clock_gettime},
};

pub(crate) const NS_PER_SECOND: u64 = 1_000_000_000;
pub(crate) const NS_PER_MS: u64 = 1_000_000;

/// Nanoseconds since the machine started.
pub(crate) fn now_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    // Neither is ever negative.
    now.tv_sec.unsigned_abs() * NS_PER_SECOND + now.tv_nsec.unsigned_abs()
}

/// A moment as the kernel takes it.
pub(crate) fn timespec(ns: u64) -> Timespec {
    Timespec {
        tv_sec: (ns / NS_PER_SECOND).cast_signed(),
        tv_nsec: (ns % NS_PER_SECOND).cast_signed(),
    }
}

/// Sleeps; for a thread that has nothing else to do.
pub(crate) fn sleep_until(ns: u64) {
    // A signal ends a sleep early.
    while now_ns() < ns {
        let _ = clock_nanosleep_absolute(ClockId::Monotonic, &timespec(ns));
    }
}
