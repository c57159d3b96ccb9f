//! Bearer tokens: `dct_<id>_<secret>`, stored only as a keyed hash.
//!
//! The coordinator holds one verification key. A region gets a key of its own,
//! derived from it, so that the region can check its agents' tokens with every
//! coordinator down, and can check no others. A secret has 256 random bits, so
//! a fast keyed hash is enough (a slow one would only invite overload).

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use ed25519_dalek::SigningKey;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use crate::model::digest::{from_hex, to_hex};
use crate::model::id::{HostId, RegionName};
use crate::wire::v1::token::{Role, Verifier};

/// Largest token file, bytes: a token has 85.
const TOKEN_FILE_BYTES_MAX: u64 = 4096;

/// A verification key.
pub type Key = [u8; 32];

/// A token split in its public and its secret part.
#[derive(Clone)]
pub struct Token {
    /// Public: finds the verifier.
    pub id: String,
    secret: String,
}

/// Who speaks, as the token says; never as the message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The token's id.
    pub token: String,
    /// Who holds it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Its region.
    pub region: Option<RegionName>,
    /// Its one host.
    pub host: Option<HostId>,
}

/// 32 random bytes from the operating system.
///
/// # Panics
/// When the operating system has no random numbers: nothing is safe then.
#[must_use]
pub fn random_key() -> Key {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).expect("the operating system gives random numbers");
    bytes
}

/// A random number for [`crate::model::rng::Rng`]: other in each process and use.
#[must_use]
pub fn random_seed() -> u64 {
    u64::from_le_bytes(random_key()[..8].try_into().expect("a key has 32 bytes"))
}

/// Reads the ed25519 key in the file at `path`: 64 hexadecimal digits.
///
/// # Errors
/// When there is no such file, or it holds something else.
pub fn signing_key(path: &Path) -> std::io::Result<SigningKey> {
    let mut text = String::new();
    File::open(path)?.take(TOKEN_FILE_BYTES_MAX).read_to_string(&mut text)?;
    let seed = from_hex(text.trim()).and_then(|bytes| Key::try_from(bytes).ok());
    let seed =
        seed.ok_or_else(|| std::io::Error::other("a key is 64 lower-case hexadecimal digits"))?;
    Ok(SigningKey::from_bytes(&seed))
}

/// Reads the token in the file at `path`: one line of visible ASCII, returned whole.
///
/// # Errors
/// When there is no such file, or it holds something else.
pub fn read_token(path: &Path) -> std::io::Result<String> {
    read_token_from(File::open(path)?)
}

/// The same from anything that can be read.
///
/// # Errors
/// As [`read_token`].
pub fn read_token_from(source: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    source.take(TOKEN_FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    let token = text.trim();
    let visible = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    if text.len() as u64 > TOKEN_FILE_BYTES_MAX || !visible {
        return Err(std::io::Error::other("it holds something other than a token"));
    }
    Ok(token.to_owned())
}

impl Token {
    /// A new random token.
    #[must_use]
    pub fn mint() -> Self {
        Self { id: to_hex(&random_key()[..8]), secret: to_hex(&random_key()) }
    }

    /// The token that `key` and `text` make: always the same, and no other can tell
    /// it from a random one.
    #[must_use]
    pub fn derive(key: &Key, text: &str) -> Self {
        let part = |name: &str| {
            to_hex(&keyed_hash(key, format!("deployctl token {name} v1:{text}").as_bytes()))
        };
        Self { id: part("id")[..16].to_owned(), secret: part("secret") }
    }

    /// Reads `dct_<16 hex>_<64 hex>`; `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix("dct_")?.split_once('_')?;
        let hex =
            |part: &str| part.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase());
        (id.len() == 16 && secret.len() == 64 && hex(id) && hex(secret))
            .then(|| Self { id: id.into(), secret: secret.into() })
    }

    /// The whole token, secret included: to be shown once or written to a 0600 file.
    #[must_use]
    pub fn reveal(&self) -> String {
        format!("dct_{}_{}", self.id, self.secret)
    }

    /// What is stored in place of the secret.
    #[must_use]
    pub fn mac(&self, key: &Key) -> String {
        to_hex(&keyed_hash(key, self.secret.as_bytes()))
    }
}

/// The verification key of one region, derived from the coordinator's.
#[must_use]
pub fn region_key(key: &Key, region: &RegionName) -> Key {
    keyed_hash(key, format!("deployctl region key v1:{region}").as_bytes())
}

