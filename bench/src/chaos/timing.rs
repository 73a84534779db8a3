//! How long things took, from the clients' own records.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    time::Duration,
};

use super::{record::Key, verdict::Witness};

/// A room's messages: when each was first sent, and when the last complete client had it.
pub(crate) struct Deliveries {
    by_room: BTreeMap<usize, Vec<(Duration, Duration)>>,
}

impl Deliveries {
    /// Of messages that every complete client of their room has.
    pub(crate) fn of(witnesses: &[Witness]) -> Self {
        let mut members: BTreeMap<usize, usize> = BTreeMap::new();
        let mut had: HashMap<(usize, Key), (usize, Duration)> = HashMap::new();
        for witness in witnesses.iter().filter(|witness| witness.is_complete) {
            for (room, record) in witness.rooms.iter().zip(&witness.record.rooms) {
                *members.entry(*room).or_default() += 1;
                for seen in &record.shown {
                    let Some(key) = seen.key else { continue };
                    let (count, last) = had.entry((*room, key)).or_default();
                    *count += 1;
                    *last = seen.at.max(*last);
                }
            }
        }
        let mut by_room: BTreeMap<usize, Vec<_>> = BTreeMap::new();
        for ((room, key), (count, last)) in had {
            let sender = witnesses.get(key.client);
            let sent = sender.and_then(|sender| sender.record.sent.get(key.number));
            if let Some(sent) = sent
                && members.get(&room) == Some(&count)
            {
                by_room.entry(room).or_default().push((sent.at, last));
            }
        }
        Self { by_room }
    }

    /// From a moment until every room had a message, sent after it, at all its clients.
    pub(crate) fn resumed_after(&self, moment: Duration) -> Option<Duration> {
        let resumed = self.by_room.values().map(|messages| {
            let later = messages.iter().filter(|(sent, _)| *sent >= moment);
            later.map(|(_, last)| *last - moment).min()
        });
        // A room in which nothing was sent any more tells nothing.
        resumed.flatten().max()
    }
}

/// From each send between two moments to each live delivery to a complete client.
pub(crate) fn latencies(witnesses: &[Witness], sent: Range<Duration>) -> Vec<Duration> {
    let mut latencies = Vec::new();
    for witness in witnesses.iter().filter(|witness| witness.is_complete) {
        for seen in witness.record.rooms.iter().flat_map(|room| &room.shown) {
            let sender = seen
                .key
                .and_then(|key| Some((witnesses.get(key.client)?, key.number)));
            let first = sender.and_then(|(sender, number)| sender.record.sent.get(number));
            if let Some(first) = first
                && sent.contains(&first.at)
            {
                latencies.push(seen.at.saturating_sub(first.at));
            }
        }
    }
    latencies
}

/// Connections lost a second between two moments, from the first loss to the last; none of a few.
pub(crate) fn shed_per_second(witnesses: &[Witness], between: Range<Duration>) -> Option<f64> {
    const FEW: usize = 10;
    let losses = witnesses.iter().flat_map(|witness| &witness.record.losses);
    let losses: Vec<_> = losses.copied().filter(|at| between.contains(at)).collect();
    let (first, last) = (losses.iter().min()?, losses.iter().max()?);
    let intervals = (losses.len() > FEW).then(|| losses.len() - 1)?;
    Some(intervals as f64 / (*last - *first).as_secs_f64())
}

/// The value that `percent` of the values do not exceed; zero of none.
pub(crate) fn percentile(values: &mut [Duration], percent: usize) -> Duration {
    values.sort_unstable();
    let rank = (values.len() * percent).div_ceil(100).max(1);
    values.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let mut values: Vec<_> = (1..=200).rev().map(Duration::from_millis).collect();
        assert_eq!(percentile(&mut values, 50), Duration::from_millis(100));
        assert_eq!(percentile(&mut values, 99), Duration::from_millis(198));
        assert_eq!(percentile(&mut values, 100), Duration::from_millis(200));
        assert_eq!(percentile(&mut [], 50), Duration::ZERO);
    }
}
