//! What a process under test costs, read from proc(5) on the same machine.

use std::{
    collections::HashSet,
    fs,
    net::SocketAddrV4,
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

/// Bytes that a process has handed to `write` and its like, to sockets and files alike (proc(5), `wchar`).
pub(crate) fn written_bytes(pid: u32) -> Result<u64> {
    let io = fs::read_to_string(format!("/proc/{pid}/io"))
        .with_context(|| format!("cannot see what process {pid} writes"))?;
    let written = io.lines().find_map(|line| line.strip_prefix("wchar: "));
    Ok(written.context("no wchar")?.parse()?)
}

/// Where the open TCP connections of a process lead to (IPv4).
pub(crate) fn peers(pid: u32) -> Result<Vec<SocketAddrV4>> {
    let mut sockets = HashSet::new();
    for file in fs::read_dir(format!("/proc/{pid}/fd"))? {
        // A file may be closed meanwhile.
        let Ok(target) = fs::read_link(file?.path()) else {
            continue;
        };
        let inode = target
            .to_str()
            .and_then(|target| target.strip_prefix("socket:["));
        sockets.extend(inode.and_then(|inode| inode.strip_suffix(']')?.parse::<u64>().ok()));
    }
    let table = fs::read_to_string(format!("/proc/{pid}/net/tcp"))?;
    let connections = table.lines().filter_map(connection);
    Ok(connections
        .filter(|(_, inode)| sockets.contains(inode))
        .map(|(peer, _)| peer)
        .collect())
}

/// The other end of an established connection and the inode of its socket, from a line of
/// `/proc/net/tcp` (Linux, `Documentation/networking/proc_net_tcp.rst`).
fn connection(line: &str) -> Option<(SocketAddrV4, u64)> {
    const ESTABLISHED: &str = "01";
    let mut fields = line.split_whitespace().skip(2);
    let (peer, state) = (fields.next()?, fields.next()?);
    let inode = fields.nth(5)?.parse().ok()?;
    let (address, port) = peer.split_once(':')?;
    // The bytes as they lie in memory.
    let address = u32::from_str_radix(address, 16).ok()?.to_ne_bytes();
    let port = u16::from_str_radix(port, 16).ok()?;
    (state == ESTABLISHED).then(|| (SocketAddrV4::new(address.into(), port), inode))
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

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn connections_lead_to_their_peers() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let _client = TcpStream::connect(server).unwrap();
        let peers = peers(std::process::id()).unwrap();
        let found = peers.iter().filter(|peer| SocketAddr::V4(**peer) == server);
        assert_eq!(found.count(), 1);
    }

    #[test]
    fn sockets_that_listen_or_have_ended_are_no_connections() {
        let line = |state: &str| {
            format!(
                "   0: 0100007F:1F0E 0100007F:1F0F {state} 00000000:00000000 00:00000000 00000000 \
                 0 0 4711 1 0000000000000000 20 4 30 10 -1"
            )
        };
        let peer = "127.0.0.1:7951".parse().unwrap();
        if cfg!(target_endian = "little") {
            assert_eq!(connection(&line("01")), Some((peer, 4711)));
        }
        assert_eq!(connection(&line("0A")), None);
        assert_eq!(connection("  sl  local_address rem_address   st"), None);
    }

    #[test]
    fn what_a_process_writes_is_counted() {
        let before = written_bytes(std::process::id()).unwrap();
        fs::write("/dev/null", [0; 4096]).unwrap();
        assert!(written_bytes(std::process::id()).unwrap() >= before + 4096);
    }
}
