//! The agent's command line: parsed by hand, as the agent stays small.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use lexopt::prelude::{Long, Short, Value, ValueExt};

use crate::agent::fetch::Caps;
use crate::model::id::{AppName, EnvName, HostId};
use crate::model::selector::{Labels, parse_label};

/// `--help`.
pub const HELP: &str = "\
Follow the goals of a region on this host: fetch, activate, probe, report

Usage:
  deployctl-agent --region URL[,URL] --token-file FILE --host ID --env ENV --root DIR [options]
  deployctl-agent status --root DIR [-o json]
  deployctl-agent rollback APP --root DIR

Options:
      --region URL[,URL]   Addresses of the region
      --token-file FILE    File with the agent's token
      --host ID            This host's id
      --env ENV            The env that it serves
      --root DIR           Folder for apps and state
      --label KEY=VALUE    A label of this host; may be given again
      --var NAME=VALUE     A variable for apps and probes; may be given again
      --rack NAME          This host's rack
      --zone NAME          This host's zone
      --listen ADDR        Where to serve pieces to other hosts [default: 0.0.0.0:0]
      --metrics ADDR       Where to serve /metrics, without a token; nowhere unless given
      --upload-rate N      Most bytes per second sent to other hosts, such as 50M
      --download-rate N    Most bytes per second fetched
      --disk-quota N       Most bytes of disk for releases and fetches, such as 40G
      --trust FILE         Trusted keys; without it the region's, pinned at first start
  -o, --output json        (status) one JSON document
  -h, --help               Print help
  -V, --version            Print version

Commands:
  status    Print what runs on this host
  rollback  Go back to the previous release on this host, also without any network;
            goals up to the present one then count for nothing until a newer one comes

Apps run apart from the agent: stopping, upgrading or killing it does not touch them.
Under systemd, set KillMode=process in its unit.
";

/// Most labels of one host [wire: `HostInfo::labels`].
const LABELS_MAX: usize = 32;
/// Most variables of one host.
const VARS_MAX: usize = 256;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Follow goals.
    Run(Box<Options>),
    /// Print what runs.
    Status {
        /// The agent's root.
        root: PathBuf,
        /// As JSON.
        json: bool,
    },
    /// Go back on this host.
    Rollback {
        /// The agent's root.
        root: PathBuf,
        /// Which app.
        app: AppName,
    },
    /// Be an app's supervisor (started by the agent itself).
    Supervise(PathBuf),
    /// Print help.
    Help,
    /// Print the version.
    Version,
}

/// How to follow goals.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The region's addresses.
    pub region: String,
    /// The file with the token.
    pub token_file: PathBuf,
    /// The host.
    pub host: HostId,
    /// Its env.
    pub env: EnvName,
    /// The root folder.
    pub root: PathBuf,
    /// Labels.
    pub labels: Labels,
    /// Variables for apps and probes.
    pub vars: BTreeMap<String, String>,
    /// Rack; empty: not known.
    pub rack: String,
    /// Zone; empty: not known.
    pub zone: String,
    /// Where pieces are served.
    pub listen: SocketAddr,
    /// Where `/metrics` is served; `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// Caps and quota.
    pub caps: Caps,
    /// Trusted keys.
    pub trust: Option<PathBuf>,
}

/// One clear line on what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}; see deployctl-agent --help")]
pub struct UsageError(String);

impl From<lexopt::Error> for UsageError {
    fn from(error: lexopt::Error) -> Self {
        Self(error.to_string())
    }
}

#[derive(Default)]
struct Seen {
    words: Vec<String>,
    text: BTreeMap<&'static str, String>,
    labels: Labels,
    vars: BTreeMap<String, String>,
}

