//! The daemons' configuration: one TOML file for every role, flags over it.
//!
//! Embedded defaults need neither. An unknown key is refused, with the nearest
//! known one as a hint: a misspelt limit must not silently be the default.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;

pub use crate::config::collector::Collector;
use crate::config::gates::{self, Gate};
use crate::model::id::RegionName;

/// Where a coordinator listens unless told otherwise.
pub const LISTEN: &str = "127.0.0.1:7878";
/// Most regions of one installation.
pub const REGIONS_MAX: usize = 64;
/// Most names of the page.
pub const NAMES_MAX: usize = 32;
/// Largest configuration file, bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A configuration that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfig {
    /// The file can't be read.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML of the known shape.
    #[error("{path}: {why}")]
    Shape {
        /// The file.
        path: PathBuf,
        /// What and where.
        why: String,
    },
    /// A key that means nothing.
    #[error("{path}: unknown key {key:?}; did you mean {nearest:?}?")]
    UnknownKey {
        /// The file.
        path: PathBuf,
        /// The key, with its table.
        key: String,
        /// The nearest known one in that table.
        nearest: &'static str,
    },
    /// A value out of its range.
    #[error("{key} = {value} is out of range: {rule}")]
    Range {
        /// The key, with its table.
        key: &'static str,
        /// What was given.
        value: String,
        /// What is allowed.
        rule: &'static str,
    },
    /// A certificate without a key, or the reverse.
    #[error("tls_cert and tls_key belong together: give both or none")]
    HalfTls,
    /// No home folder, and no `--data`.
    #[error("no data folder: give --data DIR, or set HOME")]
    NoData,
}

/// What flags say; `None` leaves it to the file, then to the default.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--config FILE`.
    pub config: Option<PathBuf>,
    /// `--data DIR`.
    pub data: Option<PathBuf>,
    /// `--database URL`.
    pub database: Option<String>,
    /// `--listen ADDRESS`.
    pub listen: Option<SocketAddr>,
    /// `--metrics ADDRESS`.
    pub metrics: Option<SocketAddr>,
    /// `--tls-cert FILE`.
    pub tls_cert: Option<PathBuf>,
    /// `--tls-key FILE`.
    pub tls_key: Option<PathBuf>,
    /// `--plaintext`.
    pub plaintext: bool,
}

/// What `deployctl-coordinator --help` prints.
pub const HELP: &str = "\
Run a coordinator: the API, the build queue and the rollouts.

usage: deployctl-coordinator [--config FILE] [--data DIR] [--database URL]
           [--listen ADDRESS:PORT] [--metrics ADDRESS:PORT]
           [--tls-cert FILE --tls-key FILE | --plaintext]

With --database postgres://USER@HOST/DATABASE any number of coordinators work on one
PostgreSQL database (13 or newer); the password may be in PGPASSWORD.

Without flags it keeps its data in ~/.local/share/deployctl, listens on
127.0.0.1:7878, and writes its first tokens under <data>/tokens.
";

impl Flags {
    /// Reads the process's arguments; `None`: help was asked for.
    ///
    /// # Errors
    /// When a flag is not known, or its value is missing or malformed.
    pub fn from_env() -> Result<Option<Self>, lexopt::Error> {
        Self::parse(lexopt::Parser::from_env())
    }

    fn parse(mut parser: lexopt::Parser) -> Result<Option<Self>, lexopt::Error> {
        use lexopt::prelude::{Long, Short, ValueExt};
        let mut flags = Self::default();
        while let Some(argument) = parser.next()? {
            match argument {
                Long("config") => flags.config = Some(parser.value()?.into()),
                Long("data") => flags.data = Some(parser.value()?.into()),
                Long("database") => flags.database = Some(parser.value()?.parse()?),
                Long("listen") => flags.listen = Some(parser.value()?.parse()?),
                Long("metrics") => flags.metrics = Some(parser.value()?.parse()?),
                Long("tls-cert") => flags.tls_cert = Some(parser.value()?.into()),
                Long("tls-key") => flags.tls_key = Some(parser.value()?.into()),
                Long("plaintext") => flags.plaintext = true,
                Long("help") | Short('h') => return Ok(None),
                other => return Err(other.unexpected()),
            }
        }
        Ok(Some(flags))
    }
}

