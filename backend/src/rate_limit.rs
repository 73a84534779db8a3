//! A fixed window per client address, in this process alone, as in the reference.
//!
//! All windows begin together, so forgetting a window is one `clear` and memory is bounded by the
//! number of addresses; above it, further addresses pass uncounted.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use axum::http::{HeaderMap, HeaderName};

use crate::config::RateLimit;

/// Addresses counted in one window; about 3 MB.
const ADDRESSES_MAX: usize = 50_000;

/// Counts requests.
pub(crate) struct RateLimiter {
    limit: RateLimit,
    addresses_max: usize,
    window: Mutex<Window>,
}

#[derive(Default)]
struct Window {
    number: u128,
    requests_by_address: HashMap<IpAddr, u32>,
}

/// What a request learns about its allowance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// The limit in force.
    pub(crate) limit: RateLimit,
    /// Whether this request may pass.
    pub(crate) allowed: bool,
    /// Requests left in this window.
    pub(crate) remaining: u32,
    /// End of the window, since 1970, in whole seconds.
    pub(crate) reset: Duration,
    /// Until the end of the window.
    pub(crate) retry_after: Duration,
}

impl RateLimiter {
    pub(crate) fn new(limit: RateLimit) -> Self {
        Self {
            limit,
            addresses_max: ADDRESSES_MAX,
            window: Mutex::default(),
        }
    }

    /// Counts a request of `address` at `now` (since 1970).
    pub(crate) fn count(&self, address: IpAddr, now: Duration) -> Allowance {
        let length_ms = self.limit.window.as_millis().max(1);
        let number = now.as_millis() / length_ms;
        let left_ms = length_ms - now.as_millis() % length_ms;
        let left_ms = u64::try_from(left_ms).unwrap_or(u64::MAX);
        let left = Duration::from_millis(left_ms);

        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.number != number {
            window.number = number;
            window.requests_by_address.clear();
        }
        let counted = &mut window.requests_by_address;
        let requests = if counted.len() < self.addresses_max || counted.contains_key(&address) {
            let requests = counted.entry(address).or_default();
            *requests = requests.saturating_add(1);
            *requests
        } else {
            1
        };
        Allowance {
            limit: self.limit,
            allowed: requests <= self.limit.requests,
            remaining: self.limit.requests.saturating_sub(requests),
            reset: Duration::from_secs((now + left).as_secs()),
            retry_after: Duration::from_secs(left_ms.div_ceil(1000)),
        }
    }
}

impl Allowance {
    /// Writes the headers that every answer of a limited endpoint carries.
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        let mut set = |name: &'static str, value: u64| {
            headers.insert(HeaderName::from_static(name), value.into());
        };
        set("x-ratelimit-limit", self.limit.requests.into());
        set("x-ratelimit-remaining", self.remaining.into());
        set("x-ratelimit-reset", self.reset.as_secs());
        set("x-ratelimit-window", self.limit.window.as_secs());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 7));
    const OTHER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 8));

    #[test]
    fn requests_beyond_the_limit_are_refused_until_the_window_ends() {
        let limiter = limiter(2);
        let at = |second| limiter.count(ADDRESS, Duration::from_secs(second));
        assert_eq!((at(60).allowed, at(61).remaining), (true, 0));
        let refused = at(75);
        assert!(!refused.allowed);
        assert_eq!(refused.reset, Duration::from_secs(90));
        assert_eq!(refused.retry_after, Duration::from_secs(15));
        assert!(limiter.count(OTHER, Duration::from_secs(75)).allowed);
        assert!(at(90).allowed);
    }

    #[test]
    fn addresses_beyond_the_bound_pass_uncounted() {
        let limiter = RateLimiter {
            addresses_max: 1,
            ..limiter(1)
        };
        let now = Duration::from_secs(60);
        assert!(limiter.count(ADDRESS, now).allowed);
        assert!(!limiter.count(ADDRESS, now).allowed);
        assert!(limiter.count(OTHER, now).allowed);
        assert!(limiter.count(OTHER, now).allowed);
    }

    fn limiter(requests: u32) -> RateLimiter {
        RateLimiter::new(RateLimit {
            requests,
            window: Duration::from_secs(30),
        })
    }
}
