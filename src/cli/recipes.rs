//! A sensible first recipe for a folder, and the `deployctl.toml` that says it.
//!
//! Looks at well-known files only; runs nothing.

use std::path::Path;

use crate::config::project::read_bounded;
use crate::model::id::AppName;
use crate::model::recipe::Probe;

/// What a first `deployctl.toml` says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Draft {
    /// What was recognised, such as `Cargo.toml`; empty: nothing.
    pub seen: &'static str,
    /// The app's name.
    pub app: String,
    /// The build command; empty: not known.
    pub build: String,
    /// The artifact's path; empty: not known.
    pub artifact: String,
    /// The start command; empty: only files.
    pub start: String,
    /// The stop command; empty: SIGTERM.
    pub stop: String,
    /// The probe.
    pub probe: Option<Probe>,
}

/// A draft for what lies in `root`.
#[must_use]
pub fn draft(root: &Path) -> Draft {
    let folder = root.file_name().map(|name| name.to_string_lossy().into_owned());
    let fallback = folder.and_then(|name| app_name(&name)).unwrap_or_else(|| "app".into());
    let read = |name: &str| read_bounded(&root.join(name)).ok().flatten();
    let mut found = Draft { app: fallback, ..Draft::default() };
    if let Some(text) = read("Cargo.toml") {
        found.seen = "Cargo.toml";
        let name = toml_name(&text, "package").unwrap_or_else(|| found.app.clone());
        found.build = "cargo build --release".into();
        found.artifact = format!("target/release/{name}");
        found.start = format!("exec ./{name}");
        found.app = app_name(&name).unwrap_or(found.app);
    } else if let Some(text) = read("go.mod") {
        found.seen = "go.mod";
        let module = text.lines().find_map(|line| line.strip_prefix("module "));
        let name = module.and_then(|module| app_name(module.trim().rsplit('/').next()?));
        found.app = name.unwrap_or(found.app);
        found.build = format!("go build -o bin/{} .", found.app);
        found.artifact = format!("bin/{}", found.app);
        found.start = format!("exec ./{}", found.app);
    } else if let Some(text) = read("package.json") {
        found.seen = "package.json";
        let package: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let name = package["name"].as_str().and_then(|name| app_name(name.rsplit('/').next()?));
        found.app = name.unwrap_or(found.app);
        let builds = package["scripts"]["build"].is_string();
        let install =
            if root.join("package-lock.json").exists() { "npm ci" } else { "npm install" };
        found.build = if builds { format!("{install} && npm run build") } else { install.into() };
        found.artifact = ".".into();
        found.start = if package["scripts"]["start"].is_string() {
            "exec npm start".into()
        } else {
            String::new()
        };
    } else if let Some(text) = read("pyproject.toml") {
        found.seen = "pyproject.toml";
        let name = toml_name(&text, "project").and_then(|name| app_name(&name));
        found.app = name.unwrap_or(found.app);
        found.build = "python3 -m pip install --target out .".into();
        found.artifact = "out".into();
    } else if ["Makefile", "makefile", "GNUmakefile"].iter().any(|name| root.join(name).exists()) {
        found.seen = "Makefile";
        found.build = "make".into();
    }
    found
}

/// The nearest valid app name to `text`.
#[must_use]
pub fn app_name(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let dashed: String =
        lower.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
    let name = dashed.trim_matches('-').to_owned();
    name.parse::<AppName>().is_ok().then_some(name)
}

/// A probe as it is typed: a URL, `address:port`, or a command.
#[must_use]
pub fn probe(text: &str) -> Option<Probe> {
    let text = text.trim();
    let port = |(_, port): (&str, &str)| {
        !port.is_empty() && (port.bytes().all(|b| b.is_ascii_digit()) || port.starts_with("${"))
    };
    if text.is_empty() {
        None
    } else if text.starts_with("http://") || text.starts_with("https://") {
        Some(Probe::Http(text.into()))
    } else if !text.contains(char::is_whitespace) && text.rsplit_once(':').is_some_and(port) {
        Some(Probe::Tcp(text.into()))
    } else {
        Some(Probe::Exec(text.into()))
    }
}

