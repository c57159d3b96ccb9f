//! A rollout plan of the user's own, as a TOML file: `deployctl-plan(5)`.

use std::path::Path;

use serde::Deserialize;

use super::project::{ConfigError, parse_toml, read_bounded};
use crate::model::plan::{NAME_BYTES_MAX, PlanFile, Wave};
use crate::model::rollout::Unavailable;

/// The file's content.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    max_unavailable: Option<Unavailable>,
    #[serde(default)]
    wave: Vec<Wave>,
}

/// A plan, and what is said beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// The plan.
    pub plan: PlanFile,
    /// How many hosts of a region may be between two releases at once; `None`: no bound.
    pub max_unavailable: Option<Unavailable>,
}

/// Reads the plan at `path`; `None`: there is no such file.
///
/// # Errors
/// When it can't be read, is no plan, or one that can't be meant.
pub fn read(path: &Path) -> Result<Option<Written>, ConfigError> {
    read_bounded(path)?.map(|text| parse(&text, path)).transpose()
}

fn parse(text: &str, path: &Path) -> Result<Written, ConfigError> {
    let Text { max_unavailable, wave } = parse_toml(text, path)?;
    let name = path.file_name().map_or_else(String::new, |name| {
        let visible = |c: &char| !c.is_control();
        name.to_string_lossy().chars().filter(visible).collect()
    });
    let cut = name.floor_char_boundary(NAME_BYTES_MAX);
    let plan = PlanFile::new(&name[..cut], wave).map_err(|error| {
        let why = error.to_string();
        ConfigError::Invalid { path: path.into(), brief: why.clone(), why }
    })?;
    Ok(Written { plan, max_unavailable })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SLOW: &str = "max_unavailable = \"10%\"\n[[wave]]\nregions = [\"eu\"]\nsteps = [\n  \
        { hosts = 1, bake_s = 60 },\n  { percent = 100, hold = true },\n]\n\
        [[wave]]\nregions = [\"*\"]\nsteps = [{ percent = 100 }]\n";

    #[test]
    fn a_file_is_a_plan_by_its_name() {
        let written = parse(SLOW, Path::new("/srv/plans/slow.toml")).unwrap();
        assert_eq!(written.plan.name(), "slow.toml");
        assert_eq!(written.max_unavailable, Some(Unavailable::Percent(10)));
        assert_eq!(written.plan.waves().len(), 2);
        let long = parse(SLOW, Path::new(&"ü".repeat(70))).unwrap();
        assert_eq!(long.plan.name(), "ü".repeat(32));
    }

    #[test]
    fn a_mistake_is_shown_where_it_stands() {
        for (from, to, line, said) in [
            ("bake_s = 60", "bake = \"1m\"", 5, "did you mean \"bake_s\"?"),
            ("[[wave]]", "[[waves]]", 2, "did you mean \"wave\"?"),
            ("percent = 100, hold", "percent = 101, hold", 4, "percent is 1 to 100, not 101"),
            ("hosts = 1,", "hosts = 1, percent = 1,", 4, "one of hosts and percent"),
            ("\"10%\"", "\"110%\"", 1, "1% to 100%"),
            ("\"10%\"", "10", 1, "expected a string"),
            ("\"eu\"", "\"EU\"", 3, "not a valid region name"),
        ] {
            let error = parse(&SLOW.replacen(from, to, 1), Path::new("slow.toml")).unwrap_err();
            let cause = error.cause().unwrap();
            assert!(cause.contains(&format!("line {line}")) && cause.contains(said), "{cause}");
        }
        for (text, said) in
            [("", "1 to 32 waves"), (&SLOW.replace("\"*\"", "\"eu\""), "eu is named twice")]
        {
            let error = parse(text, Path::new("slow.toml")).unwrap_err();
            assert!(error.brief().contains(said), "{}", error.brief());
        }
    }
}
