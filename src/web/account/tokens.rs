//! `/account/tokens`: creating, rotating and revoking API tokens. The token itself is shown once,
//! in the answer that makes it.

use std::time::Duration;

use askama::Template;
use axum::Form;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use chrono::{TimeDelta, Utc};
use serde::Deserialize;

use crate::accounts;
use crate::id::TokenId;
use crate::namespaces::Namespace;
use crate::secret::Secret;
use crate::text::sentence;
use crate::tokens::{self, NewToken, Scope, Token, TokenError};
use crate::web::Web;
use crate::web::account::overview::{CameBack, show_with};
use crate::web::error::WebError;
use crate::web::form_dedup::{self as once, Asked};
use crate::web::public::home::base;
use crate::web::session::CurrentAccount;
use crate::web::sign_in::log_in::nothing;
use crate::web::ui::field::{Choice, Field, Problems};
use crate::web::ui::page::{Flash, Page, Tab, render, render_as};
use crate::web::ui::snippet::Snippet;
use crate::web::ui::time::When;

/// How long a token may be made to last, days.
const EXPIRIES: [(i64, &str); 6] = [
    (0, "Never"),
    (1, "In a day"),
    (7, "In 7 days"),
    (30, "In 30 days"),
    (90, "In 90 days"),
    (365, "In a year"),
];

/// How long the old token may still work after a rotation, seconds.
const OVERLAPS: [(u64, &str); 3] = [
    (0, "Not at all"),
    (3600, "For an hour"),
    (86_400, "For a day"),
];

/// A token as a row of the list.
pub(crate) struct TokenRow {
    pub(crate) id: TokenId,
    pub(crate) label: String,
    pub(crate) hint: String,
    pub(crate) namespace: String,
    pub(crate) scope: String,
    pub(crate) created: When,
    pub(crate) last_used: Option<When>,
    pub(crate) expires: Option<When>,
    pub(crate) is_expired: bool,
}

impl From<Token> for TokenRow {
    fn from(token: Token) -> Self {
        Self {
            id: token.token_id,
            label: token.label,
            hint: token.hint,
            namespace: token.namespace,
            scope: token.scope,
            created: When::new(token.created_at),
            last_used: token.last_used_at.map(When::new),
            expires: token.expires_at.map(When::new),
            is_expired: token.expired,
        }
    }
}

/// What the form sends.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TokenForm {
    once: String,
    label: String,
    namespace: String,
    expires: String,
    scope: String,
    password: Option<Secret>,
}

/// The form's fields.
pub(crate) struct NewTokenForm {
    pub(crate) label: Field,
    pub(crate) namespace: Field,
    pub(crate) expires: Field,
    pub(crate) scope: Field,
    pub(crate) password: Field,
}

impl NewTokenForm {
    pub(crate) fn new(form: &TokenForm, namespaces: &[Namespace], problems: &Problems) -> Self {
        let namespaces = namespaces
            .iter()
            .map(|namespace| Choice::new(&namespace.name, &namespace.name))
            .collect();
        let expiries = EXPIRIES
            .iter()
            .map(|(days, label)| Choice::new(days.to_string(), *label))
            .collect();
        let scopes = vec![
            Choice::new("locks", "Locks")
                .hint("Takes, keeps and gives back locks in its namespace. What programs need."),
            Choice::new("manage", "Manage").hint(
                "Also for managing the account by API v2, which is not built yet: until then it does no more than Locks.",
            ),
        ];
        let or = |value: &str, default: &str| {
            if value.is_empty() {
                default.to_owned()
            } else {
                value.to_owned()
            }
        };
        Self {
            label: Field::text("label", "Label")
                .value(&form.label)
                .hint("What uses it, such as nightly-report.")
                .attribute("maxlength", "100")
                .autocomplete("off")
                .of(problems),
            namespace: Field::select("namespace", "Namespace", namespaces)
                .value(or(&form.namespace, crate::namespaces::PUBLIC))
                .of(problems),
            expires: Field::select("expires", "Expires", expiries)
                .value(or(&form.expires, "0"))
                .of(problems),
            scope: Field::radio("scope", "Scope", scopes)
                .value(or(&form.scope, "locks"))
                .of(problems),
            password: Field::password("password", "Your password", "current-password")
                .optional()
                .hint("Only for the scope Manage.")
                .of(problems),
        }
    }
}

#[derive(Template)]
#[template(path = "account/token_created.html")]
struct TokenCreated {
    page: Page,
    heading: &'static str,
    sentence: String,
    token: Snippet,
    try_acquire: Snippet,
    try_release: Snippet,
}