/// What region `own` shows a sibling whose verification key is `key`.
#[must_use]
pub fn sibling_ticket(key: &Key, own: &RegionName) -> String {
    let message = format!("deployctl sibling ticket v1:{own}");
    format!("dcs_{own}_{}", to_hex(&keyed_hash(key, message.as_bytes())))
}

/// HMAC-SHA256.
///
/// # Panics
/// Never: HMAC takes keys of any length.
#[must_use]
pub fn keyed_hash(key: &Key, message: &[u8]) -> Key {
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key).expect("HMAC takes any key");
    mac.update(message);
    mac.finalize().into_bytes().into()
}

/// The tokens that one listener accepts.
#[derive(Default, Clone)]
pub struct Keyring {
    key: Key,
    by_id: HashMap<String, Verifier>,
}

impl Keyring {
    /// A keyring of `verifiers`, made with `key`.
    #[must_use]
    pub fn new(key: Key, verifiers: impl IntoIterator<Item = Verifier>) -> Self {
        Self { key, by_id: verifiers.into_iter().map(|v| (v.id.clone(), v)).collect() }
    }

    /// Which region holds the [`sibling_ticket`] in an `Authorization: Bearer …` header's
    /// value. Whether that region is known is the caller's to check.
    #[must_use]
    pub fn sibling(&self, header: &str) -> Option<RegionName> {
        let ticket = header.strip_prefix("Bearer ")?;
        let (region, _) = ticket.strip_prefix("dcs_")?.rsplit_once('_')?;
        let region = region.parse().ok()?;
        let right = sibling_ticket(&self.key, &region);
        bool::from(right.as_bytes().ct_eq(ticket.as_bytes())).then_some(region)
    }

    /// Who holds the token in an `Authorization: Bearer …` header's value.
    #[must_use]
    pub fn identify(&self, header: &str) -> Option<Identity> {
        let token = Token::parse(header.strip_prefix("Bearer ")?)?;
        let verifier = self.by_id.get(&token.id)?;
        let same = verifier.mac.as_bytes().ct_eq(token.mac(&self.key).as_bytes());
        bool::from(same).then(|| identity(verifier))
    }

    /// Who holds the token `id`, while there is such a token. Proves nothing: the
    /// caller has seen the token before.
    #[must_use]
    pub fn holder(&self, id: &str) -> Option<Identity> {
        self.by_id.get(id).map(identity)
    }
}

fn identity(verifier: &Verifier) -> Identity {
    Identity {
        token: verifier.id.clone(),
        name: verifier.name.clone(),
        role: verifier.role,
        region: verifier.region.clone(),
        host: verifier.host.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_secret_under_the_right_key_is_known() {
        let (key, other) = (random_key(), random_key());
        let token = Token::mint();
        let verifier = Verifier {
            id: token.id.clone(),
            name: "ann".into(),
            role: Role::Viewer,
            region: None,
            host: None,
            mac: token.mac(&key),
        };
        let header = format!("Bearer {}", token.reveal());
        let ring = Keyring::new(key, [verifier.clone()]);
        assert_eq!(ring.identify(&header).unwrap().name, "ann");
        assert!(ring.identify(&header.replace("Bearer ", "")).is_none());
        let mut wrong = header.clone();
        let last = if wrong.pop() == Some('0') { '1' } else { '0' };
        wrong.push(last);
        assert!(ring.identify(&wrong).is_none());
        assert!(Keyring::new(other, [verifier]).identify(&header).is_none());
        let eu = region_key(&key, &"eu".parse().unwrap());
        assert_ne!(eu, region_key(&key, &"us".parse().unwrap()));
    }

    #[test]
    fn a_sibling_is_known_by_the_ticket_that_was_made_for_the_two() {
        let key = random_key();
        let [eu, us] = ["eu", "us"].map(|name| name.parse::<RegionName>().unwrap());
        let ring = Keyring::new(region_key(&key, &eu), []);
        let header = |ticket: String| format!("Bearer {ticket}");
        let ticket = sibling_ticket(&region_key(&key, &eu), &us);
        assert_eq!(ring.sibling(&header(ticket.clone())), Some(us.clone()));
        assert_eq!(ring.sibling(&header(ticket.replace("us", "eu"))), None);
        assert_eq!(ring.sibling(&header(sibling_ticket(&region_key(&key, &us), &us))), None);
        assert_eq!(ring.sibling(&ticket), None);
        assert_eq!(ring.sibling("Bearer dcs_us_"), None);
    }
}
