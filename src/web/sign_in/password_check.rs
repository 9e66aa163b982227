//! Checking passwords: to sign in, and again before acts that a session alone must not allow.

use axum::http::HeaderMap;

use super::known_browser::{BrowserCookie, KnownBrowser};
use crate::accounts::{self, Account, AccountError, Email};
use crate::activity::{self, Author, SignInFailure};
use crate::id::AccountId;
use crate::secret::Secret;
use crate::transport::RequestContext;
use crate::web::error::WebError;
use crate::web::session::{CurrentAccount, suspended};
use crate::web::state::Web;

/// An account whose password was right, with the hash of the password.
pub(super) struct Verified {
    pub(super) account: Account,
    pub(super) password_hash: String,
    /// The browser, if the account has signed in with it before.
    pub(super) browser: Option<KnownBrowser>,
}

/// One try to sign in: the account with this e-mail address, if `password` is its password. Takes
/// as long where there is no such account. Throttled, apart for a browser that is known. A failure
/// stands in the account's activity.
///
/// # Errors
/// If the account is suspended, or there were too many tries.
pub(super) async fn try_password(
    web: &Web,
    context: &RequestContext,
    headers: &HeaderMap,
    email: &Email,
    password: &Secret,
) -> Result<Option<Verified>, WebError> {
    let cookie = BrowserCookie::of(headers, &web.app.public_url);
    match &cookie {
        // The look-up shows whether the browser is known.
        Some(_) => web.throttles.sign_in_from(context.client_ip())?,
        None => web.throttles.sign_in(context.client_ip(), &email.key())?,
    }
    let app = &web.app;
    let account = match accounts::find_by_email(&app.db, email).await {
        Ok(account) => Some(account),
        Err(AccountError::Unknown) => None,
        Err(error) => return Err(error.into()),
    };
    // Without an account the same query and the same verification run, so that the time tells
    // nothing.
    let nobody = AccountId(0);
    let account_id = account
        .as_ref()
        .map_or(nobody, |account| account.account_id);
    let hash = accounts::password_hash(&app.db, account_id).await?;
    let browser = cookie
        .as_ref()
        .zip(hash.as_deref())
        .and_then(|(cookie, hash)| cookie.verify(account_id, hash));
    match browser {
        Some(browser) => web.throttles.sign_in_again(account_id.0, browser)?,
        None if cookie.is_some() => web.throttles.sign_in(context.client_ip(), &email.key())?,
        None => {}
    }
    let is_right = app.passwords.verify(password, hash.as_deref()).await;
    let Some(account) = account else {
        return Ok(None);
    };
    let Some(password_hash) = hash.filter(|_| is_right) else {
        record_failure(web, context, account_id, SignInFailure::WrongPassword);
        return Ok(None);
    };
    if let Some(reason) = &account.suspended_reason {
        record_failure(web, context, account_id, SignInFailure::Suspended);
        return Err(suspended(reason));
    }
    Ok(Some(Verified {
        account,
        password_hash,
        browser,
    }))
}

/// Writes a failed sign-in into the account's activity, in a task of its own: the response comes as
/// fast as where there is no account.
fn record_failure(
    web: &Web,
    context: &RequestContext,
    account_id: AccountId,
    failure: SignInFailure,
) {
    let (db, visitor) = (web.app.db.clone(), Author::visitor(context.client_ip()));
    tokio::spawn(async move {
        let recorded = activity::record_failed_sign_in(&db, account_id, visitor, failure).await;
        if let Err(error) = recorded {
            tracing::warn!(%error, %account_id, "a failed sign-in was not recorded");
        }
    });
}

/// Whether this is the password of the signed-in account. Throttled, since a session must not be
/// enough to find it out.
pub(crate) async fn is_own_password(
    web: &Web,
    current: &CurrentAccount,
    password: Option<&Secret>,
) -> Result<bool, WebError> {
    let Some(password) = password.filter(|password| !password.expose().is_empty()) else {
        return Ok(false);
    };
    let account_id = current.account.account_id;
    web.throttles.password(account_id.0)?;
    let hash = accounts::password_hash(&web.app.db, account_id).await?;
    Ok(web.app.passwords.verify(password, hash.as_deref()).await)
}
