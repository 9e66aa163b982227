//! What links in mail do: confirm an address, set a new password, change the address. A link shows
//! a button; only pressing it acts.

use askama::Template;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Redirect, Response};
use axum::{Extension, Form};
use serde::Deserialize;

use crate::accounts::links::{self, Link, Purpose};
use crate::accounts::{self, AccountError, Email, sessions};
use crate::secret::Secret;
use crate::text::sentence;
use crate::tokens;
use crate::transport::RequestContext;
use crate::web::error::WebError;
use crate::web::session::CurrentAccount;
use crate::web::sign_in::log_in::{new_password_field, nothing, post};
use crate::web::ui::field::{Field, Problems};
use crate::web::ui::page::{Flash, Page, Tab, render, render_as};
use crate::web::{Web, emails as letters};

#[derive(Template)]
#[template(path = "sign_in/forgot.html")]
struct Forgot {
    page: Page,
    problems: Problems,
    email: Field,
    sent: bool,
    by_smtp: bool,
}

impl Forgot {
    fn new(web: &Web, email: &str, sent: bool, problems: Problems) -> Self {
        let title = if sent {
            "Look at your mail"
        } else {
            "Forgot your password?"
        };
        Self {
            page: Page::visitor(problems.title(title), Tab::SignIn),
            email: Field::email("email", "E-mail address")
                .value(email)
                .autocomplete("username")
                .of(&problems),
            problems,
            sent,
            by_smtp: web.app.mail.is_by_smtp(),
        }
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct ForgotQuery {
    #[serde(default)]
    done: String,
}

pub(crate) async fn forgot_form(
    State(web): State<Web>,
    Query(query): Query<ForgotQuery>,
) -> Result<Response, WebError> {
    render(&Forgot::new(
        &web,
        "",
        query.done == "sent",
        Problems::default(),
    ))
}

#[derive(Debug, Deserialize)]
pub(crate) struct ForgotForm {
    #[serde(default)]
    email: String,
}

pub(crate) async fn forgot(
    State(web): State<Web>,
    Extension(context): Extension<RequestContext>,
    Form(form): Form<ForgotForm>,
) -> Result<Response, WebError> {
    let Ok(email) = form.email.parse::<Email>() else {
        let problems = Problems::one(
            "",
            "email",
            "Enter an e-mail address, such as name@example.com.",
        );
        return render_as(
            StatusCode::UNPROCESSABLE_ENTITY,
            &Forgot::new(&web, &form.email, false, problems),
        );
    };
    web.throttles.mail(context.client_ip(), &email.key())?;
    match accounts::find_by_email(&web.app.db, &email).await {
        Ok(account) => {
            // Beside the answer, which comes as fast as for an address that nobody has.
            tokio::spawn(async move {
                match links::create(
                    &web.app.db,
                    account.account_id,
                    Purpose::ResetPassword,
                    &account.email,
                )
                .await
                {
                    Ok(secret) => post(
                        &web,
                        letters::reset_password(&web.app.public_url, &account.email, &secret),
                    ),
                    Err(error) => {
                        tracing::error!(%error, "no link for a forgotten password could be made");
                    }
                }
            });
        }
        Err(AccountError::Unknown) => {}
        Err(error) => return Err(error.into()),
    }
    Ok(Redirect::to("/forgot?done=sent").into_response())
}

/// What a link in a mail, and the form behind it, send.
#[derive(Debug, Deserialize)]
pub(crate) struct LinkQuery {
    #[serde(default = "nothing")]
    link: Secret,
}

#[derive(Debug, Deserialize)]
pub(crate) struct ResetForm {
    #[serde(default = "nothing")]
    link: Secret,
    #[serde(default = "nothing")]
    password: Secret,
}

#[derive(Template)]
#[template(path = "sign_in/reset.html")]
struct Reset<'a> {
    page: Page,
    problems: Problems,
    link: &'a str,
    password: Field,
}

impl<'a> Reset<'a> {
    fn new(link: &'a Secret, problems: Problems) -> Self {
        Self {
            page: Page::neutral(problems.title("Set a new password")),
            link: link.expose(),
            password: new_password_field("password", "New password").of(&problems),
            problems,
        }
    }
}

#[derive(Template)]
#[template(path = "sign_in/confirm.html")]
struct Confirm<'a> {
    page: Page,
    heading: &'static str,
    text: String,
    action: &'static str,
    link: &'a str,
    button: &'static str,
}

