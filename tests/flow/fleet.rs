//! A whole fleet of real processes on loopback, in a temporary folder.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::ports::free_port;

/// Long enough for a loaded machine; a test that waits for it has failed.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Processes by name, a git repository, and the folder of all.
pub(crate) struct Fleet {
    folder: tempfile::TempDir,
    running: BTreeMap<String, Child>,
    pub(crate) server: String,
    ports: BTreeMap<String, u16>,
    engines: Engines,
    blobs: BTreeMap<String, String>,
    /// Regions with several processes, and how many.
    processes: BTreeMap<String, u32>,
    /// What regions are started with beside the usual.
    pub(crate) region_args: Vec<String>,
}

/// What a fleet runs on instead of its embedded defaults.
#[derive(Default)]
pub(crate) struct Engines {
    /// `etcd://…` without a prefix, if goals go through one.
    pub(crate) etcd: Option<String>,
    /// The URL of a blob store by its name; folders when there is none.
    pub(crate) stores: Option<fn(&str) -> String>,
    /// The URL of a database server.
    pub(crate) database: Option<String>,
    /// Where processes send their spans.
    pub(crate) collector: Option<String>,
}

/// A metric of a process, 0 when it does not tell.
pub(crate) fn metric(address: &str, series: &str) -> f64 {
    let Ok(mut stream) = TcpStream::connect(address) else { return 0.0 };
    let mut reply = String::new();
    let asked = stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    if asked.is_err() || stream.read_to_string(&mut reply).is_err() {
        return 0.0;
    }
    let line = reply.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_default()
}

/// The name of a region's `n`th process: the first is where agents are configured to call.
pub(crate) fn process(region: &str, n: u32) -> String {
    if n == 1 { format!("region-{region}") } else { format!("region-{region}-{n}") }
}

fn binary(name: &str) -> &'static str {
    match name {
        "coordinator" => env!("CARGO_BIN_EXE_deployctl-coordinator"),
        "region" => env!("CARGO_BIN_EXE_deployctl-region"),
        "worker" => env!("CARGO_BIN_EXE_deployctl-worker"),
        "agent" => env!("CARGO_BIN_EXE_deployctl-agent"),
        _ => env!("CARGO_BIN_EXE_deployctl"),
    }
}

impl Fleet {
    /// A coordinator with `regions`, short intervals, and no other process yet.
    pub(crate) fn new(regions: &[&str]) -> Self {
        Self::on(regions, Engines::default())
    }

    /// The same with goals in an etcd: `/global`, and one prefix for each region's own.
    pub(crate) fn with_etcd(regions: &[&str], etcd: Option<String>) -> Self {
        Self::on(regions, Engines { etcd, ..Engines::default() })
    }

    /// The same over other engines than the embedded ones.
    pub(crate) fn on(regions: &[&str], engines: Engines) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut fleet = Self {
            folder,
            running: BTreeMap::new(),
            server: String::new(),
            ports: BTreeMap::new(),
            engines,
            blobs: BTreeMap::new(),
            processes: BTreeMap::new(),
            region_args: vec![],
        };
        let port = fleet.port("coordinator");
        fleet.server = format!("http://127.0.0.1:{port}");
        let goals = fleet.engines.etcd.as_ref().map(|etcd| format!("goals = \"{etcd}/global\"\n"));
        let goals = goals.unwrap_or_default();
        let line = fleet.engines.database.clone().or_else(crate::configured::configured);
        let line = line.map(|url| format!("database = \"{url}\"\n")).unwrap_or_default();
        let mut config = format!(
            "{line}{goals}listen = \"127.0.0.1:{port}\"\ndata = \"{}\"\nblobs = \"{}\"\n[queue]\nbeat_ms = 500\nmonitor_ms = 200\n[synchronizer]\nevery_ms = 1000\n",
            fleet.path("coordinator").display(),
            fleet.main_blobs(),
        );
        for region in regions {
            config += &format!("[regions.{region}]\nblobs = \"{}\"\n", fleet.blobs(region));
        }
        fs::write(fleet.path("deployctl.config.toml"), config).unwrap();
        fleet.start_coordinator();
        fleet
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn url(&self, name: &str) -> String {
        format!("file://{}", self.path(name).display())
    }

    pub(crate) fn main_blobs(&mut self) -> String {
        self.store("coordinator/blobs")
    }

    /// The URL of a region's store.
    pub(crate) fn blobs(&mut self, region: &str) -> String {
        self.store(&format!("regions/{region}/blobs"))
    }

    fn store(&mut self, name: &str) -> String {
        let url = self.engines.stores.map_or_else(|| self.url(name), |stores| stores(name));
        self.blobs.entry(name.to_owned()).or_insert(url).clone()
    }

    /// The one port of a process, the same through restarts.
    pub(crate) fn port(&mut self, name: &str) -> u16 {
        *self.ports.entry(name.to_owned()).or_insert_with(free_port)
    }

    pub(crate) fn token(&self, name: &str) -> String {
        self.path(&format!("coordinator/tokens/{name}.token")).display().to_string()
    }

