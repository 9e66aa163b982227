//! A guess, for each acquire, whether its lock has a row:
//! [`acquire_new`](super::statements::acquire_new) costs PostgreSQL two thirds of what
//! [`acquire`](super::statements::acquire) does, but answers only where there is none.
//!
//! A wrong guess is asked again and costs time, a fencing token and a commit; it never makes a
//! wrong answer.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use super::queue::Pending;
use super::{Acquire, LockKey};

/// Names that are remembered, at most.
const PLACES: usize = 1 << 16;
/// Right guesses that make up for a wrong one.
const WRONG_COSTS: i64 = 4;
/// How far right guesses count ahead.
const MOST_CREDIT: i64 = 1_000;

/// Which names a lane was asked for lately, and how well it guessed. A name that it was asked for
/// has most likely a row since; where other names have rows, too, as when many take turns with many
/// locks, it soon stops guessing, and tries now and then.
#[derive(Default)]
pub(super) struct Novelty {
    /// Of the last name with this place: what tells it from others. Made when it is first needed.
    seen: Box<[u32]>,
    hashes: RandomState,
    /// Below zero, nothing is guessed.
    credit: i64,
}

impl Novelty {
    /// Takes out the acquires that are most likely of locks without a row. Both keep their order.
    pub(super) fn take_new(
        &mut self,
        acquires: &mut Vec<Pending<Acquire>>,
    ) -> Vec<Pending<Acquire>> {
        let guesses = self.credit >= 0;
        if !guesses {
            self.credit += acquires.len() as i64;
        }
        let is_new = |pending: &mut Pending<Acquire>| {
            // Once each: names that share a place would push each other out again and again.
            let is_new = self.is_first(&pending.question.key) && guesses && !pending.taken_for_new;
            pending.taken_for_new |= is_new;
            is_new
        };
        acquires.extract_if(.., is_new).collect()
    }

    /// Of so many that were taken for new, so many were not granted.
    pub(super) fn learn(&mut self, guessed: usize, wrong: usize) {
        let change = guessed as i64 - (1 + WRONG_COSTS) * wrong as i64;
        // A whole batch of wrong guesses is paid for whole, or large batches would be guessed wrong
        // every other time.
        self.credit = (self.credit + change).min(MOST_CREDIT);
    }

    /// Whether the name was not asked for lately. It was, from now on.
    fn is_first(&mut self, key: &LockKey) -> bool {
        if self.seen.is_empty() {
            self.seen = vec![0; PLACES].into_boxed_slice();
        }
        let hash = self.hashes.hash_one(key);
        let place = (hash >> 32) as usize % PLACES;
        // The other half; never zero, which is nobody's.
        let mark = hash as u32 | 1;
        std::mem::replace(&mut self.seen[place], mark) != mark
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn wishes(names: impl IntoIterator<Item = String>) -> Vec<Pending<Acquire>> {
        names
            .into_iter()
            .map(|name| Pending::new(Acquire::plain(&name), None, Instant::now()))
            .collect()
    }

    /// What is taken out, of so many names.
    fn taken(novelty: &mut Novelty, names: &[&str]) -> Vec<String> {
        let mut all = wishes(names.iter().map(ToString::to_string));
        let new = novelty.take_new(&mut all);
        assert_eq!(new.len() + all.len(), names.len());
        new.into_iter()
            .map(|pending| pending.question.key.name.as_str().to_owned())
            .collect()
    }

    #[test]
    fn a_name_is_new_once() {
        let mut novelty = Novelty::default();
        assert_eq!(taken(&mut novelty, &["a", "b", "c"]), ["a", "b", "c"]);
        assert_eq!(taken(&mut novelty, &["a", "b2", "c", "d"]), ["b2", "d"]);
        assert!(taken(&mut novelty, &["a", "b", "b2", "d"]).is_empty());
    }

    #[test]
    fn what_was_taken_for_new_is_not_again() {
        let mut all = wishes(["a".to_owned()]);
        let mut again = Novelty::default().take_new(&mut all);
        assert_eq!((again.len(), all.len()), (1, 0));
        // As where another name has taken its place meanwhile.
        assert!(Novelty::default().take_new(&mut again).is_empty());
        assert_eq!(again.len(), 1);
    }

    /// Asks for names that it was never asked for, all of which have rows; how many of them it took
    /// for new.
    fn wrong_guesses(novelty: &mut Novelty, batches: std::ops::Range<usize>, size: usize) -> usize {
        let mut wrong = 0;
        for batch in batches {
            let guessed = novelty
                .take_new(&mut wishes(
                    (0..size).map(|number| format!("{batch}-{number}")),
                ))
                .len();
            novelty.learn(guessed, guessed);
            wrong += guessed;
        }
        wrong
    }

    #[test]
    fn where_guesses_are_wrong_few_are_made_and_where_they_are_right_again_all() {
        for size in [1, 10, 200, 2000] {
            let mut novelty = Novelty::default();
            let batches = 100_000 / size;
            let wrong = wrong_guesses(&mut novelty, 0..batches, size);
            assert!(
                wrong > 0 && wrong <= 100_000 / 5 + size,
                "{wrong} of 100,000 in batches of {size}"
            );
            let mut right = 0;
            for batch in batches..2 * batches {
                let guessed = novelty
                    .take_new(&mut wishes(
                        (0..size).map(|number| format!("{batch}-{number}")),
                    ))
                    .len();
                novelty.learn(guessed, 0);
                right += guessed;
            }
            // But for those before it tried again, and a few that share their place with another.
            assert!(
                right > 100_000 - 2_000 - 5 * size,
                "{right} of 100,000 in batches of {size}"
            );
        }
    }
}
