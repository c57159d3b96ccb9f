//! The check of the etcds that goals travel by.

use super::Check;
use crate::cli::table::count;
use crate::model::time::UnixMillis;
use crate::wire::v1::fleet::REGION_SILENT;
use crate::wire::v1::goal_store::{GoalStore, GoalStores};

/// A member that is so many puts behind the others is not just a moment late: the deploys of a
/// busy day.
const REVISIONS_MAX: u64 = 1_000;

/// One etcd, as one process sees it.
struct Seen<'a> {
    name: String,
    store: &'a GoalStore,
    /// What is said of goals that one side lacks.
    lacks: &'static str,
}

pub(super) fn travel(reply: &GoalStores, now: UnixMillis) -> Check {
    let all = seen(reply, now);
    if all.is_empty() {
        return Check::ok("goals", "by the regions' feed alone: no etcd is configured");
    }
    let broken: Vec<String> = all.iter().filter_map(broken).collect();
    if !broken.is_empty() {
        return Check::failed("goals", broken.join("; "), hint(&all));
    }
    let late: Vec<String> = all.iter().flat_map(late).collect();
    if !late.is_empty() {
        let hint = "the feed carries goals meanwhile; start the member, or read the region's log";
        return Check::look("goals", late.join("; "), hint);
    }
    let store = |it: &Seen| {
        let newest = it.store.members.iter().map(|member| member.revision).max().unwrap_or(0);
        let members = count(it.store.members.len() as u64, "member");
        format!("{} has {members}, revision {newest}", it.name)
    };
    Check::ok("goals", all.iter().map(store).collect::<Vec<_>>().join("; "))
}

fn seen(reply: &GoalStores, now: UnixMillis) -> Vec<Seen<'_>> {
    let global = reply.global.iter();
    let mut all: Vec<Seen> = global
        .map(|store| Seen { name: "the global etcd".into(), store, lacks: "has not got" })
        .collect();
    // Of a region that is silent the check of regions tells.
    let heard = reply.regions.iter().filter(|it| now.since(it.seen_at) <= REGION_SILENT);
    for region in heard {
        let name = &region.region;
        let own = region.stores.own.iter();
        all.extend(own.map(|store| Seen {
            name: format!("{name}'s etcd"),
            store,
            lacks: "has not got",
        }));
        let global = region.stores.global.iter();
        all.extend(global.map(|store| Seen {
            name: format!("the global etcd from {name}"),
            store,
            lacks: "has news that the region did not take:",
        }));
    }
    all
}

/// Why goals do not travel by it.
fn broken(seen: &Seen) -> Option<String> {
    let GoalStore { alarms, trouble, members, .. } = seen.store;
    if !alarms.is_empty() {
        return Some(format!("{} has raised {}", seen.name, alarms.join(", ")));
    }
    let none = !members.is_empty() && members.iter().all(|member| !member.trouble.is_empty());
    match (trouble.as_str(), none) {
        ("", false) => None,
        ("", true) => Some(format!("no member of {} answers", seen.name)),
        (trouble, _) => Some(format!("{}: {trouble}", seen.name)),
    }
}

fn hint(all: &[Seen]) -> &'static str {
    match all.iter().any(|it| it.store.alarms.iter().any(|alarm| alarm == "NOSPACE")) {
        true => "etcdctl compact, etcdctl defrag, then etcdctl alarm disarm; or a larger quota",
        false => "start its members, or check goals in the coordinator's file and --goals",
    }
}

/// What works and is not as it should be.
fn late(seen: &Seen) -> Vec<String> {
    let newest = seen.store.members.iter().map(|member| member.revision).max().unwrap_or(0);
    let mut all: Vec<String> = vec![];
    for member in &seen.store.members {
        if !member.trouble.is_empty() {
            all.push(format!("{}: {} {}", seen.name, member.address, member.trouble));
        } else if newest - member.revision > REVISIONS_MAX {
            let lag = newest - member.revision;
            all.push(format!("{}: {} is {lag} revisions behind", seen.name, member.address));
        }
    }
    if seen.store.behind > 0 {
        let goals = count(seen.store.behind, "goal");
        all.push(format!("{} {} {goals}", seen.name, seen.lacks));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::commands::doctor::Verdict;
    use crate::wire::v1::goal_store::{RegionStores, ReportedStores, StoreMember};

    fn store(revisions: &[u64]) -> GoalStore {
        let member = |revision: &u64| StoreMember {
            address: format!("http://m{revision}:2379"),
            revision: *revision,
            trouble: String::new(),
        };
        GoalStore { members: revisions.iter().map(member).collect(), ..GoalStore::default() }
    }

    fn of(global: GoalStore, own: Option<GoalStore>) -> Check {
        let stores = ReportedStores { own, global: None };
        let eu = RegionStores { region: "eu".parse().unwrap(), seen_at: UnixMillis(0), stores };
        travel(&GoalStores { global: Some(global), regions: vec![eu] }, UnixMillis(5_000))
    }

    #[test]
    fn what_is_well_late_and_broken_are_told_apart() {
        let well = of(store(&[40, 41, 41]), Some(store(&[7])));
        assert_eq!(well.verdict, Verdict::Ok);
        assert_eq!(
            well.says,
            "the global etcd has 3 members, revision 41; eu's etcd has 1 member, revision 7"
        );

        let late = of(store(&[1, 2_000]), Some(GoalStore { behind: 1, ..store(&[7]) }));
        assert_eq!(late.verdict, Verdict::Warning);
        assert!(late.says.contains("http://m1:2379 is 1999 revisions behind"), "{}", late.says);
        assert!(late.says.contains("eu's etcd has not got 1 goal"), "{}", late.says);

        let full = of(GoalStore { alarms: vec!["NOSPACE".into()], ..store(&[9]) }, None);
        assert_eq!(full.verdict, Verdict::Failed);
        assert!(full.says.contains("has raised NOSPACE") && full.hint.contains("alarm disarm"));

        let away = of(GoalStore { trouble: "no answer in time".into(), ..store(&[9]) }, None);
        assert_eq!(
            (away.verdict, away.says.as_str()),
            (Verdict::Failed, "the global etcd: no answer in time")
        );
    }

    #[test]
    fn without_an_etcd_and_of_silent_regions_there_is_nothing_to_say() {
        let none = GoalStores { global: None, regions: vec![] };
        assert_eq!(travel(&none, UnixMillis(0)).verdict, Verdict::Ok);
        let away = GoalStore { trouble: "away".into(), ..GoalStore::default() };
        let stores = ReportedStores { own: Some(away), global: None };
        let eu = RegionStores { region: "eu".parse().unwrap(), seen_at: UnixMillis(0), stores };
        let silent = GoalStores { global: None, regions: vec![eu] };
        assert_eq!(travel(&silent, UnixMillis(60_000)).verdict, Verdict::Ok);
    }
}
