//! A client for addresses that a person configured: it must not become a way into the
//! network that the coordinator stands in.
//!
//! Allowed are `https://` to public addresses, and both schemes to this machine itself.
//! Names are judged by the address that is dialled, not by one that was looked up before,
//! and no redirect is followed. Everything else needs the operator's word.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use reqwest::Url;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Longest URL, bytes.
pub const URL_BYTES_MAX: usize = 2_000;
/// Time for one request, answer included.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A URL that is not dialled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(String);

/// Reads and judges `text`; names are judged when they are dialled.
///
/// # Errors
/// A sentence, without the URL: it may hold a secret.
pub fn check_url(text: &str, private_too: bool) -> Result<Url, Refused> {
    let refuse = |why: &str| Refused(why.to_owned());
    if text.len() > URL_BYTES_MAX {
        return Err(refuse("the URL is longer than 2,000 bytes"));
    }
    let url = Url::parse(text).map_err(|e| Refused(format!("this is no URL: {e}")))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("the URL must not hold a user name or password"));
    }
    let host = url.host_str().ok_or_else(|| refuse("the URL names no host"))?;
    let literal: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    let own = host == "localhost" || literal.is_some_and(|address| address.is_loopback());
    match url.scheme() {
        "https" => {}
        "http" if own || private_too => {}
        "http" => return Err(refuse("http:// is for this machine only; use https://")),
        _ => return Err(refuse("only https:// is sent to")),
    }
    match literal {
        Some(address) if !own && !private_too && !is_public(address) => {
            Err(Refused(format!("{address} is not a public address")))
        }
        _ => Ok(url),
    }
}

/// Whether anybody on the internet could be meant.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => is_public_v4(v4),
        IpAddr::V6(v6) => is_public_v6(v6),
    }
}

/// Without the special blocks of RFC 6890 and what came after.
fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let special = address.is_unspecified()
        || address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_broadcast()
        || address.is_documentation()
        || address.is_multicast()
        || a == 0
        || a >= 240
        || (a == 100 && (64..128).contains(&b))
        || (a == 192 && b == 0 && c == 0)
        || (a == 198 && (18..20).contains(&b));
    !special
}

/// Only global unicast (2000::/3), and of that nothing that stands for an IPv4 address
/// that is not public.
fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let embedded = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        is_public_v4(Ipv4Addr::new(a, b, c, d))
    };
    match segments {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            embedded(high, low)
        }
        [0x2002, high, low, ..] => embedded(high, low),
        [0x2001, 0, ..] | [0x2001, 0x0db8, ..] => false,
        [first, ..] => first & 0xe000 == 0x2000,
    }
}

/// Resolves names, and leaves out what may not be dialled.
struct Fence;

impl Resolve for Fence {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let host = name.as_str().to_owned();
            let own = host == "localhost";
            let found = tokio::net::lookup_host((host.as_str(), 0)).await?;
            let allowed =
                |at: &SocketAddr| if own { at.ip().is_loopback() } else { is_public(at.ip()) };
            let addresses: Vec<SocketAddr> = found.filter(allowed).collect();
            if addresses.is_empty() {
                return Err(format!("{host} has no public address").into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

/// A client for URLs that [`check_url`] let pass; with `private_too`, for any.
///
/// # Panics
/// Never in practice: the builder's options are constants.
#[must_use]
pub fn client(private_too: bool) -> reqwest::Client {
    let builder = super::client::builder().timeout(TIMEOUT);
    let builder = if private_too { builder } else { builder.dns_resolver(Arc::new(Fence)) };
    builder.build().expect("the client's options are constants")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_public_https_and_this_machine_are_sent_to() {
        for good in [
            "https://hooks.example.com/x?y=z",
            "https://93.184.216.34/x",
            "http://127.0.0.1:8080/x",
            "http://localhost/x",
            "http://[::1]:99/",
        ] {
            assert!(check_url(good, false).is_ok(), "{good}");
        }
        for bad in [
            "http://hooks.example.com/x",
            "https://10.0.0.1/x",
            "https://169.254.169.254/latest/meta-data",
            "https://[fd00::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://[64:ff9b::a00:1]/",
            "https://0x0a000001/",
            "https://2130706433.0/",
            "https://100.64.1.1/",
            "https://u:p@example.com/",
            "ftp://example.com/",
            "file:///etc/passwd",
            "no url",
        ] {
            assert!(check_url(bad, false).is_err(), "{bad}");
        }
        assert!(check_url("http://10.0.0.1/x", true).is_ok());
        assert!(check_url(&format!("https://example.com/{}", "x".repeat(2_000)), true).is_err());
        let told = check_url("http://10.0.0.1/secret", false).unwrap_err().to_string();
        assert!(!told.contains("secret"), "{told}");
    }

    #[tokio::test]
    async fn a_name_is_judged_by_what_it_resolves_to() {
        // Every machine has this name beside localhost or none at all: both are refused.
        let refused = client(false).get("https://ip6-localhost:9/").send().await.unwrap_err();
        assert!(refused.is_connect() || refused.is_request(), "{refused:?}");
    }
}
