//! The demo's sample repository: three commits of the service in `examples/hello`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("../../../examples/hello/hello.c");
const RECIPE: &str = include_str!("../../../examples/hello/deployctl.toml");

/// A working copy with a `main` branch.
pub(crate) struct Sample {
    folder: PathBuf,
}

impl Sample {
    /// Makes the repository in `folder`, with version 1 committed.
    pub(crate) fn create(folder: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let sample = Self { folder: folder.to_owned() };
        sample.git(&["init", "-q", "-b", "main"])?;
        std::fs::write(folder.join("deployctl.toml"), RECIPE)?;
        std::fs::write(folder.join(".gitignore"), "dist/\n")?;
        sample.commit(SOURCE, "Say hello")?;
        Ok(sample)
    }

    /// Commits a second version that works.
    pub(crate) fn second(&self) -> io::Result<()> {
        self.commit(&SOURCE.replace("VERSION \"1\"", "VERSION \"2\""), "Say hello a second time")
    }

    /// Commits a version that ends as soon as it is started.
    pub(crate) fn broken(&self) -> io::Result<()> {
        let crash = "fprintf(stderr, \"hello: panic: RETRY_CAP is not set\\n\"); return 101;\n    const char *port";
        let source = SOURCE.replace("VERSION \"1\"", "VERSION \"3\"");
        self.commit(&source.replacen("const char *port", crash, 1), "Read the retry cap (broken)")
    }

    fn commit(&self, source: &str, subject: &str) -> io::Result<()> {
        std::fs::write(self.folder.join("hello.c"), source)?;
        self.git(&["add", "-A"])?;
        self.git(&["commit", "-q", "-m", subject])
    }

    fn git(&self, args: &[&str]) -> io::Result<()> {
        let done = Command::new("git")
            .args(["-c", "user.name=demo", "-c", "user.email=demo@localhost"])
            .args(["-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null"])
            .args(args)
            .current_dir(&self.folder)
            .output()?;
        if done.status.success() {
            return Ok(());
        }
        let why = String::from_utf8_lossy(&done.stderr).trim().to_owned();
        Err(io::Error::other(format!("git {}: {why}", args.join(" "))))
    }
}
