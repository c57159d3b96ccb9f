//! `deployctl webhooks`: who is told of what happens.

use clap::{Args, Subcommand};
use reqwest::Method;

use crate::cli::api::Api;
use crate::cli::context::Context;
use crate::cli::failure::{ExitCode, Failure};
use crate::cli::fields::FieldsArgs;
use crate::cli::output::Tone;
use crate::cli::table::{Cell, Table};
use crate::model::id::WebhookName;
use crate::wire::v1::webhook::{
    NewWebhook, Webhook, WebhookFormat, WebhookRequest, WebhookScope, WebhookTest, Webhooks,
};

/// Tell others of what happens, over HTTP (role admin)
///
/// Each event is sent as a CloudEvent, signed as Standard Webhooks says, and sent again
/// for about a day until it is taken.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct WebhooksArgs {
    #[command(subcommand)]
    command: Option<WebhooksCommand>,
}

#[derive(Debug, Subcommand)]
enum WebhooksCommand {
    List(ListArgs),
    Add(AddArgs),
    Remove(RemoveArgs),
    Test(TestArgs),
}

/// List the webhooks; secrets are never shown again
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  deployctl webhooks list\n  deployctl webhooks list -o json")]
#[derive(Default)]
pub struct ListArgs {
    #[command(flatten)]
    fields: FieldsArgs,
}

/// Add a webhook and show its secret this once
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl webhooks add chat --url-file chat.url --format slack --kind 'rollout.*'\n  \
    deployctl webhooks add ci https://ci.example.com/hook -a payments-api -e prod"
)]
pub struct AddArgs {
    /// Its name
    #[arg(value_name = "NAME")]
    name: WebhookName,
    /// Where to send: https://…, or http:// on the coordinator's own machine
    #[arg(value_name = "URL", required_unless_present = "url_file", conflicts_with = "url_file")]
    url: Option<String>,
    /// Read the URL from a file, for it may be a secret
    #[arg(long, value_name = "FILE")]
    url_file: Option<std::path::PathBuf>,
    /// How it is told: cloudevents, slack or github
    #[arg(long, value_name = "FORMAT", default_value = "cloudevents", value_parser = format)]
    format: WebhookFormat,
    /// Only events of this kind, such as rollout.failed or 'rollout.*'; may be repeated
    #[arg(long = "kind", value_name = "KIND", value_delimiter = ',')]
    kinds: Vec<String>,
}

/// Remove a webhook with all that waits for it
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl webhooks remove chat\n  deployctl webhooks remove chat -q"
)]
pub struct RemoveArgs {
    /// Which
    #[arg(value_name = "NAME")]
    name: WebhookName,
}

/// Send one event now, and tell how it went
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  deployctl webhooks test chat\n  deployctl webhooks test chat -o json"
)]
pub struct TestArgs {
    /// Which
    #[arg(value_name = "NAME")]
    name: WebhookName,
}

fn format(text: &str) -> Result<WebhookFormat, String> {
    let words = || WebhookFormat::ALL.map(WebhookFormat::word).join(", ");
    WebhookFormat::from_word(text).ok_or_else(|| format!("a format is one of {}", words()))
}

/// Runs the command.
///
/// # Errors
/// As the coordinator refuses it; code 1 when a test was not taken.
pub async fn run(ctx: &Context, args: WebhooksArgs) -> Result<ExitCode, Failure> {
    let api = Api::new(ctx)?;
    match args.command.unwrap_or(WebhooksCommand::List(ListArgs::default())) {
        WebhooksCommand::List(args) => {
            let reply: Webhooks = api.get("/v1/webhooks").await?;
            args.fields.answer(ctx, "webhooks", &reply, &table(&reply.webhooks))?;
        }
        WebhooksCommand::Add(args) => add(ctx, &api, args).await?,
        WebhooksCommand::Remove(RemoveArgs { name }) => {
            let path = format!("/v1/webhooks/{name}");
            let _: serde_json::Value =
                api.change(Method::DELETE, &path, &serde_json::json!({})).await?;
            ctx.out.story(&format!("removed {name}"));
            if ctx.out.is_json() {
                ctx.out.json(&serde_json::json!({"removed": name}));
            }
        }
        WebhooksCommand::Test(TestArgs { name }) => test(ctx, &api, &name).await?,
    }
    Ok(ExitCode::Ok)
}

/// App and env are only what was said here: a webhook of one app must be meant so.
async fn add(ctx: &Context, api: &Api, args: AddArgs) -> Result<(), Failure> {
    let url = match (args.url, args.url_file) {
        (Some(url), _) => url,
        (None, file) => {
            let file = file.unwrap_or_default();
            let unread = |e| Failure::usage(format!("{} can't be read", file.display())).because(e);
            std::fs::read_to_string(&file).map_err(unread)?.trim().to_owned()
        }
    };
    let (app, env) = (ctx.flags.app.clone(), ctx.flags.env.clone());
    let scope = WebhookScope { kinds: args.kinds, app, env };
    let request = WebhookRequest { name: args.name, url, format: args.format, scope };
    let made: NewWebhook = api.change(Method::POST, "/v1/webhooks", &request).await?;
    let name = &made.webhook.name;
    if ctx.out.is_json() {
        ctx.out.json(&made);
    } else if made.webhook.format == WebhookFormat::Cloudevents {
        ctx.out.text(&format!("{}\n", made.secret));
        ctx.out.story("this secret checks the signatures; it is not shown again");
    } else {
        ctx.out.story(&format!("added {name}"));
    }
    ctx.out.hint(&format!("deployctl webhooks test {name}"));
    Ok(())
}

async fn test(ctx: &Context, api: &Api, name: &WebhookName) -> Result<(), Failure> {
    let path = format!("/v1/webhooks/{name}/test");
    let reply: WebhookTest = api.change(Method::POST, &path, &serde_json::json!({})).await?;
    if !reply.delivered {
        let document = serde_json::to_value(&reply).unwrap_or_default();
        return Err(Failure::new(ExitCode::Error, format!("{name} was not told"))
            .because(reply.error)
            .with_document(document));
    }
    ctx.out.story(&format!("{name} took it"));
    if ctx.out.is_json() {
        ctx.out.json(&reply);
    }
    Ok(())
}

fn table(webhooks: &[Webhook]) -> Table {
    let columns = [
        "NAME",
        "FORMAT",
        "TO",
        "STATE",
        "KINDS",
        "APP",
        "ENV",
        "DELIVERED",
        "WAITING",
        "DROPPED",
        "ERROR",
        "ACTOR",
    ];
    let mut table = Table::new(&columns, 11, "no webhooks");
    for webhook in webhooks {
        let scope = &webhook.scope;
        let state = match (webhook.last_error.is_empty(), webhook.waiting) {
            (true, 0) => Cell::state("quiet", Tone::Good),
            (true, _) => Cell::state("sending", Tone::Moving),
            (false, _) => Cell::state("failing", Tone::Bad),
        };
        let kinds = if scope.kinds.is_empty() { "*".to_owned() } else { scope.kinds.join(",") };
        table.push([
            webhook.name.to_string().into(),
            webhook.format.word().into(),
            webhook.origin.as_str().into(),
            state,
            kinds.into(),
            scope.app.as_ref().map_or("*", |app| app.as_str()).into(),
            scope.env.as_ref().map_or("*", |env| env.as_str()).into(),
            webhook.delivered.to_string().into(),
            webhook.waiting.to_string().into(),
            webhook.dropped.to_string().into(),
            webhook.last_error.as_str().into(),
            webhook.actor.as_str().into(),
        ]);
    }
    table
}
