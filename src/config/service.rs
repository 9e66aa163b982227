//! The settings of `lockable serve`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;
use url::Url;

use super::{DatabaseSettings, SecretUrl, SettingsError};

const LISTEN: &str = "127.0.0.1:8080";
const METRICS_LISTEN: &str = "127.0.0.1:9464";
const DRAIN_TIMEOUT_MS: u64 = 10_000;
const LANES: u16 = 1;
const LARGEST_BATCH: u16 = 2048;

/// The settings of `lockable serve`, by flag and by environment variable.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Service")]
pub struct Settings {
    /// Address and port to serve on; other machines reach it only if this is not loopback
    /// (0.0.0.0:8080)
    #[arg(
        long,
        env = "LOCKABLE_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = LISTEN,
        value_parser = socket_address
    )]
    pub listen: SocketAddr,

    /// Address and port for Prometheus metrics (GET /metrics); keep it away from the public
    #[arg(
        long,
        env = "LOCKABLE_METRICS_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = METRICS_LISTEN,
        value_parser = socket_address
    )]
    pub metrics_listen: SocketAddr,

    /// PEM file with the TLS certificate and its chain; with it the service speaks HTTPS (HTTP/1.1
    /// and HTTP/2), and takes up a changed file within seconds. Unset: plain HTTP
    #[arg(long, env = "LOCKABLE_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// PEM file with the private key of the TLS certificate
    #[arg(long, env = "LOCKABLE_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// The URL of the service in browsers and mail, such as https://locks.example.com. Its scheme
    /// decides whether cookies are Secure and HSTS is sent [default: from the listener]
    #[arg(long, env = "LOCKABLE_PUBLIC_URL", value_name = "URL", value_parser = web_url)]
    pub public_url: Option<Url>,

    /// Proxies in front of the service, as IPs or networks separated by commas
    /// (10.0.0.0/8,127.0.0.1). Only their X-Forwarded-For is believed [default: none, the peer is
    /// the client]
    #[arg(
        long,
        env = "LOCKABLE_TRUSTED_PROXIES",
        value_name = "CIDR,...",
        value_delimiter = ',',
        value_parser = network
    )]
    pub trusted_proxies: Vec<IpNet>,

    /// Mail server, as smtp://user:password@host:port (with ?tls=required for STARTTLS) or
    /// smtps://... Unset: mail is written to the folder outbox in the data directory
    #[arg(
        long,
        env = "LOCKABLE_SMTP_URL",
        value_name = "URL",
        hide_env_values = true
    )]
    pub smtp_url: Option<SecretUrl>,

    /// Sender of the service's mail [default: lockable at the host of the public URL]
    #[arg(long, env = "LOCKABLE_MAIL_FROM", value_name = "ADDRESS")]
    pub mail_from: Option<String>,

    /// The page to which Hobbyists are sent who need the Business plan
    #[arg(long, env = "LOCKABLE_UPGRADE_URL", value_name = "URL", value_parser = web_url)]
    pub upgrade_url: Option<Url>,

    /// How long after an outage of the database its leases may still be renewed before anybody else
    /// gets the lock, milliseconds [default: what the database says, 60000 at first]
    #[arg(
        long,
        env = "LOCKABLE_OUTAGE_GRACE_MS",
        value_name = "MS",
        value_parser = clap::value_parser!(u32).range(0..=86_400_000)
    )]
    pub outage_grace_ms: Option<u32>,

    /// How long a stop may take to answer what is in flight, milliseconds
    #[arg(
        long,
        env = "LOCKABLE_DRAIN_TIMEOUT_MS",
        value_name = "MS",
        default_value_t = DRAIN_TIMEOUT_MS
    )]
    pub drain_timeout_ms: u64,

    /// Open connections of clients, at most. At the bound, the one that has been idle for the
    /// longest is closed for a new one [default: 24000, or fewer if the limit of descriptors is
    /// lower]
    #[arg(
        long,
        env = "LOCKABLE_CONNECTIONS",
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(16..)
    )]
    pub connections: Option<u32>,

    /// Open connections from one IP (IPv6: one /64), at most; trusted proxies have no bound of
    /// their own [default: half of --connections]
    #[arg(
        long,
        env = "LOCKABLE_CONNECTIONS_PER_NETWORK",
        value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub connections_per_network: Option<u32>,

    /// Batches of lock requests that this node may have in flight at once, each with four
    /// connections to PostgreSQL (eight in a crowd). More help only if commits take long and
    /// processors are idle meanwhile
    #[arg(
        long,
        env = "LOCKABLE_LANES",
        value_name = "N",
        default_value_t = LANES,
        value_parser = clap::value_parser!(u16).range(1..=16)
    )]
    pub lanes: u16,

    /// The most lock requests in one statement
    #[arg(
        long,
        env = "LOCKABLE_LARGEST_BATCH",
        value_name = "N",
        default_value_t = LARGEST_BATCH,
        value_parser = clap::value_parser!(u16).range(1..=4096)
    )]
    pub largest_batch: u16,

    /// Threads that serve requests [default: as many as processors, one less beside the embedded
    /// PostgreSQL]
    #[arg(
        long,
        env = "LOCKABLE_THREADS",
        value_name = "N",
        value_parser = clap::value_parser!(u16).range(1..=1024)
    )]
    pub threads: Option<u16>,

    /// The settings of the database.
    #[command(flatten)]
    pub database: DatabaseSettings,
}

