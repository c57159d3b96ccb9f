//! The main job with every artifact in a real S3 server, and what is lost there.

use std::fs;

use deployctl::model::digest::ArtifactId;
use deployctl::store::blobs::{Blobs, Key, Kind};

use crate::fleet::{Engines, Fleet, eventually};
use crate::s3_server;
use crate::stock;

#[test]
fn a_commit_reaches_every_host_and_lost_objects_come_back() {
    let engines = Engines { stores: Some(s3_server::store), ..Engines::default() };
    let (mut fleet, repository) = stock(Fleet::on(&["eu", "us"], engines), 1);
    let at = &repository.folder;
    repository.publish(&[("version", "2"), ("data/big", &"x".repeat(3 << 20))], "Big");
    let build = fleet.json(at, &["build", "HEAD"], 0);
    let artifact: ArtifactId = build["artifact"]["artifact"].as_str().unwrap().parse().unwrap();
    let plan = ["--yes", "--plan", "all-at-once"];
    fleet.expect(at, &[&["deploy", "HEAD", "--when-ready"], &plan[..]].concat(), 0);
    for host in ["eu-1", "us-1"] {
        let current = fleet.current(host, "api");
        assert_eq!(fs::read_to_string(current.join("version")).unwrap(), "2");
        assert_eq!(fs::metadata(current.join("data/big")).unwrap().len(), 3 << 20);
    }

    let runtime = tokio::runtime::Runtime::new().unwrap();
    let eu = Blobs::open(&fleet.blobs("eu")).unwrap();
    let pack = Key::new(Kind::Pack, artifact);
    let sound = runtime.block_on(eu.head(pack)).unwrap().unwrap();
    let whole = runtime.block_on(eu.get_range(pack, 0..sound)).unwrap();
    let number = build["build"].as_str().unwrap();
    let is_deployable = || fleet.json(at, &["builds", "show", number], 0)["deployable"] == true;
    let is_whole = || {
        let read = runtime.block_on(eu.get_range(pack, 0..sound));
        read.is_ok_and(|read| read == whole)
    };
    // Deleted, cut short, and damaged in place.
    let mut damaged = whole.to_vec();
    damaged.iter_mut().for_each(|byte| *byte ^= 1);
    for bytes in [None, Some(whole.slice(1..)), Some(damaged.into())] {
        eventually("the copy is whole and known to be", || is_whole() && is_deployable());
        match bytes {
            None => runtime.block_on(eu.delete(pack)).unwrap(),
            Some(bytes) => runtime.block_on(eu.put(pack, bytes)).unwrap(),
        }
        eventually("the loss is healed", is_whole);
    }
    let events = fleet.expect(at, &["events", "-o", "json"], 0);
    assert!(events.contains("build.replication_lost"), "{events}");
}

#[test]
fn a_bucket_that_is_not_there_is_told_by_the_doctor() {
    let stores = |name: &str| match name.starts_with("regions/") {
        true => s3_server::store(name).replacen("deployctl-test", "deployctl-none", 1),
        false => s3_server::store(name),
    };
    let fleet = Fleet::on(&["eu"], Engines { stores: Some(stores), ..Engines::default() });
    eventually("the doctor names the bucket", || {
        let said = fleet.json(&fleet.path(""), &["doctor"], 1);
        let checks = said["checks"].as_array().unwrap();
        let stores = checks.iter().find(|check| check["check"] == "stores").unwrap();
        let says = stores["says"].as_str().unwrap();
        stores["verdict"] == "failed"
            && says.starts_with("eu: s3://deployctl-none/")
            && says.contains("there is no such bucket")
    });
}
