//! Numbers that should come one after another, and those that do not.

use std::ops::Range;

/// Where a number stands among those that came before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// It is the next one, or higher: what lies between is missing until it comes.
    Ahead,
    /// It was missing: it comes out of order.
    Late,
    /// It came before.
    Repeated,
}

/// The numbers that came, all of them in the space of a gap list.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sequence {
    last: Option<u32>,
    /// What is missing below `last`, ascending.
    missing: Vec<Range<u32>>,
}

impl Sequence {
    /// Expects `last + 1`; a default sequence takes any number first.
    pub(crate) const fn after(last: u32) -> Self {
        Self {
            last: Some(last),
            missing: Vec::new(),
        }
    }

    pub(crate) fn take(&mut self, number: u32) -> Place {
        match self.last {
            Some(last) if number <= last => return self.take_late(number),
            Some(last) if number > last + 1 => self.missing.push(last + 1..number),
            _ => {}
        }
        self.last = Some(number);
        Place::Ahead
    }

    fn take_late(&mut self, number: u32) -> Place {
        let Some(at) = self.missing.iter().position(|gap| gap.contains(&number)) else {
            return Place::Repeated;
        };
        let gap = self.missing.remove(at);
        let rest = [gap.start..number, number + 1..gap.end];
        let rest = rest.into_iter().filter(|gap| !gap.is_empty());
        self.missing.splice(at..at, rest);
        Place::Late
    }

    /// The highest number that came.
    pub(crate) const fn last(&self) -> Option<u32> {
        self.last
    }

    /// Expects nothing any more of what is missing.
    pub(crate) fn forget_missing(&mut self) {
        self.missing = Vec::new();
    }

    /// How many numbers below the highest never came.
    pub(crate) fn missing(&self) -> u64 {
        self.missing.iter().map(|gap| gap.len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::{Place::*, *};

    fn places(sequence: &mut Sequence, numbers: &[u32]) -> Vec<Place> {
        numbers
            .iter()
            .map(|number| sequence.take(*number))
            .collect()
    }

    #[test]
    fn rising_numbers_miss_nothing() {
        let mut sequence = Sequence::default();
        assert_eq!(places(&mut sequence, &[7, 8, 9]), [Ahead; 3]);
        assert_eq!(sequence.missing(), 0);
    }

    #[test]
    fn what_is_skipped_is_missing() {
        let mut sequence = Sequence::after(0);
        assert_eq!(places(&mut sequence, &[3, 4, 8]), [Ahead; 3]);
        assert_eq!(sequence.missing(), 5);
    }

    #[test]
    fn a_missing_number_that_comes_is_late_and_then_repeated() {
        let mut sequence = Sequence::after(0);
        let order = places(&mut sequence, &[1, 5, 3, 3, 2, 4, 4, 6]);
        assert_eq!(
            order,
            [Ahead, Ahead, Late, Repeated, Late, Late, Repeated, Ahead]
        );
        assert_eq!(sequence.missing(), 0);
    }

    #[test]
    fn a_number_from_before_the_first_is_repeated() {
        let mut sequence = Sequence::default();
        assert_eq!(
            places(&mut sequence, &[7, 6, 7]),
            [Ahead, Repeated, Repeated]
        );
    }
}
