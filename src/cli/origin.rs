//! Where workers fetch what lies in a working copy: its remote's URL and trunk.

use std::path::Path;

use crate::host::repo::Repo;

/// The remote that a clone comes from.
const REMOTE: &str = "origin";

/// The URL of `repo`'s origin, else of the folder itself.
#[must_use]
pub fn url(repo: Option<&Repo>, root: &Path) -> String {
    let origin = repo.and_then(|repo| repo.remote_url(REMOTE));
    origin.map_or_else(|| file_url(root), |origin| to_url(&origin, root))
}

/// The branch that commits are merged to: the remote's own, else the one checked out.
#[must_use]
pub fn trunk(repo: Option<&Repo>) -> String {
    let known = repo.and_then(|repo| {
        let asked = || repo.remote_url(REMOTE).and_then(|_| repo.ask_remote_head(REMOTE));
        repo.remote_head(REMOTE).or_else(asked).or_else(|| repo.branch())
    });
    known.unwrap_or_else(|| "main".into())
}

/// A remote as git writes it, as a URL: paths and `user@host:path` too.
fn to_url(remote: &str, root: &Path) -> String {
    if remote.contains("://") {
        return remote.to_owned();
    }
    // Git reads a colon before the first slash as the end of a host.
    match remote.split_once(':') {
        Some((host, path)) if !host.contains('/') => format!("ssh://{host}/{path}"),
        _ => file_url(&root.join(remote)),
    }
}

fn file_url(path: &Path) -> String {
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    format!("file://{}", real.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_way_to_write_a_remote_is_a_url() {
        let root = Path::new("/srv/none/repo");
        for (remote, url) in [
            ("https://example.org/x.git", "https://example.org/x.git"),
            ("git@example.org:team/x.git", "ssh://git@example.org/team/x.git"),
            ("/srv/none/x.git", "file:///srv/none/x.git"),
            ("./odd:name", "file:///srv/none/repo/./odd:name"),
        ] {
            assert_eq!(to_url(remote, root), url);
        }
    }
}
