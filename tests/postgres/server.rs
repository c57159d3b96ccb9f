//! A PostgreSQL server of the tests' own: in a temporary folder, on a Unix socket, without
//! flushes. It is started once per test program and ends with it, however that ends.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// What holds the server: it ends when its standard input does, so also when this
/// process is killed.
const KEEPER: &str = r#"
set -e
cd "$1"
icu="--locale-provider=icu --icu-locale=en-US"
"$2/initdb" -D data -U postgres -A trust -E UTF8 --locale=C.UTF-8 -N $icu >init.log 2>&1 ||
    { rm -rf data; "$2/initdb" -D data -U postgres -A trust -E UTF8 --locale=C.UTF-8 -N >init.log 2>&1; }
"$2/pg_ctl" start -w -t 120 -D data -l server.log -o "-c listen_addresses='' -c unix_socket_directories='$1' \
    -c fsync=off -c full_page_writes=off -c max_connections=300 -c shared_buffers=64MB" >start.log 2>&1
echo ready
cat >/dev/null
"$2/pg_ctl" stop -D data -m immediate >/dev/null 2>&1 || true
cd / && rm -rf "$1"
"#;

/// The server.
pub(crate) struct Server {
    /// Where its socket is.
    pub(crate) folder: PathBuf,
    pub(crate) binaries: PathBuf,
    databases: AtomicU32,
    /// Its standard input closes with this process.
    _keeper: Child,
}

/// The server that all tests of this program share.
pub(crate) fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(Server::start)
}

/// The URL of a database that nobody used before.
pub(crate) fn fresh_database() -> String {
    server().database()
}

impl Server {
    fn start() -> Self {
        let binaries = binaries();
        let folder = tempfile::tempdir().expect("a temporary folder").keep();
        let root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
        // The server refuses to run as root.
        let mut command = Command::new(if root { "setpriv" } else { "sh" });
        if root {
            let owned = Command::new("chown").arg("postgres:").arg(&folder).status();
            assert!(owned.is_ok_and(|status| status.success()), "there is a user postgres");
            command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups", "sh"]);
        }
        command.args(["-c", KEEPER, "keeper"]).arg(&folder).arg(&binaries);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut keeper = command.spawn().expect("a shell starts");
        let mut said = String::new();
        let stdout = keeper.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut said).expect("the server's keeper speaks");
        let log = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
        assert_eq!(said, "ready\n", "{}{}{}", log("init.log"), log("start.log"), log("server.log"));
        Self { folder, binaries, databases: AtomicU32::new(0), _keeper: keeper }
    }

    /// The URL of a new, empty database.
    pub(crate) fn database(&self) -> String {
        let name = format!("t{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let made = Command::new(self.binaries.join("createdb"))
            .args(["-U", "postgres", "-h"])
            .arg(&self.folder)
            .arg(&name)
            .status();
        assert!(made.is_ok_and(|status| status.success()), "createdb {name}");
        format!("postgres://postgres@/{name}?host={}", self.folder.display())
    }
}

/// Where `initdb` and its siblings are: beside the first on the path, or where Debian
/// keeps them.
fn binaries() -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut debian: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
    debian.sort();
    folders.extend(debian.into_iter().rev());
    let real = |folder: &PathBuf| {
        let initdb = folder.join("initdb").canonicalize().ok()?;
        initdb.parent().map(Path::to_owned)
    };
    let found = folders.iter().find_map(real);
    found.expect("initdb is missing: install postgresql (scripts/test does)")
}
