//! Latencies, counted in buckets whose width grows with the value: at most 0.8 % wide.

use std::time::Duration;

use serde_json::{Value, json};

const SUB_BITS: u32 = 7;
const SUB: u64 = 1 << SUB_BITS;

/// Counts of latencies.
#[derive(Default)]
pub(crate) struct Histogram {
    counts: Vec<u64>,
    count: u64,
    max_ns: u64,
}

impl Histogram {
    pub(crate) fn record(&mut self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let bucket = bucket(ns);
        if bucket >= self.counts.len() {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.count += 1;
        self.max_ns = self.max_ns.max(ns);
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn add(&mut self, other: &Self) {
        if other.counts.len() > self.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.count += other.count;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// The latency in microseconds below which this share of all lies; `None` if there are none.
    fn quantile_us(&self, share: f64) -> Option<f64> {
        let rank = (self.count as f64 * share).ceil().max(1.0) as u64;
        let mut below = 0;
        self.counts.iter().enumerate().find_map(|(bucket, count)| {
            below += count;
            (below >= rank).then(|| lower_end(bucket) as f64 / 1000.0)
        })
    }

    pub(crate) fn report(&self) -> Value {
        json!({
            "count": self.count,
            "p50_us": self.quantile_us(0.5),
            "p90_us": self.quantile_us(0.9),
            "p99_us": self.quantile_us(0.99),
            "p999_us": self.quantile_us(0.999),
            "max_us": self.max_ns as f64 / 1000.0,
        })
    }
}

fn bucket(ns: u64) -> usize {
    if ns < SUB {
        return ns as usize;
    }
    let shift = ns.ilog2() - SUB_BITS;
    ((u64::from(shift) + 1) * SUB + (ns >> shift) - SUB) as usize
}

fn lower_end(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < SUB {
        return bucket;
    }
    let shift = bucket / SUB - 1;
    (bucket % SUB + SUB) << shift
}
