//! `/`: the front page.

use askama::Template;
use axum::extract::State;
use axum::response::Response;

use crate::plans::DEFAULT_PLAN;
use crate::web::error::WebError;
use crate::web::session::{CurrentAccount, page_for};
use crate::web::state::Web;
use crate::web::ui::page::{Page, Tab, render};
use crate::web::ui::snippet::Snippet;
use crate::web::ui::time::duration;

#[derive(Template)]
#[template(path = "public/home.html")]
struct HomePage {
    page: Page,
    example: Snippet,
    export: Snippet,
    script: Snippet,
    heartbeat: Snippet,
    lease: String,
}

pub(crate) async fn show(
    State(web): State<Web>,
    current: Option<CurrentAccount>,
) -> Result<Response, WebError> {
    let url = web.base_url();
    // The front page is there while the database is unavailable, too.
    let lease_ms = crate::plans::find(&web.app.db, DEFAULT_PLAN)
        .await
        .map_or(60_000, |plan| plan.limits.lease_default_ms);
    render(&HomePage {
        page: page_for(current.as_ref(), "Named locks over HTTPS", Tab::None).await?,
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
                "curl -sSfu $LOCKABLE_AUTH_TOKEN: {url}/v1/acquire/nightly-report |\n  \
                 grep -q true && {{\n    ./nightly-report\n    \
                 curl -sSfu $LOCKABLE_AUTH_TOKEN: {url}/v1/release/nightly-report\n  }}"
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
