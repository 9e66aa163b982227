//! How each kind of question is sent, and what its outcome means for whoever asked, for those who
//! follow, and for the counts.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use super::engine::EngineError;
use super::queue::{self, Item, Pending, Question};
use super::usage::Usage;
use super::{
    Acquire, AcquireOutcome, Heartbeat, HeartbeatOutcome, Release, ReleaseOutcome, statements,
};

/// How questions of one kind are put to the database.
pub(super) trait Statement {
    type Question: Kind;
    const NAME: &'static str;
    /// What it is counted as where it has no answer.
    const UNANSWERED: &'static str = "lost_race";

    fn send(
        connection: &mut PgConnection,
        questions: &[&Self::Question],
    ) -> impl Future<Output = sqlx::Result<Vec<Option<<Self::Question as Question>::Outcome>>>> + Send;
}

/// A kind of question, and what becomes of its answers.
pub(super) trait Kind: Question + Sized {
    /// What counts its outcomes.
    const COUNTER: &'static str;

    /// Answers; returns what the engine then has to ask for itself.
    fn answer(
        pending: Pending<Self>,
        outcome: Self::Outcome,
        took: Duration,
        usage: &Usage,
        tally: &mut Tally,
    ) -> Option<Item>;

    fn into_item(pending: Pending<Self>) -> Item;

    /// What undoes a question that may have been done and that nobody will hear of.
    fn give_back(_: &Pending<Self>) -> Option<Item> {
        None
    }
}

/// The outcomes of a batch, counted together: looking a counter up by its label for each question
/// costs more than counting.
#[derive(Default)]
pub(super) struct Tally(Vec<(&'static str, u64)>);

impl Tally {
    pub(super) fn add(&mut self, outcome: &'static str, times: u64) {
        match self.0.iter_mut().find(|(label, _)| *label == outcome) {
            Some((_, count)) => *count += times,
            None => self.0.push((outcome, times)),
        }
    }

    pub(super) fn count(self, counter: &'static str) {
        for (outcome, times) in self.0 {
            metrics::counter!(counter, "outcome" => outcome).increment(times);
        }
    }
}

/// Whether an answer comes so late that it says too little about the lease (DESIGN: half of it, on
/// the node's monotonic clock).
fn too_late(took: Duration, lease_ms: i32) -> bool {
    took.as_millis() * 2 > lease_ms.unsigned_abs().into()
}

/// Gives the answer; or gives it back, where nobody waits for it any more.
fn reply<Q: Question>(
    pending: Pending<Q>,
    answer: Result<Q::Outcome, EngineError>,
) -> Result<(), Q> {
    match pending.reply.map(|reply| reply.send(answer)) {
        Some(Err(_)) => Err(pending.question),
        _ => Ok(()),
    }
}

impl Statement for Acquire {
    type Question = Self;
    const NAME: &'static str = "acquire";

    async fn send(
        connection: &mut PgConnection,
        questions: &[&Self],
    ) -> sqlx::Result<Vec<Option<AcquireOutcome>>> {
        statements::acquire(connection, questions).await
    }
}

/// Acquires of locks that most likely have no row. Those that have are asked again as [`Acquire`].
pub(super) struct AcquireNew;

impl Statement for AcquireNew {
    type Question = Acquire;
    const NAME: &'static str = "acquire_new";
    const UNANSWERED: &'static str = "not_new";

    async fn send(
        connection: &mut PgConnection,
        questions: &[&Acquire],
    ) -> sqlx::Result<Vec<Option<AcquireOutcome>>> {
        statements::acquire_new(connection, questions).await
    }
}

impl Kind for Acquire {
    const COUNTER: &'static str = "lockable_acquires_total";

    fn answer(
        mut pending: Pending<Self>,
        outcome: AcquireOutcome,
        took: Duration,
        usage: &Usage,
        tally: &mut Tally,
    ) -> Option<Item> {
        let result = match &outcome {
            AcquireOutcome::Granted(_) => "granted",
            AcquireOutcome::Held => "held",
            AcquireOutcome::LeaseEnded => "lease_ended",
        };
        tally.add(result, 1);
        if outcome == AcquireOutcome::LeaseEnded && !pending.question.needs_proof {
            // It was granted, the answer was lost, and the lease has ended since: the id that we
            // drew is used up, the wish is not.
            pending.question.lease_id = Uuid::new_v4();
            pending.in_doubt = false;
            return Some(Item::Acquire(pending));
        }
        for follower in std::mem::take(&mut pending.followers) {
            tally.add("held", 1);
            let _ = follower.send(Ok(AcquireOutcome::Held));
        }
        let AcquireOutcome::Granted(lease) = outcome else {
            let _ = reply(pending, Ok(outcome));
            return None;
        };
        usage.granted(pending.question.account_id, pending.question.max_live_locks);
        // Whoever asked without an id of their own cannot ask for it again: a grant that they do
        // not hear of is given back.
        let give_back = (!pending.question.needs_proof)
            .then(|| queue::give_back(&pending.question, lease.lease_id));
        let heard = if too_late(took, lease.expires_in_ms) {
            let _ = reply(pending, Err(EngineError::Unknown));
            false
        } else {
            reply(pending, Ok(AcquireOutcome::Granted(lease))).is_ok()
        };
        if heard {
            return None;
        }
        give_back
    }

    fn into_item(pending: Pending<Self>) -> Item {
        Item::Acquire(pending)
    }

    fn give_back(pending: &Pending<Self>) -> Option<Item> {
        pending.give_back()
    }
}

impl Statement for Heartbeat {
    type Question = Self;
    const NAME: &'static str = "heartbeat";

    async fn send(
        connection: &mut PgConnection,
        questions: &[&Self],
    ) -> sqlx::Result<Vec<Option<HeartbeatOutcome>>> {
        statements::heartbeat(connection, questions).await
    }
}

impl Kind for Heartbeat {
    const COUNTER: &'static str = "lockable_heartbeats_total";

    fn answer(
        pending: Pending<Self>,
        outcome: HeartbeatOutcome,
        took: Duration,
        _: &Usage,
        tally: &mut Tally,
    ) -> Option<Item> {
        let (result, answer) = match outcome {
            HeartbeatOutcome::Renewed(lease) if too_late(took, lease.expires_in_ms) => {
                ("late", Err(EngineError::Unknown))
            }
            HeartbeatOutcome::Renewed(_) => ("renewed", Ok(outcome)),
            HeartbeatOutcome::Lost(_) => ("lost", Ok(outcome)),
        };
        tally.add(result, 1);
        let _ = reply(pending, answer);
        None
    }

    fn into_item(pending: Pending<Self>) -> Item {
        Item::Heartbeat(pending)
    }
}

impl Statement for Release {
    type Question = Self;
    const NAME: &'static str = "release";

    async fn send(
        connection: &mut PgConnection,
        questions: &[&Self],
    ) -> sqlx::Result<Vec<Option<ReleaseOutcome>>> {
        statements::release(connection, questions).await
    }
}

impl Kind for Release {
    const COUNTER: &'static str = "lockable_releases_total";

    fn answer(
        pending: Pending<Self>,
        outcome: ReleaseOutcome,
        _: Duration,
        usage: &Usage,
        tally: &mut Tally,
    ) -> Option<Item> {
        let result = match outcome {
            ReleaseOutcome::Released => "released",
            ReleaseOutcome::Lost(_) => "lost",
        };
        tally.add(result, 1);
        usage.ended(pending.question.account_id);
        let _ = reply(pending, Ok(outcome));
        None
    }

    fn into_item(pending: Pending<Self>) -> Item {
        Item::Release(pending)
    }
}