impl Settings {
    /// Checks the settings against each other.
    ///
    /// # Errors
    /// If two settings contradict each other, or one is invalid.
    pub fn validate(&self) -> Result<(), SettingsError> {
        let complain = |sentence: &str| Err(SettingsError::new(sentence));
        match (&self.tls_cert, &self.tls_key) {
            (Some(_), None) => {
                return complain(
                    "--tls-cert is set without --tls-key: give the file of its private key too",
                );
            }
            (None, Some(_)) => {
                return complain(
                    "--tls-key is set without --tls-cert: give the file of its certificate too",
                );
            }
            _ => {}
        }
        if self.listen == self.metrics_listen && self.listen.port() != 0 {
            return complain(
                "--listen and --metrics-listen are the same address: give the metrics a port of \
                 their own",
            );
        }
        if let Some(url) = &self.public_url {
            // Links are this URL with a path and a query added.
            let is_bare = url.username().is_empty()
                && url.password().is_none()
                && url.path() == "/"
                && url.query().is_none()
                && url.fragment().is_none();
            if !is_bare {
                return complain(
                    "--public-url is a scheme and a host, and perhaps a port, such as \
                     https://locks.example.com:8443: no user or password, no path, no ? and no #",
                );
            }
        }
        if let Some(url) = &self.smtp_url {
            url.validate(
                "LOCKABLE_SMTP_URL",
                ["smtp", "smtps"],
                "smtp:// or smtps://",
            )?;
        }
        if let Some(from) = &self.mail_from
            && !from.contains('@')
        {
            return complain("--mail-from has to be an e-mail address, such as locks@example.com");
        }
        self.database.validate()
    }

    /// The URL of this service in browsers and mail: the setting, else the listener's.
    /// `listening` is the socket address that the listener is bound to, whose port is known even if
    /// the setting is 0.
    pub fn public_url(&self, listening: SocketAddr) -> Url {
        if let Some(url) = &self.public_url {
            return url.clone();
        }
        let scheme = if self.tls_cert.is_some() {
            "https"
        } else {
            "http"
        };
        let host = match listening.ip() {
            ip if ip.is_unspecified() => "localhost".to_owned(),
            IpAddr::V6(ip) => format!("[{ip}]"),
            IpAddr::V4(ip) => ip.to_string(),
        };
        Url::parse(&format!("{scheme}://{host}:{}/", listening.port()))
            .expect("an address and a port make a URL")
    }

    /// The longest time that a stop takes to answer the requests in flight.
    pub fn drain_timeout(&self) -> Duration {
        Duration::from_millis(self.drain_timeout_ms)
    }
}

