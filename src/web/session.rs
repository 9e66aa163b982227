//! Sessions: the session behind a cookie, and the account behind a session.
//!
//! Only readers who signed in have a session; visitors have no row and no cookie.

use std::net::IpAddr;

use axum::extract::{FromRef, FromRequestParts, OptionalFromRequestParts};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse, Redirect, Response};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use tower_sessions::session::{Id, Record};
use tower_sessions::{Expiry, Session, SessionManagerLayer, SessionStore, cookie, session_store};
use url::Url;

use super::error::WebError;
use super::state::Web;
use super::ui::page::{Flash, Page, Tab, Viewer};
use crate::accounts::sessions::{self, NewSession, SessionHash};
use crate::accounts::{self, Account, AccountError};
use crate::audit::{Actor, Means};
use crate::id::AccountId;
use crate::transport::RequestContext;

const SIGNED_IN: &str = "signed_in";
const FLASH: &str = "flash";

/// The entry of a session that names its account.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct SessionAccount {
    account_id: AccountId,
    /// The fingerprint of the password by which the session began. Another password ends the
    /// session by itself, even one that begins at the same moment.
    password: String,
    #[serde(rename = "address")]
    client_ip: Option<IpAddr>,
    user_agent: Option<String>,
}

/// A text that stays the same as long as the password does. Taken from the stored hash, which is
/// salted.
fn fingerprint(password_hash: Option<&str>) -> String {
    hex::encode(&Sha256::digest(password_hash.unwrap_or_default())[..16])
}

/// The table of sessions, as tower-sessions uses it.
#[derive(Debug, Clone)]
pub(super) struct Store {
    db: PgPool,
}

fn backend(error: impl std::fmt::Display) -> session_store::Error {
    session_store::Error::Backend(error.to_string())
}

fn hash(id: &Id) -> SessionHash {
    SessionHash::of(&id.to_string())
}

#[async_trait::async_trait]
impl SessionStore for Store {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        let signed_in: SessionAccount = record
            .data
            .get(SIGNED_IN)
            .cloned()
            .and_then(|value| serde_json::from_value(value).ok())
            .ok_or_else(|| {
                session_store::Error::Encode("a session of nobody is not kept".to_owned())
            })?;
        let data = serde_json::to_value(&record.data)
            .map_err(|error| session_store::Error::Encode(error.to_string()))?;
        loop {
            let session = NewSession {
                hash: hash(&record.id),
                account_id: signed_in.account_id,
                data: &data,
                client_ip: signed_in.client_ip,
                user_agent: signed_in.user_agent.as_deref(),
            };
            if sessions::create(&self.db, session).await.map_err(backend)? {
                return Ok(());
            }
            record.id = Id::default();
        }
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        let data = serde_json::to_value(&record.data)
            .map_err(|error| session_store::Error::Encode(error.to_string()))?;
        // A session that was ended while this request ran stays ended.
        sessions::save(&self.db, hash(&record.id), &data)
            .await
            .map_err(backend)?;
        Ok(())
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        let Some(data) = sessions::load(&self.db, hash(id)).await.map_err(backend)? else {
            return Ok(None);
        };
        let data = serde_json::from_value(data)
            .map_err(|error| session_store::Error::Decode(error.to_string()))?;
        // By the database's clock the session has not ended; the cookie's life is renewed.
        Ok(Some(Record {
            id: *id,
            data,
            expiry_date: cookie::time::OffsetDateTime::now_utc() + cookie_life(),
        }))
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        sessions::delete(&self.db, hash(id)).await.map_err(backend)
    }
}

fn cookie_life() -> cookie::time::Duration {
    cookie::time::Duration::seconds(sessions::ABSOLUTE.num_seconds())
}

/// The layer that finds the session of a request and sets its cookie.
pub(super) fn layer(db: PgPool, public_url: &Url) -> SessionManagerLayer<Store> {
    let over_tls = public_url.scheme() == "https";
    // With the prefix, a browser takes the cookie only over TLS, and only for this very host.
    let name = if over_tls {
        "__Host-lockable"
    } else {
        "lockable"
    };
    SessionManagerLayer::new(Store { db })
        .with_name(name)
        .with_secure(over_tls)
        .with_http_only(true)
        .with_same_site(cookie::SameSite::Lax)
        .with_path("/")
        .with_expiry(Expiry::OnInactivity(cookie_life()))
}

