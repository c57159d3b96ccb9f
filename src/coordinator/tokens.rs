//! Tokens: made, listed, withdrawn. A secret leaves this file once, in its reply.

use axum::Extension;
use axum::extract::State;

use crate::coordinator::router::{Route, delete, get, post};
use crate::coordinator::state::{Keys, Shared};
use crate::host::clock;
use crate::net::auth::{Identity, Token, region_key};
use crate::net::server::{Json, Path};
use crate::rules::authorize::Class;
use crate::store::db::events::NewEvent;
use crate::store::db::{Topic, Tx, tokens};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::token::{NewToken, Role, TokenRequest, Tokens, Verifier};

/// Most tokens of one installation.
const TOKENS_MAX: i64 = 10_000;
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
    Json(request): Json<TokenRequest>,
) -> Result<Json<NewToken>, Problem> {
    check(&request, &shared)?;
    let (token, verifier) = mint(&shared.keys, request);
    let insert = move |tx: &mut Tx| {
        if tokens::count(tx)? >= TOKENS_MAX {
            return Err(Problem::new(
                Code::Blocked,
                format!("there are {TOKENS_MAX} tokens already"),
            )
            .hint("deployctl tokens list"));
        }
        let now = clock::now();
        tokens::insert(tx, &verifier, &who.name, now)?;
        let (role, name) = (verifier.role.word(), &verifier.name);
        let message = format!("{} made a token of role {role} for {name:?}", who.name);
        tx.event(&NewEvent::new(now, "token.made", who.name, message))?;
        tx.touch(Topic::Feed);
        Ok(())
    };
    shared.db.write(insert).await?;
    shared.reload_keyring().await?;
    Ok(Json(NewToken { id: token.id.clone(), token: token.reveal() }))
}

async fn withdraw(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
    Path(id): Path<String>,
) -> Result<Json<()>, Problem> {
    let remove = move |tx: &mut Tx| {
        let unknown = || Problem::new(Code::NotFound, "there is no such token");
        let (name, role) =
            tokens::delete(tx, &id)?.ok_or_else(|| unknown().hint("deployctl tokens list"))?;
        let message = format!("{} withdrew {name:?}'s token of role {}", who.name, role.word());
        tx.event(&NewEvent::new(clock::now(), "token.withdrawn", who.name, message))?;
        tx.touch(Topic::Feed);
        Ok::<_, Problem>(())
    };
    shared.db.write(remove).await?;
    shared.reload_keyring().await?;
    Ok(Json(()))
}

/// A new token and its verifier. An agent's verifier is made with its region's
/// key, so that the region can check it alone.
pub(super) fn mint(keys: &Keys, request: TokenRequest) -> (Token, Verifier) {
    let token = Token::mint();
    let key = match (&request.region, request.role) {
        (Some(region), Role::Agent) => region_key(&keys.token, region),
        _ => keys.token,
    };
    let verifier = Verifier {
        id: token.id.clone(),
        name: request.name,
        role: request.role,
        region: request.region,
        host: request.host,
        mac: token.mac(&key),
    };
    (token, verifier)
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
