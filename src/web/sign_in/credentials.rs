//! The fields in which readers type their e-mail address and password.

use serde::Deserialize;

use crate::accounts::passwords;
use crate::secret::Secret;
use crate::web::ui::field::Field;

/// The text for an e-mail field whose value is none.
pub(crate) const INVALID_EMAIL: &str = "Enter an e-mail address, such as name@example.com.";

/// The values of the sign-up and sign-in forms.
#[derive(Debug, Deserialize)]
pub(crate) struct Credentials {
    #[serde(default)]
    pub(super) email: String,
    #[serde(default = "no_secret")]
    pub(super) password: Secret,
    /// The path to go to after signing in.
    #[serde(default)]
    pub(super) next: String,
}

/// The value of a secret field that was not sent.
pub(crate) fn no_secret() -> Secret {
    Secret::new("")
}

/// The field for the e-mail address that an account signs in with.
pub(super) fn email_field() -> Field {
    Field::email("email", "E-mail address").autocomplete("username")
}

pub(crate) fn new_password_field(name: &'static str, label: &str) -> Field {
    Field::password(name, label, "new-password")
        .attribute("minlength", passwords::MIN_CHARS.to_string())
        .hint(format!(
            "At least {} characters. A few words that you make up are easiest to remember.",
            passwords::MIN_CHARS
        ))
}
