//! What judges a bake beside host health: programs of the operator, and hosts without
//! the release.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use deployctl::model::comparison::{Comparison, Side, Span};
use deployctl::model::judged::GateWord;
use deployctl::model::rollout::RolloutState::{Canceled, Paused, Reverted, Succeeded};
use deployctl::model::rollout::Stage;
use deployctl::wire::v1::event::{Event, Events};
use deployctl::wire::v1::rollout::{Rollout, RolloutRequest};

use crate::house::{House, PATIENCE, deploy, rollback};
use crate::region::FakeRegion;
use crate::{only, runs, settled};

/// A house where r1 runs and every deploy to prod is judged by a script, which is run each
/// second and may take two.
async fn gated(script: &str) -> (House, FakeRegion, FakeRegion) {
    gated_for(script, 2).await
}

async fn gated_for(script: &str, timeout_s: u32) -> (House, FakeRegion, FakeRegion) {
    let (house, mut eu, mut us) = settled().await;
    let config = house.folder.path().join("coordinator.toml");
    let gate = format!(
        "[[gates]]\nname = \"errors\"\ncommand = [{:?}, \"an argument\"]\nenvs = [\"prod\"]\n\
         timeout_s = {timeout_s}\nevery_s = 1\n",
        program(&house)
    );
    let text = std::fs::read_to_string(&config).unwrap() + &gate;
    std::fs::write(&config, text).unwrap();
    write(&house, script);
    let house = house.restart().await;
    // Its stores were looked into again, and hold nothing of what these tests call complete.
    (1..=4).for_each(|n| house.replicated(n));
    eu.moves(house.region("eu", 0));
    us.moves(house.region("us", 0));
    (house, eu, us)
}

fn program(house: &House) -> PathBuf {
    house.folder.path().join("errors.sh")
}

