//! `/`: what it is, and the first lock in a minute.

use askama::Template;
use axum::extract::State;
use axum::response::Response;

use crate::plans::DEFAULT_PLAN;
use crate::web::Web;
use crate::web::error::WebError;
use crate::web::session::CurrentAccount;
use crate::web::ui::page::{Page, Tab, duration, render};
use crate::web::ui::snippet::Snippet;

#[derive(Template)]
#[template(path = "public/home.html")]
struct Home {
    page: Page,
    example: Snippet,
    export: Snippet,
    script: Snippet,
    heartbeat: Snippet,
    lease: String,
}

/// The service's address without the slash at the end: for commands to copy.
pub(crate) fn base(web: &Web) -> String {
    web.app.public_url.as_str().trim_end_matches('/').to_owned()
}

pub(crate) async fn show(
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
