//! `man/` and `completions/` are what the command tree says, file by file and byte by byte.
//!
//! `UPDATE=1 cargo test --test cli generated` writes them anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap_mangen::roff::{Roff, roman};
use deployctl::cli::commands::completion::{Shell, script};
use deployctl::cli::failure::ExitCode;
use deployctl::cli::topics;

/// The day of the manual's edition: mdoc readers want one, and today's would never be current.
const RELEASED: &str = "2026-11-21";

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Compares a folder with what it should hold, or writes it.
fn check(folder: &str, wanted: &BTreeMap<String, String>) {
    let folder = root().join(folder);
    let update = std::env::var_os("UPDATE").is_some();
    if update {
        std::fs::create_dir_all(&folder).unwrap();
        for path in files(&folder) {
            std::fs::remove_file(path).unwrap();
        }
        for (name, text) in wanted {
            std::fs::write(folder.join(name), text).unwrap();
        }
    }
    let name = |path: PathBuf| path.file_name().unwrap().to_str().unwrap().to_owned();
    let found: Vec<String> = files(&folder).into_iter().map(name).collect();
    let names: Vec<String> = wanted.keys().cloned().collect();
    let how = "UPDATE=1 cargo test --test cli generated";
    assert_eq!(found, names, "{}: {how}", folder.display());
    for (name, text) in wanted {
        let there = std::fs::read_to_string(folder.join(name)).unwrap();
        assert!(there == *text, "{} is not current: {how}", folder.join(name).display());
    }
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    found.sort();
    found
}

fn pages() -> BTreeMap<String, String> {
    let mut pages = BTreeMap::new();
    add_pages(&deployctl::cli::command(), &["deployctl"], &mut pages);
    let topics = [
        ("deployctl-concepts", "7", "what the words of deployctl mean", topics::CONCEPTS),
        ("deployctl.toml", "5", "how an app is built and run", topics::TOML),
        ("deployctl-plan", "5", "how a rollout reaches hosts, in a file", topics::PLAN_FILE),
    ];
    for (name, section, about, text) in topics {
        pages.insert(format!("{name}.{section}"), topic_page((name, section, about), text));
    }
    pages
}

fn add_pages(command: &clap::Command, path: &[&str], pages: &mut BTreeMap<String, String>) {
    for child in command.get_subcommands().filter(|child| !child.is_hide_set()) {
        let path: Vec<&str> = path.iter().copied().chain([child.get_name()]).collect();
        add_pages(child, &path, pages);
    }
    pages.insert(format!("{}.1", path.join("-")), page(command.clone(), path));
}

fn page(command: clap::Command, path: &[&str]) -> String {
    let is_root = path.len() == 1;
    let name = path.join("-");
    let examples = command
        .get_after_long_help()
        .or(command.get_after_help())
        .map(ToString::to_string)
        .unwrap_or_default();
    // What short help leaves out belongs into the page.
    let command = command.mut_args(|arg| arg.hide_short_help(false));
    // The display name is what NAME shows; the binary's name is what SYNOPSIS shows.
    let command = command.display_name(name.clone()).bin_name(path.join(" "));
    let source = concat!("deployctl ", env!("CARGO_PKG_VERSION"));
    let has_children = command.has_subcommands();
    let man = clap_mangen::Man::new(command.disable_help_subcommand(true)).date(RELEASED);
    let man = man.title(name.to_uppercase()).source(source).manual("deployctl");
    let mut bytes = Vec::new();
    man.render_title(&mut bytes).unwrap();
    man.render_name_section(&mut bytes).unwrap();
    man.render_synopsis_section(&mut bytes).unwrap();
    man.render_description_section(&mut bytes).unwrap();
    man.render_options_section(&mut bytes).unwrap();
    if has_children {
        man.render_subcommands_section(&mut bytes).unwrap();
    }
    let mut roff = Roff::new();
    if is_root {
        list(
            &mut roff,
            "ENVIRONMENT",
            topics::ENVIRONMENT.iter().map(|(n, m)| (*n, (*m).to_owned())),
        );
    }
    let examples: Vec<&str> = examples.lines().skip(1).collect();
    verbatim(&mut roff, "EXAMPLES", &examples);
    if is_root {
        let meaning = |code: &ExitCode| format!("{}: {}", code.word(), code.meaning());
        let codes: Vec<(String, String)> =
            ExitCode::ALL.iter().map(|code| ((*code as u8).to_string(), meaning(code))).collect();
        list(&mut roff, "EXIT STATUS", codes.iter().map(|(n, m)| (n.as_str(), m.clone())));
    } else {
        roff.control("SH", ["EXIT STATUS"]);
        roff.text([roman(
            "0 when it did what was asked; deployctl(1) has the table of all codes.",
        )]);
        roff.control("SH", ["SEE ALSO"]);
        roff.text([roman("deployctl(1), which has the global options and the environment; deployctl-concepts(7), deployctl.toml(5).")]);
    }
    roff.to_writer(&mut bytes).unwrap();
    // Each part brings the same two lines that define the apostrophe; once is enough.
    let text = String::from_utf8(bytes).unwrap();
    let define = ".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n";
    assert!(text.starts_with(define));
    define.to_owned() + &text.replace(define, "")
}

