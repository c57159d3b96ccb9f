//! What `deployctl apps add` and `apps set` say of an app, and how it changes a spec.
//!
//! Pure: from flags to an [`AppSpec`]; asks nobody and sends nothing.

use clap::Args;

use crate::cli::failure::Failure;
use crate::cli::recipes;
use crate::model::id::EnvName;
use crate::model::recipe::{BuildSpec, Recipe, RunSpec};
use crate::model::selector::Selector;
use crate::wire::v1::app::AppSpec;

/// Settings of an app; what is not given stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Args)]
pub struct SettingArgs {
    /// The branch that commits must be merged to [default: the remote's own, else main]
    #[arg(long, value_name = "BRANCH")]
    pub trunk: Option<String>,
    /// Its envs [default: prod]
    #[arg(long, value_name = "ENV", value_delimiter = ',')]
    pub envs: Vec<EnvName>,
    /// The hosts that run it: key=value,key=value; empty: every host of the env
    #[arg(long, value_name = "LABELS")]
    pub hosts: Option<Selector>,
    /// One wave of regions; repeat in rollout order; * is all others
    #[arg(long = "wave", value_name = "REGION,…")]
    pub waves: Vec<String>,
    /// People beside who asked that must approve a deploy to an env: prod=1; 0: nobody
    #[arg(long, value_name = "ENV=N", value_delimiter = ',', value_parser = approvals)]
    pub approvals: Vec<(EnvName, u32)>,
    /// How to build, where the repository has no deployctl.toml
    #[arg(long, value_name = "COMMAND")]
    pub build: Option<String>,
    /// The file or folder that the build makes
    #[arg(long, value_name = "PATH")]
    pub artifact: Option<String>,
    /// How to start it
    #[arg(long, value_name = "COMMAND")]
    pub start: Option<String>,
    /// How to stop it [default: SIGTERM]
    #[arg(long, value_name = "COMMAND")]
    pub stop: Option<String>,
    /// How to know that it works: a URL, ADDRESS:PORT or a command
    #[arg(long, value_name = "PROBE")]
    pub health: Option<String>,
}

impl SettingArgs {
    /// Writes what was given into `spec`.
    ///
    /// # Errors
    /// Exit code 2 when a build would have no command or no artifact.
    pub fn apply(self, spec: &mut AppSpec) -> Result<(), Failure> {
        let Self { trunk, envs, hosts, waves, approvals, build, artifact, start, stop, health } =
            self;
        if let Some(trunk) = trunk {
            spec.trunk = trunk;
        }
        if !envs.is_empty() {
            spec.envs = envs;
        }
        if let Some(hosts) = hosts {
            spec.hosts = hosts;
        }
        if !waves.is_empty() {
            spec.waves = waves.iter().map(|w| w.split(',').map(str::to_owned).collect()).collect();
        }
        for (env, number) in approvals {
            match number {
                0 => spec.approvals.remove(&env),
                number => spec.approvals.insert(env, number),
            };
        }
        set_build(&mut spec.recipe, build, artifact)?;
        if start.is_some() || stop.is_some() || health.is_some() {
            let run = spec.recipe.run.get_or_insert_with(RunSpec::default);
            run.start = filled(start, run.start.take());
            run.stop = filled(stop, run.stop.take());
            if let Some(text) = health {
                run.probe = recipes::probe(&text);
            }
            if run.start.is_none() && run.stop.is_none() && run.probe.is_none() {
                spec.recipe.run = None;
            }
        }
        spec.recipe.check()?;
        Ok(())
    }
}

/// Reads `prod=1`.
fn approvals(text: &str) -> Result<(EnvName, u32), String> {
    let (env, number) = text.split_once('=').ok_or("an env and a number: prod=1")?;
    let env = env.parse().map_err(|error| format!("{error}"))?;
    let number = number.parse().map_err(|_| "an env and a number, 0 to 5: prod=1".to_owned())?;
    Ok((env, number))
}

/// What was given; nothing given keeps what is there, an empty text takes it away.
fn filled(given: Option<String>, there: Option<String>) -> Option<String> {
    match given {
        Some(text) => Some(text).filter(|text| !text.is_empty()),
        None => there,
    }
}

fn set_build(
    recipe: &mut Recipe,
    command: Option<String>,
    artifact: Option<String>,
) -> Result<(), Failure> {
    if command.is_none() && artifact.is_none() {
        return Ok(());
    }
    if let Some(build) = &mut recipe.build {
        build.command = command.unwrap_or_else(|| build.command.clone());
        build.artifact = artifact.unwrap_or_else(|| build.artifact.clone());
        return Ok(());
    }
    let (Some(command), Some(artifact)) = (command, artifact) else {
        return Err(Failure::usage("--build and --artifact go together")
            .because("the app has no recipe yet, and a build needs both"));
    };
    recipe.build = Some(BuildSpec::new(command, artifact));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::recipe::Probe;

    fn spec() -> AppSpec {
        serde_json::from_value(serde_json::json!({"name": "web", "repo": "https://h/web.git"}))
            .unwrap()
    }

    #[test]
    fn what_is_not_given_stays_as_it_is() {
        let mut app = spec();
        SettingArgs::default().apply(&mut app).unwrap();
        assert_eq!(app, spec());
        let first = SettingArgs {
            build: Some("make".into()),
            artifact: Some("out".into()),
            start: Some("exec ./web".into()),
            health: Some("http://127.0.0.1:80/".into()),
            ..SettingArgs::default()
        };
        first.apply(&mut app).unwrap();
        let second = SettingArgs { artifact: Some("dist".into()), ..SettingArgs::default() };
        second.apply(&mut app).unwrap();
        let build = app.recipe.build.as_ref().unwrap();
        assert_eq!((build.command.as_str(), build.artifact.as_str()), ("make", "dist"));
        let run = app.recipe.run.as_ref().unwrap();
        assert_eq!(run.probe, Some(Probe::Http("http://127.0.0.1:80/".into())));
        let careful =
            SettingArgs { approvals: vec![approvals("prod=2").unwrap()], ..SettingArgs::default() };
        careful.apply(&mut app).unwrap();
        assert_eq!(app.approvals.values().sum::<u32>(), 2);
        let free =
            SettingArgs { approvals: vec![approvals("prod=0").unwrap()], ..SettingArgs::default() };
        free.apply(&mut app).unwrap();
        assert!(app.approvals.is_empty());
        for bad in ["prod", "prod=", "=1", "prod=-1", "Prod Env=1"] {
            assert!(approvals(bad).is_err(), "{bad}");
        }
        let empty = Some(String::new());
        let none = SettingArgs { start: empty.clone(), health: empty, ..SettingArgs::default() };
        none.apply(&mut app).unwrap();
        assert_eq!(app.recipe.run, None);
    }

    #[test]
    fn half_a_build_is_refused() {
        let half = SettingArgs { build: Some("make".into()), ..SettingArgs::default() };
        assert!(half.apply(&mut spec()).is_err());
        let bad = SettingArgs {
            build: Some("make".into()),
            artifact: Some("../x".into()),
            ..SettingArgs::default()
        };
        assert!(bad.apply(&mut spec()).is_err());
    }
}
