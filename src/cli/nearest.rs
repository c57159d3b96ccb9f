//! Names that do not exist: the nearest one that does, as a line to paste.
//!
//! After a refusal with exit code 3 the coordinator is asked once more, for names.
//! That it does not answer in time changes nothing but the hint.

use std::time::Duration;

use super::api::{Api, with_query};
use super::context::Context;
use super::failure::{ExitCode, Failure};
use super::typed;
use crate::config::instead::{Instead, instead_of};
use crate::wire::v1::fleet::Completions;

/// Longest wait for names: the refusal itself is what the person waits for.
const PATIENCE: Duration = Duration::from_millis(500);
/// What a refusal calls a thing, the coordinator's kind of name, and its flag.
const KINDS: [(&str, &str, &str); 3] = [
    ("there is no app ", "app", "-a"),
    (" has no env ", "env", "-e"),
    ("there is no region ", "region", "--region"),
];

/// Adds the line that was likely meant, if a name was refused and another is near.
pub async fn advise(ctx: &Context, failure: &mut Failure) {
    expand(failure);
    if failure.code != ExitCode::NotFound {
        return;
    }
    let found = KINDS.iter().find_map(|(words, kind, flag)| {
        let (_, rest) = failure.title.split_once(words)?;
        Some((*kind, *flag, rest.trim_matches('"').to_owned()))
    });
    let Some((kind, flag, wrong)) = found else { return };
    let names = tokio::time::timeout(PATIENCE, names(ctx, kind)).await.ok().flatten();
    let names = names.unwrap_or_default();
    match instead_of(&wrong, || names.iter().map(String::as_str)) {
        Instead::Alike(alike) => {
            // Of regions and envs the coordinator has said which there are.
            let said = !failure.causes.is_empty();
            failure.causes.extend((!said).then(|| format!("there is {alike}")));
        }
        Instead::Near(near) => {
            // The name may have come from a file or a variable.
            let line = typed::replacing(&wrong, near);
            let line = line.unwrap_or_else(|| typed::with(&format!("{flag} {near}")));
            failure.hints.insert(0, format!("did you mean: {line}"));
        }
        Instead::Nothing => {}
    }
}

/// Makes whole lines of the coordinator's "did you mean: --hosts web-1".
fn expand(failure: &mut Failure) {
    for hint in &mut failure.hints {
        let choice = hint.strip_prefix("did you mean: --hosts ");
        if let Some(line) = choice.and_then(|choice| typed::with_value("--hosts", choice)) {
            *hint = format!("did you mean: {line}");
        }
    }
}

async fn names(ctx: &Context, kind: &str) -> Option<Vec<String>> {
    let app = ctx.app_if_said().ok().flatten();
    let query = [("kind", Some(kind)), ("app", app.as_ref().map(|app| app.as_str()))];
    let reply: Completions =
        Api::new(ctx).ok()?.get(&with_query("/v1/complete", query)).await.ok()?;
    Some(reply.names.into_iter().map(|(name, _)| name).collect())
}
