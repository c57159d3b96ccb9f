//! One look at whether an app works: HTTP, TCP or a command, each within 5 s.
//!
//! Plain HTTP only, hand-written on a socket: a probe needs one status line, not a
//! client. When a probe counts is the caller's business.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::host::service::{CommandSpec, run_to_end};
use crate::model::recipe::Probe;

/// How long one look may take [recipe: `Probe`].
const LIMIT: Duration = Duration::from_secs(5);
/// Longest status line, bytes.
const STATUS_LINE_BYTES_MAX: usize = 256;

/// Why a look was not good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProbeError {
    /// The app does not answer as it should.
    #[error("{0}")]
    App(String),
    /// The probe can't be asked on this host: a variable is missing.
    #[error(
        "the probe names ${{{0}}}, which this host does not set; start its agent with --var {0}=VALUE"
    )]
    Variable(String),
}

/// Looks once. `env` is the app's whole environment, `folder` its release's.
///
/// # Errors
/// [`ProbeError`] with one line for a person.
pub async fn look(
    probe: &Probe,
    folder: &Path,
    env: &BTreeMap<String, String>,
) -> Result<(), ProbeError> {
    match probe {
        Probe::Exec(script) => exec(script, folder, env).await,
        Probe::Tcp(address) => {
            let address = expand(address, env)?;
            within(&address, connect(&address)).await.map(drop)
        }
        Probe::Http(url) => {
            let url = expand(url, env)?;
            within(&url, get(&url)).await
        }
    }
}

/// `text` with each `${NAME}` replaced.
///
/// # Errors
/// [`ProbeError::Variable`] for a name that is not in `env`.
fn expand(text: &str, env: &BTreeMap<String, String>) -> Result<String, ProbeError> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, after)) = after.split_once('}') else { break };
        out.push_str(before);
        out.push_str(env.get(name).ok_or_else(|| ProbeError::Variable(name.to_owned()))?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

async fn within<T>(
    what: &str,
    work: impl Future<Output = Result<T, String>>,
) -> Result<T, ProbeError> {
    let timed = tokio::time::timeout(LIMIT, work).await;
    let result = timed.unwrap_or_else(|_| Err("no answer within 5 s".into()));
    result.map_err(|why| ProbeError::App(format!("{what}: {why}")))
}

async fn connect(address: &str) -> Result<TcpStream, String> {
    TcpStream::connect(address).await.map_err(|e| e.to_string())
}

async fn get(url: &str) -> Result<(), String> {
    let rest = url.strip_prefix("http://").ok_or("only http:// can be probed")?;
    let (authority, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let address = if has_port { authority.to_owned() } else { format!("{authority}:80") };
    if url.contains(char::is_whitespace) || url.contains(char::is_control) {
        return Err("a URL has no spaces".into());
    }
    let path = if path.is_empty() { "/" } else { path };
    let mut stream = connect(&address).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: deployctl-probe\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;
    let status = read_status(&mut stream).await?;
    if (200..400).contains(&status) { Ok(()) } else { Err(format!("status {status}")) }
}

async fn read_status(stream: &mut TcpStream) -> Result<u16, String> {
    let mut head = Vec::new();
    let mut buffer = [0; STATUS_LINE_BYTES_MAX];
    while !head.contains(&b'\n') && head.len() < STATUS_LINE_BYTES_MAX {
        match stream.read(&mut buffer).await.map_err(|e| e.to_string())? {
            0 => break,
            count => head.extend_from_slice(&buffer[..count]),
        }
    }
    let line = String::from_utf8_lossy(&head);
    let status = line.strip_prefix("HTTP/1.").and_then(|rest| rest.split_whitespace().nth(1));
    status.and_then(|status| status.parse().ok()).ok_or_else(|| "no HTTP answer".to_owned())
}

async fn exec(
    script: &str,
    folder: &Path,
    env: &BTreeMap<String, String>,
) -> Result<(), ProbeError> {
    let spec = CommandSpec { script, folder, env, limit: LIMIT, alone: true };
    let end = run_to_end(&spec, None).await.map_err(|e| ProbeError::App(e.to_string()))?;
    match end.wrong {
        None => Ok(()),
        Some(wrong) if end.last_line.is_empty() => Err(ProbeError::App(wrong)),
        Some(wrong) => Err(ProbeError::App(format!("{wrong}: {}", end.last_line))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    fn env(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn variables_are_replaced_and_missing_ones_named() {
        let env = env(&[("PORT", "80"), ("H", "a")]);
        assert_eq!(expand("http://${H}:${PORT}/x$y{", &env).unwrap(), "http://a:80/x$y{");
        assert_eq!(expand("${", &env).unwrap(), "${");
        assert_eq!(expand("${NO}", &env), Err(ProbeError::Variable("NO".into())));
    }

    #[tokio::test]
    async fn http_and_tcp_pass_by_their_answers() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        tokio::spawn(async move {
            for reply in ["HTTP/1.1 204 No\r\n\r\n", "HTTP/1.0 500 Oh\r\n\r\n", "hello\r\n"] {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 512];
                let _ = stream.read(&mut request).await.unwrap();
                stream.write_all(reply.as_bytes()).await.unwrap();
            }
            let _ = listener.accept().await.unwrap();
        });
        let (env, folder) = (env(&[("PORT", &port)]), std::env::temp_dir());
        let http = Probe::Http("http://127.0.0.1:${PORT}/health".into());
        assert_eq!(look(&http, &folder, &env).await, Ok(()));
        for expected in ["status 500", "no HTTP answer"] {
            let ProbeError::App(why) = look(&http, &folder, &env).await.unwrap_err() else {
                panic!("not the app's")
            };
            assert!(why.ends_with(expected), "{why}");
        }
        let tcp = Probe::Tcp("127.0.0.1:${PORT}".into());
        assert_eq!(look(&tcp, &folder, &env).await, Ok(()));
        assert!(look(&Probe::Tcp("127.0.0.1:1".into()), &folder, &env).await.is_err());
        assert!(look(&Probe::Http("https://a".into()), &folder, &env).await.is_err());
    }

    #[tokio::test]
    async fn a_command_passes_by_its_exit() {
        let folder = std::env::temp_dir();
        assert_eq!(look(&Probe::Exec("true".into()), &folder, &env(&[])).await, Ok(()));
        let failed = look(&Probe::Exec("echo no db; exit 2".into()), &folder, &env(&[])).await;
        assert_eq!(failed, Err(ProbeError::App("exit 2: no db".into())));
    }
}