/// Adds `Secure` to cookies that remove another: browsers ignore a cookie with the prefix `__Host-`
/// that does not have it, and the session layer leaves it out there.
pub(super) fn secure_removals(headers: &mut HeaderMap) {
    let cookies: Vec<_> = headers
        .get_all(header::SET_COOKIE)
        .iter()
        .cloned()
        .collect();
    if !cookies
        .iter()
        .any(|cookie| cookie.as_bytes().starts_with(b"__Host-"))
    {
        return;
    }
    headers.remove(header::SET_COOKIE);
    for cookie in cookies {
        let text = cookie.to_str().unwrap_or_default();
        let secured = (text.starts_with("__Host-") && !text.contains("; Secure"))
            .then(|| HeaderValue::from_str(&format!("{text}; Secure; HttpOnly; SameSite=Lax")).ok())
            .flatten();
        headers.append(header::SET_COOKIE, secured.unwrap_or(cookie));
    }
}

fn unavailable(error: tower_sessions::session::Error) -> WebError {
    match error {
        tower_sessions::session::Error::Store(session_store::Error::Backend(_)) => {
            WebError::Unavailable
        }
        error => WebError::Bug(error.into()),
    }
}

/// Signs an account in. The session gets a new id, whatever it was before.
pub(super) async fn sign_in(
    session: &Session,
    context: &RequestContext,
    headers: &HeaderMap,
    account_id: AccountId,
    password_hash: &str,
) -> Result<(), WebError> {
    context.set_account_id(account_id.0);
    // Another account's session in this browser ends here, with everything in it.
    session.clear().await;
    session.cycle_id().await.map_err(unavailable)?;
    let signed_in = SessionAccount {
        account_id,
        password: fingerprint(Some(password_hash)),
        client_ip: Some(context.client_ip()),
        user_agent: user_agent(headers),
    };
    session
        .insert(SIGNED_IN, signed_in)
        .await
        .map_err(unavailable)?;
    session.save().await.map_err(unavailable)
}

/// Ends the session of a request, if it has one.
pub(super) async fn end(session: &Session) -> Result<(), WebError> {
    if session.id().is_some() {
        session.flush().await.map_err(unavailable)
    } else {
        Ok(())
    }
}

/// The account that is signed in. As an argument of a handler it sends visitors to the sign-in
/// page.
#[derive(Debug, Clone)]
pub(crate) struct CurrentAccount {
    pub(crate) account: Account,
    pub(crate) session_hash: SessionHash,
    session: Session,
    context: RequestContext,
}

impl CurrentAccount {
    /// The frame of a page, with the flash message that waits for it.
    pub(crate) async fn page(&self, title: impl Into<String>, tab: Tab) -> Result<Page, WebError> {
        let flash = match self
            .session
            .get::<Flash>(FLASH)
            .await
            .map_err(unavailable)?
        {
            None => None,
            Some(_) => self
                .session
                .remove::<Flash>(FLASH)
                .await
                .map_err(unavailable)?,
        };
        Ok(Page {
            title: title.into(),
            tab,
            viewer: Some(self.viewer()),
            is_neutral: false,
            flash,
        })
    }

    /// Leads on to another page, which shows a flash message.
    pub(crate) async fn redirect(&self, path: &str, flash: Flash) -> Result<Response, WebError> {
        self.session
            .insert(FLASH, flash)
            .await
            .map_err(unavailable)?;
        Ok(Redirect::to(path).into_response())
    }

    fn viewer(&self) -> Viewer {
        Viewer {
            email: self.account.email.clone(),
            is_admin: self.account.is_admin,
        }
    }

    /// The account as the audit log names it.
    pub(crate) fn actor(&self) -> Actor {
        owner(&self.context, &self.account)
    }

    /// Keeps this session while the account's password changes.
    pub(super) async fn keep_with_password(&self, password_hash: &str) -> Result<(), WebError> {
        let Some(mut signed_in) = self
            .session
            .get::<SessionAccount>(SIGNED_IN)
            .await
            .map_err(unavailable)?
        else {
            return Ok(());
        };
        signed_in.password = fingerprint(Some(password_hash));
        self.session
            .insert(SIGNED_IN, signed_in)
            .await
            .map_err(unavailable)?;
        self.session.save().await.map_err(unavailable)
    }

    /// Ends this session.
    pub(super) async fn sign_out(&self) -> Result<(), WebError> {
        end(&self.session).await
    }

