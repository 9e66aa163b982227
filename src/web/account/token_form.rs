//! The form that creates an API token: its values, its fields, and what it leads to.

use axum::http::StatusCode;
use chrono::{TimeDelta, Utc};
use serde::Deserialize;

use crate::namespaces::{Namespace, PUBLIC};
use crate::secret::Secret;
use crate::tokens::{self, NewToken, Scope, TokenError};
use crate::web::form_dedup::{FormIntent, new_form_id};
use crate::web::session::CurrentAccount;
use crate::web::sign_in::password_check::is_own_password;
use crate::web::state::Web;
use crate::web::ui::field::{Choice, Field};
use crate::web::ui::form::{FormState, Submission};

/// The name of the form.
const NEW_TOKEN: &str = "token";

/// Days until a new token expires, 0 for never, and what the choice is called.
const EXPIRIES: [(i64, &str); 6] = [
    (0, "Never"),
    (1, "In a day"),
    (7, "In 7 days"),
    (30, "In 30 days"),
    (90, "In 90 days"),
    (365, "In a year"),
];

/// The values of the form, as submitted.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NewTokenForm {
    form_id: String,
    pub(super) label: String,
    namespace: String,
    expires: String,
    scope: String,
    password: Option<Secret>,
}

impl NewTokenForm {
    /// With the default for each choice that was not made.
    pub(super) fn with_defaults(mut self) -> Self {
        for (value, default) in [
            (&mut self.namespace, PUBLIC),
            (&mut self.expires, "0"),
            (&mut self.scope, Scope::Locks.as_str()),
        ] {
            if value.is_empty() {
                default.clone_into(value);
            }
        }
        self
    }

    /// The form with these values, except the password.
    pub(super) fn state(&self) -> FormState {
        FormState::new(NEW_TOKEN)
            .with("label", &self.label)
            .with("namespace", &self.namespace)
            .with("expires", &self.expires)
            .with("scope", &self.scope)
    }

    /// The number of days, if it is one of the choices.
    fn days(&self) -> Option<i64> {
        let days = self.expires.parse().ok()?;
        EXPIRIES
            .iter()
            .any(|(choice, _)| *choice == days)
            .then_some(days)
    }

    /// Creates the token.
    pub(super) async fn submit(&self, web: &Web, current: &CurrentAccount) -> Submission<Secret> {
        let app = &web.app;
        let account = &current.account;
        let form = self.state();
        let confirmation = app.email_confirmation();
        if let Err(error) = tokens::check_email_confirmed(account, confirmation) {
            return reject(form, error);
        }
        let scope = match self.scope.parse::<Scope>() {
            Ok(scope) => scope,
            Err(error) => return reject(form, error),
        };
        let Some(days) = self.days() else {
            return Ok(Err(
                form.rejected("expires", "choose one of the times in the list")
            ));
        };
        if scope == Scope::Manage && !is_own_password(web, current, self.password.as_ref()).await? {
            return Ok(Err(form.rejected(
                "password",
                "enter your password to create a token that can manage your account",
            )));
        }
        let new = NewToken {
            label: &self.label,
            namespace: &self.namespace,
            scope,
            expires_at: (days > 0).then(|| Utc::now() + TimeDelta::days(days)),
        };
        let intent = FormIntent::Create {
            label: self.label.trim().to_owned(),
            namespace: self.namespace.clone(),
            scope: scope.as_str(),
            days,
        };
        let actor = current.actor();
        let create = tokens::create(&app.db, &actor, account, confirmation, &new);
        let issued = web
            .form_dedup
            .issue_once(&app.db, account.account_id, &self.form_id, intent, create)
            .await;
        match issued {
            Ok(secret) => Ok(Ok(secret)),
            Err(error) => reject(form, error),
        }
    }
}

/// Shows an error of the noun next to its field, if a form can show it.
fn reject<T>(form: FormState, error: TokenError) -> Submission<T> {
    Ok(Err(match error {
        TokenError::InvalidLabel | TokenError::TooMany { .. } => form.rejected("label", error),
        TokenError::EmailNotConfirmed => form
            .rejected("label", error)
            .with_status(StatusCode::FORBIDDEN),
        TokenError::UnknownScope => form.rejected("scope", error),
        TokenError::UnknownNamespace => form.rejected("namespace", "choose one of your namespaces"),
        TokenError::ExpiryInThePast => form.rejected("expires", error),
        TokenError::Unknown | TokenError::InvalidOverlap | TokenError::Database(_) => {
            return Err(error.into());
        }
    }))
}

/// The form as its page shows it.
pub(super) struct NewTokenFields {
    pub(super) form_id: String,
    pub(super) state: FormState,
    pub(super) label: Field,
    pub(super) namespace: Field,
    pub(super) expires: Field,
    pub(super) scope: Field,
    pub(super) password: Field,
}

impl NewTokenFields {
    pub(super) fn new(state: FormState, namespaces: &[Namespace]) -> Self {
        let namespaces = namespaces
            .iter()
            .map(|namespace| Choice::new(&namespace.name, &namespace.name));
        let expiries = EXPIRIES.map(|(days, label)| Choice::new(days.to_string(), label));
        let scopes = [
            Choice::new("locks", "Locks")
                .hint("Takes, keeps and gives back locks in its namespace. What programs need."),
            Choice::new("manage", "Manage").hint(
                "Also manages the account's tokens and namespaces, and breaks locks, by API v2.",
            ),
        ];
        let label = Field::text("label", "Label")
            .hint("What uses it, such as nightly-report.")
            .attribute("maxlength", "100")
            .autocomplete("off");
        let password = Field::password("password", "Your password", "current-password")
            .optional()
            .hint("Only for the scope Manage.");
        Self {
            form_id: new_form_id(),
            label: state.field(label),
            namespace: state.field(Field::select("namespace", "Namespace", namespaces)),
            expires: state.field(Field::select("expires", "Expires", expiries)),
            scope: state.field(Field::radio("scope", "Scope", scopes)),
            password: state.field(password),
            state,
        }
    }
}
