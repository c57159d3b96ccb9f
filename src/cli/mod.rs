//! The command line: what engineers see.
//!
//! One file per command in `commands/`; this file is the tree, the dispatch and the
//! one place where an interruption ends a command. Help, man pages and completion
//! come from [`command`].

pub mod api;
pub mod args;
pub mod commands;
pub mod complete;
pub mod config_file;
pub mod confirm;
pub mod conflict;
pub mod context;
mod demo;
pub mod discover;
mod echo;
pub mod failure;
pub mod fields;
pub mod hosts;
pub mod live;
pub mod misread;
pub mod names;
pub mod nearest;
pub mod origin;
pub mod outcome;
pub mod output;
pub mod plans;
pub mod preview;
pub mod progress;
pub mod project;
pub mod prompt;
pub mod reasons;
pub mod recipes;
pub mod reference;
pub mod rollouts;
mod short_help;
pub mod simulate;
pub mod steps;
mod tab;
pub mod table;
pub mod topics;
pub mod typed;
pub mod wait;
pub mod watching;

use clap::{CommandFactory, Parser, Subcommand};

use args::GlobalArgs;
use commands as c;
use context::Context;
use failure::{ExitCode, Failure};
use output::Output;

/// Build a commit, replicate its binary to every region, and converge hosts on it
#[derive(Debug, Parser)]
#[command(name = "deployctl", version, disable_help_subcommand = true, infer_subcommands = false)]
#[command(subcommand_required = true, arg_required_else_help = true, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    flags: GlobalArgs,
}

/// Every command: adding one is a line here, in [`dispatch`] and in [`GROUPS`].
#[derive(Debug, Subcommand)]
enum Command {
    Init(c::init::InitArgs),
    Build(c::build::BuildArgs),
    Deploy(c::deploy::DeployArgs),
    Diff(c::diff::DiffArgs),
    Status(c::status::StatusArgs),
    Watch(c::watch::WatchArgs),
    Promote(c::promote::PromoteArgs),
    #[command(alias = "undo")]
    Rollback(c::rollback::RollbackArgs),
    #[command(visible_alias = "log", alias = "releases")]
    History(c::history::HistoryArgs),
    Logs(c::logs::LogsArgs),
    Why(c::why::WhyArgs),
    Approve(c::approve::ApproveArgs),
    Reject(c::approve::RejectArgs),
    Pause(c::pause::PauseArgs),
    Resume(c::pause::ResumeArgs),
    Cancel(c::cancel::CancelArgs),
    Retry(c::retry::RetryArgs),
    Freeze(c::freeze::FreezeArgs),
    Hold(c::hold::HoldArgs),
    Pin(c::pin::PinArgs),
    Unpin(c::pin::UnpinArgs),
    Apps(c::apps::AppsArgs),
    Builds(c::builds::BuildsArgs),
    Hosts(c::hosts::HostsArgs),
    Regions(c::regions::RegionsArgs),
    Workers(c::workers::WorkersArgs),
    Events(c::events::EventsArgs),
    Open(c::open::OpenArgs),
    Auth(c::auth::AuthArgs),
    Context(c::context::ContextArgs),
    Config(c::config::ConfigArgs),
    Api(c::api::ApiArgs),
    Doctor(c::doctor::DoctorArgs),
    Simulate(c::simulate::SimulateArgs),
    Demo(c::demo::DemoArgs),
    Tokens(c::tokens::TokensArgs),
    Webhooks(c::webhooks::WebhooksArgs),
    Admin(c::admin::AdminArgs),
    Plumbing(c::plumbing::PlumbingArgs),
    Completion(c::completion::CompletionArgs),
    Help(c::help::HelpArgs),
    Version(c::version::VersionArgs),
    Coordinator(c::role::CoordinatorArgs),
    Region(c::role::RegionArgs),
    Worker(c::role::WorkerArgs),
    Agent(c::role::AgentArgs),
}