    pub(crate) fn start_coordinator(&mut self) {
        let config = self.path("deployctl.config.toml").display().to_string();
        self.start("coordinator", "coordinator", &["--config", &config]);
    }

    /// One more on the same database, with the first one's keys and a folder of its own.
    pub(crate) fn start_another_coordinator(&mut self, n: u32) {
        let name = format!("coordinator-{n}");
        let (config, data) = (self.path("deployctl.config.toml"), self.path(&name));
        for secret in ["token.key", "keys", "tokens"] {
            fs::create_dir_all(&data).unwrap();
            let from = self.path("coordinator").join(secret);
            assert!(Command::new("cp").arg("-r").arg(from).arg(&data).status().unwrap().success());
        }
        let listen = format!("127.0.0.1:{}", self.port(&name));
        let (config, data) = (config.display().to_string(), data.display().to_string());
        let args = ["--config", &config, "--data", &data, "--listen", &listen];
        self.start(&name, "coordinator", &args);
    }

    pub(crate) fn start_region(&mut self, name: &str) {
        self.start_region_as(name, &format!("region-{name}"));
    }

    /// Starts a region's `count` processes over the same stores.
    pub(crate) fn start_processes(&mut self, name: &str, count: u32) {
        self.processes.insert(name.to_owned(), count);
        (1..=count).for_each(|n| self.start_process(name, n));
    }

    /// Where a region's processes are reached.
    pub(crate) fn process_urls(&mut self, name: &str) -> Vec<String> {
        let count = self.processes.get(name).copied().unwrap_or_default();
        let ports: Vec<u16> = (1..=count).map(|n| self.port(&process(name, n))).collect();
        ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect()
    }

    pub(crate) fn start_process(&mut self, name: &str, n: u32) {
        self.start_region_as(name, &process(name, n));
    }

    fn start_region_as(&mut self, name: &str, process: &str) {
        let port = self.port(process);
        let own = process.replacen("region-", "data-", 1).replacen(&format!("-{name}"), "", 1);
        let data = self.path(&format!("regions/{name}/{own}")).display().to_string();
        let (server, token) = (self.server.clone(), self.token(&format!("region-{name}")));
        let (main, own) = (self.main_blobs(), self.blobs(name));
        let listen = format!("127.0.0.1:{port}");
        let args = [
            "--name",
            name,
            "--coordinator",
            &server,
            "--token-file",
            &token,
            "--main-blobs",
            &main,
            "--blobs",
            &own,
            "--data",
            &data,
            "--listen",
            &listen,
            "--report-ms",
            "500",
        ];
        let mut args = args.to_vec();
        let etcd = self.engines.etcd.clone().unwrap_or_default();
        let (own, global) = (format!("{etcd}/{name}"), format!("{etcd}/global"));
        if self.engines.etcd.is_some() {
            args.extend(["--goals", &own, "--global-goals", &global]);
        }
        let (list, url) = (self.process_urls(name).join(","), format!("http://{listen}"));
        if !list.is_empty() {
            args.extend(["--processes", &list, "--url", &url]);
        }
        let more = self.region_args.clone();
        args.extend(more.iter().map(String::as_str));
        self.start(process, "region", &args);
    }

    pub(crate) fn start_worker(&mut self, name: &str) {
        let work = self.path(name).display().to_string();
        let key = self.path("coordinator/keys/build.ed25519").display().to_string();
        let (server, token) = (self.server.clone(), self.token("worker"));
        let blobs = self.main_blobs();
        let args = [
            "--coordinator",
            &server,
            "--token-file",
            &token,
            "--blobs",
            &blobs,
            "--key",
            &key,
            "--work",
            &work,
        ];
        self.start(name, "worker", &args);
    }

    /// The folder of a host.
    pub(crate) fn root(&self, host: &str) -> PathBuf {
        self.path(&format!("hosts/{host}"))
    }

    pub(crate) fn start_agent(&mut self, region: &str, host: &str) {
        let mut command = Command::new(binary("agent"));
        command.args(self.agent_args(region, host));
        self.launch(host, &mut command);
    }

    /// An agent whose root is a disk of its own, of `mib` MiB.
    pub(crate) fn start_agent_on_small_disk(&mut self, region: &str, host: &str, mib: u32) {
        let root = self.root(host);
        fs::create_dir_all(&root).unwrap();
        let mut command = Command::new("unshare");
        let mount = "mount -t tmpfs -o size=\"$0\" tmpfs \"$1\" && shift && exec \"$@\"";
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", mount]);
        command.arg(format!("{mib}m")).arg(root).arg(binary("agent"));
        command.args(self.agent_args(region, host));
        self.launch(host, &mut command);
    }

