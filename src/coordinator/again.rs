//! The lines to type after a refusal ask for no more than what was refused: who pastes one must
//! not reach every host in place of the one that was named.

use crate::model::id::RegionName;
use crate::model::rollout::PlanName;
use crate::wire::problem::Problem;
use crate::wire::v1::rollout::RolloutRequest;
use crate::wire::words::quoted;

/// `problem` with what narrows `request` in each line that deploys.
pub(super) fn as_narrow(mut problem: Problem, request: &RolloutRequest) -> Problem {
    let flags = flags(request);
    for hint in problem.hints.iter_mut().filter(|hint| hint.starts_with("deployctl deploy ")) {
        for (name, value) in &flags {
            let flag = format!(" {name}");
            if !hint.contains(&flag) {
                hint.push_str(&flag);
                hint.push_str(value);
            }
        }
    }
    problem
}

/// Names of flags, each with its value and a space before that.
fn flags(request: &RolloutRequest) -> Vec<(&'static str, String)> {
    let value = |text: String| format!(" {}", quoted(&text));
    let file = request.plan_file.is_some().then(|| " FILE".to_owned());
    let named = (request.plan != PlanName::default()).then(|| value(request.plan.word().into()));
    let given = |names: &[RegionName]| {
        let names: Vec<&str> = names.iter().map(RegionName::as_str).collect();
        (!names.is_empty()).then(|| value(names.join(",")))
    };
    let set = |is_set: bool| is_set.then(String::new);
    let all = [
        ("--hosts", request.hosts.as_ref().map(|hosts| value(hosts.to_string()))),
        ("--region", given(&request.regions)),
        ("--exclude-region", given(&request.exclude_regions)),
        ("--plan", file.or(named)),
        ("--max-unavailable", request.max_unavailable.map(|most| value(most.to_string()))),
        ("--no-auto-rollback", set(request.no_auto_revert)),
        ("--allow-bad", set(request.allow_bad)),
        ("--allow-older", set(request.allow_older)),
        ("--allow-unmet", set(request.allow_unmet)),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::problem::Code;

    fn hints(request: serde_json::Value) -> Vec<String> {
        let request: RolloutRequest = serde_json::from_value(request).unwrap();
        let problem = Problem::new(Code::Blocked, "no")
            .hint("deployctl deploy 1234567 -a web -e prod --allow-bad -m WHY")
            .hint("deployctl history -a web -e prod");
        as_narrow(problem, &request).hints
    }

    #[test]
    fn a_line_to_paste_reaches_nobody_else() {
        let plain = hints(serde_json::json!({"kind": "deploy", "target": "1234567"}));
        assert_eq!(plain[0], "deployctl deploy 1234567 -a web -e prod --allow-bad -m WHY");
        let narrow = hints(serde_json::json!({
            "kind": "deploy", "target": "1234567", "hosts": "web-*", "regions": ["eu", "us"],
            "plan": "careful", "bake_s": 90, "no_auto_revert": true, "allow_bad": true,
        }));
        let added = " --hosts 'web-*' --region eu,us --plan careful --no-auto-rollback";
        assert_eq!(narrow[0], format!("{}{added}", plain[0]));
        assert_eq!(narrow[1], "deployctl history -a web -e prod");
    }
}
