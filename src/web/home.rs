//! `/`: what it is, and the first lock in a minute.

use askama::Template;
use axum::extract::State;
use axum::response::Response;

use super::Web;
use super::error::WebError;
use super::page::{Page, Tab, duration, render};
use super::session::CurrentAccount;
use super::snippet::Snippet;
use crate::plans::DEFAULT_PLAN;

#[derive(Template)]
#[template(path = "pages/home.html")]
struct Home {
    page: Page,
    example: Snippet,
    export: Snippet,
    script: Snippet,
    heartbeat: Snippet,
    lease: String,
}

/// The service's address without the slash at the end: for commands to copy.
pub(super) fn base(web: &Web) -> String {
    web.app.public_url.as_str().trim_end_matches('/').to_owned()
}

pub(super) async fn show(
    State(web): State<Web>,
    current: Option<CurrentAccount>,
) -> Result<Response, WebError> {
    let url = base(&web);
    // The front page stands also while the database is away.
    let lease_ms = crate::plans::find(&web.app.db, DEFAULT_PLAN)
        .await
        .map_or(60_000, |plan| plan.limits.lease_default_ms);
    let page = match &current {
        Some(current) => current.page("Named locks over HTTPS", Tab::None).await?,
        None => Page::visitor("Named locks over HTTPS", Tab::None),
    };
    render(&Home {
        page,
        example: Snippet::new(
            "example",
            "One lock, start to end",
            format!(
                "curl -u $TOKEN: {url}/v1/acquire/report\n# {{\"response\": true}}\n\n\
                 curl -u $TOKEN: {url}/v1/heartbeat/report\n# {{\"response\": true}}\n\n\
                 curl -u $TOKEN: {url}/v1/release/report\n# {{\"response\": true}}"
            ),
        ),
        export: Snippet::new(
            "export",
            "In your shell",
            "export LOCKABLE_AUTH_TOKEN=your-token",
        ),
        script: Snippet::new(
            "script",
            "Take, work, give back",
            format!(
                "curl -sSfu $LOCKABLE_AUTH_TOKEN: {url}/v1/acquire/nightly-report |\n  grep -q true && {{\n    \
                 ./nightly-report\n    curl -sSfu $LOCKABLE_AUTH_TOKEN: {url}/v1/release/nightly-report\n  }}"
            ),
        ),
        heartbeat: Snippet::new(
            "heartbeat",
            "Every 20 seconds or so",
            format!("curl -u $LOCKABLE_AUTH_TOKEN: {url}/v1/heartbeat/nightly-report"),
        ),
        lease: duration(lease_ms),
    })
}
