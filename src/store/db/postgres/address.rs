//! Where a PostgreSQL server is, as the configuration names it, and how it is reached.
//!
//! Certificates are always checked: `sslmode` is `disable`, `require` or `verify-full`,
//! and the last two mean the same. Without one, a server on this machine is spoken to in
//! the clear and any other over TLS.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, RootCertStore};
use tokio_postgres::Config;
use tokio_postgres::config::{Host, SslMode, TargetSessionAttrs};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::store::db::DbError;

/// How long a server has to answer a new connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long sent bytes may stay unacknowledged before a connection counts as lost.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(15);
/// A silent connection is asked for a sign of life after this, then each third of it.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Longest URL, bytes.
const URL_BYTES_MAX: usize = 4096;
/// Where a server listens when the URL does not say.
const PORT: u16 = 5432;
/// Where a password is taken from when the URL has none, as by every client of PostgreSQL.
const PASSWORD: &str = "PGPASSWORD";

/// A `postgres://` URL, understood. Its password is in no message.
#[derive(Clone)]
pub struct Address {
    config: Config,
    roots: Option<PathBuf>,
}

/// The same server, database and user.
impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.config == other.config && self.roots == other.roots
    }
}

impl Eq for Address {}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({self})")
    }
}

/// A URL that says the same, without the password.
impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut query = Vec::new();
        let mut hosts = self.hosts();
        if self.config.get_hosts().iter().any(|host| matches!(host, Host::Unix(_))) {
            // A folder can't stand before the database.
            let ports = self.config.get_ports();
            query.push(format!("host={}", std::mem::take(&mut hosts)));
            if ports.iter().any(|port| *port != PORT) {
                let ports: Vec<_> = ports.iter().map(ToString::to_string).collect();
                query.push(format!("port={}", ports.join(",")));
            }
        }
        if self.config.get_ssl_mode() != usual_mode(&self.config) {
            let disabled = self.config.get_ssl_mode() == SslMode::Disable;
            query.push(format!("sslmode={}", if disabled { "disable" } else { "require" }));
        }
        query.extend(self.roots.iter().map(|path| format!("sslrootcert={}", path.display())));
        let mark = if query.is_empty() { "" } else { "?" };
        write!(f, "postgres://{}@{hosts}/{}", self.user(), self.database())?;
        write!(f, "{mark}{}", query.join("&"))
    }
}

impl Address {
    /// Understands a URL.
    ///
    /// # Errors
    /// What is wrong with it, in words that never hold the password.
    pub fn parse(url: &str) -> Result<Self, String> {
        if url.len() > URL_BYTES_MAX {
            return Err(format!("it is longer than {URL_BYTES_MAX} bytes"));
        }
        let (plain, query) = url.split_once('?').unwrap_or((url, ""));
        let (mut roots, mut mode, mut rest) = (None, None, Vec::new());
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sslrootcert", path)) => roots = Some(PathBuf::from(path)),
                Some(("sslmode", "disable")) => mode = Some(SslMode::Disable),
                Some(("sslmode", "require" | "verify-full")) => mode = Some(SslMode::Require),
                Some(("sslmode", other)) => {
                    return Err(format!("sslmode={other}: use disable, require or verify-full"));
                }
                _ => rest.push(pair),
            }
        }
        let mut config: Config = format!("{plain}?{}", rest.join("&")).parse().map_err(why)?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            return Err("it names no host".into());
        }
        let usual = usual_mode(&config);
        config.ssl_mode(mode.unwrap_or(usual));
        config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        config.tcp_user_timeout(UNACKNOWLEDGED_MAX).keepalives_idle(KEEPALIVE);
        config.keepalives_interval(KEEPALIVE / 3).keepalives_retries(3);
        if config.get_user().is_none() {
            return Err("it names no user: postgres://USER@HOST/DATABASE".into());
        }
        if config.get_password().is_none()
            && let Ok(password) = std::env::var(PASSWORD)
        {
            config.password(password);
        }
        Ok(Self { config, roots })
    }

    /// How to connect, under the name that the server's lists of sessions show.
    pub(super) fn config(&self, session: &str) -> Config {
        let mut config = self.config.clone();
        config.application_name(format!("deployctl {session}"));
        config
    }

    /// TLS as the URL asks for it; `None`: in the clear.
    pub(super) fn tls(&self) -> Result<Option<MakeRustlsConnect>, DbError> {
        if self.config.get_ssl_mode() == SslMode::Disable {
            return Ok(None);
        }
        let refused =
            |why: String| DbError::Unreachable { place: self.to_string(), why, passing: false };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| refused(error.to_string()))?
            .with_root_certificates(self.roots().map_err(refused)?)
            .with_no_client_auth();
        Ok(Some(MakeRustlsConnect::new(config)))
    }

    fn roots(&self) -> Result<RootCertStore, String> {
        let mut store = RootCertStore::empty();
        let Some(path) = &self.roots else {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            return Ok(store);
        };
        let unusable = |why: &dyn fmt::Display| format!("sslrootcert {}: {why}", path.display());
        for certificate in CertificateDer::pem_file_iter(path).map_err(|e| unusable(&e))? {
            let certificate = certificate.map_err(|e| unusable(&e))?;
            store.add(certificate).map_err(|e| unusable(&e))?;
        }
        if store.is_empty() { Err(unusable(&"it holds no certificate")) } else { Ok(store) }
    }

    pub(super) fn user(&self) -> &str {
        self.config.get_user().unwrap_or_default()
    }

    pub(super) fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or_else(|| self.user())
    }

    fn hosts(&self) -> String {
        let ports = self.config.get_ports();
        let named = self.config.get_hosts().iter().enumerate().map(|(i, host)| {
            let port = ports.get(i).or(ports.first()).copied().unwrap_or(PORT);
            match host {
                Host::Tcp(name) if name.contains(':') => format!("[{name}]:{port}"),
                Host::Tcp(name) => format!("{name}:{port}"),
                Host::Unix(folder) => folder.display().to_string(),
            }
        });
        let mut all: Vec<String> = named.collect();
        if all.is_empty() {
            all.extend(self.config.get_hostaddrs().iter().map(ToString::to_string));
        }
        all.join(",")
    }
}