    fn agent_args(&mut self, region: &str, host: &str) -> Vec<String> {
        let root = self.root(host).display().to_string();
        let url = format!("http://127.0.0.1:{}", self.port(&format!("region-{region}")));
        let token = self.token(&format!("agent-{region}"));
        let metrics = self.metrics(host);
        let port = format!("PORT={}", self.port(&format!("app-{host}")));
        let args = [
            "--region",
            &url,
            "--token-file",
            &token,
            "--host",
            host,
            "--env",
            "prod",
            "--root",
            &root,
            "--var",
            &port,
            "--metrics",
            &metrics,
        ];
        args.map(str::to_owned).into()
    }

    fn start(&mut self, name: &str, role: &str, args: &[&str]) {
        let metrics = self.metrics(name);
        self.launch(name, Command::new(binary(role)).args(args).args(["--metrics", &metrics]));
    }

    /// Where a process serves `/metrics`.
    pub(crate) fn metrics(&mut self, name: &str) -> String {
        format!("127.0.0.1:{}", self.port(&format!("metrics-{name}")))
    }

    fn launch(&mut self, name: &str, command: &mut Command) {
        fs::create_dir_all(self.path("logs")).unwrap();
        let log = self.path(&format!("logs/{name}.log"));
        let log = File::options().append(true).create(true).open(log).unwrap();
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        if let Some(collector) = &self.engines.collector {
            command
                .env("OTEL_EXPORTER_OTLP_ENDPOINT", collector)
                .env("OTEL_BSP_SCHEDULE_DELAY", "200");
        }
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        self.running.insert(name.to_owned(), child);
        assert!(line.starts_with("ready "), "{name}: {line:?}\n{}", self.log(name));
        std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    }

    pub(crate) fn log(&self, name: &str) -> String {
        fs::read_to_string(self.path(&format!("logs/{name}.log"))).unwrap_or_default()
    }

    /// A process that runs.
    pub(crate) fn child(&mut self, name: &str) -> &mut Child {
        self.running.get_mut(name).unwrap()
    }

    /// SIGKILL: no process gets to say goodbye.
    pub(crate) fn kill(&mut self, name: &str) {
        let mut child = self.running.remove(name).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// `deployctl args…` as an engineer on this machine types it, in `folder`.
    pub(crate) fn command(&self, folder: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(binary("deployctl"));
        command
            .args(args)
            .args(confirmed(folder, args))
            .current_dir(folder)
            .env("DEPLOYCTL_SERVER", &self.server)
            .env("DEPLOYCTL_TOKEN_FILE", self.token("admin"))
            .env("DEPLOYCTL_NO_INPUT", "1")
            .env("HOME", self.folder.path())
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn cli(&self, folder: &Path, args: &[&str]) -> Output {
        self.command(folder, args).output().unwrap()
    }

    /// Runs a command that must end with `code`; returns its stdout.
    pub(crate) fn expect(&self, folder: &Path, args: &[&str], code: i32) -> String {
        let done = self.cli(folder, args);
        let (out, err) = (text(&done.stdout), text(&done.stderr));
        assert_eq!(
            done.status.code(),
            Some(code),
            "deployctl {args:?}\n{out}\n{err}\n{}",
            self.tails()
        );
        out
    }

    /// The same with `-o json`, parsed: exactly one document.
    pub(crate) fn json(&self, folder: &Path, args: &[&str], code: i32) -> Value {
        let mut all = args.to_vec();
        all.extend(["-o", "json"]);
        let out = self.expect(folder, &all, code);
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("deployctl {args:?}: {e}: {out}"))
    }

    /// What `current` of an app on a host leads to, if it is there.
    pub(crate) fn current(&self, host: &str, app: &str) -> PathBuf {
        self.root(host).join("apps").join(app).join("current")
    }

    fn tails(&self) -> String {
        let tail = |name: &String| {
            let log = self.log(name);
            let lines: Vec<&str> = log.lines().rev().take(15).collect();
            let lines: Vec<&str> = lines.into_iter().rev().collect();
            format!("--- {name}\n{}\n", lines.join("\n"))
        };
        self.running.keys().map(tail).collect()
    }
}

impl Drop for Fleet {
    fn drop(&mut self) {
        for child in self.running.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // Apps outlive their agents on purpose; this fleet's must not outlive the test.
        let folder = self.folder.path().display().to_string();
        let _ = Command::new("pkill").args(["-KILL", "-f", &folder]).status();
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Polls until `check` holds.
pub(crate) fn eventually(what: &str, mut check: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What a script adds where all of prod is reached at once: the app's name and a reason.
fn confirmed(folder: &Path, args: &[&str]) -> Vec<String> {
    if !args.contains(&"all-at-once") || args.iter().any(|arg| arg.starts_with("--confirm")) {
        return vec![];
    }
    let named = args.iter().position(|arg| *arg == "-a").map(|at| args[at + 1].to_owned());
    let file = || fs::read_to_string(folder.join("deployctl.toml")).unwrap();
    let app = named.unwrap_or_else(|| file().split('"').nth(1).unwrap().to_owned());
    let mut more = vec![format!("--confirm={app}")];
    if !args.contains(&"-m") {
        more.extend(["-m", "a test"].map(str::to_owned));
    }
    more
}
