//! The example of a gate beside a real Prometheus, which scrapes apps that this test plays.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::house::PATIENCE;

/// What hosts with two releases tell, after so many scrapes: of r1 one in a hundred requests
/// fails, of r2 every fifth; nobody asks r3 anything.
fn metrics(scrapes: u64) -> String {
    let line = |release: &str, code: u32, each: u64| {
        let labels = format!("app=\"api\",env=\"prod\",release=\"{release}\",code=\"{code}\"");
        format!("http_requests_total{{{labels}}} {}\n", scrapes * each)
    };
    let lines = [("r1", 200, 99), ("r1", 503, 1), ("r2", 200, 80), ("r2", 500, 20), ("r3", 200, 0)];
    let lines = lines.map(|(release, code, each)| line(release, code, each));
    format!("# TYPE http_requests_total counter\n{}", lines.concat())
}

/// Answers each scrape; its address.
fn app() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for (scrapes, stream) in (1..).zip(listener.incoming()) {
            let mut stream: TcpStream = stream.unwrap();
            let mut head = vec![0; 4096];
            let _ = stream.read(&mut head);
            let body = metrics(scrapes);
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close";
            let _ = write!(stream, "{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    });
    address
}

struct Prometheus {
    child: Child,
    url: String,
    _folder: tempfile::TempDir,
}

impl Prometheus {
    fn start(target: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("prometheus.yml");
        let text = format!(
            "global: {{ scrape_interval: 1s }}\nscrape_configs:\n  - job_name: app\n    \
             static_configs: [ {{ targets: ['{target}'] }} ]\n"
        );
        std::fs::write(&config, text).unwrap();
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={free}"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("prometheus is installed (apt-get install prometheus, or run scripts/test)");
        Self { child, url: format!("http://{free}"), _folder: folder }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The exit code, and what it says.
fn gate(url: &str, release: &str) -> (i32, String, String) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/gates/prometheus-errors.sh");
    let path: PathBuf = std::env::var_os("PATH").unwrap().into();
    let ran = Command::new(script)
        .args([url, "2"])
        .env_clear()
        .env("PATH", path)
        .envs([("DEPLOYCTL_APP", "api"), ("DEPLOYCTL_ENV", "prod"), ("DEPLOYCTL_RELEASE", release)])
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    (ran.status.code().unwrap(), text(&ran.stdout), text(&ran.stderr))
}

#[test]
fn the_example_asks_a_real_prometheus() {
    let prometheus = Prometheus::start(&app());
    let deadline = Instant::now() + PATIENCE;
    // It takes two scrapes to tell a rate.
    loop {
        let told = gate(&prometheus.url, "r1");
        if told.0 == 0 {
            break;
        }
        assert!(told.0 == 2 && Instant::now() < deadline, "{told:?}");
        std::thread::sleep(Duration::from_millis(200));
    }
    let told = |release| {
        let (code, stdout, _) = gate(&prometheus.url, release);
        (code, stdout)
    };
    assert_eq!(told("r1"), (0, "1.00 % of the requests to r1 fail".into()));
    let many = "20.00 % of the requests to r2 fail, from 2 % on it is too many";
    assert_eq!(told("r2"), (1, many.into()));
    for nobody in ["r3", "r4"] {
        assert_eq!(told(nobody), (2, format!("no requests to {nobody} were counted yet")));
    }
    let away = prometheus.url.clone();
    drop(prometheus);
    let (code, stdout, stderr) = gate(&away, "r1");
    assert_eq!((code, stdout.as_str()), (2, ""));
    assert!(stderr.contains("Failed to connect") || stderr.contains("connect to"), "{stderr}");
    // What answers, and is none.
    let (code, ..) = gate(&format!("http://{}", app()), "r1");
    assert_eq!(code, 2);
}