/// A topic's text as a page: capitals head a section, what is indented under a line
/// explains it, what is indented under nothing stays as it is.
fn topic_page((name, section, about): (&str, &str, &str), text: &str) -> String {
    let source = concat!("deployctl ", env!("CARGO_PKG_VERSION"));
    let mut roff = Roff::new();
    roff.control("TH", [name.to_uppercase().as_str(), section, RELEASED, source, "deployctl"]);
    roff.control("SH", ["NAME"]);
    roff.text([roman(format!("{name} - {about}"))]);
    roff.control("SH", ["DESCRIPTION"]);
    let is_head = |line: &str| {
        let plain = |c: char| c.is_ascii_uppercase() || c == ' ';
        line.starts_with('[') || (!line.is_empty() && line.chars().all(plain))
    };
    let lines: Vec<&str> = text.lines().collect();
    let (mut under_term, mut verbatim) = (false, false);
    for (at, line) in lines.iter().enumerate() {
        let indented = line.starts_with("    ");
        let stays =
            indented && !under_term || (line.is_empty() && verbatim && at + 1 < lines.len());
        if verbatim != stays {
            roff.control(if stays { "nf" } else { "fi" }, []);
            verbatim = stays;
        }
        let next_indented = lines.get(at + 1).is_some_and(|next| next.starts_with("    "));
        if stays {
            roff.text([roman(line.strip_prefix("    ").unwrap_or(line))]);
        } else if is_head(line) {
            roff.control("SH", [*line]);
            under_term = false;
        } else if line.is_empty() {
            under_term = false;
        } else if !indented && next_indented {
            roff.control("TP", ["8"]);
            roff.text([clap_mangen::roff::bold(*line)]);
            under_term = true;
        } else {
            roff.text([roman(line.trim_start())]);
        }
    }
    if verbatim {
        roff.control("fi", []);
    }
    roff.control("SH", ["SEE ALSO"]);
    roff.text([roman("deployctl(1)")]);
    roff.render()
}

fn list<'a>(roff: &mut Roff, heading: &str, items: impl Iterator<Item = (&'a str, String)>) {
    roff.control("SH", [heading]);
    for (name, meaning) in items {
        roff.control("TP", ["8"]);
        roff.text([clap_mangen::roff::bold(name)]);
        roff.text([roman(meaning)]);
    }
}

fn verbatim(roff: &mut Roff, heading: &str, lines: &[&str]) {
    roff.control("SH", [heading]);
    roff.control("nf", []);
    for line in lines {
        roff.text([roman(*line)]);
    }
    roff.control("fi", []);
}

#[test]
fn man_pages_are_current() {
    check("man", &pages());
}

#[test]
fn completions_are_current() {
    let shells = [("bash", Shell::Bash), ("zsh", Shell::Zsh), ("fish", Shell::Fish)];
    let files = shells.map(|(name, shell)| (format!("deployctl.{name}"), script(shell)));
    check("completions", &files.into());
}

#[test]
fn every_page_has_examples_and_the_first_has_every_code_and_variable() {
    for (name, text) in pages() {
        for heading in [".SH EXAMPLES", ".SH \"EXIT STATUS\""] {
            assert!(!name.ends_with(".1") || text.contains(heading), "{name} has no {heading}");
        }
        assert!(!text.contains("/tmp") && !text.contains("/root"), "{name} names this machine");
    }
    let first = &pages()["deployctl.1"];
    for code in ExitCode::ALL {
        assert!(first.contains(&code.word().replace('-', "\\-")), "{}", code.word());
    }
    for (name, _) in topics::ENVIRONMENT {
        assert!(first.contains(&name.replace('-', "\\-")), "{name}");
    }
}

#[test]
fn every_variable_that_is_read_is_documented() {
    let mut open = vec![root().join("src/cli")];
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(files(&path));
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        for reader in ["variable(\"", "var_os(\"", "env::var(\"", "set(\"", "folder(\""] {
            for (at, _) in text.match_indices(reader) {
                let name = text[at + reader.len()..].split('"').next().unwrap();
                let upper = name.chars().all(|c| c.is_ascii_uppercase() || c == '_');
                let known = topics::ENVIRONMENT.iter().any(|(known, _)| *known == name);
                assert!(!upper || known, "{} reads {name}, which no page names", path.display());
            }
        }
    }
}

/// Every line that a message offers for pasting, as the sources write it.
fn offered_lines(folder: &Path, found: &mut Vec<(PathBuf, String)>) {
    for path in files(folder) {
        if path.is_dir() {
            offered_lines(&path, found);
            continue;
        }
        let text = std::fs::read_to_string(&path).unwrap();
        // Every other part between quotes is a literal; a comment's quotes pair up too.
        for part in text.split('"').filter(|part| part.starts_with("deployctl ")) {
            let is_line = !part.contains(['\n', '\\'])
                && !part.contains(" v1:")
                && !part.starts_with("deployctl {");
            // A patch's provenance and a key's derivation begin alike, and nobody pastes them.
            let is_name = part.contains("peer ticket") || part.starts_with("deployctl patch {");
            if is_line && !is_name {
                found.push((path.clone(), part.to_owned()));
            }
        }
    }
}

#[test]
fn every_line_that_is_offered_for_pasting_can_be_read() {
    let mut lines = vec![];
    offered_lines(&root().join("src"), &mut lines);
    assert!(lines.len() > 40, "{}", lines.len());
    let mut unread = vec![];
    for (path, line) in lines {
        let words = line.split_whitespace().map(|word| match word {
            "{scope}" | "{place}" | "{said}" => "-aweb",
            "NAME" => "r1",
            "{freeze}" => "f1",
            "{hold}" => "h1",
            word if word.contains('{') => "r1",
            word => word,
        });
        let read = deployctl::cli::command().try_get_matches_from(words);
        if let Err(error) = read.map_err(|error| error.kind()) {
            use clap::error::ErrorKind as K;
            let help = [K::DisplayHelp, K::DisplayHelpOnMissingArgumentOrSubcommand];
            if !help.contains(&error) {
                unread.push(format!("{}: {line:?} is {error:?}", path.display()));
            }
        }
    }
    assert_eq!(unread, Vec::<String>::new());
}