/// The whole configuration, complete and checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where `/metrics` is served, without a token; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// What the listener speaks; plain HTTP leaves the machine only when asked to.
    pub tls: Tls,
    /// Names under which browsers may reach the page, beside plain addresses and localhost.
    pub names: Vec<String>,
    /// The data folder, absolute.
    pub data: PathBuf,
    /// URL of the database; `None`: SQLite in the data folder. It may hold a password.
    pub database: Option<String>,
    /// URL of the main blob store.
    pub blobs: String,
    /// URL of the etcd that goals are put into as well, `etcd://…`; `None`: none.
    pub goals: Option<String>,
    /// Regions by name, 1 to [`REGIONS_MAX`].
    pub regions: BTreeMap<RegionName, Region>,
    /// The build queue.
    pub queue: Queue,
    /// The synchronizer.
    pub synchronizer: Synchronizer,
    /// The collector of what nobody needs any more.
    pub collector: Collector,
    /// Webhooks.
    pub webhooks: Webhooks,
    /// Programs that judge bakes, at most [`crate::config::gates::GATES_MAX`].
    pub gates: Vec<Gate>,
}

/// The listener's certificate and key, both or none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificate chain, PEM.
    pub cert: Option<PathBuf>,
    /// Private key, PEM.
    pub key: Option<PathBuf>,
    /// Serve plain HTTP on any address.
    pub plaintext: bool,
}

/// `[regions.NAME]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Region {
    /// URL of the region's blob store, as the coordinator reaches it.
    pub blobs: String,
    /// URL at which other regions reach this region's listener; without one nobody
    /// pulls from it.
    #[serde(default)]
    pub url: Option<String>,
    /// Who brings artifacts into the region's store.
    #[serde(default)]
    pub replicated_by: ReplicatedBy,
}

/// Who brings artifacts into a region's store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ReplicatedBy {
    /// The region's own process.
    #[default]
    Region,
    /// The stores themselves, such as S3's replication between buckets.
    Store,
}

/// `[queue]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    /// How often a worker beats, milliseconds, 10 to 600,000.
    pub beat_ms: u64,
    /// Beats that may be missed before a job is requeued, 1 to 20.
    pub missed_beats: u32,
    /// How often lapsed leases are looked for, milliseconds, 5 to 60,000.
    pub monitor_ms: u64,
    /// Attempts before a lost job is given up, 1 to 20.
    pub max_attempts: u32,
}

impl Default for Queue {
    fn default() -> Self {
        // The mission's numbers [backends 1.4].
        Self { beat_ms: 10_000, missed_beats: 2, monitor_ms: 5_000, max_attempts: 3 }
    }
}

/// `[webhooks]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Webhooks {
    /// Send to addresses that are not public, and over plain HTTP.
    pub allow_private: bool,
    /// A file with a token that may write deployments on GitHub; read at each use.
    pub github_token: Option<PathBuf>,
}

/// `[synchronizer]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Synchronizer {
    /// How often every region's store is looked at, milliseconds, 10 to 3,600,000.
    pub every_ms: u64,
}

impl Default for Synchronizer {
    fn default() -> Self {
        Self { every_ms: 60_000 }
    }
}

impl Synchronizer {
    /// [`Synchronizer::every_ms`] as a duration.
    #[must_use]
    pub fn every(&self) -> Duration {
        Duration::from_millis(self.every_ms)
    }
}

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    listen: Option<SocketAddr>,
    metrics: Option<SocketAddr>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    plaintext: bool,
    names: Vec<String>,
    data: Option<PathBuf>,
    database: Option<String>,
    blobs: Option<String>,
    goals: Option<String>,
    regions: BTreeMap<RegionName, Region>,
    queue: Queue,
    synchronizer: Synchronizer,
    collector: Collector,
    webhooks: Webhooks,
    gates: Vec<Gate>,
}

/// Known keys by table, for hints; `regions.*` is every region's table.
const KEYS: &[(&str, &[&str])] = &[
    (
        "",
        &[
            "listen",
            "metrics",
            "tls_cert",
            "tls_key",
            "plaintext",
            "names",
            "data",
            "database",
            "blobs",
            "goals",
            "regions",
            "queue",
            "synchronizer",
            "collector",
            "webhooks",
            "gates",
        ],
    ),
    ("regions.*", &["blobs", "url", "replicated_by"]),
    ("queue", &["beat_ms", "missed_beats", "monitor_ms", "max_attempts"]),
    ("synchronizer", &["every_ms"]),
    (
        "collector",
        &[
            "enabled",
            "keep_days",
            "keep_good",
            "delay_minutes",
            "every_ms",
            "keep_log_days",
            "keep_event_days",
        ],
    ),
    ("webhooks", &["allow_private", "github_token"]),
    ("gates", Gate::KEYS),
];

/// Reads the file that `flags` name, if any, and lays flags over it.
///
/// # Errors
/// See [`InvalidConfig`].
pub fn load(flags: &Flags) -> Result<Config, InvalidConfig> {
    let file = match &flags.config {
        Some(path) => parse(path, &read(path)?)?,
        None => File::default(),
    };
    complete(flags, file)
}

