//! The recorder: events that wait in memory to be written, in batches, by a job.
//!
//! The buffer is bounded. An event that finds it full is lost, and so is a batch that the database
//! refuses; what was lost is counted by namespace, and written as a gap. While the database cannot
//! be reached, events wait.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::PgPool;

use super::{NewEvent, metric, store};
use crate::db;
use crate::id::NamespaceId;

/// How often the job of a node writes what has come.
pub const WRITE_EVERY: Duration = Duration::from_millis(200);
/// The most events that wait: some seconds of a node's greatest rate, and tens of MiB.
const CAPACITY: usize = 65_536;
/// The most events of one batch. A batch holds up those of other nodes, and the readers.
const LARGEST_BATCH: usize = 4096;
/// The time after which the result of a batch counts as lost. It is written again: twice has the
/// effect of once.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// The recorder of a node. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Recorder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    capacity: usize,
    buffer: Mutex<Buffer>,
    /// Held while a batch is written, so that batches are written in order.
    writing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Buffer {
    events: VecDeque<NewEvent>,
    /// The number of lost events, by namespace.
    lost: BTreeMap<NamespaceId, u64>,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            capacity: CAPACITY,
            buffer: Mutex::default(),
            writing: tokio::sync::Mutex::default(),
        }
    }
}

impl Buffer {
    fn push(&mut self, event: NewEvent, capacity: usize) {
        if self.events.len() < capacity {
            self.events.push_back(event);
        } else {
            *self.lost.entry(event.namespace_id).or_default() += 1;
        }
    }
}

impl Recorder {
    /// A recorder in which so many events wait at most.
    pub fn with_capacity(capacity: usize) -> Self {
        Self(Arc::new(Inner {
            capacity,
            ..Inner::default()
        }))
    }

    fn buffer(&self) -> MutexGuard<'_, Buffer> {
        let buffer = self.0.buffer.lock();
        buffer.unwrap_or_else(PoisonError::into_inner)
    }

    /// Records events. Those of the public namespace are not even built by callers; here they are
    /// ignored.
    pub fn record(&self, events: impl IntoIterator<Item = NewEvent>) {
        let mut events = events
            .into_iter()
            .filter(|event| event.namespace_id != NamespaceId::PUBLIC)
            .peekable();
        if events.peek().is_none() {
            return;
        }
        let mut buffer = self.buffer();
        for event in events {
            buffer.push(event, self.0.capacity);
        }
    }

    /// The number of events that wait.
    pub fn waiting(&self) -> usize {
        self.buffer().events.len()
    }

    /// Writes all events that wait, and the gaps where others were lost.
    ///
    /// # Errors
    /// If the database is unavailable: the events wait on. If it refuses a batch, that is lost.
    pub async fn write(&self, pool: &PgPool) -> sqlx::Result<()> {
        let _writing = self.0.writing.lock().await;
        loop {
            let (batch, lost) = self.take_batch();
            if batch.is_empty() && lost.is_empty() {
                return Ok(());
            }
            let write = store::write(pool, &batch, &lost);
            let written = tokio::time::timeout(WRITE_TIMEOUT, write)
                .await
                .unwrap_or(Err(sqlx::Error::PoolTimedOut));
            match written {
                Ok(written) => {
                    metrics::counter!(metric::WRITTEN).increment(written);
                    let lost = lost.values().sum();
                    metrics::counter!(metric::LOST).increment(lost);
                }
                Err(error) => {
                    let is_refused = !db::is_unavailable(&error) && !db::is_contention(&error);
                    self.put_back(batch, lost, is_refused);
                    return Err(error);
                }
            }
        }
    }

    fn take_batch(&self) -> (Vec<NewEvent>, BTreeMap<NamespaceId, u64>) {
        let mut buffer = self.buffer();
        metrics::gauge!(metric::WAITING).set(buffer.events.len() as f64);
        let length = buffer.events.len().min(LARGEST_BATCH);
        let batch = buffer.events.drain(..length).collect();
        (batch, std::mem::take(&mut buffer.lost))
    }

    /// Puts a batch back that was not written; of one that was refused, only that it is lost.
    fn put_back(&self, batch: Vec<NewEvent>, lost: BTreeMap<NamespaceId, u64>, is_refused: bool) {
        let mut buffer = self.buffer();
        for (namespace_id, count) in lost {
            *buffer.lost.entry(namespace_id).or_default() += count;
        }
        for event in batch.into_iter().rev() {
            if is_refused {
                *buffer.lost.entry(event.namespace_id).or_default() += 1;
            } else {
                buffer.events.push_front(event);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::events::EventKind;

    fn event(namespace_id: i64, fencing_token: i64) -> NewEvent {
        NewEvent {
            namespace_id: NamespaceId(namespace_id),
            name: Arc::from("a"),
            kind: EventKind::Granted,
            at: chrono::Utc::now(),
            lease_id: None,
            fencing_token,
            token_id: None,
            holder: None,
            waited_ms: None,
            acquired_at: None,
            reason: None,
        }
    }

    #[test]
    fn what_finds_the_buffer_full_is_counted_by_namespace() {
        let recorder = Recorder::with_capacity(2);
        recorder.record((0..4).map(|token| event(7, token)));
        recorder.record([event(8, 9)]);
        recorder.record([event(NamespaceId::PUBLIC.0, 10)]);
        assert_eq!(recorder.waiting(), 2);
        let (batch, lost) = recorder.take_batch();
        assert_eq!(batch.len(), 2);
        let expected = BTreeMap::from([(NamespaceId(7), 2), (NamespaceId(8), 1)]);
        assert_eq!(lost, expected);
        // What the database did not take waits on, before what came meanwhile.
        recorder.record([event(7, 5)]);
        recorder.put_back(batch, lost, false);
        let (batch, lost) = recorder.take_batch();
        let tokens: Vec<i64> = batch.iter().map(|event| event.fencing_token).collect();
        assert_eq!(tokens, [0, 1, 5]);
        assert_eq!(lost, expected);
        // What it refused is lost.
        recorder.put_back(batch, lost, true);
        let (batch, lost) = recorder.take_batch();
        assert!(batch.is_empty());
        assert_eq!(
            lost,
            BTreeMap::from([(NamespaceId(7), 5), (NamespaceId(8), 1)])
        );
    }
}
