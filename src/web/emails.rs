//! The e-mails to account owners. Their links begin with the public URL, never with a host that a
//! request names.

use askama::Template;
use url::Url;

use crate::accounts::links::{self, Purpose};
use crate::app::App;
use crate::id::AccountId;
use crate::mail::Letter;

/// The paths of the pages that e-mails lead to.
pub(super) const VERIFY: &str = "/verify";
pub(super) const RESET: &str = "/reset";
pub(super) const CHANGE_EMAIL: &str = "/change-email";
pub(super) const FORGOT: &str = "/forgot";

#[derive(Template)]
#[template(path = "emails/verify_email.txt")]
struct VerifyEmail<'a> {
    service: &'a Url,
    link: String,
    forgot: String,
}

#[derive(Template)]
#[template(path = "emails/reset_password.txt")]
struct ResetPassword<'a> {
    service: &'a Url,
    link: String,
}

#[derive(Template)]
#[template(path = "emails/change_email.txt")]
struct ChangeEmail<'a> {
    service: &'a Url,
    link: String,
}

#[derive(Template)]
#[template(path = "emails/email_changed.txt")]
struct EmailChanged<'a> {
    service: &'a Url,
    new_email: &'a str,
}

#[derive(Template)]
#[template(path = "emails/password_changed.txt")]
struct PasswordChanged<'a> {
    service: &'a Url,
    forgot: String,
}

/// Makes a link for an account and sends it.
pub(super) async fn send_link(
    app: &App,
    account_id: AccountId,
    purpose: Purpose,
    to: &str,
) -> sqlx::Result<()> {
    let secret = links::create(&app.db, account_id, purpose, to).await?;
    let service = &app.public_url;
    let link = |path| format!("{}?link={}", url_of(app, path), secret.expose());
    match purpose {
        Purpose::VerifyEmail => {
            let (link, forgot) = (link(VERIFY), url_of(app, FORGOT));
            let text = VerifyEmail {
                service,
                link,
                forgot,
            };
            send(app, to, "Confirm your address for Lockable", &text);
        }
        Purpose::ResetPassword => {
            let link = link(RESET);
            let text = ResetPassword { service, link };
            send(app, to, "A new password for Lockable", &text);
        }
        Purpose::ChangeEmail => {
            let link = link(CHANGE_EMAIL);
            let text = ChangeEmail { service, link };
            send(app, to, "Confirm your new address for Lockable", &text);
        }
    }
    Ok(())
}

/// Tells the owner, at the former e-mail address, that the account has another one.
pub(super) fn send_email_changed(app: &App, to: &str, new_email: &str) {
    let service = &app.public_url;
    let text = EmailChanged { service, new_email };
    send(app, to, "Your Lockable address was changed", &text);
}

pub(super) fn send_password_changed(app: &App, to: &str) {
    let text = PasswordChanged {
        service: &app.public_url,
        forgot: url_of(app, FORGOT),
    };
    send(app, to, "Your Lockable password was changed", &text);
}

fn url_of(app: &App, path: &str) -> String {
    format!("{}{path}", app.public_url.as_str().trim_end_matches('/'))
}

/// Queues an e-mail. One that the queue does not take is in the log; its receiver can ask for
/// another.
fn send(app: &App, to: &str, subject: &str, text: &impl Template) {
    // A text template of ours fails only when the formatter does, which writing to a String does
    // not.
    let body = text.render().expect("a text template renders");
    let letter = Letter {
        to: to.to_owned(),
        subject: subject.to_owned(),
        body,
    };
    if let Err(error) = app.mail.send(letter) {
        tracing::error!(%error, "mail dropped");
    }
}
