//! The steps of a plan before anything begins: how many hosts each reaches.
//!
//! A host's bucket is a pure function of the goal, so the same hosts are counted here as
//! the coordinator will admit. Changes nothing.

use std::collections::BTreeMap;
use std::ops::Range;

use super::api::{Api, with_query};
use super::context::Context;
use super::failure::{ExitCode, Failure};
use super::table::{Cell, Table};
use super::{preview, rollouts};
use crate::model::goal::{BUCKETS, bucket};
use crate::model::id::{AppName, EnvName, RegionName};
use crate::model::rollout::Step;
use crate::wire::v1::fleet::{HostRow, Hosts};
use crate::wire::v1::rollout::{Rollout, RolloutRequest};

/// Most hosts that are asked for at once, as `deployctl hosts` does.
const HOSTS_MAX: &str = "20000";
/// Regions of a step that people are told one by one.
const REGIONS_TOLD: usize = 4;

/// Hosts that a step has reached once it is done, by region.
pub type Reached = BTreeMap<RegionName, u64>;

/// The hosts that run the app and can be reached.
///
/// # Errors
/// As the coordinator refuses it, and when there are more hosts than can be counted.
pub async fn covered(api: &Api, app: &AppName, env: &EnvName) -> Result<Vec<HostRow>, Failure> {
    let spec = api.app(app).await?.spec;
    let query = [("env", Some(env.as_str())), ("limit", Some(HOSTS_MAX))];
    let mut reply: Hosts = api.get(&with_query("/v1/hosts", query)).await?;
    if reply.total > reply.hosts.len() as u64 {
        let (some, all) = (reply.hosts.len(), reply.total);
        return Err(Failure::new(
            ExitCode::Error,
            format!("there are {all} hosts in {env}, and {some} can be counted at most"),
        ));
    }
    reply.hosts.retain(|row| row.reachable && spec.hosts.selects(&row.info.labels));
    Ok(reply.hosts)
}

/// Which of `hosts` each step of `planned` has reached; `None` where it has drawn nobody yet.
#[must_use]
pub fn reached(planned: &Rollout, hosts: &[HostRow]) -> Option<Vec<Reached>> {
    let salt = planned.release.version?.generation.to_string();
    let canary = planned.release.canary.as_ref();
    let drawn: Vec<(&HostRow, u32)> = hosts
        .iter()
        .map(|row| (row, bucket(&salt, &planned.release.app, &row.info.host)))
        .collect();
    let count = |step: &Step| {
        let mut reached = Reached::new();
        for (row, own) in &drawn {
            let first = canary.is_some_and(|canary| canary.has(&row.region, &row.info.host));
            let is_in = first || *own < step.admits(&row.region);
            *reached.entry(row.region.clone()).or_default() += u64::from(is_in);
        }
        reached
    };
    Some(planned.steps.iter().map(count).collect())
}

/// Asks what `request` would do and says it; nothing begins.
///
/// # Errors
/// As the coordinator would refuse it.
pub async fn tell_dry(
    ctx: &Context,
    api: &Api,
    (app, env): (&AppName, &EnvName),
    mut request: RolloutRequest,
) -> Result<ExitCode, Failure> {
    request.dry_run = true;
    let planned = api.start_rollout(app, env, &request).await.map_err(still_dry)?;
    // An older coordinator does not say it.
    let planned = Rollout { dry_run: true, ..planned };
    if planned.joined {
        ctx.out.story(&rollouts::there_already(&planned));
        let nothing = Rollout { steps: vec![], ..planned };
        ctx.out.answer(&nothing, &table(&nothing, None));
        return Ok(ExitCode::Ok);
    }
    ctx.out.story(&rollouts::headline(ctx, &planned));
    // Hosts that are too many to be counted: shares say it as well.
    let (status, hosts) = tokio::join!(api.status(Some(app), Some(env)), covered(api, app, env));
    let open = status.ok().and_then(|status| status.apps.into_iter().next()?.rollout);
    if let Some(open) = open {
        ctx.out.story(&format!("ends {}", preview::ends(&open)));
    }
    for lacks in &planned.unmet {
        ctx.out.warning(&format!("{lacks}; --allow-unmet does not wait for it"));
    }
    let reached = hosts.ok().and_then(|hosts| reached(&planned, &hosts));
    ctx.out.answer(&planned, &table(&planned, reached.as_deref()));
    Ok(ExitCode::Ok)
}

/// Who asked what would happen is not to begin it by a line that is pasted.
fn still_dry(mut failure: Failure) -> Failure {
    let begins = |hint: &&mut String| {
        ["deploy", "rollback"].iter().any(|verb| hint.starts_with(&format!("deployctl {verb} ")))
    };
    failure.hints.iter_mut().filter(begins).for_each(|hint| hint.push_str(" -n"));
    failure
}

