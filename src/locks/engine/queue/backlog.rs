//! The requests of one lock that wait behind another one of it.

use std::collections::VecDeque;

use crate::id::AccountId;
use crate::locks::Acquire;
use crate::locks::engine::request::{AnyRequest, Pending};

/// The requests of one lock behind the one that is ready or in flight: each account's in the order
/// of their arrival, and the accounts by turns. Otherwise any account could hold up the holder of a
/// public lock until its lease lapses, by sending many requests for that lock.
#[derive(Debug, Default)]
pub(super) struct KeyBacklog {
    by_account: VecDeque<(AccountId, VecDeque<AnyRequest>)>,
}

impl KeyBacklog {
    pub(super) fn push(&mut self, request: AnyRequest) {
        let account_id = request.account_id();
        match self.by_account.iter_mut().find(|(id, _)| *id == account_id) {
            Some((_, requests)) => requests.push_back(request),
            None => self
                .by_account
                .push_back((account_id, VecDeque::from([request]))),
        }
    }

    /// Puts requests before all others, in their order.
    pub(super) fn push_front(&mut self, requests: Vec<AnyRequest>) {
        for request in requests.into_iter().rev() {
            let account_id = request.account_id();
            self.by_account
                .push_front((account_id, VecDeque::from([request])));
        }
    }

    /// Removes and returns the next request if it may join the run.
    pub(super) fn pop_to_join(&mut self, run: &[AnyRequest]) -> Option<AnyRequest> {
        let (_, requests) = self.by_account.front()?;
        requests
            .front()
            .is_some_and(|next| next.may_join(run))
            .then(|| self.pop())?
    }

    pub(super) fn pop(&mut self) -> Option<AnyRequest> {
        let (account_id, mut requests) = self.by_account.pop_front()?;
        let request = requests.pop_front();
        if !requests.is_empty() {
            self.by_account.push_back((account_id, requests));
        }
        request
    }

    /// Removes the plain acquires at the head of each account's requests.
    pub(super) fn take_plain_acquires(&mut self) -> Vec<Pending<Acquire>> {
        let mut taken = Vec::new();
        for (_, requests) in &mut self.by_account {
            while requests.front().is_some_and(AnyRequest::is_plain_acquire) {
                if let Some(AnyRequest::Acquire(pending)) = requests.pop_front() {
                    taken.push(pending);
                }
            }
        }
        self.by_account.retain(|(_, requests)| !requests.is_empty());
        taken
    }
}
