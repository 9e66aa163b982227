//! The client's IP: the peer's, or the one that trusted proxies in front of the service report.
//!
//! Only `X-Forwarded-For` is read. A proxy sets one of the two headers and passes the other on as
//! the client sent it, so reading `Forwarded` as well would let a client choose its own IP behind a
//! proxy that sets only one.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::http::HeaderMap;
use ipnet::IpNet;

/// The networks of the proxies whose `X-Forwarded-For` is believed.
#[derive(Clone, Debug, Default)]
pub struct TrustedProxies(Vec<IpNet>);

impl TrustedProxies {
    /// Trusts these networks. Without any, the peer is the client.
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        Self(networks.into_iter().collect())
    }

    /// True for the IP of a trusted proxy.
    pub fn contains(&self, ip: IpAddr) -> bool {
        self.0.iter().any(|network| network.contains(&ip))
    }

    /// The client's IP: the first on the way from the peer towards the client that is no trusted
    /// proxy.
    ///
    /// An entry that is no IP ends the walk at the proxy that wrote it: an unknown host wrote the
    /// entries further left.
    pub fn client_ip(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut ip = peer.to_canonical();
        if self.0.is_empty() || !self.contains(ip) {
            return ip;
        }
        let hops = headers
            .get_all("x-forwarded-for")
            .iter()
            .rev()
            .flat_map(|value| value.to_str().unwrap_or_default().rsplit(','));
        for hop in hops {
            match parse_hop(hop.trim()) {
                Some(hop) => ip = hop,
                None => return ip,
            }
            if !self.contains(ip) {
                return ip;
            }
        }
        ip
    }
}

/// Parses an IP with or without a port, and IPv6 with or without brackets.
fn parse_hop(hop: &str) -> Option<IpAddr> {
    let ip = hop
        .parse::<IpAddr>()
        .ok()
        .or_else(|| hop.parse::<SocketAddr>().ok().map(|socket| socket.ip()))
        .or_else(|| {
            hop.strip_prefix('[')?
                .strip_suffix(']')?
                .parse::<Ipv6Addr>()
                .ok()
                .map(IpAddr::V6)
        })?;
    Some(ip.to_canonical())
}

/// The key that throttles count by: the IP itself, or for IPv6 its /64, since one subscriber gets
/// at least that.
pub fn throttle_key(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(trusted: &[&str], peer: &str, forwarded: &[&str]) -> String {
        let proxies = TrustedProxies::new(trusted.iter().map(|n| n.parse().unwrap()));
        let mut headers = HeaderMap::new();
        for value in forwarded {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        proxies
            .client_ip(peer.parse().unwrap(), &headers)
            .to_string()
    }

    #[test]
    fn without_trusted_proxies_the_peer_counts_whatever_it_says() {
        assert_eq!(client(&[], "192.0.2.1", &["198.51.100.7"]), "192.0.2.1");
        assert_eq!(
            client(&["10.0.0.0/8"], "192.0.2.1", &["198.51.100.7"]),
            "192.0.2.1"
        );
    }

    #[test]
    fn the_right_most_untrusted_hop_counts() {
        let trusted = &["10.0.0.0/8", "fd00::/8"];
        assert_eq!(
            client(trusted, "10.0.0.1", &["1.1.1.1, 198.51.100.7"]),
            "198.51.100.7"
        );
        assert_eq!(
            client(trusted, "10.0.0.1", &["1.1.1.1, 198.51.100.7, 10.2.2.2"]),
            "198.51.100.7"
        );
        assert_eq!(
            client(trusted, "10.0.0.1", &["1.1.1.1", "198.51.100.7", "fd00::1"]),
            "198.51.100.7"
        );
        assert_eq!(
            client(trusted, "::ffff:10.0.0.1", &["198.51.100.7"]),
            "198.51.100.7"
        );
        assert_eq!(
            client(trusted, "10.0.0.1", &["198.51.100.7:4711"]),
            "198.51.100.7"
        );
        assert_eq!(
            client(trusted, "10.0.0.1", &["[2001:db8::1]:4711"]),
            "2001:db8::1"
        );
        assert_eq!(
            client(trusted, "10.0.0.1", &["[2001:db8::1]"]),
            "2001:db8::1"
        );
    }

    #[test]
    fn nonsense_ends_the_walk_at_the_last_known_ip() {
        let trusted = &["10.0.0.0/8"];
        assert_eq!(client(trusted, "10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(
            client(trusted, "10.0.0.1", &["1.1.1.1, unknown"]),
            "10.0.0.1"
        );
        assert_eq!(
            client(trusted, "10.0.0.1", &["1.1.1.1, unknown, 10.0.0.2"]),
            "10.0.0.2"
        );
        assert_eq!(
            client(trusted, "10.0.0.1", &["10.0.0.3, 10.0.0.2"]),
            "10.0.0.3"
        );
        assert_eq!(client(trusted, "10.0.0.1", &[",,"]), "10.0.0.1");
    }

    #[test]
    fn throttles_count_an_ipv6_subscriber_once() {
        let key = |a: &str| throttle_key(a.parse().unwrap()).to_string();
        assert_eq!(key("2001:db8:1:2:3:4:5:6"), "2001:db8:1:2::");
        assert_eq!(key("::ffff:192.0.2.1"), "192.0.2.1");
    }
}
