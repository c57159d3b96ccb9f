//! The URL of an etcd: `etcd://[USER@]HOST[:PORT][,…][/PREFIX][?OPTION=VALUE&…]`.
//!
//! | option | means |
//! |---|---|
//! | `tls=true` | HTTPS, trusting the system's authorities |
//! | `ca=FILE` | HTTPS, trusting only this one, PEM |
//! | `cert=FILE&key=FILE` | show this client certificate, PEM |
//! | `password_file=FILE` | the user's password, so that it stands in no command line |

use std::path::PathBuf;

/// Port of etcd's clients when the URL names none.
const PORT: u16 = 2379;
/// Most members that a URL may name: etcd itself advises 7 at most.
const MEMBERS_MAX: usize = 16;
/// Longest prefix, bytes.
const PREFIX_BYTES_MAX: usize = 256;
/// Where goals stand when the URL names no prefix.
const PREFIX: &str = "deployctl";

/// A URL of an etcd that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{url}: {why}; the form is etcd://HOST:2379,HOST:2379/PREFIX")]
pub struct BadAddress {
    url: String,
    why: String,
}

/// Where an etcd is, and how to speak to it. What is shown of it holds no password.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Address {
    /// `http://host:port` or `https://host:port` of each member.
    pub(super) members: Vec<String>,
    /// First part of every key, without slashes at its ends.
    pub(super) prefix: String,
    /// Who signs in, if anybody does.
    pub(super) user: Option<String>,
    /// File with the user's password.
    pub(super) password_file: Option<PathBuf>,
    /// The only authority to trust; `None`: the system's.
    pub(super) ca: Option<PathBuf>,
    /// Client certificate and key.
    pub(super) identity: Option<(PathBuf, PathBuf)>,
}

impl Address {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`BadAddress`], which says what is wrong.
    pub(super) fn parse(url: &str) -> Result<Self, BadAddress> {
        let bad = |why: String| BadAddress { url: url.to_owned(), why };
        let rest = url.strip_prefix("etcd://").ok_or_else(|| bad("not an etcd:// URL".into()))?;
        let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, prefix) = place.split_once('/').unwrap_or((place, ""));
        let (user, members) = match authority.rsplit_once('@') {
            Some((user, members)) => (Some(user), members),
            None => (None, authority),
        };
        if user.is_some_and(|user| user.is_empty() || user.contains(':')) {
            return Err(bad("a password goes into the file of password_file=FILE".into()));
        }
        let options = Options::parse(query).map_err(bad)?;
        let scheme = if options.is_tls() { "https" } else { "http" };
        let members: Vec<&str> = members.split(',').collect();
        if members.len() > MEMBERS_MAX {
            return Err(bad(format!("more than {MEMBERS_MAX} members")));
        }
        let members = members.into_iter().map(|member| {
            let (host, port) = host_and_port(member)
                .ok_or_else(|| bad(format!("{member:?} is not a host and a port")))?;
            Ok(format!("{scheme}://{host}:{port}"))
        });
        let members = members.collect::<Result<_, _>>()?;
        let prefix = Some(prefix.trim_matches('/')).filter(|prefix| !prefix.is_empty());
        let prefix = prefix.unwrap_or(PREFIX).to_owned();
        if prefix.len() > PREFIX_BYTES_MAX || prefix.contains(|c: char| !c.is_ascii_graphic()) {
            return Err(bad(format!("a prefix is 1 to {PREFIX_BYTES_MAX} printable bytes")));
        }
        if user.is_some() != options.password_file.is_some() {
            return Err(bad("USER@ and password_file= belong together: give both or none".into()));
        }
        let user = user.map(str::to_owned);
        let identity = match (options.cert, options.key) {
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, None) => None,
            _ => return Err(bad("cert= and key= belong together: give both or none".into())),
        };
        let (password_file, ca) = (options.password_file, options.ca);
        Ok(Self { members, prefix, user, password_file, ca, identity })
    }
}

#[derive(Default)]
struct Options {
    tls: bool,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    password_file: Option<PathBuf>,
}

impl Options {
    fn parse(query: &str) -> Result<Self, String> {
        let mut options = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if value.is_empty() {
                return Err(format!("{name:?} has no value"));
            }
            let file = Some(PathBuf::from(value));
            match (name, value) {
                ("tls", "true") => options.tls = true,
                ("tls", "false") => options.tls = false,
                ("tls", _) => return Err("tls is true or false".into()),
                ("ca", _) => options.ca = file,
                ("cert", _) => options.cert = file,
                ("key", _) => options.key = file,
                ("password_file", _) => options.password_file = file,
                _ => {
                    let known = "tls, ca, cert, key and password_file";
                    return Err(format!("there is no option {name:?}, only {known}"));
                }
            }
        }
        Ok(options)
    }

    fn is_tls(&self) -> bool {
        self.tls || self.ca.is_some() || self.cert.is_some()
    }
}

/// A host, bracketed if it is an IPv6 address, and its port.
fn host_and_port(member: &str) -> Option<(&str, u16)> {
    let (host, port) = match member.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse().ok()?),
        _ => (member, PORT),
    };
    let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let sound = match bare {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
            !host.is_empty() && host.chars().all(part)
        }
    };
    sound.then_some((host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_members_prefix_and_how_to_sign_in() {
        let plain = Address::parse("etcd://127.0.0.1").unwrap();
        assert_eq!(plain.members, ["http://127.0.0.1:2379"]);
        assert_eq!((plain.prefix.as_str(), plain.user), ("deployctl", None));
        let url = "etcd://ann@a.example:1,[::1]:2,[::1]/prod/x/?ca=/ca.pem&password_file=/pw";
        let whole = Address::parse(url).unwrap();
        assert_eq!(whole.members, ["https://a.example:1", "https://[::1]:2", "https://[::1]:2379"]);
        assert_eq!((whole.prefix.as_str(), whole.user.as_deref()), ("prod/x", Some("ann")));
        assert_eq!(whole.password_file, Some("/pw".into()));
        let mutual = Address::parse("etcd://a?cert=/c&key=/k").unwrap();
        assert_eq!(mutual.members, ["https://a:2379"]);
        assert_eq!(mutual.identity, Some(("/c".into(), "/k".into())));
    }

    #[test]
    fn a_bad_url_says_what_is_wrong() {
        for (url, why) in [
            ("http://a", "not an etcd:// URL"),
            ("etcd://", "is not a host and a port"),
            ("etcd://a:1,b:x", "\"b:x\" is not a host and a port"),
            ("etcd://a/é", "printable bytes"),
            ("etcd://ann:secret@a", "password_file=FILE"),
            ("etcd://ann@a", "belong together"),
            ("etcd://a?password_file=/p", "belong together"),
            ("etcd://a?cert=/c", "belong together"),
            ("etcd://a?tls=maybe", "tls is true or false"),
            ("etcd://a?tsl=true", "there is no option \"tsl\""),
        ] {
            let error = Address::parse(url).err().unwrap().to_string();
            assert!(error.contains(why), "{url}: {error}");
        }
        let many = format!("etcd://{}", ["a"; 17].join(","));
        assert!(Address::parse(&many).is_err());
    }
}