/// The commands as `--help` groups them.
pub const GROUPS: &[(&str, &[&str])] = &[
    (
        "Daily",
        &["build", "deploy", "status", "watch", "promote", "rollback", "history", "logs", "why"],
    ),
    (
        "Steer",
        &[
            "approve", "reject", "pause", "resume", "cancel", "retry", "freeze", "hold", "pin",
            "unpin",
        ],
    ),
    (
        "Look",
        &["apps", "builds", "diff", "hosts", "regions", "workers", "events", "open", "simulate"],
    ),
    (
        "Set up",
        &[
            "init",
            "auth",
            "context",
            "config",
            "doctor",
            "tokens",
            "webhooks",
            "admin",
            "demo",
            "completion",
            "help",
            "version",
        ],
    ),
    ("Low level", &["api", "plumbing"]),
    ("Run", &["coordinator", "region", "worker", "agent"]),
];

async fn dispatch(ctx: &Context, command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Init(args) => c::init::run(ctx, args).await,
        Command::Build(args) => c::build::run(ctx, args).await,
        Command::Deploy(args) => c::deploy::run(ctx, args).await,
        Command::Diff(args) => c::diff::run(ctx, args).await,
        Command::Status(args) => c::status::run(ctx, args).await,
        Command::Watch(args) => c::watch::run(ctx, args).await,
        Command::Promote(args) => c::promote::run(ctx, args).await,
        Command::Rollback(args) => c::rollback::run(ctx, args).await,
        Command::History(args) => c::history::run(ctx, args).await,
        Command::Logs(args) => c::logs::run(ctx, args).await,
        Command::Why(args) => c::why::run(ctx, args).await,
        Command::Approve(args) => c::approve::approve(ctx, args).await,
        Command::Reject(args) => c::approve::reject(ctx, args).await,
        Command::Pause(args) => c::pause::pause(ctx, args).await,
        Command::Resume(args) => c::pause::resume(ctx, args).await,
        Command::Cancel(args) => c::cancel::run(ctx, args).await,
        Command::Retry(args) => c::retry::run(ctx, args).await,
        Command::Freeze(args) => c::freeze::run(ctx, args).await,
        Command::Hold(args) => c::hold::run(ctx, args).await,
        Command::Pin(args) => c::pin::pin(ctx, args).await,
        Command::Unpin(args) => c::pin::unpin(ctx, args).await,
        Command::Apps(args) => c::apps::run(ctx, args).await,
        Command::Builds(args) => c::builds::run(ctx, args).await,
        Command::Hosts(args) => c::hosts::run(ctx, args).await,
        Command::Regions(args) => c::regions::run(ctx, args).await,
        Command::Workers(args) => c::workers::run(ctx, args).await,
        Command::Events(args) => c::events::run(ctx, args).await,
        Command::Open(args) => c::open::run(ctx, args).await,
        Command::Auth(args) => c::auth::run(ctx, args).await,
        Command::Context(args) => c::context::run(ctx, args).await,
        Command::Config(args) => c::config::run(ctx, args).await,
        Command::Api(args) => c::api::run(ctx, args).await,
        Command::Doctor(args) => c::doctor::run(ctx, args).await,
        Command::Simulate(args) => c::simulate::run(ctx, args).await,
        Command::Demo(args) => c::demo::run(ctx, args).await,
        Command::Tokens(args) => c::tokens::run(ctx, args).await,
        Command::Webhooks(args) => c::webhooks::run(ctx, args).await,
        Command::Admin(args) => c::admin::run(ctx, args).await,
        Command::Plumbing(args) => c::plumbing::run(ctx, args).await,
        Command::Completion(args) => c::completion::run(ctx, args).await,
        Command::Help(args) => c::help::run(ctx, args, command_tree()).await,
        Command::Version(args) => c::version::run(ctx, args).await,
        Command::Coordinator(args) => c::role::run(ctx, "coordinator", args.arguments).await,
        Command::Region(args) => c::role::run(ctx, "region", args.arguments).await,
        Command::Worker(args) => c::role::run(ctx, "worker", args.arguments).await,
        Command::Agent(args) => c::role::run(ctx, "agent", args.arguments).await,
    }
}

/// The whole tree: the source of help, man pages and completion.
#[must_use]
pub fn command() -> clap::Command {
    command_tree()
}

