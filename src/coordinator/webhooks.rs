//! Webhooks: made, listed, removed, tried. A secret leaves this file once, in its reply;
//! a URL never does, for it may hold one.

use axum::Extension;
use axum::extract::State;

use crate::coordinator::notify;
use crate::coordinator::once::{self, made_before};
use crate::coordinator::router::{Route, delete, get, post};
use crate::coordinator::state::Shared;
use crate::model::digest::to_hex;
use crate::model::id::WebhookName;
use crate::net::auth::{Identity, Key, keyed_hash, random_key};
use crate::net::outward;
use crate::net::server::{Json, Path};
use crate::rules::authorize::Class;
use crate::store::db::Tx;
use crate::store::db::events::NewEvent;
use crate::store::db::webhooks::{self, Secret};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::webhook::{
    NewWebhook, Webhook, WebhookFormat, WebhookRequest, WebhookTest, Webhooks, secret_text,
};

/// Most webhooks of one installation.
const WEBHOOKS_MAX: usize = 100;
/// Most kinds that one names, and the longest, bytes.
const KINDS_MAX: usize = 50;
const KIND_BYTES_MAX: usize = 100;

pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/v1/webhooks", Class::Manage, list)
            .says("List webhooks, never their secrets or whole URLs")
            .gives("Webhooks"),
        post("/v1/webhooks", Class::Manage, create)
            .says("Make a webhook; its secret is shown this once")
            .takes("WebhookRequest")
            .gives("NewWebhook"),
        delete("/v1/webhooks/{name}", Class::Manage, remove)
            .says("Remove a webhook with all that waits for it"),
        post("/v1/webhooks/{name}/test", Class::Manage, test)
            .says("Send one event of kind webhook.test now, and tell how it went")
            .gives("WebhookTest"),
    ]
}

async fn list(State(shared): State<Shared>) -> Result<Json<Webhooks>, Problem> {
    let all = shared.db.read(webhooks::list).await?;
    Ok(Json(Webhooks { webhooks: all.into_iter().map(|secret| secret.webhook).collect() }))
}

async fn create(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    key: once::Key,
    Json(request): Json<WebhookRequest>,
) -> Result<Json<NewWebhook>, Problem> {
    check(&request)?;
    let private_too = shared.config.webhooks.allow_private;
    let refused = |e| {
        Problem::new(Code::Usage, "the webhook can't be made").because(e).hint(
            "[webhooks] allow_private = true in the coordinator's configuration allows any address",
        )
    };
    let url = outward::check_url(&request.url, private_too).map_err(refused)?;
    if request.format == WebhookFormat::Github && shared.config.webhooks.github_token.is_none() {
        return Err(Problem::new(Code::Usage, "the coordinator has no token for GitHub")
            .hint("[webhooks] github_token = \"/path/to/file\" in its configuration"));
    }
    let asked = once::asked("webhook", &request);
    // A secret is not kept: a repeated request makes the same one again.
    let nonce = to_hex(&match &key.0 {
        Some(key) => keyed_hash(&shared.keys.token, format!("{asked} {key}").as_bytes()),
        None => random_key(),
    });
    let now = shared.steady_now();
    let webhook = Webhook {
        name: request.name,
        origin: url.origin().ascii_serialization(),
        format: request.format,
        scope: request.scope,
        actor: who.name,
        created_at: now,
        delivered: 0,
        waiting: 0,
        dropped: 0,
        last_error: String::new(),
    };
    let new = Secret { webhook, url: request.url, nonce };
    let secret = secret_text(&signing_key(&shared.keys.token, &new));
    let insert = move |tx: &mut Tx| {
        let Webhook { name, actor, origin, .. } = &new.webhook;
        if made_before(tx, actor, &key, &asked, now)? {
            let there = webhooks::find(tx, name)?.filter(|there| there.nonce == new.nonce);
            let gone = || Problem::new(Code::Conflict, "that webhook was made and removed since");
            return Ok(there.ok_or_else(gone)?.webhook);
        }
        if webhooks::find(tx, name)?.is_some() {
            return Err(Problem::new(Code::Conflict, format!("there is a webhook {name} already"))
                .hint(format!("deployctl webhooks remove {name}")));
        }
        if webhooks::list(tx)?.len() >= WEBHOOKS_MAX {
            let title = format!("there are {WEBHOOKS_MAX} webhooks already");
            return Err(Problem::new(Code::Blocked, title).hint("deployctl webhooks list"));
        }
        webhooks::insert(tx, &new)?;
        let message = format!("{actor} made the webhook {name} to {origin}");
        tx.event(&NewEvent::new(now, "webhook.made", actor, message))?;
        Ok(new.webhook)
    };
    let webhook = shared.db.write(insert).await?;
    Ok(Json(NewWebhook { webhook, secret }))
}

/// What deliveries to `hook` are signed with: kept nowhere, derived each time.
pub(super) fn signing_key(key: &Key, hook: &Secret) -> Key {
    keyed_hash(key, format!("deployctl webhook v1:{}:{}", hook.webhook.name, hook.nonce).as_bytes())
}

async fn remove(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Path(name): Path<WebhookName>,
    key: once::Key,
) -> Result<Json<()>, Problem> {
    let now = shared.steady_now();
    let remove = move |tx: &mut Tx| {
        if made_before(tx, &who.name, &key, &format!("remove webhook {name}"), now)? {
            return Ok(());
        }
        if !webhooks::delete(tx, &name)? {
            return Err(unknown(&name));
        }
        let message = format!("{} removed the webhook {name}", who.name);
        Ok(tx.event(&NewEvent::new(now, "webhook.removed", who.name, message))?)
    };
    shared.db.write(remove).await.map(Json)
}

async fn test(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Path(name): Path<WebhookName>,
) -> Result<Json<WebhookTest>, Problem> {
    let wanted = name.clone();
    let hook = shared.db.read(move |tx| webhooks::find(tx, &wanted)).await?;
    let hook = hook.ok_or_else(|| unknown(&name))?;
    let error = notify::test(&shared, &hook, &who.name).await.err().unwrap_or_default();
    Ok(Json(WebhookTest { delivered: error.is_empty(), error }))
}

fn unknown(name: &WebhookName) -> Problem {
    Problem::new(Code::NotFound, format!("there is no webhook {name}"))
        .hint("deployctl webhooks list")
}

fn check(request: &WebhookRequest) -> Result<(), Problem> {
    let kinds = &request.scope.kinds;
    let plain = |kind: &String| {
        let name = kind.strip_suffix('*').unwrap_or(kind);
        let word = |b: u8| b.is_ascii_lowercase() || matches!(b, b'.' | b'_');
        (!kind.is_empty() && kind.len() <= KIND_BYTES_MAX) && name.bytes().all(word)
    };
    if kinds.len() <= KINDS_MAX && kinds.iter().all(plain) {
        return Ok(());
    }
    Err(Problem::new(Code::Usage, "the webhook can't be made")
        .because("kinds: at most 50, such as rollout.failed or rollout.*")
        .hint("deployctl events"))
}
