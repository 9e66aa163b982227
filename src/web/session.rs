//! Who is signed in: the session behind the cookie, and the account behind the session.
//!
//! There is a session only for somebody who signed in; visitors have no row and no cookie.

use std::net::IpAddr;

use axum::extract::{FromRef, FromRequestParts, OptionalFromRequestParts};
use axum::http::request::Parts;
use axum::http::{Method, header};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::PgPool;
use tower_sessions::session::{Id, Record};
use tower_sessions::{Expiry, Session, SessionManagerLayer, SessionStore, cookie, session_store};
use url::Url;

use super::error::WebError;
use super::ui::page::{Flash, Page, Tab, Viewer};
use crate::accounts::sessions::{self, NewSession, SessionHash};
use crate::accounts::{self, Account, AccountError};
use crate::app::App;
use crate::audit::Actor;
use crate::id::AccountId;
use crate::transport::RequestContext;

const SIGNED_IN: &str = "signed_in";
const FLASH: &str = "flash";

/// What a session says about who signed in.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct SignedIn {
    account_id: AccountId,
    /// Of the password that they signed in with: another password ends the session by itself, also
    /// one that was just beginning.
    password: String,
    address: Option<IpAddr>,
    user_agent: Option<String>,
}

/// What stays the same as long as the password does. Of the stored hash, which is salted.
fn fingerprint(password_hash: Option<&str>) -> String {
    hex::encode(&Sha256::digest(password_hash.unwrap_or_default())[..16])
}

/// tower-sessions' way to the table of sessions.
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
        let signed_in: SignedIn = record
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
                client_ip: signed_in.address,
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
        // One that was ended while this request ran stays ended.
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
        // The table's clock has decided that it has not ended; the cookie goes by its own.
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
    // With the prefix, a browser takes the cookie only over TLS, from this very host, for the whole
    // of it.
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

/// Browsers ignore a cookie with that prefix that is not Secure, also one that removes another.
pub(super) fn secure_removals(headers: &mut axum::http::HeaderMap) {
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
            .then(|| {
                axum::http::HeaderValue::from_str(&format!(
                    "{text}; Secure; HttpOnly; SameSite=Lax"
                ))
                .ok()
            })
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

/// Signs somebody in: the session gets a new id, whatever it was before.
pub(super) async fn sign_in(
    session: &Session,
    context: &RequestContext,
    user_agent: Option<String>,
    account_id: AccountId,
    password_hash: Option<&str>,
) -> Result<(), WebError> {
    context.set_account_id(account_id.0);
    // A session of somebody else in this browser ends here, with everything in it.
    session.clear().await;
    session.cycle_id().await.map_err(unavailable)?;
    let signed_in = SignedIn {
        account_id,
        password: fingerprint(password_hash),
        address: Some(context.client_ip()),
        user_agent,
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

/// The account that is signed in. As an argument of a handler it sends everybody else to the
/// sign-in page.
#[derive(Debug, Clone)]
pub(crate) struct CurrentAccount {
    /// The account, as it stands now.
    pub(crate) account: Account,
    /// Hash of this session.
    pub(crate) session_hash: SessionHash,
    session: Session,
    context: RequestContext,
}

impl CurrentAccount {
    /// A page of this account's, with what was just done if anything was.
    ///
    /// # Errors
    /// When the database does not answer.
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
            neutral: false,
            flash,
        })
    }

    /// Says something on the next page.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(crate) async fn flash(&self, flash: Flash) -> Result<(), WebError> {
        self.session.insert(FLASH, flash).await.map_err(unavailable)
    }

    /// As pages show it.
    pub(crate) fn viewer(&self) -> Viewer {
        Viewer {
            email: self.account.email.clone(),
            is_admin: self.account.is_admin,
        }
    }

    /// As the audit log names it.
    pub(crate) fn actor(&self) -> Actor {
        Actor {
            account_id: Some(self.account.account_id),
            name: self.account.email.clone(),
            client_ip: Some(self.context.client_ip()),
            request_id: Some(self.context.id().to_string()),
        }
    }

    /// The session goes on with another password.
    pub(super) async fn password_changed(&self, password_hash: &str) -> Result<(), WebError> {
        let Some(mut signed_in) = self
            .session
            .get::<SignedIn>(SIGNED_IN)
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

    async fn from_parts(parts: &Parts, app: &App) -> Result<Self, WebError> {
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
            .get::<SignedIn>(SIGNED_IN)
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
        Ok(Self {
            account,
            session_hash,
            session,
            context,
        })
    }
}

/// What the owner of a suspended account is told.
pub(super) fn suspended(reason: &str) -> WebError {
    WebError::Forbidden {
        sentence: format!(
            "This account is suspended: {}. Ask whoever runs this service.",
            reason.trim_end_matches('.')
        ),
        way_up: None,
    }
}

impl<S> FromRequestParts<S> for CurrentAccount
where
    S: Send + Sync,
    App: FromRef<S>,
{
    type Rejection = WebError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, WebError> {
        Self::from_parts(parts, &App::from_ref(state)).await
    }
}

/// For pages that everybody may see: `None` for a visitor, and also where it cannot be found out.
impl<S> OptionalFromRequestParts<S> for CurrentAccount
where
    S: Send + Sync,
    App: FromRef<S>,
{
    type Rejection = WebError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, WebError> {
        match Self::from_parts(parts, &App::from_ref(state)).await {
            Ok(current) => Ok(Some(current)),
            Err(WebError::Bug(error)) => Err(WebError::Bug(error)),
            Err(_) => Ok(None),
        }
    }
}

/// An administrator who is signed in. For every other account there is no such page.
#[derive(Debug, Clone)]
pub(crate) struct RequireAdmin(pub(crate) CurrentAccount);

impl<S> FromRequestParts<S> for RequireAdmin
where
    S: Send + Sync,
    App: FromRef<S>,
{
    type Rejection = WebError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, WebError> {
        let current = CurrentAccount::from_parts(parts, &App::from_ref(state)).await?;
        if current.account.is_admin {
            Ok(Self(current))
        } else {
            Err(WebError::NotFound)
        }
    }
}

/// What a browser says it is.
pub(super) fn user_agent(headers: &axum::http::HeaderMap) -> Option<String> {
    let text = headers.get(header::USER_AGENT)?.to_str().ok()?;
    (!text.is_empty()).then(|| text.to_owned())
}
