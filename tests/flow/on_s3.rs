//! The main job with every artifact in a real S3 server, and what is lost there.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::LazyLock;

use deployctl::model::digest::ArtifactId;
use deployctl::store::blobs::{Blobs, Key, Kind};

use crate::fleet::{Engines, Fleet, eventually, metric};
use crate::killed::noise;
use crate::s3_server;
use crate::several::join;
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

/// Hosts that may read the bucket themselves, and what a region sends through and signs.
fn deploy_directly(stores: fn(&str) -> String) -> (Fleet, [f64; 2]) {
    let mut fleet =
        Fleet::on(&["eu", "us"], Engines { stores: Some(stores), ..Engines::default() });
    fleet.region_args = ["--direct-reads", "30"].map(str::to_owned).into();
    let (mut fleet, repository) = stock(fleet, 2);
    let at = &repository.folder;
    repository.publish(&[("version", "2"), ("data/big", &noise(3 << 20))], "Big");
    let plan = ["deploy", "--build", "--yes", "--plan", "all-at-once"];
    fleet.expect(at, &plan, 0);
    for host in ["eu-1", "eu-2", "us-1"] {
        let current = fleet.current(host, "api");
        assert_eq!(fs::read_to_string(current.join("version")).unwrap(), "2");
        assert_eq!(fs::read_to_string(current.join("data/big")).unwrap(), noise(3 << 20));
    }
    let eu = fleet.metrics("region-eu");
    let told =
        ["served", "direct"].map(|way| metric(&eu, &format!("deployctl_region_{way}_bytes_total")));
    (fleet, told)
}

#[test]
fn hosts_read_the_bucket_themselves_where_they_may() {
    let (fleet, [served, direct]) = deploy_directly(s3_server::store);
    assert!(served == 0.0 && direct > 1e6, "{served} through the region, {direct} directly");
    assert!(!fleet.log("eu-1").contains("can't be read directly"), "{}", fleet.log("eu-1"));
}

/// A way to the S3 server on which signed URLs of packs are refused.
fn refusing() -> u16 {
    let server: SocketAddr =
        s3_server::endpoint().trim_start_matches("http://").trim_end_matches('/').parse().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut head = [0; 1024];
                let came = client.peek(&mut head).unwrap_or_default();
                let line = String::from_utf8_lossy(&head[..came]).into_owned();
                let line = line.lines().next().unwrap_or_default();
                if line.contains("/packs/") && line.contains("X-Amz-Signature") {
                    let refused = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
                    let _ = client.write_all(refused);
                } else if let Ok(server) = TcpStream::connect(server) {
                    join(client, server);
                }
            });
        }
    });
    port
}

#[test]
fn hosts_that_the_bucket_refuses_read_through_their_region() {
    static PORT: LazyLock<u16> = LazyLock::new(refusing);
    let stores = |name: &str| match name.starts_with("regions/") {
        true => s3_server::store(name)
            .replace(&s3_server::endpoint(), &format!("http://127.0.0.1:{}", *PORT)),
        false => s3_server::store(name),
    };
    let (fleet, [served, direct]) = deploy_directly(stores);
    assert!(served > 1e6 && direct > 0.0, "{served} through the region, {direct} directly");
    let logs = fleet.log("eu-1") + &fleet.log("eu-2");
    assert!(logs.contains("can't be read directly"), "{logs}");
    let log = fleet.log("region-eu");
    assert!(log.contains("could not read the store itself"), "{log}");
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
