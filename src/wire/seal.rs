//! Signed bytes: ed25519 over DSSE's pre-authentication encoding.
//!
//! The payload is signed as bytes, never as a re-encoding, and each kind of
//! record has its own type tag, so a signature on one can't stand for another.

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::model::digest::{Digest, from_hex, to_hex};

/// Type tag of goal documents.
pub const GOAL: &str = "application/vnd.deployctl.goal.v1+json";
/// Type tag of manifests.
pub const MANIFEST: &str = "application/vnd.deployctl.manifest.v1+json";

/// A signed payload of JSON text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    /// The exact bytes that were signed.
    pub payload: String,
    /// Hex of the ed25519 signature.
    pub signature: String,
}

/// A signature that does not hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no trusted key signed this {kind}")]
pub struct NotTrusted {
    /// The type tag that was expected.
    pub kind: &'static str,
}

/// A public key. As text: 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PublicKey(pub String);

fn pre_authentication_encoding(kind: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
    bytes.extend_from_slice(payload);
    bytes
}

/// Signs `payload` as a record of `kind`; returns the signature in hex.
#[must_use]
pub fn sign(key: &SigningKey, kind: &str, payload: &[u8]) -> String {
    to_hex(&key.sign(&pre_authentication_encoding(kind, payload)).to_bytes())
}

/// Checks that one of `trusted` signed `payload` as a record of `kind`.
///
/// # Errors
/// [`NotTrusted`] when none did, or the signature is malformed.
pub fn verify(
    trusted: &[PublicKey],
    kind: &'static str,
    payload: &[u8],
    signature: &str,
) -> Result<(), NotTrusted> {
    let signature: Option<[u8; 64]> = from_hex(signature).and_then(|bytes| bytes.try_into().ok());
    let signature = Signature::from_bytes(&signature.ok_or(NotTrusted { kind })?);
    let message = pre_authentication_encoding(kind, payload);
    let holds = |key: &PublicKey| {
        let bytes: Option<[u8; 32]> = from_hex(&key.0).and_then(|bytes| bytes.try_into().ok());
        bytes
            .and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok())
            .is_some_and(|key| key.verify_strict(&message, &signature).is_ok())
    };
    if trusted.iter().any(holds) { Ok(()) } else { Err(NotTrusted { kind }) }
}

/// The public half of a signing key.
#[must_use]
pub fn public_key(key: &SigningKey) -> PublicKey {
    PublicKey(to_hex(key.verifying_key().as_bytes()))
}

/// The signature file beside a manifest: hex signature, a newline.
#[must_use]
pub fn sign_manifest(key: &SigningKey, manifest: &[u8]) -> String {
    // The digest is signed, not the bytes: 64 MiB need not pass through ed25519 twice.
    sign(key, MANIFEST, Digest::of(manifest).to_string().as_bytes())
}

/// Checks a manifest's signature.
///
/// # Errors
/// [`NotTrusted`] when no trusted key signed it.
pub fn verify_manifest(
    trusted: &[PublicKey],
    id: &Digest,
    signature: &str,
) -> Result<(), NotTrusted> {
    verify(trusted, MANIFEST, id.to_string().as_bytes(), signature.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_bytes_its_kind_and_its_key_only() {
        let key = SigningKey::from_bytes(&[7; 32]);
        let other = SigningKey::from_bytes(&[8; 32]);
        let signature = sign(&key, GOAL, b"{}");
        assert!(verify(&[public_key(&other), public_key(&key)], GOAL, b"{}", &signature).is_ok());
        assert!(verify(&[public_key(&other)], GOAL, b"{}", &signature).is_err());
        assert!(verify(&[public_key(&key)], MANIFEST, b"{}", &signature).is_err());
        assert!(verify(&[public_key(&key)], GOAL, b"{} ", &signature).is_err());
        assert!(verify(&[public_key(&key)], GOAL, b"{}", "zz").is_err());
    }
}
