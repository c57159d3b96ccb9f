//! What holds for every reply of the page: the names it is served under, and the
//! headers that keep a browser from being turned against its user.

use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::coordinator::web::Pages;

/// Nothing from anywhere but this server, nothing inline, no frames.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; \
                      connect-src 'self'; form-action 'self'; base-uri 'none'; \
                      frame-ancestors 'none'";

/// Sent with every reply.
const HEADERS: [(header::HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "same-origin"),
    (header::HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (header::HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// Refuses names that are not ours, so that no name of somebody else's can be
/// pointed at this machine; adds the headers.
pub(super) async fn keep(State(web): State<Pages>, request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let known = host.is_some_and(|host| is_ours(host, &web.shared.config.names));
    let mut reply = if known {
        next.run(request).await
    } else {
        let why = "this name is not served here; to allow it, add it to `names` in the \
                   coordinator's configuration\n";
        (StatusCode::MISDIRECTED_REQUEST, why).into_response()
    };
    let headers = reply.headers_mut();
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    reply
}

/// Plain addresses and localhost always are: only a name can be pointed elsewhere.
fn is_ours(host: &str, names: &[String]) -> bool {
    let (name, _) = split(host);
    let name = name.to_ascii_lowercase();
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || address.parse::<std::net::IpAddr>().is_ok() || names.contains(&name)
}

/// A host header's name and port.
pub(super) fn split(host: &str) -> (&str, Option<u16>) {
    match host.rsplit_once(':') {
        Some((name, port)) if !name.contains(':') || name.ends_with(']') => {
            (name, port.parse().ok())
        }
        _ => (host, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_localhost_and_given_names_are_ours() {
        let names = ["deploy.example.com".to_owned()];
        for good in [
            "127.0.0.1:7878",
            "10.0.0.9",
            "[::1]:80",
            "[fe80::1]",
            "LocalHost:1",
            "deploy.example.com",
            "Deploy.Example.com:443",
        ] {
            assert!(is_ours(good, &names), "{good}");
        }
        for bad in ["", "evil.example", "127.0.0.1.evil.example", "localhost.evil:80", "1.2.3"] {
            assert!(!is_ours(bad, &names), "{bad}");
        }
        assert_eq!(split("[::1]:80"), ("[::1]", Some(80)));
        assert_eq!(split("a:b"), ("a", None));
    }
}
