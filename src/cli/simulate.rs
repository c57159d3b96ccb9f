//! `simulate`'s figures for people: the table, the curve in a terminal and as SVG.

use std::time::Duration;

use crate::cli::table::Table;
use crate::simulator::report::Report;

/// Columns and rows of the plot in a terminal.
const PLOT: (usize, usize) = (64, 12);
/// Width and height of the drawing.
const DRAWING: (f64, f64) = (720.0, 360.0);

/// The figures as rows.
#[must_use]
pub fn table(report: &Report, deadline: Duration) -> Table {
    let mut table = Table::new(&["FIGURE", "VALUE", "IS"], 3, "");
    let seconds = |time: Duration| format!("{:.1} s", time.as_secs_f64());
    let percent = |part: f64| format!("{:.2} %", part * 100.0);
    let times = |time| format!("{:.3} x the bound", report.ratio(time));
    let met = report.unfinished == 0 && report.end <= deadline;
    let hosts = match (report.failed, report.unfinished) {
        (0, 0) => "all complete".to_owned(),
        (failed, 0) => format!("complete; {failed} failed as planned"),
        (failed, open) => format!("complete; {failed} failed as planned, {open} did not finish"),
    };
    let missed = format!("{:.1} s of {}", report.end.as_secs_f64(), seconds(deadline));
    for [figure, value, is] in [
        ["hosts", &report.done.to_string(), &hosts],
        ["bound", &seconds(report.bound), "least time without headers and faults"],
        ["p50", &seconds(report.p50), &times(report.p50)],
        ["p99", &seconds(report.p99), &times(report.p99)],
        ["last", &seconds(report.last), &times(report.last)],
        ["deadline", if met { "met" } else { "missed" }, &missed],
        [
            "store egress",
            &format!("{:.3} copies", report.egress.0),
            &format!("per region; at most {:.3}", report.egress.1),
        ],
        ["cross-rack", &percent(report.cross_rack), "of the bytes between hosts"],
        ["duplicates", &percent(report.duplicate), "of the bytes between hosts"],
        [
            "tracker calls",
            &format!("{:.1}", report.calls.0),
            &format!("per host; at most {}", report.calls.1),
        ],
        ["refused pieces", &report.refused.to_string(), "wrong bytes, found by their digest"],
    ] {
        table.push([figure.into(), value.into(), is.into()]);
    }
    table
}

/// The share of hosts that are complete, over time, in text.
#[must_use]
pub fn plot(report: &Report) -> String {
    let (columns, rows) = PLOT;
    let end = report.end.as_secs_f64().max(1e-3);
    let hosts = report.curve.len().max(1);
    let done = |column: usize| {
        let at = Duration::from_secs_f64(end * (column + 1) as f64 / columns as f64);
        report.curve.partition_point(|time| *time <= at) * rows / hosts
    };
    let heights: Vec<usize> = (0..columns).map(done).collect();
    let mut text = String::from("hosts complete\n");
    for row in (1..=rows).rev() {
        let label = if row % 3 == 0 { format!("{:>4} %", row * 100 / rows) } else { " ".repeat(6) };
        let line: String =
            heights.iter().map(|height| if *height >= row { '█' } else { ' ' }).collect();
        text.push_str(&format!("{label} │{}\n", line.trim_end()));
    }
    text.push_str(&format!("       └{}\n", "─".repeat(columns)));
    let (left, right) = ("0 s", format!("{end:.0} s"));
    text.push_str(&format!("        {left}{right:>width$}\n", width = columns - left.len()));
    text
}

/// The same curve as a drawing, with the bound.
#[must_use]
pub fn svg(report: &Report) -> String {
    let (width, height) = DRAWING;
    let end = report.end.max(report.bound).as_secs_f64().max(1e-3) * 1.02;
    let hosts = report.curve.len().max(1);
    let x = |time: f64| 60.0 + time / end * (width - 80.0);
    let y = |share: f64| height - 40.0 - share * (height - 70.0);
    let mut line = format!("{:.1},{:.1}", x(0.0), y(0.0));
    let step = hosts.div_ceil(400);
    for (at, time) in report.curve.iter().enumerate() {
        if at % step == 0 || at + 1 == hosts {
            let share = (at + 1) as f64 / hosts as f64;
            line.push_str(&format!(" {:.1},{:.1}", x(time.as_secs_f64()), y(share)));
        }
    }
    let bound = report.bound.as_secs_f64();
    let mut marks = String::new();
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        marks.push_str(&format!(
            "<text x=\"52\" y=\"{:.1}\" text-anchor=\"end\">{:.0} %</text>\n",
            y(share) + 4.0,
            share * 100.0
        ));
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"60\" y=\"18\">hosts complete, of {hosts}</text>\n{marks}\
         <path d=\"M{:.1} {:.1}V{:.1}H{:.1}\" fill=\"none\" stroke=\"black\"/>\n\
         <path d=\"M{:.1} {:.1}V{:.1}\" stroke=\"gray\" stroke-dasharray=\"4 4\"/>\n\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">bound {bound:.0} s</text>\n\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">last {:.0} s</text>\n\
         <polyline points=\"{line}\" fill=\"none\" stroke=\"#1668b8\" stroke-width=\"2\"/>\n</svg>\n",
        x(0.0),
        y(1.0),
        y(0.0),
        x(end),
        x(bound),
        y(1.0),
        y(0.0),
        x(bound) - 4.0,
        y(0.5),
        x(end),
        height - 22.0,
        report.end.as_secs_f64(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_ends_with_everybody() {
        let curve: Vec<Duration> = (1..=100).map(Duration::from_secs).collect();
        let report = Report {
            end: Duration::from_secs(100),
            bound: Duration::from_secs(50),
            done: 100,
            curve,
            ..Report::default()
        };
        let text = plot(&report);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1].matches('█').count(), 1);
        assert!(lines[PLOT.1].matches('█').count() > 50);
        assert!(svg(&report).contains("bound 50 s"));
    }
}
