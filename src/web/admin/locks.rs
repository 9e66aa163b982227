//! `/admin/locks`: breaking a lock in the public namespace, whichever account holds it.

use askama::Template;
use axum::Form;
use axum::extract::State;
use axum::response::Response;
use serde::Deserialize;

use crate::audit::check_reason;
use crate::locks::{self, BreakError, LockName};
use crate::web::error::WebError;
use crate::web::session::{CurrentAccount, RequireAdmin};
use crate::web::state::Web;
use crate::web::ui::field::Field;
use crate::web::ui::form::FormState;
use crate::web::ui::page::{Flash, Page, Tab, render_as};

#[derive(Template)]
#[template(path = "admin/locks.html")]
struct LocksPage {
    page: Page,
    form: FormState,
    name: Field,
    reason: Field,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct BreakForm {
    name: String,
    reason: String,
}

async fn show_form(current: &CurrentAccount, form: FormState) -> Result<Response, WebError> {
    let name = Field::identifier("name", "Lock").hint("Its name in the public namespace, exactly.");
    let page = LocksPage {
        page: current.page(form.title("Locks"), Tab::AdminLocks).await?,
        name: form.field(name),
        reason: form.field(Field::reason(
            "Stands in the audit log, and in the activity of the account that held the lock.",
        )),
        form,
    };
    render_as(page.form.status(), &page)
}

pub(crate) async fn show(RequireAdmin(current): RequireAdmin) -> Result<Response, WebError> {
    show_form(&current, FormState::new("break")).await
}

pub(crate) async fn break_lock(
    State(web): State<Web>,
    RequireAdmin(current): RequireAdmin,
    Form(submitted): Form<BreakForm>,
) -> Result<Response, WebError> {
    let mut form = FormState::new("break")
        .with("name", &submitted.name)
        .with("reason", &submitted.reason);
    let name = LockName::new(&submitted.name);
    if let Err(error) = &name {
        form.reject("name", error);
    }
    // Checked here too, so that the page shows both problems.
    if let Err(error) = check_reason(&submitted.reason) {
        form.reject("reason", error);
    }
    let Some(name) = name.ok().filter(|_| !form.is_rejected()) else {
        return show_form(&current, form).await;
    };
    match locks::break_any(&web.app.db, &current.actor(), &name, &submitted.reason).await {
        Ok(()) => {
            let flash = Flash::ok(format!(
                "The lock {name} is broken: free, or held by who waited first."
            ));
            current.redirect("/admin/locks", flash).await
        }
        Err(BreakError::NotHeld) => {
            let problem = "nobody holds a lock of this name in the public namespace";
            show_form(&current, form.rejected("name", problem)).await
        }
        Err(error) => Err(error.into()),
    }
}
