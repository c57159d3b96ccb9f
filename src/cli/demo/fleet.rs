//! The demo's fleet: what is started with which flags, all in one folder.

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use crate::cli::demo::processes::Processes;

/// Regions of the demo.
pub(crate) const REGIONS: [&str; 2] = ["eu", "us"];
/// Hosts in each region.
pub(crate) const HOSTS_PER_REGION: usize = 4;

/// Where the running demo is and how to reach it.
pub(crate) struct Fleet {
    /// The folder of everything.
    pub(crate) folder: PathBuf,
    /// The coordinator's URL.
    pub(crate) server: String,
    /// The processes.
    pub(crate) processes: Processes,
}

/// How an engineer's commands reach the demo's coordinator.
#[derive(Clone)]
pub(crate) struct Reach {
    /// The coordinator's URL.
    pub(crate) server: String,
    /// The file with the administrator's token.
    pub(crate) token_file: String,
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn owned(args: &[&str]) -> Vec<String> {
    args.iter().map(|arg| (*arg).to_owned()).collect()
}

impl Fleet {
    /// Starts the coordinator, the regions, the worker and the hosts.
    pub(crate) fn start(folder: &Path) -> io::Result<Self> {
        let processes = Processes::new(folder)?;
        let mut fleet = Self { folder: folder.to_owned(), server: String::new(), processes };
        std::fs::write(folder.join("coordinator.toml"), fleet.config())?;
        let config = text(&folder.join("coordinator.toml"));
        fleet.server =
            fleet.processes.start("coordinator", &owned(&["coordinator", "--config", &config]))?;
        fleet.start_worker()?;
        for region in REGIONS {
            let url = fleet.start_region(region)?;
            for n in 1..=HOSTS_PER_REGION {
                fleet.start_agent(&url, region, n)?;
            }
        }
        Ok(fleet)
    }

    /// How to reach the coordinator as its administrator.
    pub(crate) fn reach(&self) -> Reach {
        Reach { server: self.server.clone(), token_file: self.token("admin") }
    }

    /// The file that holds the token of `name`.
    pub(crate) fn token(&self, name: &str) -> String {
        text(&self.folder.join("coordinator/tokens").join(format!("{name}.token")))
    }

    fn blobs(&self, region: &str) -> String {
        format!("file://{}", text(&self.folder.join("regions").join(region).join("blobs")))
    }

    fn main_blobs(&self) -> String {
        format!("file://{}", text(&self.folder.join("coordinator/blobs")))
    }

    /// Short intervals: the demo is to be watched, not waited for.
    fn config(&self) -> String {
        let regions: String = REGIONS
            .iter()
            .map(|region| format!("[regions.{region}]\nblobs = {:?}\n", self.blobs(region)))
            .collect();
        format!(
            "listen = \"127.0.0.1:0\"\ndata = {:?}\n\n[queue]\nbeat_ms = 1000\nmonitor_ms = 500\n\n\
             [synchronizer]\nevery_ms = 5000\n\n{regions}",
            text(&self.folder.join("coordinator"))
        )
    }

    fn start_worker(&mut self) -> io::Result<()> {
        let key = text(&self.folder.join("coordinator/keys/build.ed25519"));
        let (token, blobs) = (self.token("worker"), self.main_blobs());
        let work = text(&self.folder.join("worker"));
        let args = [
            "worker",
            "--coordinator",
            &self.server,
            "--token-file",
            &token,
            "--blobs",
            &blobs,
            "--key",
            &key,
            "--work",
            &work,
        ];
        self.processes.start("worker", &owned(&args)).map(drop)
    }

    fn start_region(&mut self, region: &str) -> io::Result<String> {
        let token = self.token(&format!("region-{region}"));
        let data = text(&self.folder.join("regions").join(region).join("data"));
        let (main, own) = (self.main_blobs(), self.blobs(region));
        let args = [
            "region",
            "--name",
            region,
            "--coordinator",
            &self.server,
            "--token-file",
            &token,
            "--main-blobs",
            &main,
            "--blobs",
            &own,
            "--data",
            &data,
            "--listen",
            "127.0.0.1:0",
            "--report-ms",
            "1000",
        ];
        self.processes.start(&format!("region-{region}"), &owned(&args))
    }

    fn start_agent(&mut self, url: &str, region: &str, n: usize) -> io::Result<()> {
        let host = format!("{region}-{n}");
        let token = self.token(&format!("agent-{region}"));
        let root = text(&self.folder.join("hosts").join(&host));
        let (port, rack) =
            (format!("PORT={}", free_port()?), format!("{region}-rack-{}", n.div_ceil(2)));
        let args = [
            "agent",
            "--region",
            url,
            "--token-file",
            &token,
            "--host",
            &host,
            "--env",
            "prod",
            "--root",
            &root,
            "--rack",
            &rack,
            "--zone",
            region,
            "--var",
            &port,
        ];
        self.processes.start(&format!("agent-{host}"), &owned(&args)).map(drop)
    }
}

/// A port that was free a moment ago; the app that is to have it is started later.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
