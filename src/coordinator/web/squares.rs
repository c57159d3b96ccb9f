//! The fleet as squares, one for each host: readable at ten and at ten thousand.
//!
//! Squares of one tone are one dashed line, a run of neighbours one stretch of it, so
//! ten thousand healthy hosts are a few hundred bytes.

use maud::{Markup, html};

use crate::coordinator::web::parts::class;
use crate::wire::words::Tone;

/// A square and the gap beside it, in units of the drawing.
const CELL: usize = 10;
/// Squares in a row at most.
const COLUMNS_MAX: usize = 100;
/// Every tone that a host may have, as the legend names them.
pub(super) const TONES: [(Tone, &str); 5] = [
    (Tone::Good, "as it should be"),
    (Tone::Moving, "on its way"),
    (Tone::Bad, "failed"),
    (Tone::Look, "unreachable or went back"),
    (Tone::Dim, "idle"),
];

/// Draws hosts in the order given.
pub(super) fn squares(tones: &[Tone], said: &str) -> Markup {
    let columns = columns(tones.len());
    let rows = tones.len().div_ceil(columns);
    // Small drawings are not blown up, large ones shrink with the page.
    let pixels = if tones.len() <= 400 { 14 } else { 8 };
    html! {
        svg .squares role="img" aria-label=(said) width=(columns * pixels)
            viewBox={ "0 0 " (columns * CELL) " " (rows * CELL) } {
            @for (tone, _) in TONES {
                @let line = line(tones, tone, columns);
                @if !line.is_empty() { path .(class(tone)) d=(line) {} }
            }
        }
    }
}

fn columns(hosts: usize) -> usize {
    match hosts {
        0..=400 => 25,
        401..=2_000 => 50,
        _ => COLUMNS_MAX,
    }
}

/// The stretches of one tone.
fn line(tones: &[Tone], tone: Tone, columns: usize) -> String {
    let mut line = String::new();
    for (row, hosts) in tones.chunks(columns).enumerate() {
        let mut column = 0;
        for run in hosts.chunk_by(|a, b| a == b) {
            if run[0] == tone {
                let (x, y) = (column * CELL, row * CELL + CELL / 2);
                line.push_str(&format!("M{x} {y}h{}", run.len() * CELL - 2));
            }
            column += run.len();
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_hosts_fit_in_a_page() {
        let mut tones = vec![Tone::Good; 10_000];
        for n in 0..500 {
            tones[n * 20] = Tone::Bad;
        }
        let drawn = squares(&tones, "x").0;
        assert!(drawn.len() < 30_000, "{}", drawn.len());
        assert_eq!(drawn.matches("<path").count(), 2);
    }

    #[test]
    fn every_host_is_in_exactly_one_stretch() {
        let tones = [Tone::Good, Tone::Good, Tone::Bad, Tone::Good];
        assert_eq!(line(&tones, Tone::Good, 25), "M0 5h18M30 5h8");
        assert_eq!(line(&tones, Tone::Bad, 25), "M20 5h8");
    }
}
