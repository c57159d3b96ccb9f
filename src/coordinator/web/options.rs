//! How a deploy is to go: plan, bakes, regions. Safe unless chosen otherwise; what is
//! chosen is planned anew and shown before anything happens.

use maud::{Markup, html};

use crate::coordinator::web::act::Wish;
use crate::coordinator::web::call::Calls;
use crate::model::id::RegionName;
use crate::model::rollout::{PlanName, RolloutKind};

/// Every plan, the default first, with what it does.
const PLANS: [(PlanName, &str); 4] = [
    (PlanName::Standard, "a canary, then region by region, with bakes"),
    (
        PlanName::Careful,
        "as standard, six times as long, and a person lets it leave the first wave",
    ),
    (PlanName::Fast, "a twentieth everywhere, a short bake, then all"),
    (PlanName::AllAtOnce, "every host at once, no gate before the last"),
];

impl Wish {
    /// What was chosen besides what is deployed, as fields of a form; defaults are left out.
    pub(super) fn options(&self) -> Vec<(&'static str, String)> {
        let plan = self.plan.filter(|plan| *plan != PlanName::default());
        let regions = Some(self.regions.as_str()).filter(|regions| !regions.is_empty());
        let all = [
            ("plan", plan.map(|plan| plan.word().to_owned())),
            ("bake_s", self.bake_s.map(|bake| bake.to_string())),
            ("regions", regions.map(str::to_owned)),
            ("allow_bad", self.allow_bad.then(|| "true".into())),
            ("allow_older", self.allow_older.then(|| "true".into())),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// Regions that were chosen; none: all of them.
    pub(super) fn only(&self) -> Vec<&str> {
        self.regions.split(',').map(str::trim).filter(|region| !region.is_empty()).collect()
    }
}

/// The form that plans anew, closed while everything is as it is by default.
pub(super) fn form(calls: &Calls, wish: &Wish, kind: RolloutKind) -> Markup {
    let deploy = kind == RolloutKind::Deploy;
    let regions: Vec<&RegionName> = calls.shared().config.regions.keys().collect();
    let chosen = wish.only();
    let mut kept: Vec<(&str, String)> = vec![];
    kept.extend(wish.app.as_ref().map(|app| ("app", app.to_string())));
    kept.extend(wish.env.as_ref().map(|env| ("env", env.to_string())));
    kept.extend(wish.build.map(|build| ("build", build.to_string())));
    kept.extend(wish.release.map(|release| ("release", release.to_string())));
    kept.extend(wish.options().into_iter().filter(|(name, _)| name.starts_with("allow")));
    let set = wish.plan.is_some_and(|plan| plan != PlanName::default())
        || wish.bake_s.is_some()
        || !chosen.is_empty();
    html! {
        details .options open[set] {
            summary { "Options: " (said(wish, deploy)) }
            form .card method="get" action={ "/do/" (kind.word()) } {
                @for (name, value) in &kept { input type="hidden" name=(name) value=(value); }
                @if deploy {
                    fieldset {
                        legend { "Plan" }
                        @for (plan, what) in PLANS { label .choice {
                            input type="radio" name="plan" value=(plan.word())
                                checked[wish.plan.unwrap_or_default() == plan];
                            " " strong { (plan.word()) } span .dim { ": " (what) }
                        } }
                    }
                    label for="bake_s" { "Every bake, in seconds" span .dim { " (empty: as the plan says)" } }
                    input #bake_s name="bake_s" type="number" min="0" max="86400" value=[wish.bake_s];
                }
                @if regions.len() > 1 {
                    fieldset {
                        legend { "Only these regions" span .dim { " (none: all of them)" } }
                        @for region in regions { label .choice {
                            input type="checkbox" name="regions" value=(region)
                                checked[chosen.contains(&region.as_str())];
                            " " (region)
                        } }
                    }
                }
                div .buttons { button type="submit" data-testid="replan" { "Show how that goes" } }
            }
        }
    }
}

/// "plan standard, all regions".
fn said(wish: &Wish, deploy: bool) -> String {
    let mut parts = vec![];
    if deploy {
        parts.push(format!("plan {}", wish.plan.unwrap_or_default().word()));
    }
    parts.extend(wish.bake_s.map(|bake| format!("bakes of {bake} s")));
    let only = wish.only();
    parts.push(if only.is_empty() { "all regions".into() } else { only.join(" and ") });
    parts.join(", ")
}
