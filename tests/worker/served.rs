//! Repositories behind each kind of server that people have.

use std::process::{Child, Command, Stdio};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use deployctl::model::job::Outcome;

use crate::farm::{Farm, eventually, read};
use crate::ports::free_port;

struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A merged commit builds, a commit on a side branch and one that is nowhere do not.
async fn check(farm: &Farm, url: &str) {
    let old = farm.commit("echo old > out", "artifact = 'out'");
    let new = farm.commit("echo new > out", "artifact = 'out'");
    farm.sh("cd clone && git checkout -q -b side && git commit -q --allow-empty -m side &&
         git push -q ../origin.git side && git commit -q --allow-empty -m unpushed &&
         git -C ../origin.git update-server-info");
    let (side, unpushed) = (farm.sh("git -C clone rev-parse HEAD~"), farm.head());
    for commit in [new, old] {
        let (outcome, job) = farm.ended(&farm.queue_from(url, &commit)).await;
        assert!(matches!(outcome, Outcome::Succeeded { .. }), "{outcome:?}\n{}", job.log);
    }
    for (commit, says) in [(side, "is not on main"), (unpushed, "is not in ")] {
        let (outcome, _) = farm.ended(&farm.queue_from(url, &commit)).await;
        let Outcome::Failed { reason, .. } = outcome else { panic!("{outcome:?}") };
        assert!(reason.contains(says), "{reason}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn over_the_git_protocol() {
    let farm = Farm::new().await;
    let _worker = farm.worker("work", &[]);
    let port = free_port();
    let base = farm.folder.path().display().to_string();
    // Not `git daemon`: that starts the real one as a child, which a kill would miss.
    let programs = farm.sh("git --exec-path");
    let daemon = Command::new(format!("{programs}/git-daemon"))
        .args(["--export-all", "--reuseaddr", "--listen=127.0.0.1"])
        .args([format!("--port={port}"), format!("--base-path={base}"), base])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let _daemon = Killed(daemon.unwrap());
    eventually("the daemon listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())
        .await;
    check(&farm, &format!("git://127.0.0.1:{port}/origin.git")).await;
}

async fn serve(router: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_from_a_plain_file_server() {
    let farm = Farm::new().await;
    let _worker = farm.worker("work", &[]);
    let files = |State(folder): State<std::path::PathBuf>, request: Request| async move {
        let path = folder.join(request.uri().path().trim_start_matches('/'));
        std::fs::read(path).map_err(|_| StatusCode::NOT_FOUND)
    };
    let router = Router::new().fallback(files).with_state(farm.folder.path().to_owned());
    let url = serve(router).await;
    check(&farm, &format!("{url}/origin.git")).await;
}

/// `git http-backend` behind the least CGI that it takes.
async fn backend(folder: &std::path::Path, request: Request) -> Option<Response> {
    let (parts, body) = request.into_parts();
    let body: Bytes = axum::body::to_bytes(body, 1 << 26).await.ok()?;
    let header = |name: &str| {
        parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("").to_owned()
    };
    let input = tempfile::NamedTempFile::new().ok()?;
    std::fs::write(input.path(), &body).ok()?;
    let output = Command::new("git")
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", folder)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_PROTOCOL", header("git-protocol"))
        .env("PATH_INFO", parts.uri.path())
        .env("QUERY_STRING", parts.uri.query().unwrap_or(""))
        .env("REQUEST_METHOD", parts.method.as_str())
        .env("CONTENT_TYPE", header("content-type"))
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("CONTENT_LENGTH", body.len().to_string())
        .stdin(input.reopen().ok()?)
        .output()
        .ok()?;
    let split = output.stdout.windows(4).position(|part| part == b"\r\n\r\n")?;
    let mut reply = Response::new(output.stdout[split + 4..].to_vec().into());
    for line in std::str::from_utf8(&output.stdout[..split]).ok()?.lines() {
        let (name, value) = line.split_once(": ")?;
        if name == "Status" {
            *reply.status_mut() = value[..3].parse().ok()?;
        } else {
            let name: axum::http::HeaderName = name.parse().ok()?;
            reply.headers_mut().insert(name, value.parse().ok()?);
        }
    }
    Some(reply)
}

#[tokio::test(flavor = "multi_thread")]
async fn over_http_from_gits_own_server() {
    let farm = Farm::new().await;
    let _worker = farm.worker("work", &[]);
    let smart = |State(folder): State<std::path::PathBuf>, request: Request| async move {
        backend(&folder, request).await.unwrap_or(StatusCode::BAD_GATEWAY.into_response())
    };
    let router = Router::new().fallback(smart).with_state(farm.folder.path().to_owned());
    let url = serve(router).await;
    check(&farm, &format!("{url}/origin.git")).await;
    assert!(read(&farm.path("worker.log")).contains("published"));
}
