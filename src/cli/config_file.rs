//! A configuration that is read from a file, for a deploy; and how two are told apart.

use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;

use super::context::Context;
use super::failure::Failure;
use crate::model::config::{CONFIG_BYTES_MAX, identify};
use crate::model::digest::ConfigId;
use crate::wire::v1::config::ConfigWish;
use crate::wire::v1::rollout::Rollout;

/// What a deploy does to the configuration.
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// Its config, a file or -; without, the config stays
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Take the config away
    #[arg(long, hide_short_help = true, conflicts_with = "config")]
    no_config: bool,
}

impl ConfigArgs {
    /// What is asked for; `None`: the configuration stays.
    ///
    /// # Errors
    /// Exit code 2 when the file can't be read or is no configuration.
    pub fn wish(&self) -> Result<Option<ConfigWish>, Failure> {
        match &self.config {
            Some(path) => read(path).map(|text| Some(ConfigWish::Text(text))),
            None => Ok(self.no_config.then_some(ConfigWish::None)),
        }
    }
}

fn read(path: &Path) -> Result<String, Failure> {
    let unfit = |why: String| {
        Failure::usage(format!("{} can't be deployed as a config", path.display())).because(why)
    };
    let mut bytes = vec![];
    let most = CONFIG_BYTES_MAX as u64 + 1;
    let read = if path == Path::new("-") {
        std::io::stdin().take(most).read_to_end(&mut bytes)
    } else {
        std::fs::File::open(path).and_then(|file| file.take(most).read_to_end(&mut bytes))
    };
    read.map_err(|error| unfit(error.to_string()))?;
    if bytes.len() > CONFIG_BYTES_MAX {
        return Err(unfit(format!("it has over {CONFIG_BYTES_MAX} bytes, which is the most")));
    }
    identify(&bytes).map_err(|why| unfit(why.to_string()))?;
    String::from_utf8(bytes).map_err(|error| unfit(error.to_string()))
}

/// `1f2e3d4c5b → none`, or that it stays; `None`: there is none before and after.
#[must_use]
pub fn change(ctx: &Context, rollout: &Rollout) -> Option<String> {
    let to = rollout.release.config;
    let Some(base) = rollout.base else { return to.map(|to| to.short()) };
    let word = |config: Option<ConfigId>| config.map_or("none".to_owned(), |id| id.short());
    match (base.config, to) {
        (None, None) => None,
        // What else ran in some region is not known here.
        (from, to) if from == to && rollout.mixed_base => Some(word(to)),
        (from, to) if from == to => Some(format!("{}, as it is", word(to))),
        (from, to) => Some(format!("{} {} {}", word(from), ctx.out.arrow(), word(to))),
    }
}
