//! TLS for listeners that are not on loopback, and trust in a private CA.
//!
//! rustls with *ring*, TLS 1.2 and 1.3. Plain HTTP is served on loopback only,
//! unless the operator says so with `--plaintext`: tokens travel in headers.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Why a certificate or key can't be used, or a listener may not be opened.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file holds no certificate or key in PEM.
    #[error("{path} is not usable as PEM: {why}")]
    Pem {
        /// The file.
        path: String,
        /// Why.
        why: String,
    },
    /// The key does not fit the certificate.
    #[error("the certificate and the key do not fit: {0}")]
    Mismatch(#[source] rustls::Error),
    /// A token would travel in the clear.
    #[error(
        "{0} is not a loopback address: give --tls-cert and --tls-key, or --plaintext inside a trusted network"
    )]
    Plaintext(SocketAddr),
}

/// What a listener speaks.
#[derive(Clone, Default)]
pub enum Security {
    /// Plain HTTP.
    #[default]
    Plain,
    /// TLS.
    Tls(TlsAcceptor),
}

/// A listener's certificate and key, or leave to do without.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificate chain, PEM.
    pub cert: Option<std::path::PathBuf>,
    /// Private key, PEM.
    pub key: Option<std::path::PathBuf>,
    /// Serve plain HTTP on any address.
    pub plaintext: bool,
}

impl TlsFiles {
    /// What a listener at `address` speaks with these files.
    ///
    /// # Errors
    /// When a file can't be used, or plain HTTP would leave the machine unasked.
    pub fn security(&self, address: SocketAddr) -> Result<Security, TlsError> {
        match (&self.cert, &self.key) {
            (Some(cert), Some(key)) => acceptor(cert, key).map(Security::Tls),
            _ if address.ip().is_loopback() || self.plaintext => Ok(Security::Plain),
            _ => Err(TlsError::Plaintext(address)),
        }
    }
}

fn acceptor(cert: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let pem = |path: &Path, why: &dyn std::fmt::Display| TlsError::Pem {
        path: path.display().to_string(),
        why: why.to_string(),
    };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|e| pem(cert, &e))?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(|e| pem(key, &e))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .map_err(TlsError::Mismatch)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_stays_on_the_machine() {
        let files = TlsFiles::default();
        assert!(files.security("127.0.0.1:1".parse().unwrap()).is_ok());
        assert!(files.security("[::1]:1".parse().unwrap()).is_ok());
        assert!(matches!(
            files.security("10.0.0.1:1".parse().unwrap()),
            Err(TlsError::Plaintext(_))
        ));
        let asked = TlsFiles { plaintext: true, ..files };
        assert!(asked.security("10.0.0.1:1".parse().unwrap()).is_ok());
    }

    #[tokio::test]
    async fn a_private_ca_is_trusted_and_a_stranger_is_not() {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        std::fs::write(&cert, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let files = TlsFiles { cert: Some(cert.clone()), key: Some(key), plaintext: false };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let security = files.security(address).unwrap();
        let router =
            axum::Router::new().route("/healthz", axum::routing::get(|| async { "\"ok\"" }));
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let serving =
            tokio::spawn(crate::net::server::serve_on(listener, security, router, stopped));

        let base = format!("https://localhost:{}", address.port());
        let client = crate::net::client::Client::new(&base, None);
        let trusting =
            client.clone().over(crate::net::client::http_client_trusting(&cert).unwrap());
        let timeout = std::time::Duration::from_secs(5);
        assert_eq!(trusting.get::<String>("/healthz", timeout).await.unwrap(), "ok");
        assert!(client.get::<String>("/healthz", timeout).await.is_err());
        stop.send_replace(true);
        serving.await.unwrap();
    }
}
