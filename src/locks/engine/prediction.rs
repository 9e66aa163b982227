//! Predicts, for each acquire, whether its lock has a row.
//! [`insert_if_absent`](super::statements::insert_if_absent) costs PostgreSQL less than
//! [`acquire`](super::statements::acquire) (docs/performance.md), but decides only about locks
//! without a row.
//!
//! A wrong prediction is retried and costs time, a fencing token and a commit; it never makes a
//! wrong outcome.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use super::request::Pending;
use crate::locks::{Acquire, LockKey};

/// The number of slots for names that were seen.
const SLOTS: usize = 1 << 16;
/// The number of right predictions that make up for a wrong one.
const WRONG_COSTS: i64 = 4;
/// The most credit that right predictions earn.
const MAX_CREDIT: i64 = 1_000;

/// Predicts that a lock has no row if the lane has not seen its name lately, as long as such
/// predictions come true. Where names are new to the lane but not to the database, as when many
/// nodes take turns with many locks, it soon stops predicting, and tries again now and then.
///
/// The memory of names is a direct-mapped cache of hashes: a new name replaces the one that had
/// its slot.
#[derive(Default)]
pub(super) struct InsertPredictor {
    /// The tag of the last name in each slot; allocated when first needed.
    tags: Box<[u32]>,
    hashes: RandomState,
    /// Below zero, nothing is predicted.
    credit: i64,
}

impl InsertPredictor {
    /// Moves the acquires of locks that most likely have no row out of `acquires`. Both vectors
    /// keep their order.
    pub(super) fn take_predicted_inserts(
        &mut self,
        acquires: &mut Vec<Pending<Acquire>>,
    ) -> Vec<Pending<Acquire>> {
        let is_predicting = self.credit >= 0;
        if !is_predicting {
            self.credit += acquires.len() as i64;
        }
        let is_predicted = |pending: &mut Pending<Acquire>| {
            // Once per request: names that share a slot would displace each other for ever.
            let is_insert =
                self.is_first_sight(&pending.request.key) && is_predicting && !pending.insert_tried;
            pending.insert_tried |= is_insert;
            is_insert
        };
        acquires.extract_if(.., is_predicted).collect()
    }

    /// Learns that `wrong` of `predicted` inserts met a row.
    pub(super) fn learn(&mut self, predicted: usize, wrong: usize) {
        let change = predicted as i64 - (1 + WRONG_COSTS) * wrong as i64;
        // No lower bound: a whole batch of wrong predictions is paid for whole, or every other
        // large batch would be predicted wrong.
        self.credit = (self.credit + change).min(MAX_CREDIT);
    }

    /// True if the name was not seen lately. Marks it as seen.
    fn is_first_sight(&mut self, key: &LockKey) -> bool {
        if self.tags.is_empty() {
            self.tags = vec![0; SLOTS].into_boxed_slice();
        }
        let hash = self.hashes.hash_one(key);
        let slot = (hash >> 32) as usize % SLOTS;
        // The other half of the hash; never zero, which marks an empty slot.
        let tag = hash as u32 | 1;
        std::mem::replace(&mut self.tags[slot], tag) != tag
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn acquires(names: impl IntoIterator<Item = String>) -> Vec<Pending<Acquire>> {
        names
            .into_iter()
            .map(|name| Pending::new(Acquire::plain(&name), None, Instant::now()))
            .collect()
    }

    /// The names that are predicted to be inserts.
    fn predicted(predictor: &mut InsertPredictor, names: &[&str]) -> Vec<String> {
        let mut all = acquires(names.iter().map(ToString::to_string));
        let inserts = predictor.take_predicted_inserts(&mut all);
        assert_eq!(inserts.len() + all.len(), names.len());
        inserts
            .into_iter()
            .map(|pending| pending.request.key.name.as_str().to_owned())
            .collect()
    }

    #[test]
    fn a_name_is_predicted_once() {
        let mut predictor = InsertPredictor::default();
        assert_eq!(predicted(&mut predictor, &["a", "b", "c"]), ["a", "b", "c"]);
        assert_eq!(
            predicted(&mut predictor, &["a", "b2", "c", "d"]),
            ["b2", "d"]
        );
        assert!(predicted(&mut predictor, &["a", "b", "b2", "d"]).is_empty());
    }

    #[test]
    fn an_insert_that_was_tried_is_not_predicted_again() {
        let mut all = acquires(["a".to_owned()]);
        let mut retries = InsertPredictor::default().take_predicted_inserts(&mut all);
        assert_eq!((retries.len(), all.len()), (1, 0));
        // As if another name had taken its slot meanwhile.
        assert!(
            InsertPredictor::default()
                .take_predicted_inserts(&mut retries)
                .is_empty()
        );
        assert_eq!(retries.len(), 1);
    }

    /// Predicts names that the predictor never saw and that all have rows; returns the number of
    /// wrong predictions.
    fn wrong_predictions(
        predictor: &mut InsertPredictor,
        batches: std::ops::Range<usize>,
        size: usize,
    ) -> usize {
        let mut wrong = 0;
        for batch in batches {
            let mut names = acquires((0..size).map(|number| format!("{batch}-{number}")));
            let predicted = predictor.take_predicted_inserts(&mut names).len();
            predictor.learn(predicted, predicted);
            wrong += predicted;
        }
        wrong
    }

    #[test]
    fn wrong_predictions_become_few_and_right_ones_become_all() {
        for size in [1, 10, 200, 2000] {
            let mut predictor = InsertPredictor::default();
            let batches = 100_000 / size;
            let wrong = wrong_predictions(&mut predictor, 0..batches, size);
            assert!(
                wrong > 0 && wrong <= 100_000 / 5 + size,
                "{wrong} of 100,000 in batches of {size}"
            );
            let mut right = 0;
            for batch in batches..2 * batches {
                let mut names = acquires((0..size).map(|number| format!("{batch}-{number}")));
                let predicted = predictor.take_predicted_inserts(&mut names).len();
                predictor.learn(predicted, 0);
                right += predicted;
            }
            // But for those before it tried again, and a few that share their slot with another.
            assert!(
                right > 100_000 - 2_000 - 5 * size,
                "{right} of 100,000 in batches of {size}"
            );
        }
    }
}