#[derive(Template)]
#[template(path = "sign_in/notice.html")]
struct Notice {
    page: Page,
    heading: &'static str,
    text: &'static str,
    address: &'static str,
    label: &'static str,
}

fn useless(purpose: Purpose) -> Result<Response, WebError> {
    let (address, label) = match purpose {
        Purpose::ResetPassword => (letters::FORGOT, "Ask for a new link"),
        Purpose::VerifyEmail => ("/account", "Go to your account"),
        Purpose::ChangeEmail => ("/account/security", "Go to your account"),
    };
    let page = Notice {
        page: Page::neutral("This link does not work any more"),
        heading: "This link does not work any more",
        text: "A link works once, for an hour, and only until the account's password or address changes. Ask for a new one.",
        address,
        label,
    };
    render_as(StatusCode::GONE, &page)
}

/// A link that can still be used.
async fn usable(web: &Web, link: &Secret, purpose: Purpose) -> Result<Option<Link>, WebError> {
    Ok(links::find(&web.app.db, link.expose(), purpose)
        .await?
        .filter(|link| !link.is_used))
}

pub(crate) async fn reset_form(
    State(web): State<Web>,
    Query(query): Query<LinkQuery>,
) -> Result<Response, WebError> {
    match usable(&web, &query.link, Purpose::ResetPassword).await? {
        Some(_) => render(&Reset::new(&query.link, Problems::default())),
        None => useless(Purpose::ResetPassword),
    }
}

pub(crate) async fn reset(
    State(web): State<Web>,
    Extension(context): Extension<RequestContext>,
    Form(form): Form<ResetForm>,
) -> Result<Response, WebError> {
    let app = &web.app;
    web.throttles.reset(context.client_ip())?;
    let done = || Ok(Redirect::to("/login?done=password-set").into_response());
    let Some(link) = links::find(&app.db, form.link.expose(), Purpose::ResetPassword).await? else {
        return useless(Purpose::ResetPassword);
    };
    let account = match accounts::find(&app.db, link.account_id).await {
        Ok(account) => account,
        Err(AccountError::Unknown) => return useless(Purpose::ResetPassword),
        Err(error) => return Err(error.into()),
    };
    if link.is_used {
        // The form sent twice: the first one set this very password. Whoever finds the link later
        // learns as little from it as from signing in.
        web.throttles.password(link.account_id.0)?;
        let hash = accounts::password_hash(&app.db, link.account_id).await?;
        return if app.passwords.verify(&form.password, hash.as_deref()).await {
            done()
        } else {
            useless(Purpose::ResetPassword)
        };
    }
    // An address that is stored has been one when it was stored.
    let email: Email = account
        .email
        .parse()
        .map_err(|error| WebError::Bug(anyhow::Error::new(error)))?;
    let password = match app.passwords.hash_new(&form.password, &email).await {
        Ok(password) => password,
        Err(refused) => {
            let problems = Problems::one("", "password", sentence(&refused));
            return render_as(
                StatusCode::UNPROCESSABLE_ENTITY,
                &Reset::new(&form.link, problems),
            );
        }
    };
    let mut transaction = app.db.begin().await?;
    let Some(link) =
        links::take(&mut transaction, form.link.expose(), Purpose::ResetPassword).await?
    else {
        return useless(Purpose::ResetPassword);
    };
    accounts::set_password(&mut transaction, link.account_id, &password).await?;
    let first_proof =
        accounts::verify_email(&mut transaction, link.account_id, &link.email).await?;
    if first_proof {
        // Until now anybody may have signed up with this address: nothing that they made stays.
        tokens::revoke_all(&mut transaction, link.account_id).await?;
    }
    sessions::end_all_but(&mut *transaction, link.account_id, None).await?;
    links::void_all(&mut *transaction, link.account_id).await?;
    transaction.commit().await?;
    post(
        &web,
        letters::password_changed(&app.public_url, &account.email),
    );
    done()
}

