//! The service and the caller's credentials: the options that every command of the client has.

use clap::Args;
use percent_encoding::percent_decode_str;
use url::Url;

use crate::secret::Secret;

/// As given on the command line or in the environment.
#[derive(Args, Clone)]
pub(super) struct ServiceArgs {
    /// The service, such as https://locks.example.com; the API token may stand in it, as in
    /// https://TOKEN@locks.example.com
    #[arg(
        long,
        env = "LOCKABLE_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8080",
        hide_env_values = true
    )]
    url: String,

    /// API token; better set in the environment, because others on the machine can see command
    /// lines
    #[arg(
        long,
        env = "LOCKABLE_AUTH_TOKEN",
        value_name = "TOKEN",
        hide_env_values = true
    )]
    auth_token: Option<String>,
}

/// The URL may hold a token, so that neither is shown.
impl std::fmt::Debug for ServiceArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServiceArgs").finish_non_exhaustive()
    }
}

/// A service that requests can be sent to.
#[derive(Clone, Debug)]
pub(super) struct Service {
    /// `http` or `https`, without credentials, query and fragment.
    pub(super) url: Url,
    pub(super) auth_token: Secret,
}

/// The options do not name a service. Never shows their values.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct ServiceError(String);

impl ServiceArgs {
    /// # Errors
    /// If the URL is none, or a token is missing.
    pub(super) fn resolve(&self) -> Result<Service, ServiceError> {
        let refuse =
            |problem: &str| Err(ServiceError(format!("LOCKABLE_URL (or --url) {problem}")));
        // A URL's reader drops these without a word, and another host is asked.
        if self
            .url
            .contains(|c: char| c.is_control() || c.is_whitespace())
        {
            return refuse("has a space or a control character in it");
        }
        let mut url = match Url::parse(&self.url) {
            Ok(url) => url,
            Err(error) => return refuse(&format!("is no URL: {error}")),
        };
        if !matches!(url.scheme(), "http" | "https") {
            return refuse("has to begin with https:// or http://");
        }
        if url.query().is_some() || url.fragment().is_some() {
            return refuse("must not have a ? or # in it");
        }
        if url.password().is_some_and(|password| !password.is_empty()) {
            return refuse("must not have a password: the API token takes the user name's place");
        }
        let Ok(in_url) = percent_decode_str(url.username()).decode_utf8() else {
            return refuse("has a token that is no UTF-8");
        };
        let in_url = Some(in_url.into_owned()).filter(|token| !token.is_empty());
        let given = self.auth_token.clone().filter(|token| !token.is_empty());
        let Some(auth_token) = given.or(in_url) else {
            return Err(ServiceError(
                "there is no API token: set LOCKABLE_AUTH_TOKEN (or --auth-token)".to_owned(),
            ));
        };
        if url.set_username("").is_err() || url.set_password(None).is_err() {
            return refuse("has no host");
        }
        Ok(Service {
            url,
            auth_token: Secret::new(auth_token),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(url: &str, auth_token: Option<&str>) -> Result<(String, String), String> {
        let args = ServiceArgs {
            url: url.to_owned(),
            auth_token: auth_token.map(str::to_owned),
        };
        let service = args.resolve().map_err(|error| error.to_string())?;
        Ok((
            service.url.to_string(),
            service.auth_token.expose().to_owned(),
        ))
    }

    #[test]
    fn a_token_stands_in_the_url_or_beside_it() {
        for (url, beside, token) in [
            ("http://h/", Some("beside"), "beside"),
            ("http://within@h/", None, "within"),
            ("http://within:@h/", Some(""), "within"),
            ("http://wi%74h%2Fin@h", None, "with/in"),
            ("http://within@h/", Some("beside"), "beside"),
        ] {
            assert_eq!(
                resolve(url, beside),
                Ok(("http://h/".to_owned(), token.to_owned())),
                "{url}"
            );
        }
    }

    #[test]
    fn other_urls_are_refused_without_being_shown() {
        for url in [
            "",
            "h",
            "ftp://secret@h",
            "file:///secret",
            "mailto:secret@h",
            "http://secret@",
            "http://secret@h/?x=1",
            "http://secret@h/#x",
            "http://user:secret@h/",
            "http://secret@h\t/",
            "http://secret@h /",
            " http://secret@h/",
            "http://secret@h:99999/",
            "http://%FFsecret@h/",
        ] {
            let error = resolve(url, Some("secret")).unwrap_err();
            assert!(!error.contains("secret"), "{url}: {error}");
        }
        assert!(
            resolve("http://h/", None)
                .unwrap_err()
                .contains("LOCKABLE_AUTH_TOKEN")
        );
    }
}
