//! Signing up, in and out.

use askama::Template;
use axum::Extension;
use axum::Form;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;
use tower_sessions::Session;

use crate::accounts::links::{self, Purpose};
use crate::accounts::{self, Account, AccountError, Email, NewAccount, passwords};
use crate::plans::DEFAULT_PLAN;
use crate::secret::Secret;
use crate::text::sentence;
use crate::transport::RequestContext;
use crate::web::error::WebError;
use crate::web::session::{CurrentAccount, end, sign_in, suspended, user_agent};
use crate::web::ui::field::{Field, Problems};
use crate::web::ui::page::{Flash, Page, Tab, render_as};
use crate::web::{Web, emails as letters};

/// What the sign-up and sign-in forms send.
#[derive(Debug, Deserialize)]
pub(crate) struct Credentials {
    #[serde(default)]
    email: String,
    #[serde(default = "nothing")]
    password: Secret,
    /// Where to go on to after signing in.
    #[serde(default)]
    next: String,
}

/// For a password field that was not sent.
pub(crate) fn nothing() -> Secret {
    Secret::new("")
}

#[derive(Template)]
#[template(path = "sign_in/sign_up.html")]
struct SignUp {
    page: Page,
    problems: Problems,
    email: Field,
    password: Field,
}

impl SignUp {
    fn new(email: &str, problems: Problems) -> Self {
        Self {
            page: Page::visitor(problems.title("Create an account"), Tab::None),
            email: Field::email("email", "E-mail address")
                .value(email)
                .autocomplete("username")
                .of(&problems),
            password: new_password_field("password", "Password").of(&problems),
            problems,
        }
    }
}

pub(crate) fn new_password_field(name: &'static str, label: &str) -> Field {
    Field::password(name, label, "new-password")
        .attribute("minlength", passwords::MIN_CHARS.to_string())
        .hint(format!(
            "At least {} characters. A few words that you make up are easiest to remember.",
            passwords::MIN_CHARS
        ))
}

pub(crate) async fn signup_form(current: Option<CurrentAccount>) -> Result<Response, WebError> {
    if current.is_some() {
        return Ok(Redirect::to("/account").into_response());
    }
    render_as(StatusCode::OK, &SignUp::new("", Problems::default()))
}

pub(crate) async fn signup(
    State(web): State<Web>,
    session: Session,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    Form(form): Form<Credentials>,
) -> Result<Response, WebError> {
    let app = &web.app;
    let mut problems = Problems::default();
    let Ok(email) = form.email.parse::<Email>() else {
        problems.add(
            "email",
            "Enter an e-mail address, such as name@example.com.",
        );
        return render_as(
            StatusCode::UNPROCESSABLE_ENTITY,
            &SignUp::new(&form.email, problems),
        );
    };
    web.throttles.sign_up(context.client_ip(), &email.key())?;
    let password = match app.passwords.hash_new(&form.password, &email).await {
        Ok(password) => password,
        Err(refused) => {
            problems.add("password", sentence(&refused));
            return render_as(
                StatusCode::UNPROCESSABLE_ENTITY,
                &SignUp::new(&form.email, problems),
            );
        }
    };
    let new = NewAccount {
        email: &email,
        password: Some(password.clone()),
        plan: DEFAULT_PLAN,
        is_admin: false,
        email_verified: false,
    };
    match accounts::create(&app.db, new, None).await {
        Ok(account_id) => {
            send_verification(&web, account_id, email.as_str()).await?;
            sign_in(
                &session,
                &context,
                user_agent(&headers),
                account_id,
                Some(password.as_str()),
            )
            .await?;
            Ok(Redirect::to("/account").into_response())
        }
        Err(AccountError::EmailTaken) => {
            // The form sent twice, or somebody who forgot that they have an account: with the right
            // password, that is signing in.
            web.throttles.sign_in(context.client_ip(), &email.key())?;
            if let Some((account, hash)) = verified(&web, &email, &form.password).await? {
                if let Some(reason) = &account.suspended_reason {
                    return Err(suspended(reason));
                }
                sign_in(
                    &session,
                    &context,
                    user_agent(&headers),
                    account.account_id,
                    Some(&hash),
                )
                .await?;
                return Ok(Redirect::to("/account").into_response());
            }
            problems.add(
                "email",
                "There is an account with this address. Sign in, or ask for a new password.",
            );
            render_as(
                StatusCode::UNPROCESSABLE_ENTITY,
                &SignUp::new(&form.email, problems),
            )
        }
        Err(error) => Err(error.into()),
    }
}

/// Sends the link that confirms an address.
pub(crate) async fn send_verification(
    web: &Web,
    account_id: crate::id::AccountId,
    email: &str,
) -> Result<(), WebError> {
    let secret = links::create(&web.app.db, account_id, Purpose::VerifyEmail, email).await?;
    post(
        web,
        letters::verify_email(&web.app.public_url, email, &secret),
    );
    Ok(())
}

