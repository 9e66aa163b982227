//! Giving the lock back.

use std::time::Duration;

use uuid::Uuid;

use super::messages::Messages;
use crate::cli::client::api::{Api, Call, Outcome, Parameters, RequestError};
use crate::cli::client::backoff::Backoff;
use crate::cli::client::clock::{self, BootInstant};

/// How long the release is tried: the lease lapses by itself otherwise.
const PATIENCE: Duration = Duration::from_secs(5);
/// For a release that nobody waits for and that may be hopeless.
const SHORT_PATIENCE: Duration = Duration::from_secs(2);

/// Releases a lease that is held, and says so if that fails.
pub(super) async fn release(api: &Api, messages: &Messages, lease_id: Uuid) {
    let late = "the lock was not released and frees itself when its lease lapses";
    match try_for(PATIENCE, api, lease_id).await {
        Ok(true) => {}
        Ok(false) => messages.error("the lease had ended before the release"),
        Err(Some(error)) => messages.error(format_args!("{late}: {error}")),
        Err(None) => messages.error(format_args!("{late}: no answer")),
    }
}

/// Releases a lease that may be held and may not be, or gives up the place of its id in the line.
pub(super) async fn release_if_held(api: &Api, lease_id: Uuid) {
    let _ = try_for(SHORT_PATIENCE, api, lease_id).await;
}

/// Waits for the outcome of an acquire, within bounds, and releases the lease unless it certainly
/// was not granted: a release that overtakes its acquire on the way would find nothing to release.
pub(super) async fn release_after(
    acquire: impl Future<Output = Result<Outcome, RequestError>>,
    api: &Api,
    messages: &Messages,
    lease_id: Uuid,
) {
    match clock::timeout_at(BootInstant::now() + PATIENCE, acquire).await {
        Some(Ok(outcome)) if outcome.response => release(api, messages, lease_id).await,
        Some(Ok(_) | Err(RequestError::Refused(_))) => {}
        _ => release_if_held(api, lease_id).await,
    }
}

/// Asks again while the service is unavailable. The last error, `None` if no answer came.
async fn try_for(
    patience: Duration,
    api: &Api,
    lease_id: Uuid,
) -> Result<bool, Option<RequestError>> {
    let give_up_at = BootInstant::now() + patience;
    let mut backoff = Backoff::default();
    let parameters = Parameters {
        lease_id: Some(lease_id),
        ..Parameters::default()
    };
    loop {
        let request = api.send(Call::Release, parameters);
        match clock::timeout_at(give_up_at, request).await {
            Some(Ok(outcome)) => return Ok(outcome.response),
            Some(Err(RequestError::Unavailable { .. })) if !give_up_at.has_passed() => {}
            Some(Err(error)) => return Err(Some(error)),
            None => return Err(None),
        }
        clock::sleep(backoff.next().min(give_up_at.remaining())).await;
    }
}
