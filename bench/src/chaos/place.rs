//! Where the processes of the harness live: a folder, and ports that nobody uses.

use std::{fs, net::TcpListener, path::PathBuf, process};

use anyhow::{Context, Result};

/// A folder for everything, removed when dropped.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn make() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("slotcast-chaos-{}", process::id()));
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left is only logs.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Below the ports that the kernel hands out; a Redis bus listens 10,000 above its node.
const PORTS: std::ops::Range<u16> = 10_000..22_000;

/// The first of `count` ports that are free, with those of the Redis buses.
pub(crate) fn free_ports(count: u16) -> Result<u16> {
    let is_free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let mut rng = fastrand::Rng::new();
    let block = std::iter::repeat_with(|| rng.u16(PORTS))
        .take(100)
        .find(|first| {
            let mut ports = (*first..).take(count.into());
            ports.all(|port| is_free(port) && is_free(port + 10_000))
        });
    block.context("no free ports")
}
