//! The accounts' queries: `lookup` reads accounts, `changes` makes an account and has its owner's
//! changes, `administration` those of administrators, which are audited, `deletion` deletes
//! accounts.

mod administration;
mod changes;
mod deletion;
mod lookup;

pub use administration::{promote, restore, set_plan, suspend};
pub use changes::{
    change_email, create, refresh_email_keys, set_lease_default, set_password, verify_email,
};
pub use deletion::{delete, deleting};
pub use lookup::{Filter, find, find_by_email, password_hash, search};
