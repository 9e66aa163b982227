//! One request on its way through: made by the edge, read by whoever needs to know.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use super::RequestId;

/// What is known of a request besides its message. Cheap to clone: an extension of the request,
/// also an extractor (`Extension<RequestContext>`).
#[derive(Clone, Debug)]
pub struct RequestContext(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: RequestId,
    client_address: IpAddr,
    /// 0: not known.
    account_id: AtomicI64,
}

impl RequestContext {
    /// A request from this address.
    pub fn new(id: RequestId, client_address: IpAddr) -> Self {
        Self(Arc::new(Inner {
            id,
            client_address,
            account_id: AtomicI64::new(0),
        }))
    }

    /// The request's id.
    pub fn id(&self) -> &RequestId {
        &self.0.id
    }

    /// The client's address, trusted proxies taken into account.
    pub fn client_address(&self) -> IpAddr {
        self.0.client_address
    }

    /// Tells the log line whose request this was, once that is known.
    pub fn set_account_id(&self, account_id: i64) {
        self.0.account_id.store(account_id, Ordering::Relaxed);
    }

    /// Whose request this is, as far as anybody has said.
    pub fn account_id(&self) -> Option<i64> {
        Some(self.0.account_id.load(Ordering::Relaxed)).filter(|id| *id != 0)
    }
}
