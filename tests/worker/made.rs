//! What a build made is in the store, whole, signed, and the same each time.

use std::collections::BTreeMap;

use deployctl::model::digest::{ArtifactId, Digest, PieceDigest};
use deployctl::model::manifest::{Codec, Manifest, Node, Shape};
use deployctl::store::blobs::{Key, Kind};
use deployctl::wire::seal;

use crate::farm::Farm;

fn object(farm: &Farm, kind: Kind, artifact: &ArtifactId) -> Vec<u8> {
    std::fs::read(farm.path("blobs").join(Key::new(kind, *artifact).to_string())).unwrap()
}

pub(crate) fn manifest(farm: &Farm, artifact: &ArtifactId) -> Manifest {
    let bytes = object(farm, Kind::Manifest, artifact);
    assert_eq!(Digest::of(&bytes), *artifact);
    let key = ed25519_dalek::SigningKey::from_bytes(&[7; 32]);
    let signature = String::from_utf8(object(farm, Kind::Signature, artifact)).unwrap();
    seal::verify_manifest(&[seal::public_key(&key)], artifact, &signature).unwrap();
    Manifest::decode(&bytes).unwrap()
}

/// The artifact's files, made from the store's bytes alone.
pub(crate) fn unpack(farm: &Farm, artifact: &ArtifactId) -> BTreeMap<String, Vec<u8>> {
    let manifest = manifest(farm, artifact);
    let pack = object(farm, Kind::Pack, artifact);
    let offsets = manifest.wire_offsets();
    let mut blob = Vec::new();
    for (i, piece) in manifest.pieces.iter().enumerate() {
        let wire = &pack[offsets[i] as usize..offsets[i + 1] as usize];
        assert_eq!(PieceDigest::of(wire), piece.wire);
        let raw = match piece.codec {
            Codec::None => wire.to_vec(),
            Codec::Zstd => zstd::bulk::decompress(wire, manifest.raw_len(i) as usize).unwrap(),
        };
        assert_eq!(PieceDigest::of(&raw), piece.raw);
        blob.extend(raw);
    }
    assert_eq!(blob.len() as u64, manifest.size);
    let mut at = 0;
    let mut files = BTreeMap::new();
    for entry in &manifest.entries {
        if let Node::File { size, .. } = entry.node {
            let end = at + size as usize;
            files.insert(entry.path.clone(), blob[at..end].to_vec());
            at = end;
        }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_keeps_its_links_modes_and_bytes_and_has_one_identity() {
    let farm = Farm::new().await;
    let _worker = farm.worker("work", &["--slots", "2"]);
    let command = "mkdir -p out/bin out/empty; seq 1 300000 > out/data; printf '#!/bin/sh\\n' > out/bin/run
        chmod 4750 out/bin/run; ln -s bin/run out/run; ln -s ../data out/bin/data; touch out/nothing";
    let run = "artifact = 'out'\n[run]\nstart = './run'";
    let commit = farm.commit(command, run);
    let (artifact, job) = farm.succeeds(&commit).await;
    assert!(job.log.contains(&format!("published {artifact}")));
    let made = manifest(&farm, &artifact);
    let paths: Vec<&str> = made.entries.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(paths, ["bin/data", "bin/run", "data", "empty", "nothing", "run"]);
    assert_eq!(made.entries[1].node, Node::File { size: 10, exec: true });
    assert_eq!(made.entries[5].node, Node::Link { target: "bin/run".into() });
    assert_eq!(made.run.as_ref().unwrap().start.as_deref(), Some("./run"));
    assert_eq!(made.provenance.commit.as_str(), commit);
    assert_eq!(made.provenance.tree, farm.sh("git -C clone rev-parse 'HEAD^{tree}'"));
    let files = unpack(&farm, &artifact);
    assert_eq!(files["data"].len(), 1_988_895);
    assert!(files["nothing"].is_empty());
    // Another attempt in another worker makes the same artifact.
    let _other = farm.worker("other", &[]);
    for build in [farm.queue(&commit), farm.queue(&commit), farm.queue(&commit)] {
        let (outcome, _) = farm.ended(&build).await;
        let expected = deployctl::model::job::Outcome::Succeeded { artifact };
        assert_eq!(outcome, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_and_nothing_at_all_are_artifacts_too() {
    let farm = Farm::new().await;
    let _worker = farm.worker("work", &[]);
    let (file, _) =
        farm.succeeds(&farm.commit("printf x > out; chmod +x out", "artifact = 'out'")).await;
    assert_eq!(manifest(&farm, &file).shape, Shape::File);
    assert_eq!(unpack(&farm, &file)["out"], b"x");
    let (empty, _) = farm.succeeds(&farm.commit("touch out", "artifact = 'out'")).await;
    assert_eq!(manifest(&farm, &empty).pieces.len(), 0);
    assert!(object(&farm, Kind::Pack, &empty).is_empty());
    let (folder, _) = farm.succeeds(&farm.commit("mkdir out", "artifact = 'out'")).await;
    assert_eq!(manifest(&farm, &folder).entries, []);
    let (all, _) = farm.succeeds(&farm.commit("echo made > made", "artifact = '.'")).await;
    let paths: Vec<String> = unpack(&farm, &all).into_keys().collect();
    assert_eq!(paths, ["deployctl.toml", "made"]);
}
