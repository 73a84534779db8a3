//! Gateway processes of our own.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::wait::until;

/// From a start to being ready, and from SIGTERM to the end.
const PATIENCE: Duration = Duration::from_secs(60);

/// One gateway; killed when dropped.
pub(crate) struct Gateway {
    pub(crate) name: String,
    pub(crate) program: PathBuf,
    /// Port for clients; the next one is for `/ready`.
    pub(crate) port: u16,
    pub(crate) environment: Vec<(&'static str, String)>,
    pub(crate) log: PathBuf,
    process: Mutex<Option<Child>>,
}

impl Gateway {
    pub(crate) fn new(
        name: String,
        program: PathBuf,
        port: u16,
        environment: Vec<(&'static str, String)>,
        log: PathBuf,
    ) -> Self {
        Self {
            name,
            program,
            port,
            environment,
            log,
            process: Mutex::default(),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    fn admin(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port + 1).into()
    }

    /// Starts the process and waits until it is ready.
    pub(crate) async fn start(&self) -> Result<()> {
        let log = File::options().create(true).append(true).open(&self.log)?;
        let child = Command::new(&self.program)
            .env_clear()
            .envs(self.environment.iter().cloned())
            .env("SLOTCAST_LISTEN", self.address().to_string())
            .env("SLOTCAST_ADMIN_LISTEN", self.admin().to_string())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot run {}", self.program.display()))?;
        *self.process() = Some(child);
        until(&self.name, PATIENCE, async || self.is_ready().await).await
    }

    async fn is_ready(&self) -> bool {
        let answer = timeout(Duration::from_secs(1), self.ready());
        matches!(answer.await, Ok(Ok(true)))
    }

    async fn ready(&self) -> Result<bool> {
        let mut stream = TcpStream::connect(self.admin()).await?;
        stream
            .write_all(b"GET /ready HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n")
            .await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(answer.starts_with(b"HTTP/1.1 200 "))
    }

    /// Sends a signal to the process.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let process = self.process();
        let child = process.as_ref().context("the gateway does not run")?;
        let pid = Pid::from_raw(i32::try_from(child.id())?).context("no process")?;
        kill_process(pid, signal)?;
        Ok(())
    }

    /// Kills the process as a lost machine would be.
    pub(crate) fn kill(&self) -> Result<()> {
        if let Some(mut child) = self.process().take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Waits until the process has ended well.
    pub(crate) async fn ended(&self) -> Result<()> {
        let ended =
            async || !matches!(self.process().as_mut().map(Child::try_wait), Some(Ok(None)));
        until("a gateway to end", PATIENCE, ended).await?;
        let child = self.process().take();
        let status = child.context("the gateway does not run")?.wait()?;
        ensure!(status.success(), "{} ended with {status}", self.name);
        Ok(())
    }

    /// Whether the process has ended by itself.
    pub(crate) fn has_died(&self) -> bool {
        matches!(
            self.process().as_mut().map(Child::try_wait),
            Some(Ok(Some(_)))
        )
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.kill();
    }
}
