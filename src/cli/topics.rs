//! Help topics: what `deployctl help TOPIC` says beside the commands.
//!
//! The same texts go into the man pages.

use super::failure::ExitCode;

/// Environment variables that are read, and what each does.
pub const ENVIRONMENT: &[(&str, &str)] = &[
    ("DEPLOYCTL_APP", "the app; as --app"),
    ("DEPLOYCTL_ENV", "the env; as --env"),
    ("DEPLOYCTL_CONTEXT", "the installation to work with; as --context"),
    ("DEPLOYCTL_SERVER", "the coordinator's URL; as --server"),
    ("DEPLOYCTL_TOKEN_FILE", "a file that holds the token; as --token-file"),
    ("DEPLOYCTL_TOKEN", "the token itself; a file is better, other processes can see this"),
    ("DEPLOYCTL_CA", "a PEM file, the only certificate authority to trust; as --ca"),
    ("DEPLOYCTL_OUTPUT", "the output format; as --output"),
    ("DEPLOYCTL_COMPLETION_MS", "how long TAB may wait for the coordinator; default 80"),
    ("DEPLOYCTL_NO_INPUT", "set: never ask; as --no-input"),
    ("DEPLOYCTL_LOG", "with -vv, which log lines to show, such as debug"),
    ("CREDENTIALS_DIRECTORY", "where systemd puts the credential deployctl-token"),
    ("CI", "set: never ask"),
    ("NO_COLOR", "set: no colour"),
    ("CLICOLOR_FORCE", "set and not 0: colour in pipes too"),
    ("TERM", "dumb: no colour, no bars"),
    ("XDG_CONFIG_HOME", "where deployctl/config.toml lies; default ~/.config"),
    ("XDG_CACHE_HOME", "where names for TAB are kept, in deployctl/; default ~/.cache"),
    ("XDG_DATA_HOME", "where a coordinator of this machine keeps its data; default ~/.local/share"),
    ("HOME", "for the three defaults above"),
    ("SHELL", "whose completion `deployctl doctor` looks for"),
    ("COMPLETE", "a shell's name: act as its completion"),
];

/// Topics by name with one line each.
pub const TOPICS: &[(&str, &str)] = &[
    ("exit-codes", "what each exit code means"),
    ("environment", "variables and files that are read"),
    ("refs", "what to call a commit, a build, a release"),
    ("concepts", "what the words mean"),
    ("toml", "what deployctl.toml may say"),
    ("json", "what programs can rely on"),
    ("json-schema", "the schema of every document, as JSON"),
    ("plans", "how a rollout reaches hosts"),
    ("plan-file", "what a plan of your own may say"),
    ("setup", "starting the four parts by hand"),
    ("runbook", "what to type when it burns, the coordinator gone included"),
];

/// What the words mean: `deployctl-concepts(7)` too.
pub const CONCEPTS: &str = include_str!("texts/concepts.txt");
/// What the project file may say: `deployctl.toml(5)` too.
pub const TOML: &str = include_str!("texts/toml.txt");

/// What a plan of the user's own may say: `deployctl-plan(5)` too.
pub const PLAN_FILE: &str = include_str!("texts/plan.txt");

/// What every document of `-o json` looks like.
pub const SCHEMA: &str = include_str!("../../docs/cli.schema.json");

/// The text of a topic; `None` when there is no such.
#[must_use]
pub fn text(topic: &str) -> Option<String> {
    match topic {
        "exit-codes" => Some(exit_codes()),
        "environment" => Some(environment()),
        "refs" => Some(REFS.into()),
        "concepts" => Some(CONCEPTS.into()),
        "toml" => Some(TOML.into()),
        "json" => Some(include_str!("texts/json.txt").into()),
        "json-schema" => Some(SCHEMA.into()),
        "plans" => Some(PLANS.into()),
        "plan-file" => Some(PLAN_FILE.into()),
        "setup" => Some(SETUP.into()),
        "runbook" => Some(RUNBOOK.into()),
        _ => None,
    }
}

const RUNBOOK: &str = "\
What to type when it burns. Each line may be typed twice; nothing has to be cleaned up.

The new release is bad:
  deployctl rollback -a APP -e ENV -m \"INC-4412\"         the last known-good, everywhere
  deployctl rollback -a APP -e ENV --region eu -m WHY     in one region; elsewhere nothing moves
  deployctl rollback ...                                  once more goes further back
It cuts a rollout under way short, passes every freeze and moves no bytes. Exit code 0: hosts
are back; 11: some are not (deployctl hosts --failed); 5: read on below.

Stop what moves, look, decide:
  deployctl pause -m WHY        deployctl why        deployctl resume | cancel
  deployctl why HOST            why this host is not where it should be
  deployctl freeze start --all -e prod --for 4h -m WHY    nobody deploys meanwhile
  deployctl hold start --host HOST --all --for 2h -m WHY  this host stays as it is, to be looked at
Hosts that were held or pinned are not moved by a rollback, and it says so; --unpin moves them.

