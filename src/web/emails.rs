//! What account owners are written. Links are built from the public URL, never from what a request
//! says.

use askama::Template;
use url::Url;

use crate::mail::Letter;
use crate::secret::Secret;

/// Where a link leads: the path of its page.
pub(super) const VERIFY: &str = "/verify";
pub(super) const RESET: &str = "/reset";
pub(super) const CHANGE_EMAIL: &str = "/change-email";
pub(super) const FORGOT: &str = "/forgot";

fn page(public_url: &Url, path: &str) -> String {
    format!("{}{path}", public_url.as_str().trim_end_matches('/'))
}

fn link(public_url: &Url, path: &str, secret: &Secret) -> String {
    format!("{}?link={}", page(public_url, path), secret.expose())
}

#[derive(Template)]
#[template(path = "emails/verify_email.txt")]
struct VerifyEmail<'a> {
    service: &'a str,
    link: String,
    forgot: String,
}

#[derive(Template)]
#[template(path = "emails/reset_password.txt")]
struct ResetPassword<'a> {
    service: &'a str,
    link: String,
}

#[derive(Template)]
#[template(path = "emails/change_email.txt")]
struct ChangeEmail<'a> {
    service: &'a str,
    link: String,
}

#[derive(Template)]
#[template(path = "emails/email_changed.txt")]
struct EmailChanged<'a> {
    service: &'a str,
    new_email: &'a str,
}

#[derive(Template)]
#[template(path = "emails/password_changed.txt")]
struct PasswordChanged<'a> {
    service: &'a str,
    forgot: String,
}

fn letter(to: &str, subject: &str, text: &impl Template) -> Letter {
    // A text template of ours fails only when the formatter does, which writing to a String does
    // not.
    let body = text.render().expect("a text template renders");
    Letter {
        to: to.to_owned(),
        subject: subject.to_owned(),
        body,
    }
}

pub(super) fn verify_email(public_url: &Url, to: &str, secret: &Secret) -> Letter {
    let text = VerifyEmail {
        service: public_url.as_str(),
        link: link(public_url, VERIFY, secret),
        forgot: page(public_url, FORGOT),
    };
    letter(to, "Confirm your address for Lockable", &text)
}

pub(super) fn reset_password(public_url: &Url, to: &str, secret: &Secret) -> Letter {
    let text = ResetPassword {
        service: public_url.as_str(),
        link: link(public_url, RESET, secret),
    };
    letter(to, "A new password for Lockable", &text)
}

pub(super) fn change_email(public_url: &Url, to: &str, secret: &Secret) -> Letter {
    let text = ChangeEmail {
        service: public_url.as_str(),
        link: link(public_url, CHANGE_EMAIL, secret),
    };
    letter(to, "Confirm your new address for Lockable", &text)
}

pub(super) fn email_changed(public_url: &Url, to: &str, new_email: &str) -> Letter {
    letter(
        to,
        "Your Lockable address was changed",
        &EmailChanged {
            service: public_url.as_str(),
            new_email,
        },
    )
}

pub(super) fn password_changed(public_url: &Url, to: &str) -> Letter {
    let text = PasswordChanged {
        service: public_url.as_str(),
        forgot: page(public_url, FORGOT),
    };
    letter(to, "Your Lockable password was changed", &text)
}
