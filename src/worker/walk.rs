//! What an artifact's file or folder holds: sorted entries, nothing that a host
//! would have to trust.
//!
//! Links are taken as links and never followed, save for the artifact's own
//! path, which may pass through links inside the checkout. Devices, sockets and
//! pipes are refused, set-user-id bits dropped, `.git` at the top left out.

use std::fs::{FileType, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::model::manifest::{ARTIFACT_BYTES_MAX, ENTRIES_MAX, Entry, Node, Shape};

/// How many names a refusal lists.
const NAMES_LISTED: usize = 8;

/// An artifact as it lies on the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Where the entries' paths start.
    pub root: PathBuf,
    /// A file or a folder.
    pub shape: Shape,
    /// Sorted by path.
    pub entries: Vec<Entry>,
    /// Bytes of all files.
    pub size: u64,
}

/// Why what the build made can't be an artifact.
#[derive(Debug, thiserror::Error)]
pub enum WalkError {
    /// It is not there.
    #[error("the build ended well but left no {path}; {there}")]
    Missing {
        /// The artifact's path.
        path: String,
        /// What is there instead.
        there: String,
    },
    /// Something in it can't be deployed.
    #[error("{path} can't be deployed: {why}")]
    Refused {
        /// Relative to the checkout, or the artifact.
        path: String,
        /// The rule.
        why: String,
    },
    /// It can't be read.
    #[error("{path} can't be read: {source}")]
    Io {
        /// The path.
        path: String,
        /// Why.
        source: io::Error,
    },
}

fn refused(path: &Path, why: impl Into<String>) -> WalkError {
    WalkError::Refused { path: path.display().to_string(), why: why.into() }
}

fn unreadable(path: &Path) -> impl Fn(io::Error) -> WalkError {
    move |source| WalkError::Io { path: path.display().to_string(), source }
}

/// Walks `artifact`, a path inside `checkout`.
///
/// # Errors
/// See [`WalkError`].
pub fn walk(checkout: &Path, artifact: &str) -> Result<Tree, WalkError> {
    let checkout = checkout.canonicalize().map_err(unreadable(checkout))?;
    let root = checkout.join(artifact).canonicalize().map_err(|source| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => missing(&checkout, artifact),
        _ => unreadable(Path::new(artifact))(source),
    })?;
    if !root.starts_with(&checkout) {
        return Err(refused(Path::new(artifact), "it is a link that leaves the checkout"));
    }
    let meta = root.symlink_metadata().map_err(unreadable(&root))?;
    let mut tree = Tree { root, shape: Shape::Folder, entries: vec![], size: 0 };
    if meta.is_dir() {
        folder(&mut tree)?;
        tree.entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        return Ok(tree);
    }
    let name = Path::new(tree.root.file_name().unwrap_or_default()).to_owned();
    let node = leaf(&name, &meta, Path::new(""))?;
    add(&mut tree, &name, node)?;
    tree.root.pop();
    tree.shape = Shape::File;
    Ok(tree)
}

fn folder(tree: &mut Tree) -> Result<(), WalkError> {
    let mut open = vec![PathBuf::new()];
    while let Some(folder) = open.pop() {
        let place = tree.root.join(&folder);
        let mut empty = true;
        for entry in std::fs::read_dir(&place).map_err(unreadable(&folder))? {
            let entry = entry.map_err(unreadable(&folder))?;
            let path = folder.join(entry.file_name());
            if path == Path::new(".git") {
                continue;
            }
            empty = false;
            let meta = entry.metadata().map_err(unreadable(&path))?;
            if meta.is_dir() {
                open.push(path);
            } else {
                let node = leaf(&path, &meta, &entry.path())?;
                add(tree, &path, node)?;
            }
        }
        if empty && !folder.as_os_str().is_empty() {
            add(tree, &folder, Node::Dir)?;
        }
    }
    Ok(())
}

fn add(tree: &mut Tree, path: &Path, node: Node) -> Result<(), WalkError> {
    let name = path.to_str().ok_or_else(|| refused(path, "its name is not UTF-8"))?;
    let entry = Entry { path: name.to_owned(), node };
    tree.size = tree.size.saturating_add(entry.size());
    if tree.size > ARTIFACT_BYTES_MAX {
        return Err(refused(path, "with it the artifact is over 10 GiB, the largest there can be"));
    }
    if tree.entries.len() == ENTRIES_MAX {
        return Err(refused(path, "with it the artifact has more than 200,000 entries"));
    }
    tree.entries.push(entry);
    Ok(())
}

/// The node of anything but a folder. `place` is where it lies.
fn leaf(path: &Path, meta: &Metadata, place: &Path) -> Result<Node, WalkError> {
    let kind = meta.file_type();
    if kind.is_file() {
        let exec = meta.permissions().mode() & 0o111 != 0;
        return Ok(Node::File { size: meta.len(), exec });
    }
    if !kind.is_symlink() {
        return Err(refused(path, format!("it is {}", strange(kind))));
    }
    let target = std::fs::read_link(place).map_err(unreadable(path))?;
    let target = target.to_str().ok_or_else(|| refused(path, "its target is not UTF-8"))?;
    stays_inside(path, target).map_err(|why| refused(path, why))?;
    Ok(Node::Link { target: target.to_owned() })
}

