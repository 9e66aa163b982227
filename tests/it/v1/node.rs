//! Helpers of the tests of version 1.

use lockable::audit::Actor;
use lockable::config::Settings;
use lockable::secret::Secret;

pub(crate) use crate::support::answer::{Answer, is_of_a_lease};
pub(crate) use crate::support::direct::{basic, request};
use crate::support::prelude::*;

/// A node that is reached as https://locks.example.com.
pub(crate) async fn start() -> TestApp {
    start_with(|_| {}).await
}

/// As [`start`], with settings of the test's.
pub(crate) async fn start_with(change: impl FnOnce(&mut Settings)) -> TestApp {
    TestApp::start_with(|settings| {
        settings.public_url = Some("https://locks.example.com".parse().unwrap());
        change(settings);
    })
    .await
}

/// An administrator, for the audit log.
pub(crate) fn administrator() -> Actor {
    Actor::command("test")
}

/// The number of lock rows, live or not, which a refused request must not change.
pub(crate) async fn rows(node: &TestApp) -> i64 {
    node.db.value("SELECT count(*) FROM locks").await
}

/// Repeats a `GET` until it is refused with a code.
pub(crate) async fn until_code(node: &TestApp, token: &Secret, path: &str, code: &str) {
    eventually(code, async || {
        let answer = node.get(token, path).await;
        (!answer.status.is_success() && answer.problem().1 == code).then_some(())
    })
    .await;
}
