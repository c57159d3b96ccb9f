//! Every way that a build ends badly has its class and its sentence, and the
//! worker is well afterwards.

use deployctl::model::job::BuildFailure::{BuildFailed, Refused, Timeout};

use crate::farm::{Farm, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_be_built_is_refused() {
    let farm = Farm::new().await;
    let _worker = farm.worker("work", &[]);
    let root = farm.head();
    farm.fails(&root, Refused, "write deployctl.toml with [build]").await;
    farm.commit("true", "");
    farm.fails(&farm.head(), Refused, "artifact").await;
    let unpushed =
        farm.sh("cd clone && git commit -q --allow-empty -m unpushed && git rev-parse HEAD");
    farm.fails(&unpushed, Refused, &format!("commit {unpushed} is not in file:///")).await;
    farm.sh("cd clone && git push -q ../origin.git HEAD:side");
    farm.fails(&unpushed, Refused, "is not on main").await;
    let nowhere = farm.queue_from("file:///nonexistent", &root);
    let (outcome, _) = farm.ended(&nowhere).await;
    assert!(format!("{outcome:?}").contains("Refused"), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn builds_that_fail_hang_fork_or_leave_nothing_end_with_the_reason() {
    let farm = Farm::new().await;
    let worker = farm.worker("work", &[]);
    let artifact = "artifact = 'out'";
    let commit = farm.commit("echo the compiler says no; exit 3", artifact);
    let job = farm.fails(&commit, BuildFailed, "exit code 3").await;
    assert!(job.log.contains("\nthe compiler says no\n"), "{}", job.log);

    let commit = farm.commit("mkdir dist; touch dist/app", artifact);
    farm.fails(&commit, BuildFailed, "left no out; in the checkout there is deployctl.toml, dist")
        .await;

    let commit = farm.commit("setsid sleep 1000 & sleep 1000", "artifact = 'out'\nlimit_s = 1");
    farm.fails(&commit, Timeout, "its limit of 1 s").await;
    assert_eq!(worker.build_processes(), 0);

    let commit = farm.commit("mkdir out; ln -s /etc/passwd out/link", artifact);
    farm.fails(&commit, BuildFailed, "link can't be deployed: it links to /etc/passwd").await;

    let commit = farm.commit("(setsid sleep 1000 &); sleep 1000 & echo x > out", artifact);
    farm.succeeds(&commit).await;
    assert_eq!(worker.build_processes(), 0);
    // The folder of a slot is empty between two builds.
    eventually("scratch removed", || !farm.path("work/slots/0").exists()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_that_prints_without_end_leaves_a_bounded_log_in_order() {
    let farm = Farm::new().await;
    let _worker = farm.worker("work", &["--log-bytes", "400000"]);
    let command = "yes 'a line of a very chatty build' | head -c 30000000; printf '\\033[1mEND\\033[0m\\n'; echo x > out";
    let (_, job) = farm.succeeds(&farm.commit(command, "artifact = 'out'")).await;
    assert!(job.log.len() < 401_000, "{}", job.log.len());
    assert!(job.log.contains("bytes of output left out here …\n"));
    assert!(job.log.contains("\nEND\ndeployctl: packing out\n"), "the end is kept, cleaned");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_build_sees_its_commit_and_none_of_the_workers_secrets() {
    let farm = Farm::new().await;
    let _worker = farm.worker("work", &[]);
    let more = "artifact = 'out'\n[build.env]\nEXTRA = 'from the recipe'";
    let commit = farm.commit(
        "git describe --always --dirty; env > out; cat /proc/self/environ /dev/stdin >> out",
        more,
    );
    let (artifact, job) = farm.succeeds(&commit).await;
    let env = crate::made::unpack(&farm, &artifact).remove("out").unwrap();
    let env = String::from_utf8_lossy(&env).into_owned();
    for line in [
        format!("DEPLOYCTL_COMMIT={commit}"),
        "DEPLOYCTL_APP=api".into(),
        "TZ=UTC".into(),
        "CI=true".into(),
        "EXTRA=from the recipe".into(),
    ] {
        assert!(env.lines().any(|had| had == line), "{line}: {env}");
    }
    assert!(env.contains("SOURCE_DATE_EPOCH=") && !env.contains("dct_") && !env.contains("TOKEN"));
    assert!(!env.contains("CARGO_MANIFEST_DIR"), "nothing else is inherited");
    assert!(job.log.contains(&format!("\n{}\n", &commit[..7])), "{}", job.log);
}
