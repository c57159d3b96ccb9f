//! Real etcd members on loopback, in a temporary folder, killed without a goodbye.

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::ports::free_port;

/// Long enough for a loaded machine; a test that waits for it has failed.
const PATIENCE: Duration = Duration::from_secs(60);

struct Member {
    client: u16,
    peer: u16,
    child: Option<Child>,
}

/// A cluster.
pub(crate) struct Etcd {
    folder: tempfile::TempDir,
    members: Vec<Member>,
    http: reqwest::Client,
    /// Further arguments of every member.
    extra: Vec<String>,
    scheme: &'static str,
}

impl Etcd {
    /// Starts `size` members and waits until they answer.
    pub(crate) async fn start(size: usize) -> Self {
        let cluster = Self::cluster(size, "http", vec![], deployctl::net::client::http_client());
        cluster.answers().await;
        cluster
    }

    /// One member that speaks TLS with these arguments; `http` must trust it.
    pub(crate) async fn start_tls(extra: Vec<String>, http: reqwest::Client) -> Self {
        let cluster = Self::cluster(1, "https", extra, http);
        cluster.answers().await;
        cluster
    }

    fn cluster(
        size: usize,
        scheme: &'static str,
        extra: Vec<String>,
        http: reqwest::Client,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let member = |_| Member { client: free_port(), peer: free_port(), child: None };
        let members = (0..size).map(member).collect();
        let mut cluster = Self { folder, members, http, extra, scheme };
        for n in 0..size {
            cluster.start_member(n);
        }
        cluster
    }

    /// Starts member `n`, anew or again, on its own folder and ports.
    pub(crate) fn start_member(&mut self, n: usize) {
        let peers = self.members.iter().enumerate();
        let peers: Vec<String> =
            peers.map(|(n, member)| format!("m{n}=http://127.0.0.1:{}", member.peer)).collect();
        let (client, peer) = (self.url_of(n), format!("http://127.0.0.1:{}", self.members[n].peer));
        let data = self.path(&format!("m{n}")).display().to_string();
        let log = File::options().append(true).create(true).open(self.path(&format!("m{n}.log")));
        let log = log.unwrap();
        let child = Command::new("etcd")
            .args(["--name", &format!("m{n}"), "--data-dir", &data, "--logger", "zap"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &peers.join(",")])
            .args(&self.extra)
            .env("ETCD_UNSUPPORTED_ARCH", std::env::consts::ARCH.replace("aarch64", "arm64"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .expect("etcd is installed (apt-get install etcd-server, or run scripts/test)");
        self.members[n].child = Some(child);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, n: usize) {
        let mut child = self.members[n].child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        Path::new(self.folder.path()).join(name)
    }

    /// Its URL in the configuration, with `rest` after the members.
    pub(crate) fn url(&self, rest: &str) -> String {
        let member = |member: &Member| format!("127.0.0.1:{}", member.client);
        let members: Vec<String> = self.members.iter().map(member).collect();
        format!("etcd://{}{rest}", members.join(","))
    }

    fn url_of(&self, n: usize) -> String {
        format!("{}://127.0.0.1:{}", self.scheme, self.members[n].client)
    }

    /// A call of the gateway of member `n`.
    pub(crate) async fn ask(&self, n: usize, path: &str, body: &Value) -> Option<Value> {
        let url = format!("{}{path}", self.url_of(n));
        let reply = self.http.post(url).json(body).send().await.ok()?;
        if reply.status().is_success() { reply.json().await.ok() } else { None }
    }

    /// The same, of the first member, which must succeed.
    pub(crate) async fn post(&self, path: &str, body: Value) -> Value {
        self.ask(0, path, &body).await.unwrap_or_else(|| panic!("{path} {body}\n{}", self.log(0)))
    }

    /// The place of the leader among members that live, once there is one.
    pub(crate) async fn leader(&self) -> usize {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            for n in 0..self.members.len() {
                if self.members[n].child.is_none() {
                    continue;
                }
                let status = self.ask(n, "/v3/maintenance/status", &json!({})).await;
                let status = status.unwrap_or_default();
                let leads = status["leader"] == status["header"]["member_id"];
                if leads && status["leader"].is_string() {
                    return n;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("no leader\n{}", self.log(0));
    }

    async fn answers(&self) {
        let deadline = Instant::now() + PATIENCE;
        for n in 0..self.members.len() {
            let key = json!({ "key": "AA==" });
            while self.ask(n, "/v3/kv/range", &key).await.is_none() {
                assert!(Instant::now() < deadline, "etcd does not answer\n{}", self.log(n));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    fn log(&self, n: usize) -> String {
        let log = std::fs::read_to_string(self.path(&format!("m{n}.log"))).unwrap_or_default();
        log.lines().rev().take(30).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        for member in &mut self.members {
            if let Some(mut child) = member.child.take() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}
