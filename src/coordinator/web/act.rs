//! What a pressed button does: one call of the API, then back to the page it is about.
//!
//! Every form carries the session's own proof and, where a second press must not do a
//! second thing, an idempotency key. The API decides and refuses as for any client.

use axum::Extension;
use axum::body::Body;
use axum::extract::{FromRequest, Path, Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::coordinator::web::call::Calls;
use crate::coordinator::web::session::Session;
use crate::coordinator::web::{Pages, confirm, frame, no_page, page, parts, sign_in};
use crate::model::freeze::Freeze;
use crate::model::hold::Hold;
use crate::model::id::{AppName, EnvName, FreezeNo, HoldNo, HostId, JobNo, RegionName, ReleaseNo};
use crate::model::rollout::{PlanName, RolloutKind};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::build::Build;
use crate::wire::v1::rollout::{CancelRequest, PromoteRequest, Rollout, RolloutRequest};

/// Largest form, bytes: a reason of 2000 bytes, escaped, is 6000.
const FORM_BYTES_MAX: usize = 16 << 10;

/// A form: the fields of the address and of the body together.
pub(super) struct Fields<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Fields<T> {
    type Rejection = Response;
    async fn from_request(request: Request, _: &S) -> Result<Self, Response> {
        let query = request.uri().query().unwrap_or_default().to_owned();
        read(&query, request.into_body())
            .await
            .map(Self)
            .map_err(|problem| frame::refused(None, &problem))
    }
}

async fn read<T: DeserializeOwned>(query: &str, body: Body) -> Result<T, Problem> {
    let bad = || Problem::new(Code::Usage, "the form is not well formed");
    let bytes = axum::body::to_bytes(body, FORM_BYTES_MAX)
        .await
        .map_err(|_| Problem::new(Code::TooLarge, "the form is too large"))?;
    let body = std::str::from_utf8(&bytes).map_err(|_| bad())?;
    let uri: Uri = one_field(&format!("{query}&{body}")).parse().map_err(|_| bad())?;
    page::query(&uri)
}

/// `query` as an address whose ticked regions are one field: a form sends one for each.
pub(super) fn one_field(query: &str) -> String {
    let (regions, rest): (Vec<&str>, Vec<&str>) =
        query.split('&').partition(|pair| pair.starts_with("regions="));
    let regions: Vec<&str> =
        regions.iter().map(|pair| pair.trim_start_matches("regions=")).collect();
    format!("/?{}&regions={}", rest.join("&"), regions.join("%2C"))
}

/// Everything that a button can say.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct Wish {
    pub(super) csrf: String,
    /// One press, however often it is sent.
    pub(super) key: String,
    pub(super) app: Option<AppName>,
    pub(super) env: Option<EnvName>,
    pub(super) release: Option<ReleaseNo>,
    pub(super) build: Option<JobNo>,
    pub(super) freeze: Option<FreezeNo>,
    pub(super) hold: Option<HoldNo>,
    /// A host that is to stay where it is.
    pub(super) host: Option<HostId>,
    /// On which release; empty: what it runs.
    pub(super) at: String,
    /// How long a freeze or a hold lasts, hours.
    pub(super) hours: Option<u32>,
    pub(super) commit: String,
    pub(super) plan: Option<PlanName>,
    /// Only these regions, separated by commas; empty: all of them.
    pub(super) regions: String,
    /// Every bake, seconds; `None`: the plan's own.
    #[serde(deserialize_with = "page::given")]
    pub(super) bake_s: Option<u32>,
    pub(super) message: String,
    /// The goal's generation that the person saw.
    pub(super) generation: Option<u64>,
    /// The step that the person saw under way.
    pub(super) step: Option<u32>,
    pub(super) full: bool,
    pub(super) keep: bool,
    pub(super) allow_bad: bool,
    pub(super) allow_older: bool,
    /// The app's name, typed by whoever skips every gate.
    pub(super) sure: String,
}