The coordinator does not answer (exit code 5). Apps run on; regions serve on. Start it
again on its data folder: rollouts go on where they were. If it can't be started, and a
release must go back:
  1. one host: on it, deployctl-agent rollback APP --root DIR      no network is needed
  2. a region: with the region's own token (the file that deployctl-region was started
     with) and the goal key (keys/goal.ed25519 of the coordinator's data or its backup):
       deployctl plumbing goal show -a APP -e ENV --server REGION_URL --token-file T > goal.json
       deployctl plumbing goal sign goal.json --key goal.ed25519 > back.json
       deployctl plumbing goal put back.json --server REGION_URL --token-file T --yes
     Put the same back.json into each region. Hosts follow at once.
  3. when the coordinator is back: wait until deployctl doctor finds the regions fresh,
     then say once where the env belongs: deployctl rollback, or deploy. Until then its
     status shows the goal that it knew.
";

const SETUP: &str = "\
The four parts on one machine; the first start of the coordinator writes the tokens and
keys that the others need, and the line that it prints says where it listens:

  D=${XDG_DATA_HOME:-$HOME/.local/share}/deployctl
  deployctl coordinator &
  deployctl region --name local --coordinator http://127.0.0.1:7878 \\
    --token-file \"$D/tokens/region-local.token\" --main-blobs \"file://$D/blobs\" \\
    --blobs \"file://$D/regions/local\" --data \"$D/region-local\" &
  deployctl worker --coordinator http://127.0.0.1:7878 \\
    --token-file \"$D/tokens/worker.token\" --blobs \"file://$D/blobs\" \\
    --key \"$D/keys/build.ed25519\" --work \"$D/work\" &
  deployctl agent --region http://127.0.0.1:7879 \\
    --token-file \"$D/tokens/agent-local.token\" --host web-1 --env prod \\
    --root \"$D/hosts/web-1\" --var PORT=8080 &

More hosts: an agent each, with its own --host, --root and PORT. More regions: name them
in a file and start with deployctl coordinator --config FILE, then one deployctl region
each, with its own --listen:

  [regions.eu]
  blobs = \"file:///srv/eu/blobs\"
  [regions.us]
  blobs = \"file:///srv/us/blobs\"

Then, in a clone of your repository: deployctl init. To look: deployctl regions, hosts,
workers.
";

fn exit_codes() -> String {
    let mut text =
        String::from("Exit codes (stable):\n\n  CODE  NAME            RETRY   MEANING\n");
    for code in ExitCode::ALL {
        let (number, word) = (*code as u8, code.word());
        text.push_str(&format!(
            "  {number:<5} {word:<15} {:<7} {}\n",
            code.retry(),
            code.meaning()
        ));
    }
    text.push_str(
        "\nBelow 10 the command started nothing; 10 to 19 it started and the outcome is not\n\
         success; from 124 we stopped looking and it goes on. A command that waits gives the\n\
         outcome also when it was over before; a command that only asks gives 0 once it has\n\
         the answer.\n\n\
         One exception: a request whose reply was lost is sent again under the same key. If\n\
         it stays unanswered the code is 5, and the text says that it may have started.\n",
    );
    text
}

fn environment() -> String {
    let mut text = String::from("Variables (an empty one counts as not set):\n\n");
    for (name, meaning) in ENVIRONMENT {
        text.push_str(&format!("  {name:<23} {meaning}\n"));
    }
    text.push_str(
        "\nFlags win over variables, these over the project's deployctl.toml (nearest folder\n\
         upwards, not above the repository), that over the context in use (deployctl context),\n\
         that over the user's deployctl/config.toml, that over the coordinator of this machine.\n\
         deployctl config show --origin tells which of them won.\n\n\
         A token from a file is sent only to the server that the same file names.\n",
    );
    text
}

const REFS: &str = "\
What to call a release, a build or a commit:

  r411            a release of the app and env; its rollout has the same number
  b12             a build
  @               what is the goal now
  @~  @~2         the last known-good release before it, and the one before that
  @stable         the newest release that succeeded
  @latest         the newest build that can be deployed
  staging:@       the same, in another env
  3f2a91c         a commit: at least 7 of its hexadecimal digits
  HEAD, main, v1  anything else is a revision of the git repository in this folder

A branch that is named like a number is refs/heads/r411.
";

const PLANS: &str = "\
How a rollout reaches hosts:

  standard      a canary first, then region by region, each step watched for a while
                (a bake) before the next. Release faults revert by themselves; faults of
                hosts or the network pause and wait for a person.
  fast          a twentieth of all hosts and a bake of a minute, then everybody.
  careful       as standard, with bakes six times as long; once the first wave is done it
                pauses until a person says deployctl promote or resume.
  all-at-once   every host at once: no gate before the last host. In prod it asks for
                the app's name; in a script --confirm=APP and -m WHY say it, --yes does not.
  ./NAME.toml   a plan of your own: regions in waves, percents or counts of hosts, bakes and
                holds. deployctl help plan-file says what may stand there.

deploy --hosts web-1 (or 'web-*', rack=14, zone=b, region=eu) lets these hosts go first,
whatever the plan (deployctl hosts --hosts SELECTOR lists who that is): no other, a tenth of
all at most, and nobody who comes later. They are judged as any step is. Then the rollout is
held: promote goes on with the rest by the plan, cancel or rollback takes them back.

--bake TIME sets every bake of the plan; --region limits the rollout to some regions,
--exclude-region to all others. --no-auto-rollback leaves hosts as they are when the release
fails: it ends failed (exit code 11) and a person decides, rollback or retry. Hosts where
the new release does not run go back each by itself all the same.
deployctl promote skips the wait of the step under way, --full all of them.
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_topic_has_a_text_within_a_page_width() {
        for (topic, _) in TOPICS.iter().filter(|(topic, _)| *topic != "json-schema") {
            let text = text(topic).unwrap();
            assert!(text.lines().all(|line| line.chars().count() <= 110), "{topic}");
        }
    }
}