fn toml_name(text: &str, table: &str) -> Option<String> {
    let value: toml::Table = toml::from_str(text).ok()?;
    Some(value.get(table)?.get("name")?.as_str()?.to_owned())
}

impl Draft {
    /// The file's text, with comments.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let quoted = |text: &str| toml::Value::String(text.to_owned()).to_string();
        let mut text = format!(
            "# How deployctl builds and runs this repository: deployctl help init\n\
             app = {}\n\n\
             [build]\n\
             # Given to `sh -c` in a clean checkout of the commit.\n\
             command = {}\n\
             # The file or folder that hosts get.\n\
             artifact = {}\n\
             # limit_s = 900\n",
            quoted(&self.app),
            quoted(&self.build),
            quoted(&self.artifact),
        );
        if self.start.is_empty() && self.stop.is_empty() && self.probe.is_none() {
            text.push_str("\n# Nothing is started: hosts only get the files.\n");
            text.push_str("# [run]\n# start = \"exec ./app\"\n");
            return text;
        }
        text.push_str("\n[run]\n");
        match self.start.as_str() {
            "" => {}
            start => text.push_str(&format!(
                "# Runs in the release's folder, supervised; ${{NAME}} are the host's variables.\nstart = {}\n",
                quoted(start)
            )),
        }
        if !self.stop.is_empty() {
            text.push_str(&format!("stop = {}\n", quoted(&self.stop)));
        }
        let (key, value) = match &self.probe {
            Some(Probe::Http(url)) => ("http", url),
            Some(Probe::Tcp(address)) => ("tcp", address),
            Some(Probe::Exec(command)) => ("exec", command),
            None => {
                text.push_str("# The release is good once the process stays up this long.\n");
                text.push_str("# min_healthy_s = 30\n");
                text.push_str("# probe = { http = \"http://127.0.0.1:${PORT}/healthz\" }\n");
                return text;
            }
        };
        text.push_str("# The release is good once this passes and the process stays up.\n");
        text.push_str(&format!("probe = {{ {key} = {} }}\n# min_healthy_s = 30\n", quoted(value)));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::project::ProjectFile;

    #[test]
    fn known_files_give_a_draft_that_reads_back() {
        let cases = [
            ("Cargo.toml", "[package]\nname = \"My_Tool\"\n", "my-tool", "target/release/My_Tool"),
            ("go.mod", "module example.org/x/server\n", "server", "bin/server"),
            ("package.json", "{\"name\":\"@org/web\",\"scripts\":{\"build\":\"x\"}}", "web", "."),
            ("pyproject.toml", "[project]\nname = \"api\"\n", "api", "out"),
        ];
        for (name, content, app, artifact) in cases {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join(name), content).unwrap();
            let draft = draft(dir.path());
            assert_eq!((draft.seen, draft.app.as_str()), (name, app));
            assert_eq!(draft.artifact, artifact);
            let file = ProjectFile::parse(&draft.to_toml(), Path::new("deployctl.toml")).unwrap();
            assert_eq!(file.build.unwrap().command, draft.build);
        }
    }

    #[test]
    fn probes_read_as_they_are_typed() {
        assert_eq!(probe(""), None);
        assert_eq!(probe("http://x/y"), Some(Probe::Http("http://x/y".into())));
        assert_eq!(probe("127.0.0.1:${PORT}"), Some(Probe::Tcp("127.0.0.1:${PORT}".into())));
        assert_eq!(probe("test -s x"), Some(Probe::Exec("test -s x".into())));
        let odd = Draft {
            app: "a".into(),
            build: "echo \"q\" 'x' \\ # no".into(),
            artifact: "o".into(),
            probe: probe("test \"$X\""),
            ..Draft::default()
        };
        let file = ProjectFile::parse(&odd.to_toml(), Path::new("deployctl.toml")).unwrap();
        assert_eq!(file.build.unwrap().command, odd.build);
        assert_eq!(file.run.unwrap().probe, odd.probe);
    }
}
