//! `scripts/install`: everything lies where a system looks for it.

use std::path::Path;
use std::process::Command;

use crate::support::program;

#[test]
fn programs_pages_and_completions_go_where_a_system_looks() {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut command = Command::new(root.join("scripts/install"));
    command.arg("/usr").env("DESTDIR", folder.path());
    command.env("BIN", program().parent().unwrap());
    let done = crate::support::Done::from(command.output().unwrap());
    assert_eq!(done.code, 0, "{done:?}");
    let at = folder.path().join("usr");
    for file in [
        "share/man/man1/deployctl-deploy.1",
        "share/man/man5/deployctl.toml.5",
        "share/man/man5/deployctl-plan.5",
        "share/man/man7/deployctl-concepts.7",
        "share/bash-completion/completions/deployctl",
        "share/zsh/site-functions/_deployctl",
        "share/fish/vendor_completions.d/deployctl.fish",
        "share/deployctl/cli.schema.json",
    ] {
        assert!(at.join(file).is_file(), "no {file}");
    }
    let version = Command::new(at.join("bin/deployctl")).arg("--version").output().unwrap();
    assert!(String::from_utf8(version.stdout).unwrap().starts_with("deployctl "));
    for role in ["coordinator", "region", "worker", "agent"] {
        let role = at.join(format!("bin/deployctl-{role}"));
        let status = Command::new(role).arg("--help").output().unwrap().status;
        assert!(status.success());
    }
}

#[test]
fn a_folder_without_programs_is_refused_before_anything_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let prefix = folder.path().join("p");
    let mut command = Command::new(root.join("scripts/install"));
    let done = crate::support::Done::from(
        command.arg(&prefix).env("BIN", folder.path()).output().unwrap(),
    );
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stderr.contains("no ") && !prefix.exists(), "{done:?}");
}
