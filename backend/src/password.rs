//! Password hashing on a bounded pool of threads of its own: a hash takes tens of milliseconds of a
//! core, which no runtime thread may spend.
//!
//! New hashes are argon2id or bcrypt by configuration; hashes of either verify.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
};

use argon2::{
    Algorithm, Argon2, Params, PasswordHash as PhcHash, PasswordHasher, PasswordVerifier, Version,
    password_hash::SaltString,
};
use thiserror::Error;
use tokio::sync::oneshot;

use crate::{
    config::{PasswordConfig, PasswordHash},
    input::Password,
    metrics::Metrics,
};

/// Why a password was neither hashed nor verified.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum PasswordError {
    /// All threads are busy and their queue is full.
    #[error("the password queue is full")]
    Busy,
    /// A bug, or a stored hash that is none.
    #[error("a password could not be hashed or verified")]
    Failed,
}

type Job = Box<dyn FnOnce() + Send>;

/// The threads that hash, and their queue. They end when this is dropped and the queue is empty.
pub(crate) struct Passwords {
    jobs: SyncSender<Job>,
    hasher: Arc<Hasher>,
    metrics: Arc<Metrics>,
}

impl Passwords {
    /// Starts the threads and hashes once, so that an unknown e-mail can cost what a known one does.
    ///
    /// # Errors
    /// An operating system that gives no thread; parameters that argon2 refuses.
    pub(crate) fn start(config: PasswordConfig, metrics: Arc<Metrics>) -> std::io::Result<Self> {
        let hasher = Hasher::new(config).map_err(|_| {
            std::io::Error::new(std::io::ErrorKind::InvalidInput, "argon2 parameters")
        })?;
        let (jobs, queue) = sync_channel::<Job>(config.queue);
        let queue = Arc::new(Mutex::new(queue));
        for number in 0..config.workers {
            let queue = Arc::clone(&queue);
            thread::Builder::new()
                .name(format!("password-{number}"))
                .spawn(move || work(&queue))?;
        }
        Ok(Self {
            jobs,
            hasher: Arc::new(hasher),
            metrics,
        })
    }

    /// Hashes a new password.
    pub(crate) async fn hash(&self, password: Password) -> Result<String, PasswordError> {
        self.run(move |hasher| hasher.hash(password.as_bytes()))
            .await
    }

    /// Whether `password` is the one that was hashed.
    pub(crate) async fn verify(
        &self,
        password: Password,
        hash: String,
    ) -> Result<bool, PasswordError> {
        self.run(move |hasher| hasher.verify(&password, &hash))
            .await
    }

    /// Spends what [`Passwords::verify`] spends, for an account that does not exist.
    pub(crate) async fn verify_nothing(&self, password: Password) -> Result<(), PasswordError> {
        let verified = self.run(move |hasher| hasher.verify(&password, &hasher.dummy));
        verified.await.map(|_| ())
    }

    async fn run<T: Send + 'static>(
        &self,
        job: impl FnOnce(&Hasher) -> Result<T, PasswordError> + Send + 'static,
    ) -> Result<T, PasswordError> {
        let (answer, answered) = oneshot::channel();
        let hasher = Arc::clone(&self.hasher);
        let job: Job = Box::new(move || {
            // Nobody waits any more only when the process is going down.
            let _ = answer.send(job(&hasher));
        });
        self.metrics.password_queue.inc();
        let sent = self.jobs.try_send(job);
        let result = match sent {
            Ok(()) => answered.await.unwrap_or(Err(PasswordError::Failed)),
            Err(TrySendError::Full(_)) => {
                self.metrics.password_refusals.inc();
                Err(PasswordError::Busy)
            }
            Err(TrySendError::Disconnected(_)) => Err(PasswordError::Failed),
        };
        self.metrics.password_queue.dec();
        result
    }
}

fn work(queue: &Mutex<Receiver<Job>>) {
    loop {
        // Held while waiting: the idle threads stand in line at the lock instead of at the queue.
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(job) = job else { return };
        if catch_unwind(AssertUnwindSafe(job)).is_err() {
            tracing::error!("a password job panicked");
        }
    }
}

/// The work itself.
struct Hasher {
    kind: PasswordHash,
    argon2: Argon2<'static>,
    bcrypt_cost: u32,
    dummy: String,
}

impl Hasher {
    fn new(config: PasswordConfig) -> Result<Self, PasswordError> {
        let params = Params::new(config.argon2_memory_kib, config.argon2_iterations, 1, None)
            .map_err(|_| PasswordError::Failed)?;
        let mut hasher = Self {
            kind: config.hash,
            argon2: Argon2::new(Algorithm::Argon2id, Version::V0x13, params),
            bcrypt_cost: config.bcrypt_cost,
            dummy: String::new(),
        };
        hasher.dummy = hasher.hash(b"the password of an account that does not exist")?;
        Ok(hasher)
    }