impl Wish {
    /// The app and env that it is about.
    ///
    /// # Errors
    /// `usage` when the form lacks them.
    pub(super) fn place(&self) -> Result<(&AppName, &EnvName), Problem> {
        self.app.as_ref().zip(self.env.as_ref()).ok_or_else(|| lacking("app and env"))
    }

    /// How long what is asked for lasts, seconds.
    fn lasts_s(&self) -> Result<u32, Problem> {
        self.hours.map(|hours| hours.saturating_mul(3600)).ok_or_else(|| lacking("hours"))
    }

    /// The path of the rollout in the API.
    fn rollout(&self) -> Result<String, Problem> {
        let (app, env) = self.place()?;
        let release = self.release.ok_or_else(|| lacking("release"))?;
        Ok(format!("/v1/apps/{app}/envs/{env}/rollouts/{release}"))
    }

    fn regions(&self) -> Result<Vec<RegionName>, Problem> {
        let read = |name: &str| {
            let bad =
                |error| Problem::new(Code::Usage, format!("{name:?} is no region")).because(error);
            name.parse::<RegionName>().map_err(bad)
        };
        self.only().into_iter().map(read).collect()
    }

    /// The rollout that is asked for.
    ///
    /// # Errors
    /// `usage` when the form lacks what a deploy brings.
    pub(super) fn request(
        &self,
        kind: RolloutKind,
        dry_run: bool,
    ) -> Result<RolloutRequest, Problem> {
        let target = match (kind, self.build, self.release) {
            (RolloutKind::Deploy, Some(build), _) => build.to_string(),
            (_, _, Some(release)) => release.to_string(),
            (RolloutKind::Rollback, ..) => String::new(),
            _ => return Err(lacking("build")),
        };
        Ok(RolloutRequest {
            plan: self.plan.unwrap_or_default(),
            regions: self.regions()?,
            bake_s: self.bake_s,
            allow_bad: self.allow_bad,
            allow_older: self.allow_older,
            expect_generation: self.generation,
            message: self.message.trim().to_owned(),
            dry_run,
            ..RolloutRequest::new(kind, target)
        })
    }
}

fn lacking(what: &str) -> Problem {
    Problem::new(Code::Usage, format!("the form lacks {what}"))
}

/// `POST /do/{what}`.
pub(super) async fn take(
    State(web): State<Pages>,
    Extension(session): Extension<Session>,
    Path(what): Path<String>,
    Fields(wish): Fields<Wish>,
) -> Response {
    if !session.made(&wish.csrf) {
        return frame::refused(Some(&session), &sign_in::foreign());
    }
    let calls = Calls::new(&web, session.who.clone());
    match act(&calls, &what, &wish).await {
        Ok(path) => (StatusCode::SEE_OTHER, [(header::LOCATION, path)]).into_response(),
        Err(problem) => {
            frame::refused_with(Some(&session), &problem, &confirm::again(&what, &wish, &problem))
        }
    }
}

