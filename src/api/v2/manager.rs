//! Who manages an account: a caller whose token has the scope `manage`.

use std::sync::Arc;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::super::Api;
use super::super::problem::{Code, Problem};
use super::access::Access;
use super::query::{Query, encode_cursor};
use crate::accounts::{self, Account};
use crate::audit::Actor;
use crate::tokens::{Scope, VerifyError};

/// A request of a caller who may manage the account.
#[derive(Debug)]
pub struct Manager {
    /// The caller.
    pub access: Access,
}

/// For a token of the scope `locks` there are no such calls: it has the locks of its namespace, and
/// nothing else.
impl FromRequestParts<Arc<Api>> for Manager {
    type Rejection = Problem;

    async fn from_request_parts(head: &mut Parts, api: &Arc<Api>) -> Result<Self, Problem> {
        let access = Access::from_request_parts(head, api).await?;
        match access.caller.scope {
            Scope::Manage => Ok(Self { access }),
            Scope::Locks => Err(Problem::new(
                Code::NotFound,
                "Your API token has the scope locks, for which there is nothing here: its account \
                 is managed with a token of the scope manage.",
            )),
        }
    }
}

impl Manager {
    /// The caller as the author of what this request does.
    pub fn actor(&self) -> Actor {
        let context = &self.access.context;
        self.access
            .caller
            .actor(context.client_ip(), context.id().to_string())
    }

    /// The account as it is now; what a node remembers of a caller may be a second old.
    ///
    /// # Errors
    /// [`Code::TokenRefused`] if it was suspended or deleted meanwhile, or that the database is
    /// unavailable.
    pub async fn account(&self, api: &Api) -> Result<Account, Problem> {
        let account = accounts::find(&api.app.db, self.access.account_id()).await?;
        if account.suspended_at.is_some() {
            return Err(VerifyError::Refused.into());
        }
        Ok(account)
    }
}

/// The id that [`cut_page`] made a cursor of.
///
/// # Errors
/// [`Code::InvalidParameter`].
pub fn id_of_cursor(query: &Query<'_>) -> Result<Option<i64>, Problem> {
    let Some(text) = query.cursor()? else {
        return Ok(None);
    };
    text.parse().map(Some).map_err(|_| {
        let detail = "cursor has to be the next_cursor of an earlier answer, unchanged.";
        Problem::new(Code::InvalidParameter, detail)
    })
}

/// Cuts what was read for a page, one item more than it may have, to the page. Returns the cursor
/// of the next page, made from the page's last item, if there is one.
pub fn cut_page<T>(
    items: &mut Vec<T>,
    limit: i32,
    cursor: impl FnOnce(&T) -> String,
) -> Option<String> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if items.len() <= limit {
        return None;
    }
    items.truncate(limit);
    items.last().map(|last| encode_cursor(&cursor(last)))
}
