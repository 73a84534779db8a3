//! What a process under test costs, read from proc(5) on the same machine.

use std::{
    fs,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};

/// Between two looks at a process's memory.
const SAMPLE_INTERVAL: Duration = Duration::from_millis(5);

/// Clock ticks per second of `/proc/<pid>/stat`; fixed for user space by Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// Anonymous resident memory of a process, in KiB (proc(5), `RssAnon`).
pub(crate) fn resident_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))
        .with_context(|| format!("no process {pid}"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("RssAnon:"));
    let kib = line
        .and_then(|line| line.split_whitespace().next())
        .context("no RssAnon")?;
    Ok(kib.parse()?)
}

/// What the kernel keeps in its slabs for all processes, in KiB (proc(5), `Slab`): sockets, files, inodes.
pub(crate) fn slab_kib() -> Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    let line = meminfo.lines().find_map(|line| line.strip_prefix("Slab:"));
    let kib = line.and_then(|line| line.split_whitespace().next());
    Ok(kib.context("no Slab")?.parse()?)
}

/// CPU seconds that a process has used, in user space and in the kernel (proc(5), `utime`, `stime`).
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("no process {pid}"))?;
    // The name before the last parenthesis may hold spaces.
    let (_, fields) = stat.rsplit_once(')').context("no name")?;
    let mut times = fields.split_whitespace().skip(11);
    let mut next = || -> Result<f64> { Ok(times.next().context("no times")?.parse()?) };
    Ok((next()? + next()?) / TICKS_PER_SECOND)
}

/// CPU time that the threads of a process have used, in nanoseconds: finer than [`cpu_seconds`], and
/// without what threads used that have ended.
pub(crate) fn cpu_ns(pid: u32) -> Result<u64> {
    let threads =
        fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("no process {pid}"))?;
    let mut sum = 0;
    for thread in threads {
        // A thread may end meanwhile.
        sum += time_on_cpu(&thread?.path().join("schedstat")).unwrap_or_default();
    }
    Ok(sum)
}

/// CPU time that a thread of this process has used, in nanoseconds.
pub(crate) fn thread_cpu_ns(id: u32) -> Result<u64> {
    time_on_cpu(format!("/proc/self/task/{id}/schedstat").as_ref())
}

/// The first field of a `schedstat` (Linux, `Documentation/scheduler/sched-stats.rst`).
fn time_on_cpu(schedstat: &Path) -> Result<u64> {
    let text = fs::read_to_string(schedstat)?;
    let time = text.split_whitespace().next();
    Ok(time.context("an empty schedstat")?.parse()?)
}

/// Looks for the most memory that a process has, on a thread of its own.
pub(crate) struct PeakWatch {
    ended: Arc<AtomicBool>,
    peak_kib: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl PeakWatch {
    pub(crate) fn start(pid: u32) -> Self {
        let (ended, peak_kib) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stop, peak) = (Arc::clone(&ended), Arc::clone(&peak_kib));
        let thread = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                peak.fetch_max(resident_kib(pid).unwrap_or_default(), Ordering::Relaxed);
                thread::park_timeout(SAMPLE_INTERVAL);
            }
        });
        Self {
            ended,
            peak_kib,
            thread,
        }
    }

    /// The most that was seen, in KiB.
    pub(crate) fn stop(self) -> u64 {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.thread().unpark();
        // A thread that panicked has seen what it has seen.
        let _ = self.thread.join();
        self.peak_kib.load(Ordering::Relaxed)
    }
}
