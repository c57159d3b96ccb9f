//! Bad input with the whole fleet there: one clear error each, its exit code,
//! nothing left half done.

use crate::fleet::text;
use crate::fleet_with_app;

#[test]
fn each_mistake_gets_its_exit_code_and_a_next_step() {
    let (fleet, repository) = fleet_with_app(1);
    let at = &repository.folder;
    let refused = |args: &[&str], code: i32, says: &str| {
        let done = fleet.cli(at, args);
        let story = text(&done.stderr);
        assert_eq!(done.status.code(), Some(code), "deployctl {args:?}\n{story}");
        assert!(story.contains("error:") && story.contains(says), "deployctl {args:?}\n{story}");
    };
    refused(&["build", "-a", "nosuch"], 3, "nosuch");
    refused(&["build", &"0".repeat(40)], 9, "not in");
    refused(&["deploy", "no-such-branch", "--yes"], 3, "no-such-branch");
    refused(&["deploy", "r99", "--yes"], 3, "r99");
    refused(&["deploy", "--yes", "-e", "prdo"], 3, "prdo");
    refused(&["deploy", "HEAD"], 2, "--yes");
    refused(&["deploy", "HEAD", "--yes"], 8, "no build of it");
    refused(&["depoly"], 2, "deploy");

    repository.commit(&[("version", "9")], "Not pushed");
    refused(&["build", "HEAD"], 8, "git push");

    repository.git(&["checkout", "-q", "-b", "side", "origin/main"]);
    repository.publish(&[("version", "side")], "On a side branch");
    refused(&["build", "HEAD"], 9, "not on main");

    repository.git(&["checkout", "-q", "-B", "main", "origin/main"]);
    let missing = crate::SERVICE.replace("artifact = \"out\"", "artifact = \"nowhere\"");
    repository.publish(&[("deployctl.toml", &missing)], "Artifact missing");
    refused(&["build", "HEAD"], 9, "nowhere");

    let failing = crate::SERVICE.replace("mkdir -p out", "echo the compiler says no; exit 3; true");
    repository.publish(&[("deployctl.toml", &failing)], "Does not compile");
    refused(&["build", "HEAD"], 9, "the compiler says no");

    let hanging = crate::SERVICE.replace("mkdir -p out", "sleep 600; mkdir -p out");
    let hanging = hanging.replace("artifact = \"out\"", "artifact = \"out\"\nlimit_s = 2");
    repository.publish(&[("deployctl.toml", &hanging)], "Hangs");
    refused(&["build", "HEAD"], 9, "2 s");
    // The worker is well after all that.
    repository.publish(&[("deployctl.toml", crate::SERVICE)], "Mended");
    fleet.expect(at, &["build", "HEAD"], 0);
}
