//! CRC16 slots, the hash tags that reach them, and the operator's shards.
//!
//! Source: Redis Cluster specification, "Key distribution model" and "Hash tags".

use std::{fmt, sync::OnceLock};

/// Number of slots of every Redis Cluster.
pub const SLOT_COUNT: u16 = 16_384;

/// One of the 16,384 slots of a Redis Cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// Takes a slot number, refusing 16,384 and above.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        if number < SLOT_COUNT {
            Some(Self(number))
        } else {
            None
        }
    }

    /// Finds the slot of a key: CRC16 (XMODEM) of its hash tag, or of the whole key without one.
    #[must_use]
    pub fn of_key(key: &[u8]) -> Self {
        Self(crc16::State::<crc16::XMODEM>::calculate(hash_tag(key)) % SLOT_COUNT)
    }

    /// The slot's number, 0 to 16,383.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }

    /// The shortest base-36 string whose CRC16 is this slot; at most four characters.
    ///
    /// The first call computes the tags of all slots (some ten milliseconds).
    #[must_use]
    pub fn tag(self) -> &'static str {
        static TAGS: OnceLock<Vec<Box<str>>> = OnceLock::new();
        TAGS.get_or_init(tags_of_all_slots)
            .get(usize::from(self.0))
            .map_or("", |tag| tag)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The part of a key that decides its slot: between the first `{` and the next `}`, if not empty.
fn hash_tag(key: &[u8]) -> &[u8] {
    let Some((_, after)) = split_at_byte(key, b'{') else {
        return key;
    };
    match split_at_byte(after, b'}') {
        Some((tag, _)) if !tag.is_empty() => tag,
        _ => key,
    }
}

fn split_at_byte(bytes: &[u8], byte: u8) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|&b| b == byte)?;
    let (before, from) = bytes.split_at(at);
    Some((before, from.get(1..)?))
}

/// Enumerates base-36 strings in order of length until every slot has one.
fn tags_of_all_slots() -> Vec<Box<str>> {
    let mut tags = vec![Box::<str>::default(); usize::from(SLOT_COUNT)];
    let mut missing = tags.len();
    for length in 1..=4 {
        for number in 0..36_u32.pow(length) {
            let text = base36(number, length);
            let slot = usize::from(Slot::of_key(text.as_bytes()).0);
            if let Some(tag) = tags.get_mut(slot).filter(|tag| tag.is_empty()) {
                *tag = text.into_boxed_str();
                missing -= 1;
            }
            if missing == 0 {
                return tags;
            }
        }
    }
    tags
}

/// Writes a number with exactly `length` base-36 digits.
fn base36(mut number: u32, length: u32) -> String {
    let mut digits: Vec<char> = (0..length)
        .map(|_| {
            let digit = char::from_digit(number % 36, 36).unwrap_or('0');
            number /= 36;
            digit
        })
        .collect();
    digits.reverse();
    digits.into_iter().collect()
}

/// The largest number of masters for which the spread of shards is made exact.
const MASTERS_MAX: u32 = 64;

/// The operator's shards: `count` slots spread evenly over the slot range.
///
/// Shard `i` of N is slot `floor((i + 1/2) * 16384 / N)`. With the slot ranges that
/// `redis-cli --cluster create` cuts for M masters, the busiest then holds `ceil(N / M)` shards,
/// unless rounding puts one on the wrong side of a border; so the half gives way by a few
/// sixty-fourths where that happens.
///
/// The count decides where *new* rooms and users go; ids carry their slot, so it may change
/// whenever the operator likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shards {
    count: u32,
    /// Place of a shard within its part of the slot range, in sixty-fourths.
    offset: u32,
}

impl Shards {
    /// Takes the operator's shard count, 1 to 16,384.
    #[must_use]
    pub fn new(count: u16) -> Option<Self> {
        if !(1..=SLOT_COUNT).contains(&count) {
            return None;
        }
        let at = |offset| Self {
            count: u32::from(count),
            offset,
        };
        let even = (24..=32).rev().map(at).find(|shards| shards.are_even());
        Some(even.unwrap_or_else(|| at(32)))
    }

    /// The slot of the shard that `random` picks.
    #[must_use]
    pub fn pick(self, random: u32) -> Slot {
        let place = u64::from(64 * (random % self.count) + self.offset);
        let slot = place * u64::from(SLOT_COUNT) / u64::from(64 * self.count);
        Slot(u16::try_from(slot).unwrap_or(0))
    }

