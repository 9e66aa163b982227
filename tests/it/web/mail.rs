//! Mail: by a mail server, and without one.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use super::smtp::{MailServer, Mood, Received, Tls, certificate};
use super::*;

async fn received(server: &MailServer, subject: &str) -> Received {
    eventually(&format!("mail: {subject}"), async || {
        server
            .received()
            .into_iter()
            .find(|mail| between(&mail.text, "Subject: ", "\r\n").contains(subject))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_mail_server_letters_are_files_that_only_their_owner_reads() {
    let app = TestApp::start().await;
    sign_up(&app, "ada@example.com").await;
    let letter = letter_to(&app, "ada@example.com", "Confirm").await;
    assert!(
        letter.contains("From: Lockable <lockable@localhost>\r\n"),
        "{letter}"
    );
    let (path, _) = outbox(&app).remove(0);
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(
        std::fs::metadata(path.parent().unwrap())
            .unwrap()
            .permissions()
            .mode()
            & 0o777,
        0o700
    );
    let unfinished = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
    assert_eq!(unfinished, 1, "nothing but the letter is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_mail_server_letters_go_there_and_tokens_need_a_confirmed_address() {
    let server = MailServer::start().await;
    let url = server.url("postman:p%40ss@", "");
    let app = TestApp::start_with(|settings| {
        settings.smtp_url = Some(url);
        settings.mail_from = Some("locks@example.com".to_owned());
    })
    .await;
    let browser = sign_up(&app, "ada@example.com").await;
    let mail = received(&server, "Confirm").await;
    assert_eq!(
        (mail.from.as_str(), mail.to.as_slice()),
        (
            "locks@example.com",
            ["ada@example.com".to_owned()].as_slice()
        )
    );
    assert_eq!(mail.login, Some(("postman".to_owned(), "p@ss".to_owned())));
    for header in [
        "From: Lockable <locks@example.com>\r\n",
        "Date: ",
        "Message-ID: <",
        "Content-Type: text/plain",
    ] {
        assert!(mail.text.contains(header), "{header}: {}", mail.text);
    }
    assert!(outbox(&app).is_empty());

    let page = browser.get("/account").await;
    assert!(
        page.text.contains("API tokens need a confirmed"),
        "{}",
        page.text
    );
    let form_id = hidden(&page, "form_id");
    let fields = [("label", "x"), ("form_id", form_id.as_str())];
    let refused = browser.submit("/account/tokens", &fields).await;
    assert_eq!(refused.status, 403);
    assert!(refused.text.contains("Confirm your e-mail address first"));

    let again = browser.submit_and_follow("/account/verify", &[]).await;
    assert!(again.text.contains("The link is on its way"));
    eventually("the second letter", async || {
        (server.received().len() == 2).then_some(())
    })
    .await;
    let link = link_in(&app, &mail.text, "/verify");
    assert_eq!(
        browser
            .submit("/verify", &[("link", secret_of(&link))])
            .await
            .location(),
        "/account"
    );
    assert_eq!(browser.submit("/account/tokens", &fields).await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_mail_server_is_tried_again_and_holds_up_nobody() {
    let server = MailServer::start().await;
    server.set(Mood::Busy);
    let url = server.url("", "");
    let app = TestApp::start_with(|settings| settings.smtp_url = Some(url)).await;
    sign_up(&app, "ada@example.com").await;
    eventually("the letter was offered", async || {
        (server.offered() > 0).then_some(())
    })
    .await;
    assert!(server.received().is_empty());
    server.set(Mood::Takes);
    received(&server, "Confirm").await;
    // A letter that is refused for good is not offered again.
    server.set(Mood::Refuses);
    let before = server.offered();
    app.browser()
        .submit("/forgot", &[("email", "ada@example.com")])
        .await;
    eventually("the letter was offered", async || {
        (server.offered() == before + 1).then_some(())
    })
    .await;
    app.mail.flush(Duration::from_secs(10)).await;
    assert_eq!(server.offered(), before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_leaves_no_letter_behind() {
    let server = MailServer::start().await;
    server.set(Mood::Busy);
    let url = server.url("", "");
    let app = TestApp::start_with(|settings| settings.smtp_url = Some(url)).await;
    sign_up(&app, "ada@example.com").await;
    eventually("the letter was offered", async || {
        (server.offered() > 0).then_some(())
    })
    .await;
    app.mail.flush(Duration::from_secs(10)).await;
    let letters = outbox(&app);
    assert_eq!(letters.len(), 1, "what the server does not take is kept");
    assert!(letters[0].1.contains("/verify?link="));
}

#[tokio::test(flavor = "multi_thread")]
async fn if_starttls_is_required_nothing_is_sent_without_it() {
    let server = MailServer::start().await;
    let url = server.url("postman:secret@", "?tls=required");
    let app = TestApp::start_with(|settings| settings.smtp_url = Some(url)).await;
    sign_up(&app, "ada@example.com").await;
    app.mail.flush(Duration::from_secs(10)).await;
    assert_eq!(server.offered(), 0);
    assert_eq!(outbox(&app).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_goes_over_tls_to_a_server_with_a_trusted_certificate() {
    let (pem, acceptor) = certificate();
    let folder = tempfile::tempdir().unwrap();
    // Readable by the user that the service becomes.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let believed = folder.path().join("believed.pem");
    std::fs::write(&believed, pem).unwrap();
    for (scheme, query, tls) in [
        ("smtp", "?tls=required", Tls::OnDemand(acceptor.clone())),
        ("smtps", "", Tls::AtOnce(acceptor.clone())),
    ] {
        let server = MailServer::start_with(tls).await;
        let database = Database::create().await;
        let url = format!(
            "{scheme}://postman:secret@localhost:{}{query}",
            server.socket_address.port()
        );
        let (data, believed) = (folder.path().join(scheme), believed.clone());
        let node = tokio::task::spawn_blocking(move || {
            let node = Process::start(|command| {
                command
                    .env("DATABASE_URL", database.url())
                    .arg("--unsafe-database")
                    .arg("--data-dir")
                    .arg(data);
                command
                    .env("LOCKABLE_SMTP_URL", url)
                    .env("SSL_CERT_FILE", believed);
            });
            (node, database)
        });
        let (node, _database) = node.await.unwrap();
        let browser = Browser::new(node.anonymous());
        browser
            .submit(
                "/signup",
                &[("email", "ada@example.com"), ("password", PASSWORD)],
            )
            .await;
        let mail = received(&server, "Confirm").await;
        assert_eq!(
            mail.login,
            Some(("postman".to_owned(), "secret".to_owned())),
            "{scheme}"
        );
        let link = between(&mail.text, "/verify?link=", "\r\n");
        assert!(
            !node.log().contains(&link) && !node.log().contains("secret"),
            "{}",
            node.log()
        );
        assert!(!node.log().contains("ada@example.com"), "{}", node.log());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_mail_goes_to_a_server_with_an_untrusted_certificate() {
    let (_, acceptor) = certificate();
    let server = MailServer::start_with(Tls::OnDemand(acceptor)).await;
    let url = format!(
        "smtp://postman:secret@localhost:{}?tls=required",
        server.socket_address.port()
    )
    .parse()
    .unwrap();
    let app = TestApp::start_with(|settings| settings.smtp_url = Some(url)).await;
    sign_up(&app, "ada@example.com").await;
    app.mail.flush(Duration::from_secs(10)).await;
    assert_eq!(server.offered(), 0);
    assert_eq!(outbox(&app).len(), 1);
}
