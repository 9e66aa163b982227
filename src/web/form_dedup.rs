//! A form that is sent twice makes one token: a double click must not leave the reader with the
//! wrong one of two.
//!
//! Each node knows its own forms only. Where both clicks reach different nodes, two tokens are
//! made: both work, and both stand in the list.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use sqlx::PgPool;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::id::{AccountId, TokenId};
use crate::secret::Secret;
use crate::tokens;

/// What a form asks for. The same form with other answers asks for another token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Asked {
    /// A new token.
    Create {
        /// What its owner calls it.
        label: String,
        /// Whose locks it takes.
        namespace: String,
        /// What it may do.
        scope: &'static str,
        /// How long it lasts, days; 0: for ever.
        days: i64,
    },
    /// A successor.
    Rotate {
        /// The token's that is rotated.
        token_id: TokenId,
        /// For how long that one still works, seconds.
        overlap_s: u64,
    },
}

/// A token, once it is made.
type Made = Arc<Mutex<Option<(TokenId, Secret)>>>;

/// What was made lately by forms of this node, by the id that each form carries. In memory only,
/// since it holds secrets.
#[derive(Debug, Clone)]
pub(crate) struct Once(Cache<(AccountId, Uuid, Asked), Made>);

impl Default for Once {
    fn default() -> Self {
        Self(
            Cache::builder()
                .max_capacity(10_000)
                .time_to_live(Duration::from_secs(300))
                .build(),
        )
    }
}

impl Once {
    /// Makes it, or returns what this form has made before, as long as that works. A form without
    /// an id makes it.
    ///
    /// # Errors
    /// Those of `make`, and where the database cannot be asked; then nothing is remembered.
    pub(crate) async fn make<E, F>(
        &self,
        db: &PgPool,
        account_id: AccountId,
        form: &str,
        asked: Asked,
        make: F,
    ) -> Result<Secret, E>
    where
        E: From<sqlx::Error>,
        F: Future<Output = Result<(TokenId, Secret), E>>,
    {
        let Ok(form) = Uuid::parse_str(form) else {
            return make.await.map(|(_, secret)| secret);
        };
        let made = self.0.get_with((account_id, form, asked), Made::default);
        let mut made = made.lock().await;
        if let Some((token_id, secret)) = &*made {
            // It may have been revoked or rotated since, here or on another node.
            let tokens = tokens::list(db, account_id).await?;
            if tokens
                .iter()
                .any(|token| token.token_id == *token_id && !token.expired)
            {
                return Ok(secret.clone());
            }
        }
        let (token_id, secret) = make.await?;
        *made = Some((token_id, secret.clone()));
        Ok(secret)
    }
}

/// An id for a form that is about to be shown.
pub(crate) fn form_id() -> String {
    Uuid::new_v4().to_string()
}
