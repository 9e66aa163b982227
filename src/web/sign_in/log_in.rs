//! `/login` and `/logout`.

use askama::Template;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use serde::Deserialize;
use tower_sessions::Session;

use super::credentials::{Credentials, email_field};
use super::known_browser::remember;
use super::password_check::{Verified, try_password};
use crate::accounts::Email;
use crate::transport::RequestContext;
use crate::web::error::WebError;
use crate::web::session::{self, CurrentAccount, sign_in};
use crate::web::state::Web;
use crate::web::ui::field::Field;
use crate::web::ui::form::FormState;
use crate::web::ui::page::{Flash, Page, Tab, render_as};

#[derive(Template)]
#[template(path = "sign_in/log_in.html")]
struct LogInPage {
    page: Page,
    form: FormState,
    email: Field,
    password: Field,
    next: String,
    /// Whether the reader came here from a page that needs an account.
    is_detour: bool,
}

fn show_form(
    form: FormState,
    next: Option<&str>,
    flash: Option<Flash>,
) -> Result<Response, WebError> {
    let page = LogInPage {
        page: Page {
            flash,
            ..Page::visitor(form.title("Sign in"), Tab::SignIn)
        },
        email: form.field(email_field()),
        password: form.field(Field::password("password", "Password", "current-password")),
        next: next.unwrap_or_default().to_owned(),
        is_detour: next.is_some() && !form.is_rejected(),
        form,
    };
    render_as(page.form.status(), &page)
}

/// The act that led here. It stands in the URL, since there is no session to keep it in.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum CompletedAct {
    SignedOut,
    PasswordSet,
    AccountDeleted,
    AddressConfirmed,
}

impl CompletedAct {
    fn flash(self) -> Flash {
        Flash::ok(match self {
            Self::SignedOut => "You are signed out.",
            Self::PasswordSet => "Your new password is set. Sign in with it.",
            Self::AccountDeleted => "Your account is deleted, and its locks are released.",
            Self::AddressConfirmed => "Your address is confirmed.",
        })
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct LogInQuery {
    #[serde(default)]
    next: String,
    done: Option<String>,
}

/// The path, if it is one of this service: one that no browser takes for another host.
fn own_path(path: &str) -> Option<&str> {
    let is_own = path.starts_with('/')
        && !path[1..].starts_with(['/', '\\'])
        && path.len() <= 2000
        && !path.chars().any(|c| c.is_control() || c.is_whitespace());
    is_own.then_some(path)
}

pub(crate) async fn show(
    current: Option<CurrentAccount>,
    Query(query): Query<LogInQuery>,
) -> Result<Response, WebError> {
    let next = own_path(&query.next);
    if current.is_some() {
        return Ok(Redirect::to(next.unwrap_or("/account")).into_response());
    }
    let done = query
        .done
        .and_then(|done| serde_json::from_value::<CompletedAct>(done.into()).ok());
    show_form(FormState::default(), next, done.map(CompletedAct::flash))
}

pub(crate) async fn submit(
    State(web): State<Web>,
    session: Session,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    Form(submitted): Form<Credentials>,
) -> Result<Response, WebError> {
    let next = own_path(&submitted.next);
    let found = match submitted.email.parse::<Email>() {
        Ok(email) => try_password(&web, &context, &headers, &email, &submitted.password).await?,
        Err(_) => {
            let text = submitted.email.trim().to_ascii_lowercase();
            web.throttles.sign_in(context.client_ip(), &text)?;
            None
        }
    };
    let Some(verified) = found else {
        let form = FormState::default()
            .with("email", &submitted.email)
            .rejected(
                "email",
                "This address and password do not belong together. Check both.",
            );
        return show_form(form, next, None);
    };
    let Verified {
        account,
        password_hash,
        browser,
    } = verified;
    let account_id = account.account_id;
    sign_in(&session, &context, &headers, account_id, &password_hash).await?;
    let mut response = Redirect::to(next.unwrap_or("/account")).into_response();
    remember(
        &mut response,
        &web.app.public_url,
        account_id,
        &password_hash,
        browser,
    );
    Ok(response)
}

/// Ends the session. Doing so again, or with a session that has ended, succeeds; while the database
/// is unavailable it fails, since the session then goes on.
pub(crate) async fn log_out(session: Session) -> Result<Response, WebError> {
    session::end(&session).await?;
    Ok(Redirect::to("/login?done=signed-out").into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signing_in_leads_to_our_own_pages_only() {
        for own in ["/account", "/account/locks?prefix=a%20b", "/"] {
            assert_eq!(own_path(own), Some(own));
        }
        for other in [
            "",
            "account",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "/a\r\nSet-Cookie: x",
        ] {
            assert_eq!(own_path(other), None, "{other:?}");
        }
    }
}
