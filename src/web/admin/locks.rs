//! `/admin/locks`: breaking a lock in the public namespace, whoever holds it.

use askama::Template;
use axum::Form;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use crate::audit::check_reason;
use crate::locks::{self, BreakError, LockName};
use crate::text::sentence;
use crate::web::Web;
use crate::web::account::locks::reason_field;
use crate::web::error::WebError;
use crate::web::session::{CurrentAccount, RequireAdmin};
use crate::web::ui::field::{Field, Problems};
use crate::web::ui::page::{Flash, Page, Tab, render_as};

#[derive(Template)]
#[template(path = "admin/locks.html")]
struct LocksPage {
    page: Page,
    problems: Problems,
    name: Field,
    reason: Field,
}

/// What the form sends.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct BreakForm {
    name: String,
    reason: String,
}

async fn page(
    current: &CurrentAccount,
    status: StatusCode,
    form: &BreakForm,
    problems: Problems,
) -> Result<Response, WebError> {
    let page = LocksPage {
        page: current
            .page(problems.title("Locks"), Tab::AdminLocks)
            .await?,
        name: Field::text("name", "Lock")
            .value(&form.name)
            .hint("Its name in the public namespace, exactly.")
            .attribute("spellcheck", "false")
            .attribute("autocapitalize", "none")
            .autocomplete("off")
            .of(&problems),
        reason: reason_field(&form.reason, &problems),
        problems,
    };
    render_as(status, &page)
}

pub(crate) async fn form(RequireAdmin(current): RequireAdmin) -> Result<Response, WebError> {
    page(
        &current,
        StatusCode::OK,
        &BreakForm::default(),
        Problems::of("break-"),
    )
    .await
}

pub(crate) async fn break_lock(
    State(web): State<Web>,
    RequireAdmin(current): RequireAdmin,
    Form(form): Form<BreakForm>,
) -> Result<Response, WebError> {
    let mut problems = Problems::of("break-");
    let name = LockName::new(&form.name)
        .map_err(|refused| problems.add("name", sentence(&refused)))
        .ok();
    let reason = check_reason(&form.reason)
        .map_err(|refused| problems.add("reason", sentence(&refused)))
        .ok();
    if let (Some(name), Some(reason)) = (name, reason) {
        match locks::break_any(&web.app.db, &current.actor(), &name, reason).await {
            Ok(()) => {
                current
                    .flash(Flash::ok(format!("The lock {name} is broken and free.")))
                    .await?;
                return Ok(Redirect::to("/admin/locks").into_response());
            }
            Err(BreakError::NotHeld) => problems.add(
                "name",
                "Nobody holds a lock of this name in the public namespace.",
            ),
            Err(error) => return Err(error.into()),
        }
    }
    page(&current, StatusCode::UNPROCESSABLE_ENTITY, &form, problems).await
}
