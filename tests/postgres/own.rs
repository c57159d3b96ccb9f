//! A PostgreSQL server of one test: on TCP, with passwords, stopped and started at will.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::server::server;

/// Long enough for a loaded machine; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Who may come in: over TCP with a password, by the socket without.
const DOORS: &str = "local all all trust\nhost all all 127.0.0.1/32 scram-sha-256\n";

pub(crate) struct Own {
    folder: PathBuf,
    binaries: PathBuf,
    pub(crate) port: u16,
    running: Option<Child>,
}

impl Own {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap().keep();
        let binaries = server().binaries.clone();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut own = Self { folder, binaries, port, running: None };
        own.own(&own.folder);
        let mut initdb = own.command("initdb");
        initdb.args(["-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C.UTF-8"]);
        let made = initdb.arg("-D").arg(own.data()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        std::fs::write(own.data().join("pg_hba.conf"), DOORS).unwrap();
        own.up(&[]);
        own
    }

    /// Gives a file to the server's user.
    fn own(&self, path: &Path) {
        if is_root() {
            let owned = Command::new("chown").arg("postgres:").arg(path).status().unwrap();
            assert!(owned.success());
        }
    }

    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// A program of the server's, as its user; it ends with this process.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).current_dir(&self.folder);
        if is_root() {
            command.args(["--reuid", "postgres", "--regid", "postgres", "--init-groups"]);
        }
        command.arg(self.binaries.join(program));
        command
    }

    /// Starts it, and waits until it answers.
    pub(crate) fn up(&mut self, settings: &[&str]) {
        let mut postgres = self.command("postgres");
        postgres.arg("-D").arg(self.data()).args(["-p", &self.port.to_string(), "-k"]);
        postgres.arg(&self.folder).args(["-c", "listen_addresses=127.0.0.1"]);
        for setting in settings {
            postgres.args(["-c", setting]);
        }
        postgres.args(["-c", "fsync=off"]).stdout(Stdio::null()).stderr(Stdio::null());
        self.running = Some(postgres.spawn().unwrap());
        let deadline = Instant::now() + PATIENCE;
        while self.psql("postgres", "SELECT 1").is_none() {
            assert!(Instant::now() < deadline, "the server does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends it at once, its connections with it; what it had committed is in its log.
    pub(crate) fn down(&mut self) {
        if let Some(mut running) = self.running.take() {
            let pid = rustix::process::Pid::from_child(&running);
            rustix::process::kill_process(pid, rustix::process::Signal::QUIT).unwrap();
            running.wait().unwrap();
        }
    }

    fn psql(&self, database: &str, statement: &str) -> Option<String> {
        let done = Command::new(self.binaries.join("psql"))
            .args(["-X", "-At", "-U", "postgres", "-d", database, "-c", statement, "-h"])
            .arg(&self.folder)
            .args(["-p", &self.port.to_string()])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&done.stdout).trim().to_owned();
        done.status.success().then_some(said)
    }

    /// What it answers to one statement.
    pub(crate) fn query(&self, database: &str, statement: &str) -> String {
        self.psql(database, statement).expect(statement)
    }

    /// Its certificate, made here, for its TCP address; the path of what trusts it.
    pub(crate) fn certify(&self) -> PathBuf {
        let made = rcgen::generate_simple_self_signed(vec!["127.0.0.1".into()]).unwrap();
        let (certificate, key) = (self.data().join("tls.pem"), self.data().join("tls.key"));
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let secret = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&key, secret).unwrap();
        self.own(&certificate);
        self.own(&key);
        certificate
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.down();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

fn is_root() -> bool {
    Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n")
}
