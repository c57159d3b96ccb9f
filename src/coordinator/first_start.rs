//! What a coordinator's first start writes: keys, tokens, and how to reach it.
//!
//! Every file appears whole or not at all, and durable. A file that is missing
//! at a later start is made anew (a lost token is replaced, its old verifier
//! withdrawn), but no key: tokens and agents trust the old one only. One that is
//! there is kept.

use std::fs::Permissions;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use ed25519_dalek::SigningKey;
use serde_json::json;

use crate::config::daemon::Config;
use crate::coordinator::peers;
use crate::coordinator::state::Keys;
use crate::coordinator::tokens::mint;
use crate::host::fs::write_durable;
use crate::model::digest::{Digest, from_hex, to_hex};
use crate::model::id::RegionName;
use crate::net::auth::{Key, random_key};
use crate::store::db::{Db, DbError, Place, Tx, coordinators, owner, tokens};
use crate::wire::seal::public_key;
use crate::wire::v1::token::{Role, TokenRequest};

/// The database's file, under the data folder. It is made after the keys.
pub(super) const DATABASE: &str = "coordinator.db";
/// Who made the first tokens, in the token table.
const MADE_BY: &str = "first start";

/// Why the first files could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum FirstStartError {
    /// A file or folder.
    #[error("{path}: {source}")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A key file that holds something else.
    #[error("{0} does not hold 32 bytes in hexadecimal")]
    NotAKey(PathBuf),
    /// A key that was there once.
    #[error(
        "{0} is missing, though this database was set up before; put it back from a backup, \
         or copy token.key, keys and tokens from another coordinator's data folder: \
         tokens and agents trust no other key"
    )]
    LostKey(PathBuf),
    /// Keys that another database was set up with.
    #[error(
        "the keys under {data} are not the ones that {place} was set up with; \
         copy token.key, keys and tokens from the data folder of a coordinator that uses it"
    )]
    ForeignKeys {
        /// The data folder.
        data: PathBuf,
        /// The database.
        place: String,
    },
    /// The token table.
    #[error(transparent)]
    Db(#[from] DbError),
}

/// Opens the database, and reads the keys under `data` that belong to it.
///
/// # Errors
/// When the database can't be opened, a key is lost, or the keys are another database's.
pub(super) async fn open(place: &Place, data: &Path) -> Result<(Db, Keys), FirstStartError> {
    let (db, keys) = match place {
        // The file is made after the keys: where it is, they were.
        Place::File(path) => {
            let keys = keys(data, path.exists())?;
            (Db::open_at(place).await?, keys)
        }
        Place::Server(_) => {
            let db = Db::open_at(place).await?;
            let has_run = db.read(coordinators::keys).await?.is_some();
            (db, keys(data, has_run)?)
        }
    };
    let own = fingerprint(&keys);
    let adopted = own.clone();
    // Before there is anything in it: a database that was made here is told from a copy by it.
    db.write(owner::ensure).await?;
    if db.write(move |tx: &mut Tx| coordinators::adopt_keys(tx, &adopted)).await? != own {
        return Err(FirstStartError::ForeignKeys {
            data: data.to_owned(),
            place: place.to_string(),
        });
    }
    Ok((db, keys))
}

/// Tells these keys from any others, and nothing about them.
fn fingerprint(keys: &Keys) -> String {
    let text = json!([to_hex(&keys.token), keys.trusted_goal, keys.trusted_build]).to_string();
    Digest::of(format!("deployctl keys v1:{text}").as_bytes()).to_string()
}

/// Reads the keys under `data`, making those that are missing.
///
/// # Errors
/// When a file can't be read or written, holds no key, or a key is lost.
fn keys(data: &Path, has_run: bool) -> Result<Keys, FirstStartError> {
    for folder in ["", "keys", "tokens"] {
        make_folder(&data.join(folder))?;
    }
    let token = key(&data.join("token.key"), has_run)?;
    let goal = SigningKey::from_bytes(&key(&data.join("keys/goal.ed25519"), has_run)?);
    let build = SigningKey::from_bytes(&key(&data.join("keys/build.ed25519"), has_run)?);
    let keys = Keys {
        token,
        trusted_goal: vec![public_key(&goal)],
        trusted_build: vec![public_key(&build)],
        goal,
    };
    let trust = json!({ "goal_keys": keys.trusted_goal, "build_keys": keys.trusted_build });
    write(&data.join("trust.json"), &format!("{trust}\n"), 0o644)?;
    Ok(keys)
}

/// Makes the tokens whose files are missing.
///
/// # Errors
/// When a file can't be written or the database fails.
pub(super) async fn first_tokens(
    db: &Db,
    keys: &Keys,
    config: &Config,
) -> Result<(), FirstStartError> {
    let mut wanted = vec![("admin".to_owned(), Role::Admin, None)];
    wanted.push(("worker".into(), Role::Worker, None));
    for region in config.regions.keys() {
        wanted.push((format!("region-{region}"), Role::Region, Some(region.clone())));
        wanted.push((format!("agent-{region}"), Role::Agent, Some(region.clone())));
    }
    for (name, role, region) in wanted {
        first_token(db, keys, &config.data, (name, role, region)).await?;
    }
    Ok(())
}

