//! Checking passwords: to sign in, and again before acts that a session alone must not allow.

use crate::accounts::{self, Account, AccountError, Email};
use crate::id::AccountId;
use crate::secret::Secret;
use crate::web::error::WebError;
use crate::web::session::CurrentAccount;
use crate::web::state::Web;

/// The account with this e-mail address and the hash of its password, if `password` is its
/// password. Takes as long where there is no such account.
pub(super) async fn find_account(
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
    // Without an account the same query and the same verification run, so that the time tells
    // nothing.
    let nobody = AccountId(0);
    let account_id = account
        .as_ref()
        .map_or(nobody, |account| account.account_id);
    let hash = accounts::password_hash(&app.db, account_id).await?;
    let is_right = app.passwords.verify(password, hash.as_deref()).await;
    Ok(account.zip(hash).filter(|_| is_right))
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
