//! The accounts' queries, by who changes what: `lookup` reads accounts, `changes` has what an
//! owner does, `administration` what an administrator does and is audited for, `deletion` the
//! end of an account.

mod administration;
mod changes;
mod deletion;
mod lookup;

pub use administration::{promote, restore, set_plan, suspend};
pub use changes::{change_email, create, set_lease_default, set_password, verify_email};
pub use deletion::{delete, deleting};
pub use lookup::{Filter, find, find_by_email, password_hash, search};