impl Default for Settings {
    fn default() -> Self {
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        Self {
            database: DatabaseSettings::default(),
            listen: loopback(8080),
            metrics_listen: loopback(9464),
            tls_cert: None,
            tls_key: None,
            public_url: None,
            trusted_proxies: Vec::new(),
            smtp_url: None,
            mail_from: None,
            upgrade_url: None,
            outage_grace_ms: None,
            drain_timeout_ms: DRAIN_TIMEOUT_MS,
            connections: None,
            connections_per_network: None,
            lanes: LANES,
            largest_batch: LARGEST_BATCH,
            threads: None,
        }
    }
}

fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.to_socket_addrs()
        .map_err(|error| format!("expected ADDRESS:PORT, such as 127.0.0.1:8080 ({error})"))?
        .next()
        .ok_or_else(|| "no address found for it".to_owned())
}

fn web_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|_| {
        "expected a whole URL with its scheme, such as https://locks.example.com".to_owned()
    })?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err("expected a URL that begins with https:// or http://".to_owned());
    }
    Ok(url)
}

fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    text.parse::<IpNet>()
        .or_else(|_| text.parse::<IpAddr>().map(IpNet::from))
        .map_err(|_| format!("{text:?} is neither an address nor a network such as 10.0.0.0/8"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        settings: Settings,
    }

    fn parse(flags: &[&str]) -> Result<Settings, String> {
        let settings = Flags::try_parse_from([&["serve"], flags].concat())
            .map_err(|error| error.to_string())?
            .settings;
        settings.validate().map_err(|error| error.to_string())?;
        Ok(settings)
    }

    #[test]
    fn no_flags_are_the_defaults() {
        let settings = parse(&[]).unwrap();
        assert_eq!(settings.listen, Settings::default().listen);
        assert_eq!(settings.metrics_listen, Settings::default().metrics_listen);
        assert_eq!(
            settings.public_url(settings.listen).as_str(),
            "http://127.0.0.1:8080/"
        );
    }

    #[test]
    fn a_certificate_without_key_is_refused() {
        assert!(
            parse(&["--tls-cert", "cert.pem"])
                .unwrap_err()
                .contains("--tls-key")
        );
        assert!(
            parse(&["--tls-key", "key.pem"])
                .unwrap_err()
                .contains("--tls-cert")
        );
    }

    #[test]
    fn a_public_url_needs_its_scheme() {
        assert!(
            parse(&["--public-url", "locks.example.com"])
                .unwrap_err()
                .contains("scheme")
        );
        assert!(
            parse(&["--public-url", "ftp://locks.example.com"])
                .unwrap_err()
                .contains("https://")
        );
    }

    #[test]
    fn a_public_url_has_nothing_that_would_break_a_link() {
        for right in [
            "https://locks.example.com",
            "http://localhost:8080/",
            "https://[::1]:8443",
        ] {
            assert!(parse(&["--public-url", right]).is_ok(), "{right}");
        }
        for wrong in [
            "me@host",
            "me:hunter2@host",
            "host/locks",
            "host/?a=b",
            "host?",
            "host/#top",
            "host#",
        ] {
            let said = parse(&["--public-url", &format!("https://{wrong}")]).unwrap_err();
            assert!(
                said.contains("--public-url is a scheme and a host") && !said.contains("hunter"),
                "{said}"
            );
        }
        // No link is made of the URL of the larger plans.
        assert!(
            parse(&[
                "--upgrade-url",
                "https://example.com/plans?from=lockable#business"
            ])
            .is_ok()
        );
    }

    #[test]
    fn proxies_are_addresses_and_networks() {
        let settings = parse(&["--trusted-proxies", "10.0.0.0/8, ::1"]).unwrap();
        assert_eq!(settings.trusted_proxies.len(), 2);
        assert!(settings.trusted_proxies[1].contains(&"::1".parse::<IpAddr>().unwrap()));
        assert!(
            parse(&["--trusted-proxies", "proxy"])
                .unwrap_err()
                .contains("network")
        );
    }
}