    /// The slots of all shards, in rising order.
    pub fn slots(self) -> impl Iterator<Item = Slot> {
        (0..self.count).map(move |index| self.pick(index))
    }

    fn are_even(self) -> bool {
        (1..=self.count.min(MASTERS_MAX))
            .all(|masters| self.busiest(masters) <= self.count.div_ceil(masters))
    }

    /// The number of shards on the busiest of `masters` masters.
    fn busiest(self, masters: u32) -> u32 {
        let (mut busiest, mut load, mut master) = (0, 0, 0);
        for slot in self.slots() {
            while master + 1 < masters && slot >= first_slot(master + 1, masters) {
                master += 1;
                load = 0;
            }
            load += 1;
            busiest = busiest.max(load);
        }
        busiest
    }
}

/// The first slot of a master where `redis-cli --cluster create` cuts ranges: rounded to nearest.
fn first_slot(master: u32, masters: u32) -> Slot {
    let slot = (2 * master * u32::from(SLOT_COUNT) + masters) / (2 * masters);
    Slot(u16::try_from(slot).unwrap_or(SLOT_COUNT))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn keys_with_one_hash_tag_share_a_slot() {
        assert_eq!(
            Slot::of_key(b"{abc}:log:1"),
            Slot::of_key(b"{abc}:members:2")
        );
        assert_eq!(Slot::of_key(b"{abc}:log:1"), Slot::of_key(b"abc"));
    }

    #[test]
    fn slots_agree_with_the_cluster_specification() {
        assert_eq!(Slot::of_key(b"123456789").number(), 0x31C3 % SLOT_COUNT);
        assert_eq!(
            Slot::of_key(b"foo{}{bar}"),
            Slot(Slot::of_key(b"foo{}{bar}").0)
        );
        assert_ne!(Slot::of_key(b"foo{}{bar}"), Slot::of_key(b"bar"));
        assert_eq!(Slot::of_key(b"foo{{bar}}zap"), Slot::of_key(b"{bar"));
        assert_eq!(Slot::of_key(b"foo{bar}{zap}"), Slot::of_key(b"bar"));
    }

    #[test]
    fn every_slot_has_a_tag_of_at_most_four_characters() {
        for slot in (0..SLOT_COUNT).map(Slot) {
            let tag = slot.tag();
            assert!((1..=4).contains(&tag.len()), "slot {slot} has tag {tag:?}");
            assert_eq!(Slot::of_key(tag.as_bytes()), slot);
        }
    }

    #[test]
    fn busiest_master_holds_at_most_its_share_of_shards() {
        let borders: HashMap<_, _> = (1..=64)
            .map(|masters| (masters, last_slots(masters)))
            .collect();
        for count in 1..=1024_u16 {
            let shards = Shards::new(count).expect("in range");
            for masters in 1..=count.min(64) {
                let mut load = vec![0; usize::from(masters)];
                for slot in shards.slots() {
                    load[borders[&masters].partition_point(|last| *last < slot.number())] += 1;
                }
                let busiest = load.into_iter().max().unwrap();
                assert_eq!(
                    busiest,
                    count.div_ceil(masters),
                    "{count} shards, {masters} masters"
                );
            }
        }
    }

    #[test]
    fn tags_named_by_number_would_leave_masters_idle() {
        let mut load = [0; 3];
        for index in 0..3 {
            let slot = Slot::of_key(format!("{{{index}}}").as_bytes());
            load[last_slots(3).partition_point(|last| *last < slot.number())] += 1;
        }
        assert!(load.contains(&0), "naive tags happen to spread: {load:?}");
    }

    #[test]
    fn the_largest_count_uses_every_slot_once() {
        let shards = Shards::new(SLOT_COUNT).unwrap();
        assert!(shards.slots().map(Slot::number).eq(0..SLOT_COUNT));
        assert!(Shards::new(0).is_none() && Shards::new(SLOT_COUNT + 1).is_none());
    }

    /// The last slot of every master where `redis-cli --cluster create` cuts ranges.
    fn last_slots(masters: u16) -> Vec<u16> {
        (1..=masters)
            .map(|next| first_slot(next.into(), masters.into()).number() - 1)
            .collect()
    }

    #[test]
    fn ranges_are_cut_as_redis_cli_cuts_them() {
        assert_eq!(last_slots(3), [5460, 10922, 16383]);
        assert_eq!(last_slots(5), [3276, 6553, 9829, 13106, 16383]);
        assert_eq!(last_slots(6), [2730, 5460, 8191, 10922, 13652, 16383]);
    }
}
