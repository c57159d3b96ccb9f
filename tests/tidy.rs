//! House rules that a reader should never have to check: floors, import
//! cycles, pure rules, file sizes, module docs, forgotten tests, dependencies.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The floor of each module; a module imports only from floors below its own.
const FLOORS: &[(&str, u8)] = &[
    ("model", 0),
    ("rules", 1),
    ("wire", 1),
    ("delta", 1),
    ("store", 2),
    ("net", 2),
    ("host", 2),
    ("simulator", 2),
    ("config", 2),
    ("telemetry", 2),
    ("coordinator", 3),
    ("region", 3),
    ("worker", 3),
    ("agent", 3),
    ("cli", 4),
];

/// Imports inside one floor that are allowed, each with its reason.
const SAME_FLOOR: &[(&str, &str, &str)] = &[
    ("config", "net", "the files of a listener's TLS are part of its configuration"),
    ("telemetry", "net", "spans leave by the client that is there"),
    ("store", "net", "what an engine answers is read within a bound, as any reply is"),
];

/// Lines of one file at most: a room that can be seen whole.
const FILE_LINES_MAX: usize = 600;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![folder.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).expect("a source folder can be read") {
            let path = entry.expect("an entry can be read").path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<(String, String)> {
    let src = root().join("src");
    let name = |path: &PathBuf| path.strip_prefix(&src).expect("under src").display().to_string();
    rust_files(&src)
        .iter()
        .map(|path| (name(path), fs::read_to_string(path).expect("source is UTF-8")))
        .collect()
}

fn floor(module: &str) -> Option<u8> {
    FLOORS.iter().find(|(name, _)| *name == module).map(|(_, floor)| *floor)
}

/// The text without comments and without `#[cfg(test)]` modules at its end.
fn product_code(text: &str) -> String {
    let body = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
    body.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn imports(text: &str) -> BTreeSet<String> {
    let code = product_code(text);
    let after = code.match_indices("crate::").map(|(at, found)| &code[at + found.len()..]);
    let name = |rest: &str| {
        rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect::<String>()
    };
    after.map(name).filter(|name| !name.is_empty()).collect()
}

#[test]
fn every_module_imports_only_from_floors_below() {
    let mut wrong = Vec::new();
    for (file, text) in sources() {
        let module = file.split('/').next().unwrap_or_default().trim_end_matches(".rs").to_owned();
        let Some(own) = floor(&module) else { continue };
        for import in imports(&text) {
            let Some(other) = floor(&import) else { continue };
            let excused = SAME_FLOOR.iter().any(|(a, b, _)| *a == module && *b == import);
            if import != module && other >= own && !excused {
                wrong.push(format!("src/{file} imports crate::{import}"));
            }
        }
    }
    assert!(wrong.is_empty(), "imports against the floors:\n{}", wrong.join("\n"));
}

#[test]
fn no_module_is_without_a_floor() {
    for (file, _) in sources() {
        let module = file.split('/').next().unwrap_or_default().trim_end_matches(".rs").to_owned();
        let known = floor(&module).is_some() || matches!(module.as_str(), "lib" | "bin");
        assert!(known, "src/{file}: give `{module}` a floor in tests/tidy.rs and in lib.rs");
    }
}

#[test]
fn rules_model_and_wire_do_no_io() {
    const BANNED: &[&str] = &[
        "async fn",
        "tokio::",
        "std::fs",
        "std::net",
        "std::env",
        "std::process",
        "Instant::now",
        "SystemTime",
        "getrandom",
        "println!",
        "eprintln!",
        "std::thread",
    ];
    for (file, text) in sources() {
        if ["rules/", "model/", "wire/"].iter().any(|floor| file.starts_with(floor)) {
            let code = product_code(&text);
            for word in BANNED {
                assert!(
                    !code.contains(word),
                    "src/{file} uses {word}: decide in rules, act in roles"
                );
            }
        }
    }
}

#[test]
fn only_the_output_module_prints() {
    // Daemons print their one `ready` line, and their own help.
    const PRINTERS: &[&str] = &["cli/output.rs", "cli/progress.rs", "bin/"];
    for (file, text) in sources() {
        let excused = PRINTERS.iter().any(|printer| file.starts_with(printer));
        let code = product_code(&text);
        let prints =
            ["println!", "eprintln!", " print!", "eprint!"].iter().any(|word| code.contains(word));
        let daemon = file.ends_with("/run.rs") || file.ends_with("/args.rs");
        assert!(excused || daemon || !prints, "src/{file} prints: use cli/output.rs or tracing");
    }
}

#[test]
fn every_file_says_what_it_owns_and_fits_on_the_desk() {
    for (file, text) in sources() {
        assert!(text.starts_with("//!"), "src/{file} does not open with //!");
        let lines = text.lines().count();
        assert!(lines <= FILE_LINES_MAX, "src/{file} has {lines} lines, over {FILE_LINES_MAX}");
        assert!(!text.contains("use crate::*") && !text.contains("super::super"), "src/{file}");
    }
}

#[test]
fn binaries_only_start_something() {
    for (file, text) in sources() {
        if file.starts_with("bin/") {
            assert!(text.lines().count() <= 40, "src/{file} has over 40 lines");
        }
    }
}

#[test]
fn nothing_is_left_open() {
    for folder in ["src", "tests", "examples"] {
        for path in rust_files(&root().join(folder)) {
            let text = fs::read_to_string(&path).expect("source is UTF-8");
            for mark in
                [concat!("to", "do!("), concat!("unimplem", "ented!("), concat!("#[ig", "nore")]
            {
                assert!(!text.contains(mark), "{}: {mark}", path.display());
            }
        }
    }
}

#[test]
fn no_test_file_is_forgotten() {
    let tests = root().join("tests");
    for path in rust_files(&tests) {
        let relative = path.strip_prefix(&tests).expect("under tests").to_owned();
        let parts: Vec<_> = relative.components().collect();
        if parts.len() < 2 || relative.ends_with("mod.rs") {
            continue;
        }
        let stem = path.file_stem().expect("a file has a name").to_string_lossy().to_string();
        let folder = path.parent().expect("in a folder");
        let above = folder.with_extension("rs");
        let owners = [folder.join("mod.rs"), above];
        let declared = owners.iter().filter_map(|owner| fs::read_to_string(owner).ok());
        let named = format!("mod {stem};");
        assert!(
            declared.into_iter().any(|text| text.contains(&named)),
            "{} is in no test",
            relative.display()
        );
    }
}

#[test]
fn one_tls_provider_and_no_c_crypto() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("Cargo.lock is committed");
    for banned in ["aws-lc-sys", "aws-lc-rs", "openssl-sys", "native-tls"] {
        assert!(!lock.contains(&format!("name = \"{banned}\"")), "{banned} is in Cargo.lock");
    }
}

/// A constant that bounds something: its name, its value, what it says, and where.
fn bounds() -> Vec<[String; 4]> {
    const ENDS: &[&str] = &["_MAX", "_MIN", "LIMIT", "LIMIT_S", "_CAP", "DEADLINE", "TIMEOUT"];
    let mut found = Vec::new();
    for (file, text) in sources() {
        let mut said = String::new();
        for line in product_lines(&text) {
            if let Some(doc) = line.strip_prefix("///") {
                said = if said.is_empty() {
                    doc.trim().to_owned()
                } else {
                    format!("{said} {}", doc.trim())
                };
                continue;
            }
            let bound = line.split_once("const ").and_then(|(_, rest)| rest.split_once(": "));
            if let Some((name, rest)) = bound
                && ENDS.iter().any(|end| name.ends_with(end))
                && let Some((_, value)) = rest.split_once(" = ")
            {
                let value = value.trim_end_matches(';').to_owned();
                let first = said.split(". ").next().unwrap_or_default().trim_end_matches('.');
                found.push([name.to_owned(), value, first.replace('|', "/"), file.clone()]);
            }
            said.clear();
        }
    }
    found
}

fn product_lines(text: &str) -> impl Iterator<Item = &str> {
    let body = text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text);
    body.lines().map(str::trim)
}

#[test]
fn the_limits_page_is_current() {
    let path = root().join("docs/limits.md");
    let page = fs::read_to_string(&path).expect("docs/limits.md is there");
    let (before, rest) = page.split_once("<!-- generated -->").expect("the page has its mark");
    let after = rest.split_once("<!-- end -->").expect("the page has its end mark").1;
    let row = |[name, value, said, file]: [String; 4]| {
        format!("| `{name}` | `{value}` | {said} | `{file}` |\n")
    };
    let rows: String = bounds().into_iter().map(row).collect();
    let table = format!("| bound | value | what | where |\n|---|---|---|---|\n{rows}");
    let current = format!("{before}<!-- generated -->\n\n{table}\n<!-- end -->{after}");
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &current).expect("docs/limits.md can be written");
    }
    assert!(
        page == current || std::env::var_os("UPDATE").is_some(),
        "run UPDATE=1 cargo test --test tidy"
    );
}
