//! `deployctl api`: one request of the coordinator's API, with this user's token.

use std::io::Read as _;

use clap::Args;
use reqwest::Method;
use serde_json::Value;

use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::model::digest::to_hex;
use crate::net::auth::random_key;

/// Largest body that is read from a file or stdin, bytes: the coordinator's own limit
/// is below it.
const BODY_BYTES_MAX: u64 = 16 << 20;

/// Send one request to the coordinator's API and print the reply
///
/// GET /v1/openapi.json describes every path. The exit code is that of the problem that
/// the coordinator answers with: `deployctl help exit-codes`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl api /v1/status\n  \
    deployctl api POST /v1/apps/web/builds -d '{\"commit\": \"…\"}'\n  \
    deployctl api PUT /v1/apps/web -d @app.json")]
pub struct ApiArgs {
    /// GET, POST, PUT or DELETE [default: GET, and POST with -d], then the path
    #[arg(value_name = "METHOD|PATH")]
    first: String,
    /// The path, after a method
    #[arg(value_name = "PATH")]
    path: Option<String>,
    /// The body: JSON, @FILE, or - for stdin
    #[arg(short, long, value_name = "JSON")]
    data: Option<String>,
    /// The key under which a change is done once, however often it is sent
    #[arg(long, value_name = "KEY", hide_short_help = true)]
    idempotency_key: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// As the coordinator refuses the request.
pub async fn run(ctx: &Context, args: ApiArgs) -> Result<ExitCode, Failure> {
    let (method, path) = request_line(&args)?;
    let client = ctx.client()?;
    let mut request = client.request(method.clone(), &path);
    if let Some(data) = &args.data {
        let body = body(data)?;
        request = request.header("content-type", "application/json").body(body);
    }
    if method != Method::GET {
        let key = args.idempotency_key.unwrap_or_else(|| to_hex(&random_key()[..16]));
        request = request.header("idempotency-key", key);
    }
    let reply: Value = client.send(request, ctx.flags.request_timeout).await?;
    ctx.out.json(&reply);
    Ok(ExitCode::Ok)
}

fn request_line(args: &ApiArgs) -> Result<(Method, String), Failure> {
    let by_default = if args.data.is_some() { Method::POST } else { Method::GET };
    let (method, path) = match &args.path {
        None => (by_default, &args.first),
        Some(path) => {
            let method = &args.first;
            let known = [Method::GET, Method::POST, Method::PUT, Method::DELETE];
            let named = known.into_iter().find(|known| known.as_str().eq_ignore_ascii_case(method));
            let unknown = || {
                Failure::usage(format!("{method:?} is no method"))
                    .because("it is one of GET, POST, PUT, DELETE")
                    .hint("deployctl api GET /v1/status")
            };
            (named.ok_or_else(unknown)?, path)
        }
    };
    // A token is for one server only: a whole URL could name another.
    if !path.starts_with('/') || path.contains(char::is_whitespace) {
        return Err(Failure::usage(format!("{path:?} is no path of the API"))
            .because("a path begins with a slash")
            .hint("deployctl api /v1/openapi.json"));
    }
    Ok((method, path.clone()))
}

fn body(data: &str) -> Result<Vec<u8>, Failure> {
    let unreadable = |e| Failure::usage(format!("{data:?} can't be read")).because(e);
    let mut bytes = Vec::new();
    if data == "-" {
        std::io::stdin().take(BODY_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    } else if let Some(file) = data.strip_prefix('@') {
        let file = std::fs::File::open(file).map_err(unreadable)?;
        file.take(BODY_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    } else {
        bytes = data.as_bytes().to_vec();
    }
    if bytes.len() as u64 > BODY_BYTES_MAX {
        return Err(Failure::usage(format!("the body is over {BODY_BYTES_MAX} bytes")));
    }
    if let Err(error) = serde_json::from_slice::<Value>(&bytes) {
        return Err(Failure::usage("the body is not JSON").because(error));
    }
    Ok(bytes)
}
