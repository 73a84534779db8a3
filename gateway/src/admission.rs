//! Whether a new socket gets a place: bounds on all sockets, on those of one address, and on new ones a
//! second. Decided before anything is spent on the socket.

use std::{
    collections::HashMap,
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::time::{Duration, Instant};

use crate::{chat::Chat, config::Config};

/// Why a socket gets no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// Every place of the process is taken.
    Full,
    /// Its address has as many sockets as one may have.
    Address,
    /// Too many sockets came within a second.
    Rate,
}

/// The places of the process.
#[derive(Debug)]
pub(crate) struct Places {
    taken: AtomicUsize,
    addresses: Option<Mutex<Addresses>>,
    rate: Mutex<Bucket>,
}

impl Places {
    /// As many as the settings allow, none taken.
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            taken: AtomicUsize::new(0),
            addresses: config
                .connections_per_address
                .map(|most| Mutex::new(Addresses::new(most))),
            rate: Mutex::new(Bucket::new(config.connections_per_second, Instant::now())),
        }
    }
}

/// A place among the connections that the process may have, free again when dropped.
pub(crate) struct Admission<C: Chat> {
    chat: Arc<C>,
    /// Set once it counts for its address.
    address: Option<AddressKey>,
}

impl<C: Chat> Admission<C> {
    /// Takes a place for a client of this address.
    ///
    /// # Errors
    /// [`NoPlace`]; then nothing is counted, so one address cannot use up what others need.
    pub(crate) fn take(chat: &Arc<C>, address: &str) -> Result<Self, NoPlace> {
        let places = &chat.sockets().places;
        if places.taken.fetch_add(1, Ordering::AcqRel) >= chat.config().max_connections {
            places.taken.fetch_sub(1, Ordering::AcqRel);
            return Err(NoPlace::Full);
        }
        chat.metrics().connections.inc();
        let mut admission = Self {
            chat: Arc::clone(chat),
            address: None,
        };
        if let Some(addresses) = &places.addresses {
            let entered = lock(addresses).enter(address).ok_or(NoPlace::Address)?;
            admission.address = Some(entered);
        }
        if lock(&places.rate).take(Instant::now()) {
            Ok(admission)
        } else {
            Err(NoPlace::Rate)
        }
    }

    /// The gateway that the place is in.
    pub(crate) const fn chat(&self) -> &Arc<C> {
        &self.chat
    }
}

impl<C: Chat> Drop for Admission<C> {
    fn drop(&mut self) {
        let places = &self.chat.sockets().places;
        if let (Some(addresses), Some(address)) = (&places.addresses, self.address) {
            lock(addresses).leave(address);
        }
        places.taken.fetch_sub(1, Ordering::AcqRel);
        self.chat.metrics().connections.dec();
    }
}

/// No code panics while it holds one of these locks half done, so a poisoned one is as good.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A token bucket that holds one second's worth.
#[derive(Debug)]
struct Bucket {
    /// Between two tokens.
    interval: Duration,
    /// When the bucket will be full again: all that it has to remember.
    full_at: Instant,
}

impl Bucket {
    fn new(per_second: u32, now: Instant) -> Self {
        Self {
            interval: Duration::from_secs(1) / per_second,
            full_at: now,
        }
    }

    /// Takes a token; false if there is none.
    fn take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.max(now) + self.interval;
        let is_there = full_at - now <= Duration::from_secs(1);
        if is_there {
            self.full_at = full_at;
        }
        is_there
    }
}

/// A client's address in eight bytes: a hash under a key of this process, so nobody can make two collide.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct AddressKey(u64);

/// How many sockets each address has. Addresses without a socket take no space.
#[derive(Debug)]
struct Addresses {
    most: NonZeroU32,
    hasher: RandomState,
    sockets: HashMap<AddressKey, u32>,
}

impl Addresses {
    fn new(most: NonZeroU32) -> Self {
        Self {
            most,
            hasher: RandomState::new(),
            sockets: HashMap::new(),
        }
    }