async fn created(
    web: &Web,
    current: &CurrentAccount,
    made: &Secret,
    heading: &'static str,
    sentence: String,
) -> Result<Response, WebError> {
    let url = base(web);
    let text = made.expose();
    let call = |what: &str| format!("curl -u {text}: {url}/v1/{what}/my-first-lock");
    let page = TokenCreated {
        page: current.page(heading, Tab::Account).await?,
        heading,
        sentence,
        token: Snippet::new("token", "Your API token", text).wrapped(),
        try_acquire: Snippet::new("try-acquire", "Take a lock", call("acquire")).wrapped(),
        try_release: Snippet::new("try-release", "Give it back", call("release")).wrapped(),
    };
    render_as(StatusCode::CREATED, &page)
}

pub(crate) async fn create(
    State(web): State<Web>,
    current: CurrentAccount,
    Form(mut form): Form<TokenForm>,
) -> Result<Response, WebError> {
    let password = form.password.take();
    let (status, problems) = match try_create(&web, &current, &form, password).await? {
        Ok(made) => {
            let sentence = format!("The token “{}” works now.", form.label.trim());
            return created(&web, &current, &made, "Your new token", sentence).await;
        }
        Err(problem) => problem,
    };
    let back = CameBack {
        status,
        token: form,
        token_problems: Some(problems),
        ..CameBack::default()
    };
    show_with(&web, &current, back).await
}

/// A token, or what is wrong with the form and the status that says so.
async fn try_create(
    web: &Web,
    current: &CurrentAccount,
    form: &TokenForm,
    password: Option<Secret>,
) -> Result<Result<Secret, (StatusCode, Problems)>, WebError> {
    let app = &web.app;
    let refuse = |field, sentence: String| {
        Ok(Err((
            StatusCode::UNPROCESSABLE_ENTITY,
            Problems::one("token-", field, sentence),
        )))
    };
    let confirmation = app.email_confirmation();
    if let Err(error) = tokens::check_email_confirmed(&current.account, confirmation) {
        return Ok(Err((
            StatusCode::FORBIDDEN,
            Problems::one("token-", "label", sentence(&error)),
        )));
    }
    let scope = match form.scope.as_str() {
        "" => Scope::Locks,
        text => match text.parse::<Scope>() {
            Ok(scope) => scope,
            Err(error) => return refuse("scope", sentence(&error)),
        },
    };
    let days = form
        .expires
        .parse::<i64>()
        .unwrap_or(if form.expires.is_empty() { 0 } else { -1 });
    let expires_at = match days {
        0 => None,
        days if EXPIRIES.iter().any(|(choice, _)| *choice == days) => {
            Some(Utc::now() + TimeDelta::days(days))
        }
        _ => return refuse("expires", "Choose one of the times in the list.".to_owned()),
    };
    let namespace = if form.namespace.is_empty() {
        crate::namespaces::PUBLIC
    } else {
        &form.namespace
    };
    if scope == Scope::Manage && !password_is_right(web, current, password).await? {
        return refuse(
            "password",
            "Enter your password to create a token that can manage your account.".to_owned(),
        );
    }
    let new = NewToken {
        label: &form.label,
        namespace,
        scope,
        expires_at,
    };
    let make = tokens::create(&app.db, &current.account, confirmation, &new);
    let asked = Asked::Create {
        label: form.label.trim().to_owned(),
        namespace: namespace.to_owned(),
        scope: scope.as_str(),
        days,
    };
    match web
        .once
        .make(&app.db, current.account.account_id, &form.once, asked, make)
        .await
    {
        Ok(made) => Ok(Ok(made)),
        Err(error) => match error {
            TokenError::InvalidLabel
            | TokenError::EmailNotConfirmed
            | TokenError::TooMany { .. } => refuse("label", sentence(&error)),
            TokenError::UnknownScope => refuse("scope", sentence(&error)),
            TokenError::UnknownNamespace => {
                refuse("namespace", "Choose one of your namespaces.".to_owned())
            }
            TokenError::ExpiryInThePast => refuse("expires", sentence(&error)),
            TokenError::Unknown | TokenError::Database(_) => Err(error.into()),
        },
    }
}

/// Whether this is the password of who is signed in. Throttled: a session alone must not be enough
/// to find it out.
pub(crate) async fn password_is_right(
    web: &Web,
    current: &CurrentAccount,
    password: Option<Secret>,
) -> Result<bool, WebError> {
    let account_id = current.account.account_id;
    let password = password.unwrap_or_else(nothing);
    if password.expose().is_empty() {
        return Ok(false);
    }
    web.throttles.password(account_id.0)?;
    let hash = accounts::password_hash(&web.app.db, account_id).await?;
    Ok(web.app.passwords.verify(&password, hash.as_deref()).await)
}

#[derive(Template)]
#[template(path = "account/token.html")]
struct TokenPage {
    page: Page,
    token: TokenRow,
    problems: Problems,
    once: String,
    keep_old: Field,
    password: Option<Field>,
}