    async fn from_parts(parts: &Parts, web: &Web) -> Result<Self, WebError> {
        let app = &web.app;
        let bug = |what: &'static str| WebError::Bug(anyhow::anyhow!(what));
        let session = parts
            .extensions
            .get::<Session>()
            .cloned()
            .ok_or_else(|| bug("no session layer"))?;
        let context = parts
            .extensions
            .get::<RequestContext>()
            .cloned()
            .ok_or_else(|| bug("no request context"))?;
        let not_signed_in = || WebError::SignIn {
            back: (parts.method == Method::GET)
                .then(|| {
                    parts
                        .extensions
                        .get::<axum::extract::OriginalUri>()
                        .map_or(&parts.uri, |uri| &uri.0)
                })
                .and_then(|uri| uri.path_and_query())
                .map(ToString::to_string),
        };
        let signed_in = session
            .get::<SessionAccount>(SIGNED_IN)
            .await
            .map_err(unavailable)?
            .ok_or_else(not_signed_in)?;
        let session_hash = session.id().as_ref().map(hash).ok_or_else(not_signed_in)?;
        let account = match accounts::find(&app.db, signed_in.account_id).await {
            Ok(account) => account,
            Err(AccountError::Unknown) => return Err(not_signed_in()),
            Err(error) => return Err(error.into()),
        };
        let password_hash = accounts::password_hash(&app.db, signed_in.account_id).await?;
        if fingerprint(password_hash.as_deref()) != signed_in.password {
            session.flush().await.map_err(unavailable)?;
            return Err(not_signed_in());
        }
        context.set_account_id(account.account_id.0);
        if let Some(reason) = &account.suspended_reason {
            session.flush().await.map_err(unavailable)?;
            return Err(suspended(reason));
        }
        if !parts.method.is_safe() {
            web.throttles.post(account.account_id.0)?;
        }
        Ok(Self {
            account,
            session_hash,
            session,
            context,
        })
    }
}

/// The owner of an account as the author of an act in this request.
pub(super) fn owner(context: &RequestContext, account: &Account) -> Actor {
    Actor {
        account_id: Some(account.account_id),
        name: account.email.clone(),
        client_ip: Some(context.client_ip()),
        request_id: Some(context.id().to_string()),
        means: Means::Browser,
    }
}

/// The error that tells the owner of an account that it is suspended.
pub(super) fn suspended(reason: &str) -> WebError {
    WebError::Forbidden {
        sentence: format!(
            "This account is suspended: {}. Ask whoever runs this service.",
            reason.trim_end_matches('.')
        ),
        link: None,
    }
}

impl<S> FromRequestParts<S> for CurrentAccount
where
    S: Send + Sync,
    Web: FromRef<S>,
{
    type Rejection = WebError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, WebError> {
        Self::from_parts(parts, &Web::from_ref(state)).await
    }
}

/// For pages that everybody may see: `None` for a visitor, and where the database is unavailable.
impl<S> OptionalFromRequestParts<S> for CurrentAccount
where
    S: Send + Sync,
    Web: FromRef<S>,
{
    type Rejection = WebError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, WebError> {
        match Self::from_parts(parts, &Web::from_ref(state)).await {
            Ok(current) => Ok(Some(current)),
            Err(WebError::Bug(error)) => Err(WebError::Bug(error)),
            Err(_) => Ok(None),
        }
    }
}

/// The frame of a page that visitors see too.
pub(super) async fn page_for(
    current: Option<&CurrentAccount>,
    title: &str,
    tab: Tab,
) -> Result<Page, WebError> {
    match current {
        Some(current) => current.page(title, tab).await,
        None => Ok(Page::visitor(title, tab)),
    }
}

/// An administrator who is signed in. For every other account there is no such page.
#[derive(Debug, Clone)]
pub(crate) struct RequireAdmin(pub(crate) CurrentAccount);

impl<S> FromRequestParts<S> for RequireAdmin
where
    S: Send + Sync,
    Web: FromRef<S>,
{
    type Rejection = WebError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, WebError> {
        let current = CurrentAccount::from_parts(parts, &Web::from_ref(state)).await?;
        if current.account.is_admin {
            Ok(Self(current))
        } else {
            Err(WebError::NotFound)
        }
    }
}

fn user_agent(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::USER_AGENT)?.to_str().ok()?;
    (!text.is_empty()).then(|| text.to_owned())
}
