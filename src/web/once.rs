//! A form that is sent twice makes one token: a double click must not leave the reader with the wrong one of two.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::id::{AccountId, TokenId};
use crate::secret::Secret;

/// What was made lately by forms of this node, by the id that each form carries. In memory only, since it holds secrets.
#[derive(Debug, Clone)]
pub(crate) struct Once(Cache<(AccountId, Uuid), Arc<OnceCell<Secret>>>);

impl Default for Once {
    fn default() -> Self {
        Self(Cache::builder().max_capacity(10_000).time_to_live(Duration::from_secs(300)).build())
    }
}

impl Once {
    /// Makes it, or returns what this form has made before. A form without an id makes it.
    ///
    /// # Errors
    /// Those of `make`; then nothing is remembered.
    pub(crate) async fn make<E, F>(&self, account_id: AccountId, form: &str, make: F) -> Result<Secret, E>
    where
        F: Future<Output = Result<(TokenId, Secret), E>>,
    {
        let make = async { make.await.map(|(_, secret)| secret) };
        let Ok(form) = Uuid::parse_str(form) else { return make.await };
        let cell = self.0.get_with((account_id, form), || Arc::new(OnceCell::new()));
        cell.get_or_try_init(|| make).await.cloned()
    }
}

/// An id for a form that is about to be shown.
pub(crate) fn form_id() -> String {
    Uuid::new_v4().to_string()
}
