//! Who the hosts are that a deploy names to go first: looked up once, when it is asked for.

use std::collections::BTreeSet;

use crate::config::instead::{Instead, instead_of, some_of};
use crate::coordinator::state::Coordinator;
use crate::model::canary::Canary;
use crate::model::hold::Hold;
use crate::model::id::{EnvName, HostId, RegionName};
use crate::model::picked::HostSelector;
use crate::store::db::{DbError, Tx, holds, hosts};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::app::AppSpec;
use crate::wire::v1::rollout::RolloutRequest;
use crate::wire::words::{count, quoted};

/// A host of the app and env that are deployed to, which is asked for, or has a name that is.
struct Known {
    host: HostId,
    region: RegionName,
    /// Whether its region is deployed to.
    within: bool,
    picked: bool,
    reachable: bool,
    /// A person holds or pins it.
    kept: bool,
}

/// Where it goes: the app, the env, and the regions; none: all.
#[derive(Clone, Copy)]
struct To<'a> {
    app: &'a AppSpec,
    env: &'a EnvName,
    regions: &'a [RegionName],
}

impl To<'_> {
    fn goes_to(&self, region: &RegionName) -> bool {
        self.regions.is_empty() || self.regions.contains(region)
    }

    /// "eu, us"; empty where it goes everywhere.
    fn regions_said(&self) -> String {
        let names: Vec<&str> = self.regions.iter().map(RegionName::as_str).collect();
        names.join(", ")
    }

    /// The line that lists the hosts that `selector` means.
    fn look(&self, selector: &str) -> String {
        let (app, env) = (&self.app.name, self.env);
        format!("deployctl hosts --hosts {} -a {app} -e {env}", quoted(selector))
    }
}

/// The canary that `request` names, if it names one. Patterns and labels leave out hosts that
/// are away or pinned; a host that is named must take part.
///
/// # Errors
/// `not_found` when nobody, or a name that is no host, is meant; `blocked` for one that is
/// named and can't take part.
pub(super) fn named(
    tx: &Tx,
    shared: &Coordinator,
    app: &AppSpec,
    env: &EnvName,
    request: &RolloutRequest,
) -> Result<Option<Canary>, Problem> {
    let Some(selector) = &request.hosts else { return Ok(None) };
    let to = To { app, env, regions: &request.regions };
    let known = look(tx, shared, to, selector)?;
    for name in selector.exact() {
        let same: Vec<&Known> =
            known.iter().filter(|host| host.within && host.host.as_str() == name).collect();
        match same[..] {
            [] => return Err(nobody_called(tx, to, name, &known)?),
            [..] if same.iter().all(|host| !host.picked) => {
                return Err(Problem::new(Code::NotFound, format!("{name} can't go first"))
                    .because(format!("it has other labels than {selector} says"))
                    .hint(to.look(name)));
            }
            _ => check_free((app, env), &same)?,
        }
    }
    let mut canary = Canary { asked: selector.to_string(), ..Canary::default() };
    let free = |one: &&Known| one.within && one.picked && one.reachable && !one.kept;
    for one in known.iter().filter(free) {
        canary.hosts.entry(one.region.clone()).or_default().insert(one.host.clone());
    }
    if canary.hosts.is_empty() {
        return Err(nobody_like(tx, to, selector, &known)?);
    }
    Ok(Some(canary))
}

/// Why nobody whom `selector` means can go first.
fn nobody_like(
    tx: &Tx,
    to: To<'_>,
    selector: &HostSelector,
    known: &[Known],
) -> Result<Problem, DbError> {
    let picked: Vec<&Known> = known.iter().filter(|one| one.picked).collect();
    let within = picked.iter().filter(|one| one.within).count() as u64;
    let (app, env) = (&to.app.name, to.env);
    if picked.is_empty() {
        let none = format!("no host of {app} in {env} matches {selector}");
        let unsaid = selector.unsaid(&hosts::said(tx, env, &to.app.hosts)?);
        let why = match unsaid {
            Some(unsaid) => unsaid,
            None => match all_of(tx, to)? {
                all if all.is_empty() => "no host was heard of".to_owned(),
                all => format!("there is {}", some_of(all.iter().map(HostId::as_str))),
            },
        };
        return Ok(Problem::new(Code::NotFound, none)
            .because(why)
            .hint(format!("deployctl hosts -a {app} -e {env} -o wide")));
    }
    let why = match within {
        0 => {
            let regions: BTreeSet<&str> = picked.iter().map(|one| one.region.as_str()).collect();
            let regions = regions.into_iter().collect::<Vec<_>>().join(", ");
            let hosts = count(picked.len() as u64, "host");
            format!(
                "{selector} is {hosts} in {regions}, and this goes to {} only",
                to.regions_said()
            )
        }
        _ => {
            format!("{} that match can't be reached, or are held or pinned", count(within, "host"))
        }
    };
    let none = format!("no host of {selector} can go first");
    Ok(Problem::new(Code::NotFound, none).because(why).hint(to.look(&selector.to_string())))
}

