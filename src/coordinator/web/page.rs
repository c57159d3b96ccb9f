//! Which pages there are: from a path to what is shown, the same for a browser that
//! asks once and for an open tab that is kept current.

use axum::extract::Query;
use axum::http::Uri;
use maud::Markup;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::coordinator::web::call::Calls;
use crate::coordinator::web::{
    app, apps, build, builds, events, hosts, no_page, releases, rollout,
};
use crate::model::digest::Digest;
use crate::model::id::{AppName, EnvName, JobNo, RegionName, ReleaseNo};
use crate::wire::problem::{Code, Problem};

/// Longest path with its query, bytes.
const PATH_BYTES_MAX: usize = 500;

/// A page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Page {
    Apps(Search),
    App(AppName),
    Env(AppName, EnvName),
    Rollout(AppName, EnvName, ReleaseNo),
    Releases(Search),
    Builds(Search),
    Build(JobNo),
    Hosts(Search),
    Events(Search),
}

/// What a list is narrowed to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Search {
    #[serde(deserialize_with = "given")]
    pub(super) app: Option<AppName>,
    #[serde(deserialize_with = "given")]
    pub(super) env: Option<EnvName>,
    #[serde(deserialize_with = "given")]
    pub(super) region: Option<RegionName>,
    pub(super) host: String,
    /// The class of a tone.
    pub(super) state: String,
    /// Words in a name.
    pub(super) q: String,
    /// Older than this number.
    #[serde(deserialize_with = "given")]
    pub(super) before: Option<u64>,
}

/// An empty field of a form is one that was not filled in.
pub(super) fn given<'de, D, T>(from: D) -> Result<Option<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: std::str::FromStr<Err: std::fmt::Display>,
{
    let text = String::deserialize(from)?;
    if text.is_empty() {
        return Ok(None);
    }
    text.parse().map(Some).map_err(serde::de::Error::custom)
}

/// What a page shows.
pub(super) struct View {
    pub(super) title: String,
    /// The entry of the navigation that it belongs to.
    pub(super) under: &'static str,
    pub(super) parts: Vec<Part>,
    /// The log that goes on at this byte.
    pub(super) log: Option<(JobNo, u64)>,
}

/// A piece of a page.
pub(super) struct Part {
    pub(super) id: &'static str,
    /// Whether an open tab is given it anew when it changes.
    pub(super) is_live: bool,
    pub(super) html: Markup,
}

impl Part {
    /// A piece that follows what happens.
    pub(super) fn live(id: &'static str, html: Markup) -> Self {
        Self { id, is_live: true, html }
    }

    /// A piece that stays as it was loaded, such as a form under a person's hands.
    pub(super) fn still(id: &'static str, html: Markup) -> Self {
        Self { id, is_live: false, html }
    }
}

impl View {
    /// Says the same for the same live parts, in every process.
    pub(super) fn digest(&self) -> String {
        let live = self.parts.iter().filter(|part| part.is_live);
        let text: String = live.map(|part| part.html.0.as_str()).collect();
        Digest::of(text.as_bytes()).to_string()[..16].to_owned()
    }
}

impl Page {
    /// The page at `uri`.
    ///
    /// # Errors
    /// `not_found` or `usage`.
    pub(super) fn of(uri: &Uri) -> Result<Self, Problem> {
        let lost = || no_page(uri.path());
        let parts: Vec<&str> = uri.path().trim_matches('/').split('/').collect();
        Ok(match parts[..] {
            [""] => Self::Apps(query(uri)?),
            ["apps", app] => Self::App(name(app).ok_or_else(lost)?),
            ["apps", app, env] => {
                Self::Env(name(app).ok_or_else(lost)?, name(env).ok_or_else(lost)?)
            }
            ["apps", app, env, release] => {
                let (app, env) = (name(app).ok_or_else(lost)?, name(env).ok_or_else(lost)?);
                Self::Rollout(app, env, name(release).ok_or_else(lost)?)
            }
            ["releases"] => Self::Releases(query(uri)?),
            ["builds"] => Self::Builds(query(uri)?),
            ["builds", build] => Self::Build(name(build).ok_or_else(lost)?),
            ["hosts"] => Self::Hosts(query(uri)?),
            ["events"] => Self::Events(query(uri)?),
            _ => return Err(lost()),
        })
    }

    /// What it shows now, to whoever calls.
    ///
    /// # Errors
    /// As the API refuses it.
    pub(super) async fn view(&self, calls: &Calls) -> Result<View, Problem> {
        match self {
            Self::Apps(search) => apps::view(calls, search).await,
            Self::App(app) => Err(no_page(app.as_str())),
            Self::Env(app, env) => app::view(calls, app, env).await,
            Self::Rollout(app, env, release) => rollout::view(calls, app, env, *release).await,
            Self::Releases(search) => releases::view(calls, search).await,
            Self::Builds(search) => builds::view(calls, search).await,
            Self::Build(build) => build::view(calls, *build).await,
            Self::Hosts(search) => hosts::view(calls, search).await,
            Self::Events(search) => events::view(calls, search).await,
        }
    }
}

fn name<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

/// The query of `uri` as fields.
pub(super) fn query<T: DeserializeOwned>(uri: &Uri) -> Result<T, Problem> {
    let read = Query::<T>::try_from_uri(uri);
    read.map(|Query(fields)| fields).map_err(|error| {
        Problem::new(Code::Usage, "the address is not well formed").because(error.body_text())
    })
}

/// Path and query of `uri`.
pub(super) fn path(uri: &Uri) -> String {
    uri.path_and_query().map_or("/", |both| both.as_str()).to_owned()
}

/// Whether `path` leads to this server and nowhere else.
pub(super) fn is_local(path: &str) -> bool {
    let plain = path.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    path.starts_with('/') && !path.starts_with("//") && plain && path.len() <= PATH_BYTES_MAX
}

/// `text` as the value of a query's field.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_to_pages_or_nowhere() {
        let page = |path: &str| Page::of(&path.parse().unwrap());
        assert_eq!(page("/").unwrap(), Page::Apps(Search::default()));
        assert!(matches!(page("/apps/web/prod/r12"), Ok(Page::Rollout(_, _, ReleaseNo(12)))));
        assert!(matches!(page("/builds/b3"), Ok(Page::Build(JobNo(3)))));
        let Ok(Page::Hosts(search)) = page("/hosts?app=&region=eu") else { panic!() };
        assert_eq!((search.app, search.region.unwrap().as_str()), (None, "eu"));
        for bad in ["/apps/A/prod", "/builds/12", "/x", "/apps/a/b/r1/c", "/hosts?env=NOT%20ONE"] {
            assert!(page(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_paths_of_this_server_are_gone_back_to() {
        assert!(is_local("/apps/web?x=1"));
        for bad in ["", "//evil", "https://evil", "/\\evil", "/a\nb", &format!("/{:0>500}", 1)] {
            assert!(!is_local(bad), "{bad}");
        }
    }
}
