//! What a process may take of the machine, as its control groups say (cgroups(7)).

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

/// Where the kernel shows control groups.
const GROUPS: &str = "/sys/fs/cgroup";

const BYTES_PER_MIB: u64 = 1024 * 1024;

/// Limits of one process; `None` for what it may take as much of as there is.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Limits {
    cores: Option<f64>,
    memory_mib: Option<u64>,
}

impl Limits {
    /// Of a process on this machine.
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup"))
            .with_context(|| format!("no process {pid}"))?;
        Ok(Self::read(&groups, |file| fs::read_to_string(file).ok()))
    }

    /// From `/proc/<pid>/cgroup` and the files of the groups, of version 2 or else 1.
    fn read(groups: &str, read: impl Fn(PathBuf) -> Option<String>) -> Self {
        let file = |controller: &str, folder: &str, name: &str| {
            let line = groups.lines().find_map(|line| {
                let (_, line) = line.split_once(':')?;
                line.split_once(':').filter(|(of, _)| *of == controller)
            });
            let path = line?.1.trim_start_matches('/');
            read(PathBuf::from(GROUPS).join(folder).join(path).join(name))
        };
        let quota = file("", "", "cpu.max").or_else(|| {
            let quota = file("cpu", "cpu", "cpu.cfs_quota_us")?;
            Some(format!(
                "{quota} {}",
                file("cpu", "cpu", "cpu.cfs_period_us")?
            ))
        });
        let memory = file("", "", "memory.max")
            .or_else(|| file("memory", "memory", "memory.limit_in_bytes"));
        Self {
            cores: quota.and_then(|quota| cores(&quota)),
            memory_mib: memory.and_then(|bytes| mib(&bytes)),
        }
    }
}

/// Cores of a quota and its period; a quota of `max` or -1 is none.
fn cores(quota: &str) -> Option<f64> {
    let mut numbers = quota.split_whitespace().map(str::parse::<f64>);
    let (quota, period) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
    (quota > 0.0).then(|| quota / period)
}

/// `max`, or in version 1 nearly all that an integer holds, is no limit.
fn mib(bytes: &str) -> Option<u64> {
    let bytes = bytes.trim().parse::<u64>().ok()?;
    (bytes < u64::MAX / 4).then_some(bytes / BYTES_PER_MIB)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(groups: &str, files: &[(&str, &str)]) -> Limits {
        Limits::read(groups, |path| {
            let found = files.iter().find(|(name, _)| path == PathBuf::from(name));
            found.map(|(_, text)| (*text).to_owned())
        })
    }

    #[test]
    fn groups_of_either_version_are_read() {
        let small = Limits {
            cores: Some(0.8),
            memory_mib: Some(2048),
        };
        let second = [
            ("/sys/fs/cgroup/small/cpu.max", "80000 100000\n"),
            ("/sys/fs/cgroup/small/memory.max", "2147483648\n"),
        ];
        assert_eq!(limits("0::/small\n", &second), small);
        let first = [
            ("/sys/fs/cgroup/cpu/small/cpu.cfs_quota_us", "80000\n"),
            ("/sys/fs/cgroup/cpu/small/cpu.cfs_period_us", "100000\n"),
            (
                "/sys/fs/cgroup/memory/small/memory.limit_in_bytes",
                "2147483648\n",
            ),
        ];
        assert_eq!(
            limits("4:memory:/small\n1:cpu:/small\n0::/\n", &first),
            small
        );
    }

    #[test]
    fn what_has_no_limit_has_none() {
        let second = [
            ("/sys/fs/cgroup/cpu.max", "max 100000\n"),
            ("/sys/fs/cgroup/memory.max", "max\n"),
        ];
        assert_eq!(limits("0::/\n", &second), Limits::default());
        let first = [
            ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n"),
            ("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n"),
            (
                "/sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
        ];
        assert_eq!(limits("1:memory:/\n2:cpu:/\n", &first), Limits::default());
        assert_eq!(limits("", &[]), Limits::default());
    }
}