fn look(
    tx: &Tx,
    shared: &Coordinator,
    to: To<'_>,
    selector: &HostSelector,
) -> Result<Vec<Known>, DbError> {
    let To { app, env, .. } = to;
    let pins = holds::placed(tx, (&app.name, env), shared.steady_now())?;
    let pins: Vec<_> = pins.iter().filter_map(Hold::pin).collect();
    let mut known = Vec::new();
    hosts::each_picked(tx, env, (&app.hosts, selector), |region, host, reachable, picked| {
        let within = to.goes_to(&region);
        let kept = pins.iter().any(|pin| pin.keeps(&host, &region));
        known.push(Known { host, region, within, picked, reachable, kept });
    })?;
    Ok(known)
}

/// The hosts that it goes to.
fn all_of(tx: &Tx, to: To<'_>) -> Result<Vec<HostId>, DbError> {
    let mut there = Vec::new();
    hosts::each(tx, to.env, &to.app.hosts, |region, host, _| {
        if to.goes_to(region) {
            there.push(host.clone());
        }
    })?;
    Ok(there)
}

/// Whether a host that is named, in whatever regions it is, can take part.
fn check_free((app, env): (&AppSpec, &EnvName), same: &[&Known]) -> Result<(), Problem> {
    let picked: Vec<&Known> = same.iter().copied().filter(|one| one.picked).collect();
    // Where it was before it moved to another region it is away for good.
    let away = picked.iter().all(|one| !one.reachable);
    let Some(one) = picked.iter().find(|one| one.kept || away) else {
        return Ok(());
    };
    let host = &one.host;
    let problem = Problem::new(Code::Blocked, format!("{host} can't go first"));
    let (app, region) = (&app.name, &one.region);
    Err(if one.kept {
        problem
            .because(format!("a person holds or pins it, or its region {region}"))
            .hint("deployctl hold list")
            .hint(format!("deployctl unpin {host} -a {app} -e {env}"))
    } else {
        problem
            .because(format!("{region} does not hear of it, so it would prove nothing"))
            .hint(format!("deployctl why {host} -a {app} -e {env}"))
    })
}

/// Why `name` is no host that could go first: what was meant, or where it is.
fn nobody_called(tx: &Tx, to: To<'_>, name: &str, known: &[Known]) -> Result<Problem, DbError> {
    let (app, env) = (&to.app.name, to.env);
    let problem = Problem::new(Code::NotFound, format!("there is no host {name} to go first"));
    let list = format!("deployctl hosts -a {app} -e {env}");
    // Another region's, which was not asked for.
    if let Some(other) = known.iter().find(|one| one.host.as_str() == name) {
        let why =
            format!("{name} is in {}, and this goes to {} only", other.region, to.regions_said());
        return Ok(problem.because(why).hint(list));
    }
    let filter = hosts::Filter { host: Some(name.to_owned()), ..hosts::Filter::default() };
    let (rows, _) = hosts::list(tx, &filter, 100)?;
    let elsewhere = rows.into_iter().find(|row| row.info.host.as_str() == name);
    let there = all_of(tx, to)?;
    let names = || there.iter().map(HostId::as_str);
    Ok(match elsewhere {
        Some(row) if row.info.env != *env => problem
            .because(format!("{name} serves {}, and this goes to {env}", row.info.env))
            .hint(list),
        Some(_) => problem
            .because(format!("{app} runs on hosts with {}, and {name} is none", to.app.hosts))
            .hint(format!("deployctl why {name} -a {app} -e {env}")),
        None => match instead_of(name, names) {
            Instead::Alike(alike) => problem.because(format!("there is {alike}")).hint(list),
            Instead::Near(near) => problem.hint(format!("did you mean: --hosts {near}")),
            Instead::Nothing => problem.hint(list),
        },
    })
}
