//! Short help (`-h`): one screen of 24 lines and 80 columns for every command.
//!
//! What is rare stays in `--help` and the man pages. A flag is rare by its own
//! `hide_short_help`, or by its line in [`RARE`]. Global flags are one line.

/// What short help says of the flags that every command takes; long help lists them.
const EVERYWHERE: &str = "Everywhere: -a APP  -e ENV  -o FORMAT  -y (yes)  --help (all flags)";

/// Columns that every terminal has.
const WIDTH: usize = 80;

/// Flags that short help leaves out, by command.
const RARE: &[(&str, &[&str])] = &[
    ("init", &["force", "stop", "trunk"]),
    ("add", &["trunk", "hosts", "waves", "start", "stop", "health"]),
    ("set", &["trunk", "hosts", "waves", "start", "stop", "health"]),
    ("hosts", &["exit_code", "all", "region"]),
    ("gc", &["at_once", "trust_clock"]),
    (
        "simulate",
        &[
            "zones",
            "piece",
            "headers",
            "round_trip",
            "news",
            "spread",
            "pace",
            "seed",
            "svg",
            "slow_disk",
            "poison",
            "late",
            "disk_full",
            "tracker_restart_at",
            "store_refuses",
            "partition_zone",
            "tracker_gone",
            "racks",
            "churn",
            "slow",
        ],
    ),
];

/// `command` and all under it with their short help made short.
#[must_use]
pub(super) fn shortened(command: clap::Command) -> clap::Command {
    command.mut_subcommands(|child| shortened(short(child)))
}

fn short(command: clap::Command) -> clap::Command {
    let rare = RARE.iter().find(|(name, _)| *name == command.get_name()).map(|(_, rare)| *rare);
    let rare = rare.unwrap_or_default();
    let command = command.mut_args(|arg| {
        let hide = rare.contains(&arg.get_id().as_str());
        if hide { arg.hide_short_help(true) } else { arg }
    });
    let Some(examples) = command.get_after_help().map(ToString::to_string) else {
        return command;
    };
    // A heading and two examples teach; the others are in `--help`.
    let fits = |line: &&str| line.len() <= WIDTH;
    let first: Vec<&str> = examples.lines().filter(fits).take(3).collect();
    let first = first.join("\n");
    command.after_help(format!("{first}\n\n{EVERYWHERE}")).after_long_help(examples)
}

#[cfg(test)]
mod tests {
    use crate::cli::command;

    #[test]
    fn short_help_fits_a_screen_of_24_lines_and_80_columns() {
        fn check(command: &clap::Command, path: &str) {
            for child in command.get_subcommands() {
                let path = format!("{path} {}", child.get_name());
                let text = child.clone().term_width(80).render_help().to_string();
                let lines = text.trim_end().lines().count();
                assert!(lines <= 24, "{path} -h has {lines} lines:\n{text}");
                check(child, &path);
            }
        }
        let mut tree = command();
        tree.build();
        check(&tree, "deployctl");
    }

    #[test]
    fn what_is_left_out_is_there() {
        fn names(command: &clap::Command, of: &str, found: &mut Vec<String>) {
            for child in command.get_subcommands() {
                if child.get_name() == of {
                    found.extend(child.get_arguments().map(|arg| arg.get_id().to_string()));
                }
                names(child, of, found);
            }
        }
        for (command_name, rare) in super::RARE {
            let mut found = vec![];
            names(&command(), command_name, &mut found);
            for flag in *rare {
                assert!(found.iter().any(|name| name == flag), "{command_name} has no {flag}");
            }
        }
    }
}
