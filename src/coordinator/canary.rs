//! Who the hosts are that a deploy names to go first: looked up once, when it is asked for.

use crate::config::project::nearest;
use crate::coordinator::state::Coordinator;
use crate::model::canary::Canary;
use crate::model::hold::Hold;
use crate::model::id::{EnvName, HostId, RegionName};
use crate::model::picked::HostSelector;
use crate::store::db::{DbError, Tx, holds, hosts};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::app::AppSpec;
use crate::wire::v1::rollout::RolloutRequest;

/// A host of the app, env and regions that are deployed to, which is asked for, or has a name
/// that is.
struct Known {
    host: HostId,
    region: RegionName,
    picked: bool,
    reachable: bool,
    /// A person holds or pins it.
    kept: bool,
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
    let known = look(tx, shared, (app, env), (selector, &request.regions))?;
    for name in selector.exact() {
        let same: Vec<&Known> = known.iter().filter(|host| host.host.as_str() == name).collect();
        match same[..] {
            [] => return Err(nobody_called(tx, (app, env), name, &request.regions)?),
            [..] if same.iter().all(|host| !host.picked) => {
                return Err(Problem::new(Code::NotFound, format!("{name} can't go first"))
                    .because(format!("it has other labels than {selector} says"))
                    .hint(format!("deployctl hosts {name} -o wide")));
            }
            _ => check_free((app, env), &same)?,
        }
    }
    let mut canary = Canary { asked: selector.to_string(), ..Canary::default() };
    let matching = known.iter().filter(|host| host.picked).count();
    for one in known.into_iter().filter(|host| host.picked && host.reachable && !host.kept) {
        canary.hosts.entry(one.region).or_default().insert(one.host);
    }
    if canary.hosts.is_empty() {
        let why = match matching {
            0 => format!("{selector} matches none of the hosts of {} in {env}", app.name),
            _ => format!("the hosts that match ({matching}) can't be reached or are pinned"),
        };
        return Err(Problem::new(Code::NotFound, format!("no host is {selector}"))
            .because(why)
            .hint(format!("deployctl hosts -a {} -e {env} -o wide", app.name)));
    }
    Ok(Some(canary))
}

fn look(
    tx: &Tx,
    shared: &Coordinator,
    (app, env): (&AppSpec, &EnvName),
    (selector, regions): (&HostSelector, &[RegionName]),
) -> Result<Vec<Known>, DbError> {
    let pins = holds::placed(tx, (&app.name, env), shared.steady_now())?;
    let pins: Vec<_> = pins.iter().filter_map(Hold::pin).collect();
    let mut known = Vec::new();
    hosts::each_picked(tx, env, (&app.hosts, selector), |region, host, reachable, picked| {
        if regions.is_empty() || regions.contains(&region) {
            let kept = pins.iter().any(|pin| pin.keeps(&host, &region));
            known.push(Known { host, region, picked, reachable, kept });
        }
    })?;
    Ok(known)
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
fn nobody_called(
    tx: &Tx,
    (app, env): (&AppSpec, &EnvName),
    name: &str,
    regions: &[RegionName],
) -> Result<Problem, DbError> {
    let mut known = Vec::new();
    hosts::each(tx, env, &app.hosts, |region, host, _| {
        if regions.is_empty() || regions.contains(&region) {
            known.push(host);
        }
    })?;
    let filter = hosts::Filter { host: Some(name.to_owned()), ..hosts::Filter::default() };
    let (rows, _) = hosts::list(tx, &filter, 100)?;
    let elsewhere = rows.into_iter().find(|row| row.info.host.as_str() == name);
    let app = &app.name;
    let problem = Problem::new(Code::NotFound, format!("there is no host {name} to go first"));
    Ok(match elsewhere {
        Some(row) if row.info.env != *env => problem
            .because(format!("{name} serves {}, and this goes to {env}", row.info.env))
            .hint(format!("deployctl hosts -a {app} -e {env}")),
        Some(row) => problem
            .because(format!(
                "{name} is in {}, where this does not go, or does not run {app}",
                row.region
            ))
            .hint(format!("deployctl hosts -a {app} -e {env}")),
        None => match nearest(name, known.iter().map(HostId::as_str)) {
            Some(near) => problem.hint(format!("did you mean: --hosts {near}")),
            None => problem.hint(format!("deployctl hosts -a {app} -e {env}")),
        },
    })
}