/// Whether a server is spoken to over TLS when the URL does not say.
fn usual_mode(config: &Config) -> SslMode {
    let local = config.get_hosts().iter().all(is_local);
    if local { SslMode::Disable } else { SslMode::Require }
}

fn is_local(host: &Host) -> bool {
    match host {
        Host::Unix(_) => true,
        Host::Tcp(name) => {
            name == "localhost" || name.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
        }
    }
}

fn why(error: tokio_postgres::Error) -> String {
    let inner = error.into_source().map(|cause| cause.to_string());
    inner.unwrap_or_else(|| "it is not a URL of the form postgres://USER@HOST/DATABASE".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(url: &str) -> SslMode {
        Address::parse(url).unwrap().config.get_ssl_mode()
    }

    #[test]
    fn a_server_elsewhere_is_spoken_to_over_tls_unless_told_otherwise() {
        assert_eq!(mode("postgres://u@db.example/d"), SslMode::Require);
        assert_eq!(mode("postgres://u@db.example/d?sslmode=verify-full"), SslMode::Require);
        assert_eq!(mode("postgres://u@db.example/d?sslmode=disable"), SslMode::Disable);
        assert_eq!(mode("postgres://u@localhost/d"), SslMode::Disable);
        assert_eq!(mode("postgres://u@[::1]/d?sslmode=require"), SslMode::Require);
        assert_eq!(mode("postgres://u@/d?host=/run/postgresql"), SslMode::Disable);
        assert_eq!(mode("postgres://u@localhost,db.example/d"), SslMode::Require);
    }

    #[test]
    fn what_is_wrong_is_said_without_the_password() {
        let refused = |url: &str| Address::parse(url).unwrap_err();
        assert!(refused("postgres://u:hunter2@h/d?sslmode=prefer").contains("verify-full"));
        assert!(refused("postgres://h/d").contains("USER"));
        assert!(refused("postgres:///d?user=u").contains("no host"));
        assert!(refused(&format!("postgres://u@h/{}", "d".repeat(9999))).contains("4096"));
        for bad in ["postgres://u:hunter2@h:port/d", "postgres://u:hunter2@h/d?colour=red"] {
            let why = refused(bad);
            assert!(!why.is_empty() && !why.contains("hunter2"), "{why}");
        }
    }

    #[test]
    fn what_is_shown_is_a_url_of_the_same_without_the_password() {
        for (url, shown) in [
            ("postgres://u:hunter2@h:99/d", "postgres://u@h:99/d"),
            ("postgres://u:hunter2@/d?host=/run/pg", "postgres://u@/d?host=/run/pg"),
            ("postgres://u@/d?port=99&host=/run/pg", "postgres://u@/d?host=/run/pg&port=99"),
            ("postgres://u@[::1]/d", "postgres://u@[::1]:5432/d"),
            ("postgres://u@h/d?sslmode=disable", "postgres://u@h:5432/d?sslmode=disable"),
            ("postgres://u@h/d?sslrootcert=/ca", "postgres://u@h:5432/d?sslrootcert=/ca"),
            ("postgres://u@a:1,b:2/d", "postgres://u@a:1,b:2/d"),
        ] {
            let address = Address::parse(url).unwrap();
            assert_eq!(address.to_string(), shown);
            let again = Address::parse(shown).unwrap();
            assert_eq!(again.to_string(), shown);
            assert_eq!(again.config.get_hosts(), address.config.get_hosts());
        }
    }

    #[test]
    fn a_root_certificate_that_is_none_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        std::fs::write(&path, "no").unwrap();
        let url = format!("postgres://u@db.example/d?sslrootcert={}", path.display());
        let error = Address::parse(&url).unwrap().tls().err().unwrap();
        assert!(error.to_string().contains("ca.pem"), "{error}");
    }
}