async fn first_token(
    db: &Db,
    keys: &Keys,
    data: &Path,
    (name, role, region): (String, Role, Option<RegionName>),
) -> Result<(), FirstStartError> {
    let path = data.join("tokens").join(format!("{name}.token"));
    if path.exists() {
        return Ok(());
    }
    let request = TokenRequest { name: name.clone(), role, region, host: None };
    let (token, verifier) = mint(keys, request);
    // The verifier first: a crash in between leaves no file, so the next start
    // makes another token and withdraws this one. On a shared database the file may
    // be with the coordinator that made the token, so none is withdrawn.
    let (now, is_shared) = (peers::now(db), db.is_shared());
    let insert = move |tx: &mut Tx| {
        if is_shared && tokens::is_made_by(tx, MADE_BY, &name)? {
            return Ok::<_, DbError>(false);
        }
        tokens::delete_made_by(tx, MADE_BY, &name)?;
        tokens::insert(tx, &verifier, MADE_BY, now)?;
        Ok(true)
    };
    if !db.write(insert).await? {
        let file = path.display();
        tracing::info!(%file, "this token was made by another coordinator; copy it if it is needed");
        return Ok(());
    }
    write(&path, &token.reveal(), 0o600)
}

/// Tells the command on this machine where the coordinator is and which token to use.
///
/// # Errors
/// When the file can't be written.
pub(super) fn client_file(
    data: &Path,
    scheme: &str,
    at: SocketAddr,
) -> Result<(), FirstStartError> {
    let client = json!({
        "server": format!("{scheme}://{}", reachable(at)),
        "token_file": data.join("tokens/admin.token"),
    });
    write(&data.join("client.json"), &format!("{client}\n"), 0o600)
}

/// The address to dial for a listener on every address: this machine's own.
fn reachable(at: SocketAddr) -> SocketAddr {
    match at {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => ([127, 0, 0, 1], v4.port()).into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => {
            (std::net::Ipv6Addr::LOCALHOST, v6.port()).into()
        }
        other => other,
    }
}

fn key(path: &Path, has_run: bool) -> Result<Key, FirstStartError> {
    match std::fs::read_to_string(path) {
        Ok(text) => from_hex(text.trim_end())
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| FirstStartError::NotAKey(path.to_owned())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if has_run {
                return Err(FirstStartError::LostKey(path.to_owned()));
            }
            let key = random_key();
            write(path, &to_hex(&key), 0o600)?;
            Ok(key)
        }
        Err(source) => Err(FirstStartError::Io { path: path.to_owned(), source }),
    }
}

fn make_folder(path: &Path) -> Result<(), FirstStartError> {
    let io = |source| FirstStartError::Io { path: path.to_owned(), source };
    std::fs::create_dir_all(path).map_err(io)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(io)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), FirstStartError> {
    let written = write_durable(path, text.as_bytes(), mode);
    written.map_err(|source| FirstStartError::Io { path: path.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(data: &Path) -> Config {
        let flags = crate::config::daemon::Flags { data: Some(data.into()), ..Default::default() };
        crate::config::daemon::load(&flags).unwrap()
    }

    #[tokio::test]
    async fn a_second_start_keeps_everything_and_replaces_what_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        let config = config(data);
        let first = keys(data, false).unwrap();
        let db = Db::open(&data.join("db.sqlite")).unwrap();
        first_tokens(&db, &first, &config).await.unwrap();
        client_file(data, "http", "0.0.0.0:7".parse().unwrap()).unwrap();
        let read = |name: &str| std::fs::read_to_string(data.join(name)).unwrap();
        let (admin, worker) = (read("tokens/admin.token"), read("tokens/worker.token"));
        assert!(read("client.json").contains("http://127.0.0.1:7"));
        assert!(admin.starts_with("dct_") && !admin.ends_with('\n'));
        for secret in ["token.key", "keys/goal.ed25519", "tokens/agent-local.token", "client.json"]
        {
            let mode = std::fs::metadata(data.join(secret)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{secret}");
        }
        std::fs::remove_file(data.join("tokens/worker.token")).unwrap();
        let second = keys(data, true).unwrap();
        first_tokens(&db, &second, &config).await.unwrap();
        assert_eq!((second.token, read("tokens/admin.token")), (first.token, admin));
        assert_ne!(read("tokens/worker.token"), worker);
        assert_eq!(db.read(tokens::count).await.unwrap(), 4);
        std::fs::write(data.join("token.key"), "no").unwrap();
        assert!(matches!(keys(data, true), Err(FirstStartError::NotAKey(_))));
    }

    #[test]
    fn a_key_that_is_lost_is_asked_for_and_never_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        keys(data, false).unwrap();
        keys(data, true).unwrap();
        for lost in ["token.key", "keys/goal.ed25519", "keys/build.ed25519"] {
            let text = std::fs::read_to_string(data.join(lost)).unwrap();
            std::fs::remove_file(data.join(lost)).unwrap();
            assert!(matches!(keys(data, true), Err(FirstStartError::LostKey(_))), "{lost}");
            assert!(!data.join(lost).exists());
            std::fs::write(data.join(lost), text).unwrap();
        }
        keys(data, true).unwrap();
    }
}