/// Hands a letter in. What cannot be queued is in the log; the reader can ask for it again.
pub(crate) fn post(web: &Web, letter: crate::mail::Letter) {
    if let Err(error) = web.app.mail.send(letter) {
        tracing::error!(%error, "mail dropped");
    }
}

/// The account of this address and its password's hash, if this is its password. Takes as long
/// where there is none.
pub(crate) async fn verified(
    web: &Web,
    email: &Email,
    password: &Secret,
) -> Result<Option<(Account, String)>, WebError> {
    let app = &web.app;
    let account = match accounts::find_by_email(&app.db, email).await {
        Ok(account) => Some(account),
        Err(AccountError::Unknown) => None,
        Err(error) => return Err(error.into()),
    };
    // Asked also for nobody's, so that the time says nothing.
    let account_id = account
        .as_ref()
        .map_or(crate::id::AccountId(0), |account| account.account_id);
    let hash = accounts::password_hash(&app.db, account_id).await?;
    let is_right = app.passwords.verify(password, hash.as_deref()).await;
    Ok(account.zip(hash).filter(|_| is_right))
}

#[derive(Template)]
#[template(path = "sign_in/log_in.html")]
struct SignIn {
    page: Page,
    problems: Problems,
    email: Field,
    password: Field,
    next: String,
    asked_for_page: bool,
}

impl SignIn {
    fn new(email: &str, next: Option<&str>, problems: Problems) -> Self {
        Self {
            page: Page::visitor(problems.title("Sign in"), Tab::SignIn),
            email: Field::email("email", "E-mail address")
                .value(email)
                .autocomplete("username")
                .of(&problems),
            password: Field::password("password", "Password", "current-password").of(&problems),
            next: next.unwrap_or_default().to_owned(),
            asked_for_page: next.is_some() && problems.is_empty(),
            problems,
        }
    }
}

/// What was done just before; in the address, since there is no session to keep it in.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Done {
    SignedOut,
    PasswordSet,
    AccountDeleted,
    AddressConfirmed,
}

impl Done {
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
pub(crate) struct LoginQuery {
    #[serde(default)]
    next: String,
    done: Option<String>,
}

/// Only to a page of ours: a path, and nothing that a browser takes for another host.
fn local(next: &str) -> Option<&str> {
    let plain = next.starts_with('/')
        && !next[1..].starts_with(['/', '\\'])
        && next.len() <= 2000
        && !next.chars().any(|c| c.is_control() || c.is_whitespace());
    plain.then_some(next)
}

pub(crate) async fn login_form(
    current: Option<CurrentAccount>,
    Query(query): Query<LoginQuery>,
) -> Result<Response, WebError> {
    let next = local(&query.next);
    if current.is_some() {
        return Ok(Redirect::to(next.unwrap_or("/account")).into_response());
    }
    let mut form = SignIn::new("", next, Problems::default());
    let done = query
        .done
        .and_then(|done| serde_json::from_value::<Done>(done.into()).ok());
    form.page.flash = done.map(Done::flash);
    render_as(StatusCode::OK, &form)
}

pub(crate) async fn login(
    State(web): State<Web>,
    session: Session,
    Extension(context): Extension<RequestContext>,
    headers: HeaderMap,
    Form(form): Form<Credentials>,
) -> Result<Response, WebError> {
    let next = local(&form.next);
    let mut problems = Problems::default();
    let email = form.email.parse::<Email>();
    let key = email
        .as_ref()
        .map_or_else(|_| form.email.trim().to_lowercase(), Email::key);
    web.throttles.sign_in(context.client_ip(), &key)?;
    let found = match &email {
        Ok(email) => verified(&web, email, &form.password).await?,
        Err(_) => None,
    };
    let Some((account, hash)) = found else {
        problems.add(
            "email",
            "This address and password do not belong together. Check both.",
        );
        return render_as(
            StatusCode::UNPROCESSABLE_ENTITY,
            &SignIn::new(&form.email, next, problems),
        );
    };
    if let Some(reason) = &account.suspended_reason {
        return Err(suspended(reason));
    }
    sign_in(
        &session,
        &context,
        user_agent(&headers),
        account.account_id,
        Some(&hash),
    )
    .await?;
    Ok(Redirect::to(next.unwrap_or("/account")).into_response())
}

/// Signing out twice, or with a session that has ended, is signing out. Not when the database is
/// away: then it did not happen.
pub(crate) async fn logout(session: Session) -> Result<Response, WebError> {
    end(&session).await?;
    Ok(Redirect::to("/login?done=signed-out").into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signing_in_leads_to_our_own_pages_only() {
        for good in ["/account", "/account/locks?prefix=a%20b", "/"] {
            assert_eq!(local(good), Some(good));
        }
        for bad in [
            "",
            "account",
            "//evil.example",
            "/\\evil.example",
            "https://evil.example",
            "/a\r\nSet-Cookie: x",
        ] {
            assert_eq!(local(bad), None, "{bad:?}");
        }
    }
}