    fn hash(&self, password: &[u8]) -> Result<String, PasswordError> {
        let salt: [u8; 16] = rand::random();
        match self.kind {
            PasswordHash::Argon2id => {
                let salt = SaltString::encode_b64(&salt).map_err(|_| PasswordError::Failed)?;
                let hash = self.argon2.hash_password(password, &salt);
                hash.map(|hash| hash.to_string())
                    .map_err(|_| PasswordError::Failed)
            }
            PasswordHash::Bcrypt => bcrypt::hash_with_salt(password, self.bcrypt_cost, salt)
                .map(|parts| parts.to_string())
                .map_err(|_| PasswordError::Failed),
        }
    }

    /// A password too long to have been hashed costs the same and never matches.
    fn verify(&self, password: &Password, hash: &str) -> Result<bool, PasswordError> {
        let matches = if hash.starts_with("$2") {
            bcrypt::verify(password.as_bytes(), hash).map_err(|_| PasswordError::Failed)?
        } else {
            let hash = PhcHash::new(hash).map_err(|_| PasswordError::Failed)?;
            match self.argon2.verify_password(password.as_bytes(), &hash) {
                Ok(()) => true,
                Err(argon2::password_hash::Error::Password) => false,
                Err(_) => return Err(PasswordError::Failed),
            }
        };
        Ok(matches && password.is_hashable())
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn hashes_of_either_kind_verify_whatever_is_configured() {
        let bcrypt = hasher(PasswordHash::Bcrypt);
        let argon2id = hasher(PasswordHash::Argon2id);
        let hashes = [
            bcrypt.hash(b"secret1!").unwrap(),
            argon2id.hash(b"secret1!").unwrap(),
        ];
        assert!(hashes[0].starts_with("$2b$04$"), "{}", hashes[0]);
        assert!(
            hashes[1].starts_with("$argon2id$v=19$m=64,t=1,p=1$"),
            "{}",
            hashes[1]
        );
        for hasher in [&bcrypt, &argon2id] {
            for hash in &hashes {
                assert_eq!(hasher.verify(&Password::typed("secret1!"), hash), Ok(true));
                assert_eq!(hasher.verify(&Password::typed("secret2!"), hash), Ok(false));
            }
        }
    }

    #[test]
    fn bcrypt_hashes_of_other_libraries_verify() {
        // From the test vectors of crypt_blowfish and of OpenBSD: "U*U" with cost 5.
        let tail = "$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW";
        for version in ["$2a", "$2b", "$2y"] {
            let hash = format!("{version}{tail}");
            let verified = hasher(PasswordHash::Argon2id).verify(&Password::typed("U*U"), &hash);
            assert_eq!(verified, Ok(true), "{version}");
        }
    }

    #[test]
    fn password_beyond_72_bytes_never_matches_its_beginning() {
        let long = "a".repeat(73);
        for kind in [PasswordHash::Bcrypt, PasswordHash::Argon2id] {
            let hasher = hasher(kind);
            let hash = hasher.hash(long.as_bytes()).unwrap();
            assert_eq!(hasher.verify(&Password::typed(&long), &hash), Ok(false));
        }
    }

    #[test]
    fn text_that_is_no_hash_is_an_error_and_not_a_mismatch() {
        let verified = hasher(PasswordHash::Argon2id).verify(&Password::typed("x"), "plain");
        assert_eq!(verified, Err(PasswordError::Failed));
    }

    #[tokio::test]
    async fn full_queue_refuses_at_once_and_empties_again() {
        let passwords =
            Passwords::start(config(PasswordHash::Bcrypt), Metrics::for_tests()).unwrap();
        let (release, gate) = std::sync::mpsc::channel::<()>();
        let (started, mut starts) = tokio::sync::mpsc::channel(1);
        let blocked = passwords.run(move |_| {
            let _ = started.try_send(());
            gate.recv().map_err(|_| PasswordError::Failed)
        });
        let waiting = passwords.hash(Password::typed("waiting"));
        tokio::pin!(blocked, waiting);
        tokio::select! {
            biased;
            _ = &mut blocked => panic!("ran without its gate"),
            Some(()) = starts.recv() => {}
        }
        assert!(waiting.as_mut().now_or_never().is_none());
        let refused = passwords.hash(Password::typed("refused")).await;
        assert_eq!(refused, Err(PasswordError::Busy));
        release.send(()).unwrap();
        assert_eq!(blocked.await, Ok(()));
        assert!(waiting.await.is_ok());
    }

    #[tokio::test]
    async fn panicking_job_fails_alone() {
        let passwords =
            Passwords::start(config(PasswordHash::Bcrypt), Metrics::for_tests()).unwrap();
        let panicked = passwords.run::<()>(|_| panic!("on purpose")).await;
        assert_eq!(panicked, Err(PasswordError::Failed));
        assert!(passwords.hash(Password::typed("after")).await.is_ok());
    }

    fn hasher(kind: PasswordHash) -> Hasher {
        Hasher::new(config(kind)).unwrap()
    }

    fn config(hash: PasswordHash) -> PasswordConfig {
        PasswordConfig {
            hash,
            workers: 1,
            queue: 1,
            argon2_memory_kib: 64,
            argon2_iterations: 1,
            bcrypt_cost: 4,
        }
    }
}
