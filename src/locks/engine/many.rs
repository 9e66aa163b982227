//! Many requests at once, each by itself.

use std::time::Instant;

use futures_util::future::join_all;
use tokio::sync::oneshot;

use super::gate::GateRequest;
use super::queue::Queue;
use super::request::{AnyRequest, FastOutcome, LockRequest, MemberHeartbeat, Pending};
use super::{Engine, wait_until};
use crate::locks::{EngineError, Heartbeat, HeartbeatOutcome, Lost, Release, ReleaseOutcome};

impl Engine {
    /// Renews many leases, each by itself: queued at once, so that they are together in the lane's
    /// next batches. Outcomes are in the order of the requests.
    pub async fn heartbeats(
        &self,
        requests: Vec<Heartbeat>,
    ) -> Vec<Result<HeartbeatOutcome, EngineError>> {
        let outcomes = self.submit_all(requests.clone()).await;
        let outcomes = outcomes.into_iter().zip(requests);
        let decided = outcomes.map(|(outcome, request)| async move {
            match (outcome?, MemberHeartbeat::of(request)) {
                (FastOutcome::Decided(outcome), _) => Ok(outcome),
                (FastOutcome::Gated, Some(request)) => self.heartbeat_member(request).await,
                (FastOutcome::Gated, None) => Ok(HeartbeatOutcome::Lost(Lost::Unknown)),
            }
        });
        join_all(decided).await
    }

    /// Ends many leases, each by itself, as [`Self::heartbeats`] renews them. Outcomes are in the
    /// order of the requests.
    pub async fn releases(
        &self,
        requests: Vec<Release>,
    ) -> Vec<Result<ReleaseOutcome, EngineError>> {
        let outcomes = self.submit_all(requests.clone()).await;
        let outcomes = outcomes.into_iter().zip(requests);
        let decided = outcomes.map(|(outcome, request)| async move {
            match outcome? {
                FastOutcome::Decided(outcome) => Ok(outcome),
                FastOutcome::Gated => self.release_at_gate(GateRequest::release(request)).await,
            }
        });
        join_all(decided).await
    }

    /// Queues requests at once, and waits for their outcomes. These are in the order of the
    /// requests.
    async fn submit_all<R: LockRequest>(
        &self,
        requests: Vec<R>,
    ) -> Vec<Result<R::Outcome, EngineError>> {
        let deadline = Instant::now() + self.deadline;
        let mut outcomes = Vec::with_capacity(requests.len());
        let mut queued: Vec<(&Queue, Vec<AnyRequest>)> = self
            .queues
            .all()
            .map(|queue| (&**queue, Vec::new()))
            .collect();
        for request in requests {
            let (reply, outcome) = oneshot::channel();
            outcomes.push(outcome);
            let queue = self.queues.for_key(request.key());
            let of_queue = queued
                .iter_mut()
                .find(|(other, _)| std::ptr::eq(*other, queue));
            let pending = R::into_any(Pending::new(request, Some(reply), deadline));
            of_queue.expect("all queues are there").1.push(pending);
        }
        for (queue, requests) in queued {
            queue.push_all(requests);
        }
        join_all(
            outcomes
                .into_iter()
                .map(|outcome| wait_until(deadline, outcome)),
        )
        .await
    }
}
