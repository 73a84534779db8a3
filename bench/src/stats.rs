//! What many numbers come to.

use hdrhistogram::Histogram;
use serde::Serialize;
use serde_json::{Map, Number, Value};

/// Largest latency that is told from larger ones, in microseconds.
const LATENCY_US_MAX: u64 = 600_000_000;

/// Latencies in microseconds, to three digits.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        let histogram = Histogram::new_with_max(LATENCY_US_MAX, 3);
        Self(histogram.unwrap_or_else(|_| unreachable!("the bounds are valid")))
    }
}

impl Latencies {
    pub(crate) fn record_ns(&mut self, ns: u64) {
        self.0.saturating_record(ns / 1000);
    }

    pub(crate) fn add(&mut self, other: &Self) {
        // Both have the same bounds.
        let _ = self.0.add(&other.0);
    }

    /// `None` of no latencies.
    pub(crate) fn summary(&self) -> Option<Summary> {
        if self.0.is_empty() {
            return None;
        }
        let at = |quantile| self.0.value_at_quantile(quantile);
        Some(Summary {
            count: self.0.len(),
            p50: at(0.5),
            p90: at(0.9),
            p95: at(0.95),
            p99: at(0.99),
            p99_9: at(0.999),
            max: self.0.max(),
        })
    }
}

/// Quantiles of latencies, in microseconds unless said otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Summary {
    pub(crate) count: u64,
    pub(crate) p50: u64,
    pub(crate) p90: u64,
    pub(crate) p95: u64,
    pub(crate) p99: u64,
    pub(crate) p99_9: u64,
    pub(crate) max: u64,
}

impl Summary {
    /// The same in a larger unit.
    pub(crate) const fn divided_by(self, unit: u64) -> Self {
        Self {
            count: self.count,
            p50: self.p50 / unit,
            p90: self.p90 / unit,
            p95: self.p95 / unit,
            p99: self.p99 / unit,
            p99_9: self.p99_9 / unit,
            max: self.max / unit,
        }
    }
}

/// Figures of several runs as one: the median of each number (of an even count the mean of the middle
/// two), true where any run says so, else what the first run has.
pub(crate) fn median(runs: &[Value]) -> Value {
    match runs {
        [Value::Object(first), ..] => {
            let members = first.keys().map(|name| {
                let of_runs: Vec<_> = runs
                    .iter()
                    .filter_map(|run| run.get(name))
                    .cloned()
                    .collect();
                (name.clone(), median(&of_runs))
            });
            Value::Object(members.collect::<Map<_, _>>())
        }
        [Value::Number(_), ..] => middle(runs).map_or(Value::Null, Value::Number),
        [Value::Bool(_), ..] => Value::Bool(runs.contains(&Value::Bool(true))),
        [first, ..] => first.clone(),
        [] => Value::Null,
    }
}

fn middle(runs: &[Value]) -> Option<Number> {
    let mut numbers: Vec<_> = runs.iter().filter_map(Value::as_f64).collect();
    numbers.sort_by(f64::total_cmp);
    let low = *numbers.get((numbers.len() - 1) / 2)?;
    let high = *numbers.get(numbers.len() / 2)?;
    let is_whole = low == high && runs.iter().all(Value::is_u64);
    if is_whole {
        let whole = runs.iter().find(|run| run.as_f64() == Some(low));
        return whole.and_then(Value::as_u64).map(Number::from);
    }
    Number::from_f64((low + high) / 2.0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn quantiles_are_right_to_three_digits() {
        let mut latencies = Latencies::default();
        for us in 1..=10_000 {
            latencies.record_ns(us * 1000);
        }
        let summary = latencies.summary().unwrap();
        assert_eq!((summary.count, summary.max), (10_000, 10_007));
        for (quantile, expected) in [(summary.p50, 5_000), (summary.p99, 9_900)] {
            assert!(quantile.abs_diff(expected) * 1000 <= expected, "{quantile}");
        }
    }

    #[test]
    fn histograms_of_threads_add_up() {
        let (mut one, mut other) = (Latencies::default(), Latencies::default());
        one.record_ns(1_000_000);
        other.record_ns(3_000_000);
        one.add(&other);
        let summary = one.summary().unwrap();
        assert_eq!((summary.count, summary.p50), (2, 1000));
    }

    #[test]
    fn a_median_is_taken_of_each_figure() {
        let runs = [
            json!({"sent": 10, "latency": {"p50": 3.0}, "is_bottleneck": false, "name": "a"}),
            json!({"sent": 30, "latency": {"p50": 1.0}, "is_bottleneck": true, "name": "a"}),
            json!({"sent": 20, "latency": {"p50": 2.0}, "is_bottleneck": false, "name": "a"}),
        ];
        let expected =
            json!({"sent": 20, "latency": {"p50": 2.0}, "is_bottleneck": true, "name": "a"});
        assert_eq!(median(&runs), expected);
        assert_eq!(median(&[json!(1), json!(2)]), json!(1.5));
    }

    #[test]
    fn an_absent_figure_stays_absent() {
        assert_eq!(median(&[json!({"cost": null})]), json!({"cost": null}));
        assert_eq!(median(&[]), Value::Null);
    }
}
