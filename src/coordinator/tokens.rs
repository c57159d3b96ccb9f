//! Tokens: made, listed, withdrawn. A secret leaves this file once, in its reply.

use axum::Extension;
use axum::extract::State;

use crate::coordinator::once::{self, made_before};
use crate::coordinator::router::{Route, delete, get, post};
use crate::coordinator::state::{Keys, Shared};
use crate::net::auth::{Identity, Token, region_key};
use crate::net::server::{Json, Path};
use crate::rules::authorize::Class;
use crate::store::db::events::NewEvent;
use crate::store::db::{Tx, tokens};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::token::{NewToken, Role, TokenRequest, Tokens, Verifier};

/// Most tokens of one installation.
const TOKENS_MAX: i64 = 10_000;
/// How often the keyring is tried to be read anew after a change, and the pause.
const RELOADS: u32 = 25;
const RELOAD_AFTER: std::time::Duration = std::time::Duration::from_millis(200);
/// Longest name of a holder, bytes.
const NAME_BYTES_MAX: usize = 100;

pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/v1/tokens", Class::Manage, list).says("List tokens, never secrets").gives("Tokens"),
        post("/v1/tokens", Class::Manage, create)
            .says("Make a token; its secret is shown this once")
            .takes("TokenRequest")
            .gives("NewToken"),
        delete("/v1/tokens/{id}", Class::Manage, withdraw)
            .says("Withdraw a token; it is refused from the answer on"),
    ]
}

async fn list(State(shared): State<Shared>) -> Result<Json<Tokens>, Problem> {
    Ok(Json(Tokens { tokens: shared.db.read(tokens::list).await? }))
}

async fn create(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    key: once::Key,
    Json(request): Json<TokenRequest>,
) -> Result<Json<NewToken>, Problem> {
    check(&request, &shared)?;
    let asked = once::asked(format!("token {}", who.token), &request);
    // A secret is not kept: a repeated request makes the same one again.
    let token = match &key.0 {
        Some(key) => Token::derive(&shared.keys.token, &format!("{asked} {key}")),
        None => Token::mint(),
    };
    let verifier = verifier(&shared.keys, request, &token);
    let now = shared.steady_now();
    let insert = move |tx: &mut Tx| {
        if made_before(tx, &who.name, &key, &asked, now)? {
            let there = tokens::list(tx)?.iter().any(|row| row.id == verifier.id);
            let gone = || Problem::new(Code::Conflict, "that token was made and withdrawn since");
            return if there { Ok(()) } else { Err(gone()) };
        }
        if tokens::count(tx)? >= TOKENS_MAX {
            return Err(Problem::new(
                Code::Blocked,
                format!("there are {TOKENS_MAX} tokens already"),
            )
            .hint("deployctl tokens list"));
        }
        tokens::insert(tx, &verifier, &who.name, now)?;
        let (role, name) = (verifier.role.word(), &verifier.name);
        let message = format!("{} made a token of role {role} for {name:?}", who.name);
        tx.event(&NewEvent::new(now, "token.made", who.name, message))?;
        Ok(())
    };
    change(&shared, insert).await?;
    Ok(Json(NewToken { id: token.id.clone(), token: token.reveal() }))
}

async fn withdraw(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Path(id): Path<String>,
    key: once::Key,
) -> Result<Json<()>, Problem> {
    let now = shared.steady_now();
    let remove = move |tx: &mut Tx| {
        if made_before(tx, &who.name, &key, &format!("withdraw {id}"), now)? {
            return Ok(());
        }
        let unknown = || Problem::new(Code::NotFound, "there is no such token");
        let (name, role) =
            tokens::delete(tx, &id)?.ok_or_else(|| unknown().hint("deployctl tokens list"))?;
        let message = format!("{} withdrew {name:?}'s token of role {}", who.name, role.word());
        tx.event(&NewEvent::new(now, "token.withdrawn", who.name, message))?;
        Ok(())
    };
    change(&shared, remove).await.map(Json)
}

/// Changes the tokens and has the keyring follow, also when the caller hangs up
/// in between: a withdrawn token must not live on because nobody waits.
async fn change(
    shared: &Shared,
    work: impl FnOnce(&mut Tx) -> Result<(), Problem> + Send + 'static,
) -> Result<(), Problem> {
    let shared = shared.clone();
    let done = tokio::spawn(async move {
        shared.db.write(work).await?;
        for _ in 0..RELOADS {
            match shared.reload_keyring().await {
                Ok(()) => return Ok(()),
                Err(error) => tracing::error!(%error, "the tokens could not be read anew"),
            }
            tokio::time::sleep(RELOAD_AFTER).await;
        }
        Ok(shared.reload_keyring().await?)
    });
    let ended = |_| Problem::new(Code::Internal, "the change of a token ended without a word");
    done.await.map_err(ended)?
}

/// A new token and its verifier. An agent's verifier is made with its region's
/// key, so that the region can check it alone.
pub(super) fn mint(keys: &Keys, request: TokenRequest) -> (Token, Verifier) {
    let token = Token::mint();
    let verifier = verifier(keys, request, &token);
    (token, verifier)
}

fn verifier(keys: &Keys, request: TokenRequest, token: &Token) -> Verifier {
    let key = match (&request.region, request.role) {
        (Some(region), Role::Agent) => region_key(&keys.token, region),
        _ => keys.token,
    };
    Verifier {
        id: token.id.clone(),
        name: request.name,
        role: request.role,
        region: request.region,
        host: request.host,
        mac: token.mac(&key),
    }
}

fn check(request: &TokenRequest, shared: &Shared) -> Result<(), Problem> {
    let bad = |why: &str| Problem::new(Code::Usage, "the token can't be made").because(why);
    let name = &request.name;
    if name.is_empty() || name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
        return Err(bad("name: 1 to 100 bytes without control characters"));
    }
    let regional = matches!(request.role, Role::Region | Role::Agent);
    match &request.region {
        None if regional => return Err(bad("a region or agent token needs its region")),
        Some(_) if !regional => return Err(bad("only region and agent tokens have a region")),
        Some(region) if !shared.config.regions.contains_key(region) => {
            return Err(Problem::new(Code::NotFound, format!("there is no region {region}"))
                .hint("deployctl regions"));
        }
        _ => {}
    }
    if request.host.is_some() && request.role != Role::Agent {
        return Err(bad("only an agent token has a host"));
    }
    Ok(())
}