async fn token_page(
    current: &CurrentAccount,
    token: Token,
    chosen: &str,
    problems: Problems,
) -> Result<TokenPage, WebError> {
    let overlaps = OVERLAPS
        .iter()
        .map(|(seconds, label)| Choice::new(seconds.to_string(), *label))
        .collect();
    let password = (token.scope == Scope::Manage.as_str())
        .then(|| Field::password("password", "Your password", "current-password").of(&problems));
    Ok(TokenPage {
        page: current
            .page(
                problems.title(&format!("Token {}", token.label)),
                Tab::Account,
            )
            .await?,
        keep_old: Field::radio("keep_old", "The old token still works", overlaps)
            .value(chosen)
            .of(&problems),
        once: once::form_id(),
        token: token.into(),
        problems,
        password,
    })
}

/// One of this account's own tokens; anybody else's is not there.
async fn find(web: &Web, current: &CurrentAccount, token_id: &str) -> Result<Token, WebError> {
    let token_id: TokenId = token_id.parse().map_err(|_| WebError::NotFound)?;
    let tokens = tokens::list(&web.app.db, current.account.account_id).await?;
    tokens
        .into_iter()
        .find(|token| token.token_id == token_id)
        .ok_or(WebError::NotFound)
}

pub(crate) async fn show(
    State(web): State<Web>,
    current: CurrentAccount,
    Path(token_id): Path<String>,
) -> Result<Response, WebError> {
    let token = find(&web, &current, &token_id).await?;
    render(&token_page(&current, token, "3600", Problems::of("rotate-")).await?)
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct RotateForm {
    once: String,
    keep_old: String,
    password: Option<Secret>,
}

pub(crate) async fn rotate(
    State(web): State<Web>,
    current: CurrentAccount,
    Path(token_id): Path<String>,
    Form(form): Form<RotateForm>,
) -> Result<Response, WebError> {
    let account_id = current.account.account_id;
    let token_id: TokenId = token_id.parse().map_err(|_| WebError::NotFound)?;
    // Sent twice, the token may be gone by the second time, and still its successor is what was
    // asked for.
    let token = match find(&web, &current, &token_id.to_string()).await {
        Ok(token) => Some(token),
        Err(WebError::NotFound) => None,
        Err(error) => return Err(error),
    };
    if let Some(token) = &token {
        let problem = if !OVERLAPS
            .iter()
            .any(|(seconds, _)| seconds.to_string() == form.keep_old)
        {
            Some(("keep_old", "Choose how long the old token still works."))
        } else if token.scope == Scope::Manage.as_str()
            && !password_is_right(&web, &current, form.password).await?
        {
            Some((
                "password",
                "Enter your password to rotate a token that can manage your account.",
            ))
        } else {
            None
        };
        if let Some((field, sentence)) = problem {
            let problems = Problems::one("rotate-", field, sentence);
            let page = token_page(&current, token.clone(), &form.keep_old, problems).await?;
            return render_as(StatusCode::UNPROCESSABLE_ENTITY, &page);
        }
    }
    let overlap = Duration::from_secs(form.keep_old.parse().unwrap_or(0));
    let make = async {
        if token.is_none() {
            return Err(TokenError::Unknown);
        }
        tokens::rotate(&web.app.db, &current.account, token_id, overlap).await
    };
    let asked = Asked::Rotate {
        token_id,
        overlap_s: overlap.as_secs(),
    };
    let made = web
        .once
        .make(&web.app.db, account_id, &form.once, asked, make)
        .await;
    let made = match (made, token) {
        (Ok(made), _) => made,
        (Err(error @ TokenError::TooMany { .. }), Some(token)) => {
            let problems = Problems::one("rotate-", "keep_old", sentence(&error));
            let page = token_page(&current, token, &form.keep_old, problems).await?;
            return render_as(StatusCode::UNPROCESSABLE_ENTITY, &page);
        }
        (Err(error), _) => return Err(error.into()),
    };
    let sentence = match overlap.as_secs() {
        0 => "The old token does not work any more.",
        3600 => "The old token still works for an hour.",
        _ => "The old token still works for a day.",
    };
    created(
        &web,
        &current,
        &made,
        "The token's successor",
        sentence.to_owned(),
    )
    .await
}

pub(crate) async fn revoke(
    State(web): State<Web>,
    current: CurrentAccount,
    Path(token_id): Path<String>,
) -> Result<Response, WebError> {
    let token_id: TokenId = token_id.parse().map_err(|_| WebError::NotFound)?;
    match tokens::revoke(&web.app.db, current.account.account_id, token_id).await {
        Ok(()) => {
            current
                .flash(Flash::ok(
                    "The token is revoked. Programs that use it are refused from now on.",
                ))
                .await?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(Redirect::to("/account").into_response())
}