/// Does it; returns where to look then.
async fn act(calls: &Calls, what: &str, wish: &Wish) -> Result<String, Problem> {
    match what {
        "deploy" => start(calls, wish, RolloutKind::Deploy).await,
        "rollback" => start(calls, wish, RolloutKind::Rollback).await,
        "promote" => {
            let body = PromoteRequest { full: wish.full, expect_step: wish.step };
            steer(calls, wish, what, &json!(body)).await
        }
        "cancel" => {
            let body = CancelRequest { keep: wish.keep, message: wish.message.trim().to_owned() };
            steer(calls, wish, what, &json!(body)).await
        }
        "approve" | "pause" | "resume" | "retry" => steer(calls, wish, what, &json!({})).await,
        "build" => {
            let app = wish.app.as_ref().ok_or_else(|| lacking("app"))?;
            let body = json!({ "commit": wish.commit.trim(), "subject": wish.message.trim() });
            build(calls.post(&format!("/v1/apps/{app}/builds"), &wish.key, &body).await)
        }
        "build-retry" | "build-cancel" => {
            let no = wish.build.ok_or_else(|| lacking("build"))?;
            let verb = what.trim_start_matches("build-");
            build(calls.post(&format!("/v1/builds/{no}/{verb}"), &wish.key, &json!({})).await)
        }
        "freeze" => {
            let (app, env) = wish.place()?;
            let body = json!({ "app": app, "env": env, "reason": wish.message.trim(), "lasts_s": wish.lasts_s()? });
            let _: Freeze = calls.post("/v1/freezes", &wish.key, &body).await?;
            Ok(parts::env_path(app, env))
        }
        "unfreeze" => {
            let no = wish.freeze.ok_or_else(|| lacking("freeze"))?;
            let path = format!("/v1/freezes/{no}/end");
            let over: Freeze = calls.post(&path, &wish.key, &json!({})).await?;
            Ok(home(&over.app, &over.env))
        }
        "hold" => {
            let (app, env) = wish.place()?;
            let at = Some(wish.at.trim()).filter(|at| !at.is_empty());
            let body = json!({ "app": app, "env": env, "host": wish.host, "release": at,
                "reason": wish.message.trim(), "lasts_s": wish.lasts_s()? });
            let _: Hold = calls.post("/v1/holds", &wish.key, &body).await?;
            Ok(if wish.host.is_some() { "/hosts".into() } else { parts::env_path(app, env) })
        }
        "unhold" => {
            let no = wish.hold.ok_or_else(|| lacking("hold"))?;
            let path = format!("/v1/holds/{no}/end");
            let over: Hold = calls.post(&path, &wish.key, &json!({})).await?;
            Ok(home(&over.app, &over.env))
        }
        other => Err(no_page(&format!("/do/{other}"))),
    }
}

/// Where to look once something about all of it, or one env, is over.
fn home(app: &Option<AppName>, env: &Option<EnvName>) -> String {
    app.as_ref()
        .zip(env.as_ref())
        .map_or_else(|| "/".into(), |(app, env)| parts::env_path(app, env))
}

fn build(done: Result<Build, Problem>) -> Result<String, Problem> {
    done.map(|build| format!("/builds/{}", build.build))
}

async fn start(calls: &Calls, wish: &Wish, kind: RolloutKind) -> Result<String, Problem> {
    let (app, env) = wish.place()?;
    if wish.plan == Some(PlanName::AllAtOnce) && wish.sure.trim() != app.as_str() {
        return Err(Problem::new(Code::Usage, "every host at once needs the app's name, typed")
            .because("no gate stands before the last host; nothing was changed"));
    }
    let request = wish.request(kind, false)?;
    let path = format!("/v1/apps/{app}/envs/{env}/rollouts");
    let rollout: Rollout = calls.post(&path, &wish.key, &request).await?;
    Ok(format!("{}/{}", parts::env_path(app, env), rollout.release.release))
}

async fn steer(calls: &Calls, wish: &Wish, verb: &str, body: &Value) -> Result<String, Problem> {
    let path = format!("{}/{verb}", wish.rollout()?);
    let rollout: Rollout = calls.post(&path, &wish.key, body).await?;
    let release = &rollout.release;
    Ok(format!("{}/{}", parts::env_path(&release.app, &release.env), release.release))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticked_regions_are_one_field() {
        let read = |query: &str| page::query::<Wish>(&one_field(query).parse().unwrap()).unwrap();
        let wish = read("regions=eu&plan=fast&regions=us&bake_s=");
        assert_eq!((wish.only(), wish.plan), (vec!["eu", "us"], Some(PlanName::Fast)));
        assert_eq!(wish.bake_s, None);
        let request = Wish { build: Some(JobNo(1)), ..wish }.request(RolloutKind::Deploy, false);
        assert_eq!(request.unwrap().regions.len(), 2);
        assert!(read("plan=fast&bake_s=30").only().is_empty());
        assert!(read("regions=NOT%20ONE").regions().is_err());
    }
}