pub(crate) async fn verify_form(
    State(web): State<Web>,
    Query(query): Query<LinkQuery>,
) -> Result<Response, WebError> {
    let Some(link) = usable(&web, &query.link, Purpose::VerifyEmail).await? else {
        return useless(Purpose::VerifyEmail);
    };
    render(&Confirm {
        page: Page::neutral("Confirm your address"),
        heading: "Confirm your address",
        text: format!("{} is the address of your Lockable account.", link.email),
        action: letters::VERIFY,
        link: query.link.expose(),
        button: "Confirm address",
    })
}

pub(crate) async fn verify(
    State(web): State<Web>,
    current: Option<CurrentAccount>,
    Form(form): Form<LinkQuery>,
) -> Result<Response, WebError> {
    let mut transaction = web.app.db.begin().await?;
    match links::take(&mut transaction, form.link.expose(), Purpose::VerifyEmail).await? {
        Some(link) => {
            accounts::verify_email(&mut transaction, link.account_id, &link.email).await?;
            transaction.commit().await?;
        }
        None => {
            transaction.rollback().await?;
            // The form sent twice.
            let used = links::find(&web.app.db, form.link.expose(), Purpose::VerifyEmail).await?;
            if used.is_none() {
                return useless(Purpose::VerifyEmail);
            }
        }
    }
    match current {
        Some(current) => {
            current
                .flash(Flash::ok("Your address is confirmed."))
                .await?;
            Ok(Redirect::to("/account").into_response())
        }
        None => Ok(Redirect::to("/login?done=address-confirmed").into_response()),
    }
}

pub(crate) async fn change_email_form(
    State(web): State<Web>,
    Query(query): Query<LinkQuery>,
) -> Result<Response, WebError> {
    let Some(link) = usable(&web, &query.link, Purpose::ChangeEmail).await? else {
        return useless(Purpose::ChangeEmail);
    };
    render(&Confirm {
        page: Page::neutral("Confirm your new address"),
        heading: "Confirm your new address",
        text: format!(
            "From then on you sign in to your Lockable account with {}.",
            link.email
        ),
        action: letters::CHANGE_EMAIL,
        link: query.link.expose(),
        button: "Use this address",
    })
}

pub(crate) async fn change_email(
    State(web): State<Web>,
    current: Option<CurrentAccount>,
    Form(form): Form<LinkQuery>,
) -> Result<Response, WebError> {
    let app = &web.app;
    let Some(link) = usable(&web, &form.link, Purpose::ChangeEmail).await? else {
        return useless(Purpose::ChangeEmail);
    };
    let old = accounts::find(&app.db, link.account_id).await?.email;
    let new: Email = link
        .email
        .parse()
        .map_err(|error| WebError::Bug(anyhow::Error::new(error)))?;
    let mut transaction = app.db.begin().await?;
    if links::take(&mut transaction, form.link.expose(), Purpose::ChangeEmail)
        .await?
        .is_none()
    {
        return useless(Purpose::ChangeEmail);
    }
    match accounts::change_email(&mut transaction, link.account_id, &new).await {
        Ok(()) => {}
        Err(AccountError::EmailTaken) => {
            let page = Notice {
                page: Page::neutral("Another account has this address"),
                heading: "Another account has this address",
                text: "It signed up with it while your link was on its way. Your address stays as it was.",
                address: "/account/security",
                label: "Go to your account",
            };
            return render_as(StatusCode::CONFLICT, &page);
        }
        Err(error) => return Err(error.into()),
    }
    links::void_all(&mut *transaction, link.account_id).await?;
    transaction.commit().await?;
    post(
        &web,
        letters::email_changed(&app.public_url, &old, new.as_str()),
    );
    match current {
        Some(current) if current.account.account_id == link.account_id => {
            current
                .flash(Flash::ok(format!("Your address is {new} now.")))
                .await?;
            Ok(Redirect::to("/account/security").into_response())
        }
        _ => Ok(Redirect::to("/login?done=address-confirmed").into_response()),
    }
}