fn command_tree() -> clap::Command {
    let tree = Cli::command();
    let mut listing = String::new();
    for (group, names) in GROUPS {
        listing.push_str(&format!("{group}:\n"));
        for name in *names {
            let about = tree.find_subcommand(name).and_then(|command| command.get_about());
            listing.push_str(&format!("  {name:<12} {}\n", about.cloned().unwrap_or_default()));
        }
        listing.push('\n');
    }
    let tree = short_help::shortened(tree);
    tree.help_template(format!(
        "{{about}}\n\n{{usage-heading}} {{usage}}\n\n{listing}{{options}}{{after-help}}"
    ))
    .after_help(
        "Start here:\n  deployctl demo                          see it work, then nothing is left\n  \
         deployctl help setup                    start the parts by hand\n  \
         deployctl init                          write deployctl.toml for this repository\n  \
         deployctl build HEAD && deployctl deploy HEAD\n\n\
         More: deployctl help COMMAND, deployctl help\n      exit-codes|environment|refs|plans|concepts|toml|json|setup|runbook",
    )
}

/// Runs the command line of this process and says how it ended.
#[must_use]
pub fn main() -> std::process::ExitCode {
    if let Some(role) = c::role::of_this_process() {
        return role();
    }
    clap_complete::CompleteEnv::with_factory(tab::tree).complete();
    let mut tree = command_tree();
    let parsed = tree.try_get_matches_from_mut(std::env::args_os()).and_then(|matches| {
        use clap::FromArgMatches;
        Cli::from_arg_matches(&matches)
    });
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => return misread::refuse(&tree, &error).into(),
    };
    let format = cli.flags.output.unwrap_or_else(|| misread::asked_format(&[]));
    let early = Output::new(format, cli.flags.color, cli.flags.quiet, cli.flags.verbose);
    if cli.flags.verbose > 1 {
        crate::telemetry::start();
    }
    let ended = Context::new(cli.flags).map_err(|failure| (early, failure)).and_then(|ctx| {
        let ended = run(&ctx, cli.command);
        ended.map_err(|failure| (ctx.out, failure))
    });
    match ended {
        Ok(code) => code.into(),
        Err((out, failure)) => {
            out.failure(&failure);
            failure.code.into()
        }
    }
}

/// Dispatches, and helps where a name was refused.
async fn advised(ctx: &Context, command: Command) -> Result<ExitCode, Failure> {
    match dispatch(ctx, command).await {
        Ok(code) => Ok(code),
        Err(mut failure) => {
            nearest::advise(ctx, &mut failure).await;
            Err(failure)
        }
    }
}

fn run(ctx: &Context, command: Command) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::new(ExitCode::Error, "can't start").because(e))?;
    let ended = runtime.block_on(async {
        // From here on Ctrl-C is ours: a question must be able to show the cursor again.
        let interrupts = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::interrupt());
        let mut interrupts =
            interrupts.map_err(|e| Failure::new(ExitCode::Error, "can't start").because(e))?;
        tokio::select! {
            biased;
            ended = advised(ctx, command) => ended,
            _ = interrupts.recv() => Err(ctx.interrupted()),
        }
    });
    // Nothing that is still open may keep the person waiting.
    runtime.shutdown_background();
    ended
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn help_lists_every_command_once() {
        let tree = command();
        let mut listed: Vec<&str> =
            GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        let mut there: Vec<&str> = tree.get_subcommands().map(clap::Command::get_name).collect();
        listed.sort_unstable();
        there.sort_unstable();
        assert_eq!(listed, there);
    }

    #[test]
    fn every_command_has_two_examples_and_a_plain_first_line() {
        fn check(command: &clap::Command, path: &str) {
            for child in command.get_subcommands() {
                let path = format!("{path} {}", child.get_name());
                let about = child.get_about().map(ToString::to_string).unwrap_or_default();
                assert!(!about.is_empty() && !about.ends_with('.'), "{path}: {about:?}");
                if child.has_subcommands() {
                    check(child, &path);
                } else {
                    let text =
                        child.get_after_long_help().map(ToString::to_string).unwrap_or_default();
                    let examples =
                        text.lines().filter(|l| l.trim_start().starts_with("deployctl")).count();
                    assert!(examples >= 2, "{path} shows {examples} examples");
                }
            }
        }
        check(&command(), "deployctl");
    }
}
