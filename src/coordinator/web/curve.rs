//! A rollout's completion curve: over time, how many hosts had every byte, and how
//! many ran it.

use std::time::Duration;

use maud::{Markup, html};

use crate::wire::v1::rollout::{Curve, CurvePoint};
use crate::wire::words::{count, took};

/// The drawing's size, in its own units; it is stretched to the page.
const WIDTH: u128 = 1000;
const HEIGHT: u128 = 200;

/// How one line of the drawing counts hosts.
type Count = fn(&CurvePoint) -> u32;

const HAVE: Count = |point| point.staged;
const RUN: Count = |point| point.healthy;

/// Draws the curve with what it says in words; nothing before two points.
pub(super) fn draw(curve: &Curve) -> Markup {
    let [first, .., last] = &curve.points[..] else { return html! {} };
    let hosts = curve.points.iter().map(|point| point.hosts).max().unwrap_or(0);
    if hosts == 0 {
        return html! {};
    }
    let have = said(curve, hosts, HAVE, "had every byte");
    let run = said(curve, hosts, RUN, "ran it");
    html! {
        h2 { "How it went" }
        figure .curve data-testid="curve" {
            figcaption {
                span .key.moving {} (have) br; span .key.good {} (run)
            }
            svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none"
                role="img" aria-label={ (have) "; " (run) } {
                path .grid d={ "M0 " (HEIGHT / 2) "h" (WIDTH) } {}
                path .moving d=(line(curve, hosts, HAVE)) {}
                path .good d=(line(curve, hosts, RUN)) {}
            }
            div .axis { span { "0s" } span { (took(last.at.since(first.at))) } }
        }
    }
}

/// The curve as a path, from the lower left.
fn line(curve: &Curve, hosts: u32, of: Count) -> String {
    let (Some(first), Some(last)) = (curve.points.first(), curve.points.last()) else {
        return String::new();
    };
    let whole = last.at.since(first.at).as_millis().max(1);
    let mut path = String::new();
    for point in &curve.points {
        let x = point.at.since(first.at).as_millis() * WIDTH / whole;
        let up = u128::from(of(point)) * HEIGHT / u128::from(hosts);
        path.push_str(if path.is_empty() { "M" } else { "L" });
        path.push_str(&format!("{x} {}", HEIGHT - up.min(HEIGHT)));
    }
    path
}

/// "half had every byte after 3s, 99 of 100 after 8s, all 40 after 9s".
fn said(curve: &Curve, hosts: u32, of: Count, what: &str) -> String {
    let shares = [(hosts.div_ceil(2), "half".to_owned()), share_of_99(hosts), all_of(hosts)];
    let mut parts: Vec<String> = Vec::new();
    for (wanted, name) in shares {
        let Some(after) = when(curve, wanted, of) else { break };
        let verb = if parts.is_empty() { format!(" {what}") } else { String::new() };
        parts.push(format!("{name}{verb} after {}", took(after)));
    }
    if parts.is_empty() {
        let now = curve.points.last().map_or(0, of);
        return format!("{now} of {} {what}", count(u64::from(hosts), "host"));
    }
    parts.join(", ")
}

fn share_of_99(hosts: u32) -> (u32, String) {
    (hosts - hosts / 100, "99 %".to_owned())
}

fn all_of(hosts: u32) -> (u32, String) {
    (hosts, format!("all {hosts}"))
}

/// How long after the start `wanted` hosts were counted for the first time.
fn when(curve: &Curve, wanted: u32, of: Count) -> Option<Duration> {
    let first = curve.points.first()?;
    let point = curve.points.iter().find(|point| of(point) >= wanted)?;
    Some(point.at.since(first.at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::time::UnixMillis;

    fn curve(points: &[(i64, u32, u32)]) -> Curve {
        let points = points.iter().map(|&(second, staged, healthy)| CurvePoint {
            at: UnixMillis(1_000_000 + second * 1000),
            hosts: if second == 0 { 0 } else { 200 },
            staged,
            healthy,
        });
        Curve { points: points.collect() }
    }

    #[test]
    fn it_says_when_half_and_all_were_there() {
        let drawn = draw(&curve(&[(0, 0, 0), (3, 120, 0), (8, 198, 2), (10, 200, 90)])).0;
        let said = "half had every byte after 3.0s, 99 % after 8.0s, all 200 after 10s";
        assert!(drawn.contains(said), "{drawn}");
        assert!(drawn.contains("90 of 200 hosts ran it"), "{drawn}");
        assert!(drawn.contains(r#"d="M0 200L300 80L800 2L1000 0""#), "{drawn}");
    }

    #[test]
    fn nothing_is_drawn_of_what_has_not_begun() {
        assert_eq!(draw(&curve(&[])).0, "");
        assert_eq!(draw(&curve(&[(0, 0, 0)])).0, "");
        assert_eq!(draw(&Curve { points: curve(&[(0, 0, 0), (0, 0, 0)]).points }).0, "");
    }
}