fn read(path: &Path) -> Result<String, InvalidConfig> {
    let io = |source| InvalidConfig::Io { path: path.to_owned(), source };
    if std::fs::metadata(path).map_err(io)?.len() > FILE_BYTES_MAX {
        return Err(io(std::io::Error::other("larger than 1 MiB")));
    }
    std::fs::read_to_string(path).map_err(io)
}

fn parse(path: &Path, text: &str) -> Result<File, InvalidConfig> {
    let shape = |why: toml::de::Error| InvalidConfig::Shape {
        path: path.to_owned(),
        why: why.to_string().trim_end().to_owned(),
    };
    let table: toml::Table = toml::from_str(text).map_err(shape)?;
    check_keys(path, "", &table)?;
    toml::from_str(text).map_err(shape)
}

fn check_keys(path: &Path, at: &str, table: &toml::Table) -> Result<(), InvalidConfig> {
    let known = KEYS.iter().find(|(name, _)| *name == at).map(|(_, keys)| *keys);
    for (key, value) in table {
        let inner = match at {
            "" => key.clone(),
            "regions" => "regions.*".to_owned(),
            _ => format!("{at}.{key}"),
        };
        if let Some(known) = known.filter(|known| !known.contains(&key.as_str())) {
            let nearest = known.iter().min_by_key(|name| distance(name, key));
            let key = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
            let nearest = nearest.copied().unwrap_or_default();
            return Err(InvalidConfig::UnknownKey { path: path.to_owned(), key, nearest });
        }
        let tables = match value {
            toml::Value::Table(table) => vec![table],
            toml::Value::Array(items) => items.iter().filter_map(toml::Value::as_table).collect(),
            _ => vec![],
        };
        for table in tables {
            check_keys(path, &inner, table)?;
        }
    }
    Ok(())
}

/// Levenshtein's edit distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (corner + usize::from(x != *y)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = std::mem::replace(&mut row[j + 1], next);
        }
    }
    row[b.len()]
}

fn complete(flags: &Flags, file: File) -> Result<Config, InvalidConfig> {
    let data = flags.data.clone().or(file.data).or_else(default_data);
    let data = data.ok_or(InvalidConfig::NoData)?;
    let data = std::path::absolute(&data)
        .map_err(|source| InvalidConfig::Io { path: data.clone(), source })?;
    let listen = flags.listen.or(file.listen);
    let url = |folder: &str| format!("file://{}", data.join(folder).display());
    let mut regions = file.regions;
    if regions.is_empty() {
        let local: RegionName = "local".parse().expect("local is a label");
        regions.insert(
            local,
            Region { blobs: url("regions/local"), url: None, replicated_by: ReplicatedBy::Region },
        );
    }
    let config = Config {
        listen: listen.unwrap_or_else(|| LISTEN.parse().expect("the default is an address")),
        metrics: flags.metrics.or(file.metrics),
        tls: Tls {
            cert: flags.tls_cert.clone().or(file.tls_cert),
            key: flags.tls_key.clone().or(file.tls_key),
            plaintext: flags.plaintext || file.plaintext,
        },
        names: file.names.iter().map(|name| name.to_ascii_lowercase()).collect(),
        database: flags.database.clone().or(file.database),
        blobs: file.blobs.unwrap_or_else(|| url("blobs")),
        data,
        goals: file.goals,
        regions,
        queue: file.queue,
        synchronizer: file.synchronizer,
        collector: file.collector,
        webhooks: file.webhooks,
        gates: file.gates,
    };
    if config.tls.cert.is_some() != config.tls.key.is_some() {
        return Err(InvalidConfig::HalfTls);
    }
    check(&config)?;
    Ok(config)
}

/// Where a coordinator keeps its data unless told otherwise; `None`: `HOME` is not set.
#[must_use]
pub fn default_data() -> Option<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|p| p.is_absolute());
    folder("XDG_DATA_HOME")
        .or_else(|| folder("HOME").map(|home| home.join(".local/share")))
        .map(|share| share.join("deployctl"))
}