fn table(planned: &Rollout, reached: Option<&[Reached]>) -> Table {
    part_of(planned, reached, 0..planned.steps.len())
}

/// The steps `part` of `planned`, and how many hosts each has reached once it is done.
#[must_use]
pub fn part_of(planned: &Rollout, reached: Option<&[Reached]>, part: Range<usize>) -> Table {
    let mut table =
        Table::new(&["STEP", "WAVE", "NAME", "HOSTS", "BAKE", "THEN"], 6, "nothing to do");
    let steps = planned.steps.iter().enumerate();
    for (number, step) in steps.filter(|(number, _)| part.contains(number)) {
        let hosts = reached.and_then(|reached| reached.get(number)).map(hosts);
        table.push([
            (number + 1).to_string().into(),
            (step.wave + 1).to_string().into(),
            step.name.as_str().into(),
            hosts.unwrap_or_else(|| shares(planned, step)).into(),
            format!("{}s", step.bake_s).into(),
            Cell::maybe(step.hold.then_some("held")),
        ]);
    }
    table
}

/// "eu 1, us 4", or "4210 in 12 regions".
fn hosts(reached: &Reached) -> String {
    let some: Vec<_> = reached.iter().filter(|(_, hosts)| **hosts > 0).collect();
    let all: u64 = reached.values().sum();
    match some.len() {
        0 => "0".to_owned(),
        1..=REGIONS_TOLD => {
            let part = |(region, hosts): &(&RegionName, &u64)| format!("{region} {hosts}");
            some.iter().map(part).collect::<Vec<_>>().join(", ")
        }
        regions => format!("{all} in {regions} regions"),
    }
}

/// What a step admits where the hosts can't be counted: "eu 25.00%".
fn shares(planned: &Rollout, step: &Step) -> String {
    let canary = planned.release.canary.as_ref();
    if let Some(canary) = canary.filter(|_| step.admit.values().all(|buckets| *buckets == 0)) {
        let named = canary.hosts.iter().map(|(region, hosts)| (region.clone(), hosts.len() as u64));
        return hosts(&named.collect());
    }
    let part = |(region, buckets): (&String, &u32)| match (region.as_str(), *buckets) {
        (_, 0) => None,
        ("*", _) => None,
        (region, BUCKETS) => Some(format!("{region} all")),
        (region, buckets) => Some(format!("{region} {}.{:02}%", buckets / 100, buckets % 100)),
    };
    let parts: Vec<String> = step.admit.iter().filter_map(part).collect();
    match parts.is_empty() {
        true => "all".to_owned(),
        false => parts.join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::table::Mode;
    use crate::cli::watching::tests::running;

    fn planned() -> Rollout {
        let step = |name: &str, eu: u32, hold: bool| Step {
            wave: 0,
            name: name.into(),
            admit: [("eu".to_owned(), eu), ("*".to_owned(), eu)].into(),
            bake_s: 60,
            hold,
        };
        let steps = vec![
            step("canary web-1", 0, true),
            step("eu 25%", 1320, false),
            step("all hosts", BUCKETS, false),
        ];
        let mut planned = running(steps);
        let canary = serde_json::json!({"asked": "web-1", "hosts": {"eu": ["web-1"]}});
        planned.release.canary = serde_json::from_value(canary).unwrap();
        planned
    }

    fn lines(planned: &Rollout, reached: Option<&[Reached]>) -> Vec<String> {
        let text = table(planned, reached).render(Mode::Tabs { wide: false });
        text.lines().map(|line| line.replace('\t', "|")).collect()
    }

    #[test]
    fn a_plan_is_told_in_hosts_and_a_canary_is_never_a_share_of_nothing() {
        let planned = planned();
        let reach =
            |eu, us| Reached::from([("eu".parse().unwrap(), eu), ("us".parse().unwrap(), us)]);
        let reached = [reach(1, 0), reach(2, 0), reach(4, 3)];
        assert_eq!(
            lines(&planned, Some(&reached)),
            [
                "1|1|canary web-1|eu 1|60s|held",
                "2|1|eu 25%|eu 2|60s|",
                "3|1|all hosts|eu 4, us 3|60s|"
            ]
        );
        let shares = lines(&planned, None);
        assert_eq!(shares[0], "1|1|canary web-1|eu 1|60s|held");
        assert_eq!(shares[1], "2|1|eu 25%|eu 13.20%|60s|");
        assert_eq!(shares[2], "3|1|all hosts|eu all|60s|");
    }

    #[test]
    fn hosts_of_many_regions_are_one_number() {
        let many = (0..9).map(|n| (format!("r{n}").parse().unwrap(), 10)).collect();
        assert_eq!(hosts(&many), "90 in 9 regions");
        assert_eq!(hosts(&Reached::new()), "0");
    }
}
