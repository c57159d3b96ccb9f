//! A config beside the code: the same activation, the same way back.

use deployctl::model::digest::Digest;
use deployctl::model::fleet::{FailureClass, Phase};
use deployctl::model::recipe::{RunKind, RunSpec};

use crate::host::{eventually, goal, service_of};
use crate::{healthy_on, running};

/// Says what it was given; ends at once when that is bad.
const READS: &str = "cat ${DEPLOYCTL_CONFIG:-/dev/null} > $OUT; \
                     grep -q bad $OUT && { echo bad config >&2; exit 3; }; exec sleep 600";

#[test]
fn a_config_alone_restarts_the_app_with_it_and_a_bad_one_reverts() {
    let out = tempfile::NamedTempFile::new().unwrap();
    let said = || std::fs::read_to_string(out.path()).unwrap();
    let mut run = service_of(READS);
    run.env.insert("OUT".into(), out.path().display().to_string());
    let (region, mut host, first) = running(run);
    assert_eq!(said(), "");
    let process = host.pid();
    let second = region.configured(2, first, "level = 1\n");
    region.say_goal(&goal(2, second, Some(first)));
    healthy_on(&region, second);
    assert_eq!(said(), "level = 1\n");
    assert_ne!(host.pid(), process, "it was restarted");
    assert_eq!(host.folder().current(), Some(second.bits()));
    let (_, text) = host.command(&["status"]);
    let config = second.config.unwrap().short();
    assert!(text.contains(&format!("config {config}")), "{text}");
    let file = host.folder().path().join("current/a");
    assert_eq!(std::fs::read_to_string(file).unwrap(), "1");

    let third = region.configured(3, first, "bad");
    region.say_goal(&goal(3, third, Some(second)));
    let failure = region.hears("reverted", |status| {
        let settled = status.phase == Phase::Reverted && status.running == Some(second);
        settled.then(|| status.failure.clone()).flatten()
    });
    assert_eq!(
        (failure.class, failure.log.as_slice()),
        (FailureClass::Release, &["bad config".into()][..])
    );
    eventually("the config before is back", || (said() == "level = 1\n").then_some(()));
    // Not tried again by a later step, and not after a restart of the agent.
    host.kill();
    host.start(&region.url);
    let mut again = goal(3, third, Some(second));
    again.version.step = 2;
    region.say_goal(&again);
    region.hears("step 2 seen", |status| {
        (status.version.step == 2 && status.phase == Phase::Reverted).then_some(())
    });
    assert_eq!(host.folder().current(), Some(second.bits()));
    // The same code with a config that works is no failed release.
    let fourth = region.configured(4, first, "level = 2\n");
    region.say_goal(&goal(4, fourth, Some(second)));
    healthy_on(&region, fourth);
    assert_eq!(said(), "level = 2\n");
}

#[test]
fn without_any_network_a_host_goes_back_to_the_config_before() {
    let out = tempfile::NamedTempFile::new().unwrap();
    let said = || std::fs::read_to_string(out.path()).unwrap();
    let mut run = service_of(READS);
    run.env.insert("OUT".into(), out.path().display().to_string());
    let (region, mut host, first) = running(run);
    for (release, text) in [(2, "one"), (3, "two")] {
        let next = region.configured(release, first, text);
        region.say_goal(&goal(release, next, Some(first)));
        healthy_on(&region, next);
    }
    assert_eq!(said(), "two");
    drop(region);
    host.kill();
    for (release, config) in [("r2", "one"), ("r1", "")] {
        let (code, text) = host.command(&["rollback", "api"]);
        assert!(code == 0 && text.contains(release), "{text}");
        assert_eq!(said(), config);
    }
    assert_eq!(host.command(&["rollback", "api"]).0, 8);
}

#[test]
fn an_agent_killed_at_any_moment_of_a_change_of_config_ends_it() {
    let out = tempfile::NamedTempFile::new().unwrap();
    let said = || std::fs::read_to_string(out.path()).unwrap();
    let mut run = service_of(READS);
    run.env.insert("OUT".into(), out.path().display().to_string());
    run.min_healthy_s = 1;
    let (region, mut host, first) = running(run);
    for (generation, wait_ms) in (2..).zip([0, 30, 80, 200, 500, 900]) {
        let text = format!("generation {generation}");
        let next = region.configured(generation, first, &text);
        region.say_goal(&goal(generation, next, Some(first)));
        eventually("the agent has begun", || {
            let known = host.folder().goal().unwrap()?.0.version.generation;
            (known == generation).then_some(())
        });
        std::thread::sleep(std::time::Duration::from_millis(wait_ms));
        host.kill();
        host.start(&region.url);
        healthy_on(&region, next);
        assert_eq!(said(), text);
        assert_eq!(host.folder().current(), Some(next.bits()));
    }
    // It keeps what it may go back to, and no more.
    let kept = host.folder().configs();
    assert!((2..=4).contains(&kept.len()), "{} configs", kept.len());
}

#[test]
fn a_config_that_is_damaged_or_not_to_be_had_is_no_fault_of_the_release() {
    let out = tempfile::NamedTempFile::new().unwrap();
    let said = || std::fs::read_to_string(out.path()).unwrap();
    // A one-shot release: its command is the whole activation.
    let mut run = RunSpec { kind: RunKind::Oneshot, ..service_of("cat $DEPLOYCTL_CONFIG > $OUT") };
    run.env.insert("OUT".into(), out.path().display().to_string());
    run.start = Some("cat ${DEPLOYCTL_CONFIG:-/dev/null} > $OUT".into());
    let (region, host, first) = running(run);
    let second = region.configured(2, first, "one");
    region.say_goal(&goal(2, second, Some(first)));
    healthy_on(&region, second);
    region.say_goal(&goal(3, first, Some(second)));
    healthy_on(&region, first);
    // Somebody edits what is kept: it is fetched again, never used.
    let config = second.config.unwrap();
    std::fs::write(host.folder().config(config), "edited").unwrap();
    region.say_goal(&goal(4, second, Some(first)));
    healthy_on(&region, second);
    assert_eq!(said(), "one");
    // A region that gives something else than was asked for is not believed.
    let lie = Digest::of(b"the truth");
    region.told().configs.insert(lie, "a lie".into());
    let third = deployctl::model::goal::Target { config: Some(lie), ..second };
    region.say_goal(&goal(5, third, Some(second)));
    region.hears("fetching", |status| {
        (status.version.generation == 5 && status.phase == Phase::Fetching).then_some(())
    });
    assert_eq!((host.folder().current(), said().as_str()), (Some(second.bits()), "one"));
    region.told().configs.insert(lie, "the truth".into());
    healthy_on(&region, third);
    assert_eq!(said(), "the truth");
}