/// The manifest's rule for links, with the link's target in the reason.
fn stays_inside(path: &Path, target: &str) -> Result<(), String> {
    if target.starts_with('/') {
        return Err(format!("it links to {target}, an absolute path"));
    }
    let parts = || target.split('/').filter(|part| !matches!(*part, "" | "."));
    let climbs = parts().take_while(|part| *part == "..").count();
    if climbs >= path.components().count() {
        return Err(format!("it links to {target}, outside the artifact"));
    }
    if parts().skip(climbs).any(|part| part == "..") {
        return Err(format!("it links to {target}, with '..' behind a name"));
    }
    Ok(())
}

fn strange(kind: FileType) -> &'static str {
    match kind {
        kind if kind.is_fifo() => "a pipe",
        kind if kind.is_socket() => "a socket",
        _ => "a device",
    }
}

/// Says what is there in place of the artifact, in the nearest folder that exists.
fn missing(checkout: &Path, artifact: &str) -> WalkError {
    let mut nearest = Path::new(artifact);
    while let Some(parent) = nearest.parent() {
        nearest = parent;
        if checkout.join(nearest).is_dir() {
            break;
        }
    }
    let listed = std::fs::read_dir(checkout.join(nearest)).into_iter().flatten().flatten();
    let mut names: Vec<String> =
        listed.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|name| name != ".git");
    // What a build makes is seldom hidden.
    names.sort_unstable_by(|a, b| (a.starts_with('.'), a).cmp(&(b.starts_with('.'), b)));
    let more = names.len().saturating_sub(NAMES_LISTED);
    names.truncate(NAMES_LISTED);
    let place = match nearest.to_str() {
        None | Some("" | ".") => "the checkout".to_owned(),
        Some(folder) => folder.to_owned(),
    };
    let there = match (names.join(", "), more) {
        (none, _) if none.is_empty() => format!("{place} is empty"),
        (names, 0) => format!("in {place} there is {names}"),
        (names, more) => format!("in {place} there is {names} and {more} more"),
    };
    WalkError::Missing { path: artifact.to_owned(), there }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(script: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mut sh = std::process::Command::new("sh");
        assert!(sh.args(["-ec", script]).current_dir(folder.path()).status().unwrap().success());
        folder
    }

    #[test]
    fn a_folder_is_sorted_and_links_are_kept_as_links() {
        let folder = made(
            "mkdir -p out/b/c out/empty .git out/b/.git && printf 123 > out/b/c/x && printf 1 > out/b-a
             chmod 4755 out/b-a && ln -s ../b-a out/b/l && ln -s nowhere out/dangling && touch out/b/.git/k",
        );
        let tree = walk(folder.path(), "out").unwrap();
        let paths: Vec<&str> = tree.entries.iter().map(|entry| entry.path.as_str()).collect();
        assert_eq!(paths, ["b-a", "b/.git/k", "b/c/x", "b/l", "dangling", "empty"]);
        assert_eq!((tree.size, tree.shape), (4, Shape::Folder));
        assert_eq!(tree.entries[0].node, Node::File { size: 1, exec: true });
        assert_eq!(tree.entries[3].node, Node::Link { target: "../b-a".into() });
        assert_eq!(tree.entries[5].node, Node::Dir);
    }

    #[test]
    fn a_file_is_alone_also_behind_a_link_inside_the_checkout() {
        let folder = made("mkdir d && printf 12 > d/app && ln -s d/app out && mkdir .git");
        let tree = walk(folder.path(), "out").unwrap();
        assert_eq!((tree.shape, tree.size), (Shape::File, 2));
        assert_eq!(tree.entries[0].path, "app");
        let all = walk(folder.path(), ".").unwrap();
        assert_eq!(all.entries.len(), 2);
    }

    #[test]
    fn what_must_not_be_deployed_is_refused_by_name() {
        let check = |script: &str, expected: &str| {
            let error = walk(made(script).path(), "out").unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("mkdir out && mkfifo out/p", "p can't be deployed: it is a pipe");
        check(
            "mkdir out && ln -s /etc/passwd out/l",
            "l can't be deployed: it links to /etc/passwd",
        );
        check("mkdir out && ln -s ../x out/l", "it links to ../x, outside");
        check("mkdir -p out/a && ln -s ../../x out/a/l", "a/l can't be deployed");
        check("mkdir out && ln -s a/../b out/l", "'..' behind a name");
        check("ln -s / out", "leaves the checkout");
        check("mkdir out && touch \"$(printf 'out/\\377')\"", "not UTF-8");
        check("mkdir out && truncate -s 11G out/big", "over 10 GiB");
        check("touch a b", "left no out; in the checkout there is a, b");
        check("touch .a b", "left no out; in the checkout there is b, .a");
        check("true", "left no out; the checkout is empty");
    }

    #[test]
    fn a_missing_file_names_its_nearest_folder() {
        let folder = made("mkdir -p dist && touch $(seq -f dist/%g 1 12)");
        let error = walk(folder.path(), "dist/app").unwrap_err().to_string();
        let there = "in dist there is 1, 10, 11, 12, 2, 3, 4, 5 and 4 more";
        assert_eq!(error, format!("the build ended well but left no dist/app; {there}"));
    }
}
