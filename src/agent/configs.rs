//! Brings a configuration from the region: small, and believed only by its digest.

use std::time::{Duration, Instant};

use reqwest::Method;

use crate::agent::failure::failure;
use crate::agent::link::{Link, backoff};
use crate::agent::source::FetchFailure;
use crate::model::config::CONFIG_BYTES_MAX;
use crate::model::digest::{ConfigId, Digest};
use crate::model::fleet::FailureClass;
use crate::net::client::{CallError, Client};

/// Time for one try.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Fetches `config` from the region, and asks again for as long as `patience`: the region
/// may be about to hear of it itself.
///
/// # Errors
/// Class `transport`, with the last reason.
pub(super) async fn fetch(
    link: Link,
    config: ConfigId,
    patience: Duration,
) -> Result<Vec<u8>, FetchFailure> {
    let begun = Instant::now();
    let mut backoff = backoff();
    loop {
        let client = link.client();
        let reason = match ask(&client, config).await {
            Ok(bytes) if Digest::of(&bytes) == config => return Ok(bytes),
            Ok(_) => "what the region gave is not the one that the goal names".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(config = %config.short(), reason, "config not had");
        link.failed(&client);
        if begun.elapsed() >= patience {
            let reason = format!("config {}: {reason}", config.short());
            return Err(failure(FailureClass::Transport, reason));
        }
        tokio::time::sleep(backoff.failed()).await;
    }
}

async fn ask(client: &Client, config: ConfigId) -> Result<Vec<u8>, CallError> {
    let request = client.request(Method::GET, &format!("/v1/agent/configs/{config}"));
    let reply = request.timeout(TIMEOUT).send().await;
    let reply = reply.map_err(|e| client.unreachable(e))?;
    let status = reply.status();
    let bytes = client.body(reply, CONFIG_BYTES_MAX).await?;
    if status.is_success() { Ok(bytes) } else { Err(client.refusal(status.as_u16(), &bytes)) }
}
