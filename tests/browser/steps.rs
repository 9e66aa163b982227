//! Steps that several journeys share.

use lockable::secret::Secret;

use crate::browser::Browser;
use crate::support::app::{PASSWORD, TestApp};
use crate::support::wait::eventually;

/// Signs up with [`PASSWORD`].
pub(crate) async fn sign_up(browser: &Browser, email: &str) {
    browser.open("/").await;
    browser.press("Sign up").await;
    browser.fill("#email", email).await;
    browser.fill("#password", PASSWORD).await;
    browser.press("Create account").await;
    browser.is_at("/account").await;
}

/// Signs in with [`PASSWORD`].
pub(crate) async fn sign_in(browser: &Browser, email: &str) {
    sign_in_with(browser, email, PASSWORD).await;
    browser.is_at("/account").await;
}

/// Tries to sign in.
pub(crate) async fn sign_in_with(browser: &Browser, email: &str, password: &str) {
    browser.open("/login").await;
    browser.fill("#email", email).await;
    browser.fill("#password", password).await;
    browser.press_in("main", "Sign in").await;
}

/// Signs out.
pub(crate) async fn sign_out(browser: &Browser) {
    browser.press("Sign out").await;
    browser.find("a[href='/login']").await;
}

/// Creates a token for a namespace, and reads it from the page that shows it this once.
pub(crate) async fn create_token(browser: &Browser, label: &str, namespace: &str) -> Secret {
    browser.open("/account").await;
    browser.fill("#token-label", label).await;
    browser.choose("#token-namespace", namespace).await;
    browser.press("Create token").await;
    let token = Secret::new(browser.text_of("#token").await);
    browser.press("I have copied it").await;
    browser.is_at("/account").await;
    browser.sees(label).await;
    token
}

/// The link to this path in the newest letter to an e-mail address.
pub(crate) async fn link_in_mail(app: &TestApp, email: &str, path: &str) -> String {
    let outbox = app.data_dir.path().join("outbox");
    let start = app.public_url.join(path).unwrap().to_string();
    eventually("the letter is in the outbox", async || {
        let mut letters: Vec<_> = std::fs::read_dir(&outbox)
            .ok()?
            .flatten()
            .map(|entry| entry.path())
            .collect();
        letters.retain(|path| path.extension().is_some_and(|extension| extension == "eml"));
        letters.sort();
        letters.iter().rev().find_map(|letter| {
            let text = std::fs::read_to_string(letter).unwrap();
            // Quoted-printable: soft line breaks, and = as =3D.
            let text = text.replace("=\r\n", "").replace("=3D", "=");
            if !text.contains(&format!("To: {email}")) {
                return None;
            }
            let at = text.find(&start)?;
            Some(text[at..].split_whitespace().next()?.to_owned())
        })
    })
    .await
}