/// Reads a command line, the program's own name left out.
///
/// # Errors
/// The first thing that is wrong.
pub fn parse(args: impl IntoIterator<Item = std::ffi::OsString>) -> Result<Command, UsageError> {
    let mut parser = lexopt::Parser::from_args(args);
    let mut seen = Seen::default();
    while let Some(arg) = parser.next()? {
        let name = match arg {
            Short('h') | Long("help") => return Ok(Command::Help),
            Short('V') | Long("version") => return Ok(Command::Version),
            Value(word) => {
                seen.words.push(word.string()?);
                continue;
            }
            Long("label") => {
                let (key, value) = labelled(&parser.value()?.string()?)?;
                seen.labels.insert(key, value);
                continue;
            }
            Long("var") => {
                let (name, value) = variable(&parser.value()?.string()?)?;
                seen.vars.insert(name, value);
                continue;
            }
            Short('o') | Long("output") => "output",
            Long("region") => "region",
            Long("token-file") => "token-file",
            Long("host") => "host",
            Long("env") => "env",
            Long("root") => "root",
            Long("rack") => "rack",
            Long("zone") => "zone",
            Long("listen") => "listen",
            Long("metrics") => "metrics",
            Long("trust") => "trust",
            Long("upload-rate") => "upload-rate",
            Long("download-rate") => "download-rate",
            Long("disk-quota") => "disk-quota",
            other => return Err(other.unexpected().into()),
        };
        seen.text.insert(name, parser.value()?.string()?);
    }
    seen.command()
}

impl Seen {
    fn command(mut self) -> Result<Command, UsageError> {
        let words = std::mem::take(&mut self.words);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        match words.as_slice() {
            [] => self.options().map(|options| Command::Run(Box::new(options))),
            ["status"] => {
                let json = match self.text.get("output").map(String::as_str) {
                    None => false,
                    Some("json") => true,
                    Some(other) => return Err(UsageError(format!("unknown output {other:?}"))),
                };
                Ok(Command::Status { root: self.path("root")?, json })
            }
            ["rollback", app] => Ok(Command::Rollback { root: self.path("root")?, app: id(app)? }),
            ["rollback"] => Err(UsageError("rollback needs an APP".into())),
            ["supervise", folder] => Ok(Command::Supervise(PathBuf::from(folder))),
            [other, ..] => Err(UsageError(format!("unknown command {other:?}"))),
        }
    }

    fn options(mut self) -> Result<Options, UsageError> {
        if self.labels.len() > LABELS_MAX || self.vars.len() > VARS_MAX {
            let why = format!("at most {LABELS_MAX} labels and {VARS_MAX} variables");
            return Err(UsageError(why));
        }
        let listen = self.text.remove("listen").unwrap_or_else(|| "0.0.0.0:0".into());
        let listen = listen
            .parse()
            .map_err(|_| UsageError(format!("--listen {listen:?} is not an address:port")))?;
        let metrics = self.text.remove("metrics").map(|text| {
            let wrong = || UsageError(format!("--metrics {text:?} is not an address:port"));
            text.parse().map_err(|_| wrong())
        });
        let caps = Caps {
            upload: self.quantity("upload-rate")?,
            download: self.quantity("download-rate")?,
            quota: self.quantity("disk-quota")?,
        };
        Ok(Options {
            caps,
            metrics: metrics.transpose()?,
            region: self.need("region")?,
            token_file: self.path("token-file")?,
            host: id(&self.need("host")?)?,
            env: id(&self.need("env")?)?,
            root: self.path("root")?,
            rack: self.text.remove("rack").unwrap_or_default(),
            zone: self.text.remove("zone").unwrap_or_default(),
            trust: self.text.remove("trust").map(PathBuf::from),
            labels: self.labels,
            vars: self.vars,
            listen,
        })
    }

    fn need(&mut self, name: &'static str) -> Result<String, UsageError> {
        self.text.remove(name).ok_or_else(|| UsageError(format!("--{name} is missing")))
    }

