//! The activity of accounts: sign-ins, and what was done to tokens, namespaces, passwords, e-mail
//! addresses and leases. Each entry says by whom, by what means and from where. It is written in
//! the transaction of the act, and kept for 90 days for the owner of the account.
//!
//! The audit log ([`crate::audit`]) has the acts of administrators, for administrators.

pub mod store;

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use serde_json::Value;

use crate::audit::{Actor, Means};
use crate::id::AccountId;

pub use store::{list, record, record_failed_sign_in, sweep};

/// The most failed sign-ins of an account that get an entry of their own within a day. Those beyond
/// it are counted in the newest one, so that a guesser cannot fill the table.
pub const MAX_FAILED_SIGN_INS_A_DAY: i64 = 20;

/// An act on an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// A browser signed in.
    SignIn,
    /// A sign-in failed.
    FailSignIn,
    /// The password was changed, by somebody who knew the old one.
    ChangePassword,
    /// A new password was set, by a link in mail.
    ResetPassword,
    /// The e-mail address was changed.
    ChangeEmail,
    /// A token was created.
    CreateToken,
    /// A token was replaced by a new one.
    RotateToken,
    /// A token was revoked.
    RevokeToken,
    /// All tokens were revoked.
    RevokeAllTokens,
    /// A private namespace was created.
    CreateNamespace,
    /// The default lease of a private namespace was set.
    SetNamespaceLease,
    /// A private namespace was deleted, with its tokens.
    DeleteNamespace,
    /// A lease of the account was ended by force.
    BreakLock,
}

impl Action {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::SignIn,
        Self::FailSignIn,
        Self::ChangePassword,
        Self::ResetPassword,
        Self::ChangeEmail,
        Self::CreateToken,
        Self::RotateToken,
        Self::RevokeToken,
        Self::RevokeAllTokens,
        Self::CreateNamespace,
        Self::SetNamespaceLease,
        Self::DeleteNamespace,
        Self::BreakLock,
    ];

    /// Its text in the database and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SignIn => "account.sign-in",
            Self::FailSignIn => "account.sign-in-failed",
            Self::ChangePassword => "account.change-password",
            Self::ResetPassword => "account.reset-password",
            Self::ChangeEmail => "account.change-email",
            Self::CreateToken => "token.create",
            Self::RotateToken => "token.rotate",
            Self::RevokeToken => "token.revoke",
            Self::RevokeAllTokens => "token.revoke-all",
            Self::CreateNamespace => "namespace.create",
            Self::SetNamespaceLease => "namespace.set-lease",
            Self::DeleteNamespace => "namespace.delete",
            Self::BreakLock => "lock.break",
        }
    }
}

/// Why a sign-in failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SignInFailure {
    /// The password was not the account's.
    WrongPassword,
    /// The password was right, and the account is suspended.
    Suspended,
}

impl SignInFailure {
    /// Its text in the details of an entry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::WrongPassword => "wrong-password",
            Self::Suspended => "suspended",
        }
    }
}

/// The author of an act, as far as the owner of an account may know of them.
#[derive(Clone, Copy, Debug)]
pub struct Author {
    /// The author's account; `None` for a command, and for a visitor.
    pub account_id: Option<AccountId>,
    /// The means of the act.
    pub means: Means,
    /// The client IP of the request.
    pub client_ip: Option<IpAddr>,
}

impl From<&Actor> for Author {
    fn from(actor: &Actor) -> Self {
        Self {
            account_id: actor.account_id,
            means: actor.means,
            client_ip: actor.client_ip,
        }
    }
}

impl Author {
    /// Somebody who is not signed in, in a browser.
    pub fn visitor(client_ip: IpAddr) -> Self {
        Self {
            account_id: None,
            means: Means::Browser,
            client_ip: Some(client_ip),
        }
    }

    /// The author, from the owner of an account's point of view.
    fn role(&self, owner: AccountId) -> &'static str {
        match (self.account_id, self.means) {
            (Some(account_id), _) if account_id == owner => "owner",
            (None, Means::Browser) => "visitor",
            _ => "administrator",
        }
    }
}

/// An act that concerns an account.
#[derive(Clone, Debug)]
pub struct Act<'a> {
    /// The kind of act.
    pub action: Action,
    /// `token:<label>`, `namespace:<name>`, `lock:<namespace>/<name>`; `None` for the account
    /// itself, which its e-mail address names.
    pub subject: Option<&'a str>,
    /// The values of the act, a JSON object; never a secret.
    pub details: Option<Value>,
}

/// An entry of an account's activity.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "columns, which the migrations describe")]
pub struct Entry {
    pub activity_id: i64,
    pub at: DateTime<Utc>,
    /// As [`Action::as_str`].
    pub action: String,
    /// `owner`, `administrator` or `visitor`.
    pub author: String,
    /// As [`Means::as_str`].
    pub means: String,
    pub token_label: Option<String>,
    pub token_hint: Option<String>,
    pub client_ip: Option<String>,
    pub subject: String,
    pub details: Option<Value>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::TokenId;

    #[test]
    fn actions_have_texts_of_their_own_in_the_form_that_the_table_takes() {
        let texts = Action::ALL.map(Action::as_str);
        for (place, text) in texts.iter().enumerate() {
            assert!(!texts[..place].contains(text), "{text}");
            let mut words = text.split(['.', '-']);
            assert!(
                words.all(|word| !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase())),
                "{text}"
            );
        }
    }

    #[test]
    fn an_owner_tells_themselves_from_administrators_and_visitors() {
        let owner = AccountId(1);
        let role = |account_id: Option<i64>, means| {
            let author = Author {
                account_id: account_id.map(AccountId),
                means,
                client_ip: None,
            };
            author.role(owner)
        };
        assert_eq!(role(Some(1), Means::Browser), "owner");
        assert_eq!(role(Some(1), Means::Token(TokenId(5))), "owner");
        assert_eq!(role(Some(2), Means::Browser), "administrator");
        assert_eq!(role(Some(2), Means::Token(TokenId(5))), "administrator");
        assert_eq!(role(None, Means::Command), "administrator");
        assert_eq!(role(None, Means::Browser), "visitor");
    }
}