fn check(config: &Config) -> Result<(), InvalidConfig> {
    let (queue, collector) = (&config.queue, &config.collector);
    let ranges = [
        ("queue.beat_ms", queue.beat_ms, 10, 600_000, "10 to 600000 milliseconds"),
        ("queue.missed_beats", queue.missed_beats.into(), 1, 20, "1 to 20"),
        ("queue.monitor_ms", queue.monitor_ms, 5, 60_000, "5 to 60000 milliseconds"),
        ("queue.max_attempts", queue.max_attempts.into(), 1, 20, "1 to 20"),
        (
            "synchronizer.every_ms",
            config.synchronizer.every_ms,
            10,
            3_600_000,
            "10 to 3600000 milliseconds",
        ),
        ("collector.keep_days", collector.keep_days.into(), 1, 3650, "1 to 3650 days"),
        ("collector.keep_good", collector.keep_good.into(), 3, 1000, "3 to 1000 artifacts"),
        (
            "collector.delay_minutes",
            collector.delay_minutes.into(),
            0,
            10_080,
            "0 to 10080 minutes",
        ),
        ("collector.every_ms", collector.every_ms, 10, 86_400_000, "10 to 86400000 milliseconds"),
        ("collector.keep_log_days", collector.keep_log_days.into(), 1, 3650, "1 to 3650 days"),
        (
            "collector.keep_event_days",
            collector.keep_event_days.into(),
            7,
            36_500,
            "7 to 36500 days",
        ),
        ("regions", config.regions.len() as u64, 1, REGIONS_MAX as u64, "1 to 64 regions"),
        ("names", config.names.len() as u64, 0, NAMES_MAX as u64, "at most 32 names"),
    ];
    gates::check(&config.gates)?;
    for url in config.regions.values().filter_map(|region| region.url.as_ref()) {
        if !["http://", "https://"].iter().any(|scheme| url.starts_with(scheme)) {
            let (key, rule) = ("regions.*.url", "an http:// or https:// URL");
            return Err(InvalidConfig::Range { key, value: url.clone(), rule });
        }
    }
    for (key, value, low, high, rule) in ranges {
        if !(low..=high).contains(&value) {
            return Err(InvalidConfig::Range { key, value: value.to_string(), rule });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_file(text: &str) -> Result<Config, InvalidConfig> {
        let flags = Flags { data: Some("/d".into()), ..Flags::default() };
        complete(&flags, parse(Path::new("c.toml"), text)?)
    }

    #[test]
    fn without_a_file_everything_has_a_default() {
        let config = check_file("").unwrap();
        assert_eq!(config.listen.to_string(), "127.0.0.1:7878");
        assert_eq!(config.blobs, "file:///d/blobs");
        let regions: Vec<_> = config.regions.iter().map(|(n, r)| (n.as_str(), &*r.blobs)).collect();
        assert_eq!(regions, [("local", "file:///d/regions/local")]);
        assert_eq!(config.queue, Queue::default());
    }

    #[test]
    fn the_file_is_read_and_flags_win() {
        let text =
            "listen = '127.0.0.1:1'\n[queue]\nbeat_ms = 50\n[regions.eu]\nblobs = 'file:///eu'\n";
        let config = check_file(text).unwrap();
        assert_eq!((config.listen.port(), config.queue.beat_ms), (1, 50));
        assert_eq!(config.regions.len(), 1);
        let flags = Flags {
            listen: Some("127.0.0.1:2".parse().unwrap()),
            data: Some("/d".into()),
            ..Flags::default()
        };
        let file = parse(Path::new("c"), text).unwrap();
        assert_eq!(complete(&flags, file).unwrap().listen.port(), 2);
    }

    #[test]
    fn a_store_may_replicate_itself() {
        let text = "[regions.eu]\nblobs = 's3://b'\nreplicated_by = 'store'\n[regions.us]\nblobs = 's3://c'\n";
        let config = check_file(text).unwrap();
        let by: Vec<_> = config.regions.values().map(|region| region.replicated_by).collect();
        assert_eq!(by, [ReplicatedBy::Store, ReplicatedBy::Region]);
        assert!(check_file(&text.replace("'store'", "'me'")).is_err());
    }

    #[test]
    fn an_unknown_key_is_refused_with_the_nearest_known_one() {
        for (text, key, hint) in [
            ("lisen = 'x'", "lisen", "listen"),
            ("[queue]\nbeats_ms = 1", "queue.beats_ms", "beat_ms"),
            ("[regions.eu]\nblob = 'x'", "regions.*.blob", "blobs"),
            ("[[gates]]\nname = 'x'\ncomand = []", "gates.comand", "command"),
        ] {
            let error = check_file(text).unwrap_err();
            let InvalidConfig::UnknownKey { key: k, nearest, .. } = &error else {
                panic!("{error}")
            };
            assert_eq!((k.as_str(), *nearest), (key, hint), "{error}");
        }
    }

    #[test]
    fn values_out_of_range_or_of_another_type_are_refused() {
        for text in [
            "[queue]\nbeat_ms = 1",
            "[queue]\nmax_attempts = 0",
            "[queue]\nbeat_ms = 'x'",
            "listen = 'nowhere'",
            "[regions.'../x']\nblobs = 'x'",
            "queue = 1",
        ] {
            assert!(check_file(text).is_err(), "{text}");
        }
    }
}