    /// Bytes: digits, and K, M, G or T for thousands of them.
    fn quantity(&mut self, name: &'static str) -> Result<Option<u64>, UsageError> {
        let Some(text) = self.text.remove(name) else { return Ok(None) };
        let (digits, scale) = match text.char_indices().last() {
            Some((at, 'K')) => (&text[..at], 1_000),
            Some((at, 'M')) => (&text[..at], 1_000_000),
            Some((at, 'G')) => (&text[..at], 1_000_000_000),
            Some((at, 'T')) => (&text[..at], 1_000_000_000_000),
            _ => (text.as_str(), 1),
        };
        let plain = digits.bytes().all(|b| b.is_ascii_digit());
        let number = plain.then(|| digits.parse::<u64>().ok()?.checked_mul(scale)).flatten();
        let wrong =
            || UsageError(format!("--{name} {text:?} is not a number of bytes, such as 50M"));
        number.filter(|number| *number > 0).map(Some).ok_or_else(wrong)
    }

    fn path(&mut self, name: &'static str) -> Result<PathBuf, UsageError> {
        let path = PathBuf::from(self.need(name)?);
        std::path::absolute(&path).map_err(|e| UsageError(format!("--{name}: {e}")))
    }
}

fn id<T: std::str::FromStr<Err = crate::model::id::InvalidId>>(
    text: &str,
) -> Result<T, UsageError> {
    text.parse().map_err(|e: crate::model::id::InvalidId| UsageError(e.to_string()))
}

fn labelled(text: &str) -> Result<(String, String), UsageError> {
    parse_label(text).map_err(|e| UsageError(format!("--label: {e}")))
}

fn variable(text: &str) -> Result<(String, String), UsageError> {
    let sound = |name: &str| {
        (1..=128).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !name.as_bytes()[0].is_ascii_digit()
    };
    match text.split_once('=') {
        Some((name, value)) if sound(name) && value.len() <= 4096 && !value.contains('\0') => {
            Ok((name.into(), value.into()))
        }
        _ => Err(UsageError(format!("--var {text:?} is not NAME=VALUE"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str) -> Result<Command, UsageError> {
        parse(line.split_whitespace().map(Into::into))
    }

    #[test]
    fn a_whole_command_line_is_read() {
        let line = "--region http://a:1,http://b:2 --token-file t --host h1 --env prod --root /r \
            --label role=web --label tier=1 --var PORT=18001 --rack=r7 --listen 127.0.0.1:0 \
            --upload-rate 50M --disk-quota 7";
        let Ok(Command::Run(options)) = check(line) else { panic!("{:?}", check(line)) };
        assert_eq!(options.region, "http://a:1,http://b:2");
        assert_eq!((options.labels.len(), options.vars["PORT"].as_str()), (2, "18001"));
        assert_eq!((options.rack.as_str(), options.trust), ("r7", None));
        assert!(options.token_file.is_absolute());
        let caps = Caps { upload: Some(50_000_000), download: None, quota: Some(7) };
        assert_eq!(options.caps, caps);
        for wrong in ["0", "-1", "M", "1.5G", "99999999999T"] {
            assert!(
                check(&format!(
                    "--upload-rate={wrong} --region r --token-file t --host h --env e --root /r"
                ))
                .is_err()
            );
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        let rows = [
            ("", "--region is missing; see deployctl-agent --help"),
            ("--nope", "invalid option '--nope'; see deployctl-agent --help"),
            ("fly", "unknown command \"fly\"; see deployctl-agent --help"),
            ("rollback --root /r", "rollback needs an APP; see deployctl-agent --help"),
            ("--var 1=2", "--var \"1=2\" is not NAME=VALUE; see deployctl-agent --help"),
        ];
        for (line, expected) in rows {
            assert_eq!(check(line).unwrap_err().to_string(), expected);
        }
        assert_eq!(check("status --root /r --help"), Ok(Command::Help));
        assert_eq!(check("-V"), Ok(Command::Version));
        assert!(check("rollback A --root /r").is_err());
    }
}
