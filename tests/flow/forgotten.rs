//! Hosts that are gone for good, and one that is not.

use crate::fleet::eventually;
use crate::fleet_with_app;

#[test]
fn a_host_that_is_gone_is_forgotten_and_one_that_lives_is_not() {
    let (mut fleet, repository) = fleet_with_app(1);
    let at = repository.folder.clone();
    fleet.expect(&at, &["deploy", "--yes", "--build", "--plan", "all-at-once"], 0);
    fleet.expect(&at, &["hosts", "forget", "eu-1"], 6);
    fleet.expect(&at, &["hosts", "forget", "nobody"], 3);
    fleet.kill("us-1");
    eventually("it is away", || {
        fleet.cli(&at, &["hosts", "us-1", "--unreachable", "--exit-code"]).status.code() == Some(20)
    });
    fleet.expect(&at, &["hosts", "forget", "us-1"], 0);
    fleet.expect(&at, &["hosts", "us-1"], 3);
    // The region forgets it too: the counts of its next report are without it.
    eventually("no count has it", || {
        let status = fleet.json(&at, &["status"], 0);
        status["apps"][0]["regions"]["us"]["hosts"] == 0
            && fleet.json(&at, &["regions"], 0)["regions"][1]["hosts"] == 0
    });
    fleet.expect(&at, &["hosts", "us-1"], 3);
    fleet.start_agent("us", "us-1");
    eventually("a host that is back is known again", || {
        fleet.cli(&at, &["hosts", "us-1"]).status.code() == Some(0)
    });
}
