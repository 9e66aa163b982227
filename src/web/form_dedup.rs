//! A form that is sent twice issues one token: after a double click the reader must not be left
//! with the one of two tokens that is not shown.
//!
//! Each node knows only the forms that it received. Where the two requests reach different nodes,
//! two tokens are issued; both work, and both are in the list.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use sqlx::PgPool;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::id::{AccountId, TokenId};
use crate::secret::Secret;
use crate::tokens;

/// The token that a form is to issue. The same form with other values has another intent.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum FormIntent {
    Create {
        label: String,
        namespace: String,
        scope: &'static str,
        /// Days until the token expires; 0: never.
        days: i64,
    },
    Rotate {
        token_id: TokenId,
        /// Seconds for which the old token still works.
        overlap_s: u64,
    },
}

/// The token of one intent, once it is issued. Locked while it is being issued.
type Issued = Arc<Mutex<Option<(TokenId, Secret)>>>;

/// The tokens that forms issued lately, by the id that each form carries. In memory only, since it
/// holds secrets.
#[derive(Debug, Clone)]
pub(crate) struct FormDeduplicator(Cache<(AccountId, Uuid, FormIntent), Issued>);

impl Default for FormDeduplicator {
    fn default() -> Self {
        Self(
            Cache::builder()
                .max_capacity(10_000)
                .time_to_live(Duration::from_secs(300))
                .build(),
        )
    }
}

impl FormDeduplicator {
    /// Issues a token, or returns the one that this form has issued before, as long as that works.
    /// A form without an id always issues one.
    ///
    /// # Errors
    /// The error of `issue`, or of the database query; then nothing is remembered.
    pub(crate) async fn issue_once<E, F>(
        &self,
        db: &PgPool,
        account_id: AccountId,
        form_id: &str,
        intent: FormIntent,
        issue: F,
    ) -> Result<Secret, E>
    where
        E: From<sqlx::Error>,
        F: Future<Output = Result<(TokenId, Secret), E>>,
    {
        let Ok(form_id) = Uuid::parse_str(form_id) else {
            return issue.await.map(|(_, secret)| secret);
        };
        let key = (account_id, form_id, intent);
        let issued = self.0.get_with(key, Issued::default);
        let mut issued = issued.lock().await;
        if let Some((token_id, secret)) = &*issued {
            // It may have been revoked or rotated since, here or on another node.
            let tokens = tokens::list(db, account_id).await?;
            if tokens
                .iter()
                .any(|token| token.token_id == *token_id && !token.expired)
            {
                return Ok(secret.clone());
            }
        }
        let (token_id, secret) = issue.await?;
        *issued = Some((token_id, secret.clone()));
        Ok(secret)
    }
}

/// An id for a form that is about to be shown.
pub(crate) fn new_form_id() -> String {
    Uuid::new_v4().to_string()
}
