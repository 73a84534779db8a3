//! All that a request can reach.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use prometheus_client::metrics::gauge::Gauge;
use tokio::{sync::watch, time::sleep};

use crate::{
    config::Config, directory::Directory, error::FileError, metrics::Metrics, objects::ObjectStore,
    password::Passwords, rate_limit::RateLimiter, store::Store,
};

/// Time between two probes of Redis.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// How long Redis may fail before load balancers are told: longer than a failover, so that one
/// does not empty the whole fleet.
const READY_GRACE: Duration = Duration::from_secs(10);

/// What handlers share.
pub struct App {
    pub(crate) config: Arc<Config>,
    pub(crate) store: Store,
    pub(crate) passwords: Passwords,
    pub(crate) rooms_rate: RateLimiter,
    pub(crate) directory: Directory,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) readiness: Readiness,
    pub(crate) in_flight: InFlight,
    /// Forms with files in work.
    pub(crate) uploads: InFlight,
    objects: Option<ObjectStore>,
}

impl App {
    /// Makes everything and connects to nothing.
    ///
    /// # Errors
    /// An operating system that gives no threads or no root certificates, or Redis URLs that are none.
    pub fn new(config: Config) -> io::Result<Arc<Self>> {
        let config = Arc::new(config);
        let metrics = Arc::new(Metrics::new(&config.host));
        let store = Store::new(Arc::clone(&config), Arc::clone(&metrics))
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let objects = config.object_store.clone();
        let objects = objects.map(|objects| ObjectStore::new(objects, Arc::clone(&metrics)));
        Ok(Arc::new(Self {
            store,
            objects: objects.transpose()?,
            uploads: InFlight::new(config.max_uploads, metrics.uploads_in_flight.clone()),
            passwords: Passwords::start(config.password, Arc::clone(&metrics))?,
            rooms_rate: RateLimiter::new(config.rooms_rate),
            directory: Directory::new(),
            readiness: Readiness::default(),
            in_flight: InFlight::new(config.max_requests, metrics.requests_in_flight.clone()),
            metrics,
            config,
        }))
    }

    /// The object store, if one is configured.
    pub(crate) fn objects(&self) -> Result<&ObjectStore, FileError> {
        self.objects.as_ref().ok_or(FileError::NoObjectStore)
    }

    /// Watches what this process depends on; runs until dropped.
    pub async fn watch(&self) {
        tokio::join!(self.watch_redis(), async {
            if let Some(objects) = &self.objects {
                objects.renew_credentials().await;
            }
        });
    }

    /// Asks Redis every second whether it is there; runs until dropped.
    async fn watch_redis(&self) {
        loop {
            let begun = Instant::now();
            match self.store.probe().await {
                Ok(last_activity) => self.readiness.succeeded(Probe {
                    at: Instant::now(),
                    latency: begun.elapsed(),
                    last_activity,
                }),
                Err(_) => self.readiness.failed(),
            }
            sleep(PROBE_INTERVAL).await;
        }
    }

    /// The counters of the process.
    #[must_use]
    pub fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// Waits until Redis has answered once.
    pub async fn ready(&self) {
        let mut last = self.readiness.last.subscribe();
        // The sender lives as long as this does, so the wait cannot fail.
        let _ = last.wait_for(|last| last.success.is_some()).await;
    }

    /// Takes this process out of service: load balancers see it as not ready.
    pub fn begin_drain(&self) {
        self.readiness.draining.store(true, Ordering::Relaxed);
    }

    /// Waits until no handler runs any more, also none whose client has left.
    pub async fn finish_requests(&self) {
        self.in_flight.finish().await;
    }
}

/// Whether this process should get requests.
#[derive(Default)]
pub(crate) struct Readiness {
    draining: AtomicBool,
    last: watch::Sender<LastProbe>,
}

#[derive(Clone, Copy, Default)]
struct LastProbe {
    success: Option<Probe>,
    failed_since: bool,
}

/// A question that Redis answered.
#[derive(Clone, Copy)]
pub(crate) struct Probe {
    at: Instant,
    /// Time to the answer.
    pub(crate) latency: Duration,
    /// Creation of the newest room, in milliseconds since 1970.
    pub(crate) last_activity: Option<u64>,
}

impl Readiness {
    /// Whether a load balancer should send requests.
    pub(crate) fn is_ready(&self) -> bool {
        let answered = self.last.borrow().success;
        !self.draining.load(Ordering::Relaxed)
            && answered.is_some_and(|probe| probe.at.elapsed() < READY_GRACE)
    }

    /// The newest probe, unless it failed.
    pub(crate) fn newest_probe(&self) -> Option<Probe> {
        let last = *self.last.borrow();
        last.success.filter(|_| !last.failed_since)
    }

    fn succeeded(&self, probe: Probe) {
        self.last.send_replace(LastProbe {
            success: Some(probe),
            failed_since: false,
        });
    }

    fn failed(&self) {
        self.last.send_modify(|last| last.failed_since = true);
    }
}

/// Counts the handlers that run, so that a shutdown can wait for them.
pub(crate) struct InFlight {
    running: watch::Sender<usize>,
    most: usize,
    gauge: Gauge,
}

/// A running handler.
#[must_use = "the handler counts as running while this lives"]
pub(crate) struct Running {
    running: watch::Sender<usize>,
    gauge: Gauge,
}

impl InFlight {
    pub(crate) fn new(most: usize, gauge: Gauge) -> Self {
        let (running, _) = watch::channel(0);
        Self {
            running,
            most,
            gauge,
        }
    }

    /// Counts one more handler; `None` when the bound is reached.
    pub(crate) fn enter(&self) -> Option<Running> {
        let most = self.most;
        let entered = self.running.send_if_modified(|running| {
            let enters = *running < most;
            *running += usize::from(enters);
            enters
        });
        entered.then(|| {
            self.gauge.inc();
            Running {
                running: self.running.clone(),
                gauge: self.gauge.clone(),
            }
        })
    }

    async fn finish(&self) {
        // The sender lives as long as this does, so the wait cannot fail.
        let _ = self
            .running
            .subscribe()
            .wait_for(|running| *running == 0)
            .await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.gauge.dec();
        self.running
            .send_modify(|running| *running = running.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn shutdown_waits_for_running_handlers_and_new_ones_are_bounded() {
        let in_flight = InFlight::new(1, Gauge::default());
        let running = in_flight.enter().unwrap();
        assert!(in_flight.enter().is_none());
        let finish = in_flight.finish();
        tokio::pin!(finish);
        assert!(finish.as_mut().now_or_never().is_none());
        drop(running);
        finish.await;
        assert!(in_flight.enter().is_some());
    }

    #[test]
    fn readiness_needs_an_answer_and_survives_one_failure() {
        let readiness = Readiness::default();
        assert!(!readiness.is_ready());
        readiness.succeeded(Probe {
            at: Instant::now(),
            latency: Duration::ZERO,
            last_activity: None,
        });
        readiness.failed();
        assert!(readiness.is_ready());
        assert!(readiness.newest_probe().is_none());
        readiness.draining.store(true, Ordering::Relaxed);
        assert!(!readiness.is_ready());
    }
}