fn write(house: &House, script: &str) {
    let (path, fresh) = (program(house), house.folder.path().join("fresh"));
    std::fs::write(&fresh, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(fresh, path).unwrap();
}

fn said(rollout: &Rollout) -> (GateWord, String) {
    let program = &rollout.gates.last().unwrap().programs[0];
    assert_eq!(program.name.as_str(), "errors");
    (program.verdict, program.said.clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_is_asked_about_and_passes() {
    let script = "cat > \"$0.$DEPLOYCTL_STEP\"; env > \"$0.env\"; echo \"fine: $1\"; echo more";
    let (house, mut eu, mut us) = gated(script).await;
    house.ask(&deploy("b2")).await.unwrap();
    let ended = house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(2));
    assert_eq!(ended.gates.len(), ended.steps.len());
    for judged in &ended.gates {
        let told = &judged.programs[0];
        assert_eq!((judged.verdict, told.verdict), (GateWord::Pass, GateWord::Pass), "{judged:?}");
        assert_eq!(
            (told.said.as_str(), told.output.as_str()),
            ("fine: an argument", "fine: an argument\nmore")
        );
        let path = house.folder.path().join(format!("errors.sh.{}", judged.step));
        let told: Rollout = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert_eq!((told.release.release.to_string().as_str(), told.step), ("r2", judged.step));
    }
    let env = std::fs::read_to_string(house.folder.path().join("errors.sh.env")).unwrap();
    for line in
        ["DEPLOYCTL_GATE=errors", "DEPLOYCTL_APP=api", "DEPLOYCTL_ENV=prod", "DEPLOYCTL_RELEASE=r2"]
    {
        assert!(env.lines().any(|own| own == line), "{env}");
    }
    assert!(!env.contains("CARGO"), "nothing else of ours: {env}");
    let events: Events = house.admin.get("/v1/events?since=0&app=api", PATIENCE).await.unwrap();
    let told = events.events.iter().find(|event| event.kind == "rollout.gate").unwrap();
    assert_eq!(told.message, "r2 in prod: the gate errors says pass: fine: an argument");
    // A way back waits for nobody.
    write(&house, "exit 1");
    house.ask(&rollback("")).await.unwrap();
    let back = house.until_state("r3", &mut [&mut eu, &mut us], Succeeded).await;
    assert!(back.gates.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_fails_sends_hosts_back() {
    let (house, mut eu, mut us) = gated("echo '5.2 % of requests fail'; exit 1").await;
    house.ask(&deploy("b2")).await.unwrap();
    let ended = house.until_state("r2", &mut [&mut eu, &mut us], Reverted).await;
    assert_eq!(runs(&eu, &us), only(1));
    assert!(ended.release.bad);
    assert!(
        ended.release.reason.contains("the gate errors failed: 5.2 % of requests fail"),
        "{}",
        ended.release.reason
    );
    assert_eq!(said(&ended), (GateWord::Fail, "5.2 % of requests fail".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_can_not_tell_pauses_and_a_person_goes_on() {
    let (house, mut eu, mut us) = gated("echo 'no data' >&2; exit 2").await;
    for (script, why) in [
        ("echo 'no data' >&2; exit 2", "3 times in a row: no data"),
        ("exit 7", "exit 7, which means nothing"),
        ("kill -9 $$", "ended by signal 9"),
        ("sleep 300 & sleep 300", "ran longer than 2 s and was killed"),
    ] {
        write(&house, script);
        let asked = house.ask(&deploy("b2")).await.unwrap();
        let name = asked.release.release.to_string();
        let paused = house.until_state(&name, &mut [&mut eu, &mut us], Paused).await;
        assert!(paused.release.reason.contains(why), "{}", paused.release.reason);
        let line = format!("deployctl promote {name} -a api -e prod");
        assert!(paused.release.reason.ends_with(&line), "{}", paused.release.reason);
        assert!(!paused.release.bad && said(&paused).0 == GateWord::Inconclusive);
        house.cancel(&name, false).await.unwrap();
        house.until_state(&name, &mut [&mut eu, &mut us], Canceled).await;
    }
    std::fs::remove_file(program(&house)).unwrap();
    house.ask(&deploy("b2")).await.unwrap();
    let paused = house.until_state("r6", &mut [&mut eu, &mut us], Paused).await;
    assert!(paused.release.reason.contains("No such file"), "{}", paused.release.reason);
    let next = house.promote("r6", false).await.unwrap();
    assert_eq!(next.step, 1, "the line that it says goes on");
    house.until_state("r6", &mut [&mut eu, &mut us], Paused).await;
    house.promote("r6", true).await.unwrap();
    house.until_state("r6", &mut [&mut eu, &mut us], Succeeded).await;
    assert_eq!(runs(&eu, &us), only(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_runs_when_its_coordinator_stops_is_killed_and_asked_again() {
    let script = "cd \"$(dirname \"$0\")\"; [ -e go ] && exit 0; sleep 300 & echo $! > pid; wait";
    let (house, mut eu, mut us) = gated_for(script, 30).await;
    house.ask(&deploy("b2")).await.unwrap();
    let pid = house.folder.path().join("pid");
    let written = || std::fs::read_to_string(&pid).ok().filter(|text| text.ends_with('\n'));
    house.until("r2", &mut [&mut eu, &mut us], |_| written().is_some()).await;
    let child = written().unwrap().trim().to_owned();
    let waiting = house.show("r2").await;
    assert!(waiting.waiting_on.contains("the gate errors"), "{}", waiting.waiting_on);
    let house = house.restart().await;
    let deadline = Instant::now() + PATIENCE;
    let lives = || {
        let stat = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        !stat.is_empty() && !stat.contains(") Z ")
    };
    while lives() {
        assert!(Instant::now() < deadline, "{child} lives on");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    std::fs::write(house.folder.path().join("go"), "").unwrap();
    eu.moves(house.region("eu", 0));
    us.moves(house.region("us", 0));
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
}

/// A claim of a coordinator that is gone, made after it began: what it said is not known.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_was_lost_with_its_coordinator_is_made_again() {
    let (house, mut eu, mut us) = gated("exec sleep 1").await;
    house.ask(&deploy("b2")).await.unwrap();
    let taken = "UPDATE gate_runs SET run = run + 1 WHERE claimed_until > 0";
    let lost = std::cell::Cell::new(0);
    house
        .until("r2", &mut [&mut eu, &mut us], |rollout| {
            if lost.get() == 0 {
                lost.set(house.db().execute(taken, []).unwrap());
            }
            rollout.release.state == Succeeded
        })
        .await;
    assert_eq!(lost.get(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_after_the_end_is_heard_by_nobody() {
    let script =
        "cd \"$(dirname \"$0\")\"; until [ -e go ]; do sleep 0.05; done; [ -e ended ] && exit 0
        echo 'too late'; : > ended; exit 1";
    let (house, mut eu, mut us) = gated_for(script, 30).await;
    house.ask(&deploy("b2")).await.unwrap();
    let claimed = "SELECT count(*) FROM gate_runs WHERE claimed_until > 0";
    let runs = || house.db().query_row(claimed, [], |row| row.get::<_, u32>(0)).unwrap();
    house.until("r2", &mut [&mut eu, &mut us], |_| runs() == 1).await;
    house.cancel("r2", true).await.unwrap();
    std::fs::write(house.folder.path().join("go"), "").unwrap();
    let ended = house.folder.path().join("ended");
    house.until("r2", &mut [&mut eu, &mut us], |_| ended.exists()).await;
    // By the end of the next one what the program said was heard long ago.
    house.ask(&deploy("b3")).await.unwrap();
    house.until_state("r3", &mut [&mut eu, &mut us], Succeeded).await;
    let events: Events = house.admin.get("/v1/events?since=0&app=api", PATIENCE).await.unwrap();
    let told = |event: &&Event| event.kind == "rollout.gate";
    for event in events.events.iter().filter(told) {
        assert!(event.message.starts_with("r3 in prod"), "{}", event.message);
    }
    assert!(events.events.iter().any(|event| told(&event)));
}

/// As many gates as there can be, which keep all places busy while a first rollout bakes.
#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_beside_a_busy_one_has_its_turn() {
    let (house, mut eu, mut us) = settled().await;
    let config = house.folder.path().join("coordinator.toml");
    let mut text = std::fs::read_to_string(&config).unwrap();
    for n in 1..=16 {
        text += &format!(
            "[[gates]]\nname = \"g{n}\"\ncommand = [{:?}]\ntimeout_s = 20\nevery_s = 1\n",
            program(&house)
        );
    }
    std::fs::write(&config, text).unwrap();
    // Each takes longer than until it is due again.
    write(&house, "exec sleep 1.5");
    let house = house.restart().await;
    (1..=4).for_each(|n| house.replicated(n));
    eu.moves(house.region("eu", 0));
    us.moves(house.region("us", 0));
    let slow = RolloutRequest { bake_s: Some(3600), ..deploy("b2") };
    house.ask(&slow).await.unwrap();
    let claimed = "SELECT count(*) FROM gate_runs WHERE env = 'prod' AND run > 1";
    let again = || house.db().query_row(claimed, [], |row| row.get::<_, u32>(0)).unwrap();
    house.until("r2", &mut [&mut eu, &mut us], |_| again() == 16).await;
    // No host is there, so the regions have nothing to tell.
    let other = house.ask_in("staging", &deploy("b2")).await.unwrap();
    let path = format!("/v1/apps/api/envs/staging/rollouts/{}", other.release.release);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let now: Rollout = house.admin.get(&path, PATIENCE).await.unwrap();
        if now.release.state == Succeeded {
            break;
        }
        assert!(now.release.state != Paused && Instant::now() < deadline, "{}", now.waiting_on);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// Two hosts of each kind for 5,000 seconds each.
fn fares(with: u64, without: u64) -> Comparison {
    let side = |events: u64| Side {
        hosts: 2,
        struck: u32::try_from(events.min(2)).unwrap(),
        span: Span { host_s: 5_000, events },
    };
    let expected_milli = without * 1000;
    Comparison { next: side(with), control: side(without), expected_milli, ..Comparison::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_restarts_where_others_do_not_goes_back() {
    let (house, mut eu, mut us) = settled().await;
    for (n, with, without) in [(2, 9, 0), (3, 9, 9)] {
        let release = format!("r{n}");
        let slow = RolloutRequest { bake_s: Some(3600), ..deploy(&format!("b{n}")) };
        house.ask(&slow).await.unwrap();
        (eu.fares, us.fares) = (Some(fares(with, without)), Some(fares(with, without)));
        let regions = &mut [&mut eu, &mut us];
        let ended = house
            .until(&release, regions, |r| {
                r.release.state == Reverted || r.waiting_on.starts_with("bake ends in")
            })
            .await;
        if without == 0 {
            let ended = house.until_state(&release, regions, Reverted).await;
            let reason = &ended.release.reason;
            assert!(
                reason.contains("9 restarts or failed probes on hosts with r2 in eu"),
                "{reason}"
            );
            assert_eq!(runs(&eu, &us), only(1));
        } else {
            let judged = &ended.gates[0].compared[&"eu".parse().unwrap()];
            assert_eq!(
                (judged.verdict, judged.events, judged.other_events),
                (GateWord::Pass, 9, 9)
            );
            assert_eq!(judged.expected_milli, 9000);
            assert!(eu.asked.iter().any(|asked| asked.app.as_str() == "api"), "it is asked for");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bake_ends_on_counts_that_were_told_lately() {
    let (house, mut eu, mut us) = settled().await;
    house.ask(&RolloutRequest { bake_s: Some(2), ..deploy("b2") }).await.unwrap();
    let bakes = |rollout: &Rollout| rollout.stage == Stage::Baking;
    let begun = house.until("r2", &mut [&mut eu, &mut us], bakes).await;
    assert!(!begun.baked, "{begun:?}");
    // An outage: nothing was heard for a minute, and what was told last looked well.
    let mut db = house.db();
    let past = db.transaction().unwrap();
    past.execute("UPDATE tallies SET updated_at = updated_at - 60000", []).unwrap();
    past.commit().unwrap();
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let waits = house.show("r2").await;
    assert_eq!((waits.step, waits.stage), (0, Stage::Baking), "{}", waits.waiting_on);
    assert!(waits.waiting_on.starts_with("the bake is over; "), "{}", waits.waiting_on);
    assert!(waits.baked, "{waits:?}");
    assert!(waits.waiting_on.contains(" is to count its hosts again"), "{}", waits.waiting_on);
    // The same counts, told again, are all that it takes.
    house.until_state("r2", &mut [&mut eu, &mut us], Succeeded).await;
}