    /// Counts a socket; `None` when the address has as many as it may.
    fn enter(&mut self, address: &str) -> Option<AddressKey> {
        let key = AddressKey(self.hasher.hash_one(subscriber(address)));
        let sockets = self.sockets.entry(key).or_insert(0);
        if *sockets >= self.most.get() {
            return None;
        }
        *sockets += 1;
        Some(key)
    }

    fn leave(&mut self, key: AddressKey) {
        if let Some(sockets) = self.sockets.get_mut(&key) {
            *sockets -= 1;
            if *sockets == 0 {
                self.sockets.remove(&key);
            }
        }
    }
}

/// Whose address it is. A subscriber of IPv6 has 2^64 addresses, which count as one.
fn subscriber(address: &str) -> Result<IpAddr, &str> {
    match address.parse::<IpAddr>().map(|ip| ip.to_canonical()) {
        Ok(IpAddr::V6(ip)) => Ok(Ipv6Addr::from_bits(ip.to_bits() & !u128::from(u64::MAX)).into()),
        Ok(ip) => Ok(ip),
        Err(_) => Err(address),
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn taken(bucket: &mut Bucket, tries: u32) -> usize {
        (0..tries).filter(|_| bucket.take(Instant::now())).count()
    }

    #[tokio::test(start_paused = true)]
    async fn a_bucket_gives_one_seconds_worth_at_once_and_then_its_rate() {
        let mut bucket = Bucket::new(5000, Instant::now());
        assert_eq!(taken(&mut bucket, 20_000), 5000);
        for _ in 0..50 {
            advance(Duration::from_millis(10)).await;
            assert_eq!(taken(&mut bucket, 1000), 50);
        }
        advance(Duration::from_secs(3600)).await;
        assert_eq!(taken(&mut bucket, 20_000), 5000, "no more is saved up");
    }

    #[tokio::test(start_paused = true)]
    async fn refused_tries_cost_no_tokens() {
        let mut bucket = Bucket::new(3, Instant::now());
        assert_eq!(taken(&mut bucket, 1000), 3);
        advance(Duration::from_millis(334)).await;
        assert_eq!(taken(&mut bucket, 1000), 1);
        advance(Duration::from_millis(300)).await;
        assert_eq!(taken(&mut bucket, 1000), 0);
        advance(Duration::from_millis(34)).await;
        assert_eq!(taken(&mut bucket, 1000), 1);
    }

    fn addresses(most: u32) -> Addresses {
        Addresses::new(NonZeroU32::new(most).unwrap())
    }

    #[test]
    fn an_address_has_its_bound_to_itself() {
        let mut addresses = addresses(2);
        let first = addresses.enter("203.0.113.7").unwrap();
        assert!(addresses.enter("203.0.113.7").is_some());
        assert!(addresses.enter("203.0.113.7").is_none());
        assert!(addresses.enter("203.0.113.8").is_some());
        assert!(addresses.enter("not an address").is_some());
        addresses.leave(first);
        assert!(addresses.enter("203.0.113.7").is_some());
        assert!(addresses.enter("203.0.113.7").is_none());
    }

    #[test]
    fn one_subscriber_has_many_addresses_of_ipv6() {
        let mut addresses = addresses(1);
        assert!(addresses.enter("2001:db8:1:2::1").is_some());
        assert!(addresses.enter("2001:db8:1:2:ffff::9").is_none());
        assert!(addresses.enter("2001:db8:1:3::1").is_some());
        assert!(addresses.enter("192.0.2.1").is_some());
        assert!(addresses.enter("::ffff:192.0.2.1").is_none());
        assert!(addresses.enter("::ffff:192.0.2.2").is_some());
    }

    #[test]
    fn addresses_without_a_socket_take_no_space() {
        let mut addresses = addresses(2);
        for number in 0..100_000_u32 {
            let address = IpAddr::from(number.to_be_bytes()).to_string();
            let entered = [addresses.enter(&address), addresses.enter(&address)];
            assert!(addresses.enter(&address).is_none());
            for key in entered {
                addresses.leave(key.unwrap());
            }
        }
        assert!(addresses.sockets.is_empty());
        assert!(addresses.sockets.capacity() < 16);
    }
}
