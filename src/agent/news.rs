//! What a peer tells of its pieces while somebody follows it: a line for each change.
//!
//! `12:ff01` is all that it has at generation 12, as [`PieceSet`] is written;
//! `13+5,9` what came since the line before. A few bytes for a piece, where a question
//! and its answer were six hundred: with 16 hosts that was a twentieth of what their
//! links carried (docs/decisions/0039).

use std::fmt::Write;

use crate::model::pieces::PieceSet;

/// Longest line, bytes: every piece, or all their bits, and a generation.
pub(super) const LINE_BYTES_MAX: usize = 16 << 10;

/// What a line says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    /// It has these and no others.
    All(PieceSet),
    /// It has these, too.
    Gained(PieceSet),
}

/// A line for `now`, for somebody who was told `before`; `None`: nothing.
pub(super) fn line(generation: u64, before: Option<&PieceSet>, now: &PieceSet) -> String {
    let gained = before.filter(|before| before.minus(now).is_empty()).map(|b| now.minus(b));
    let Some(gained) = gained else {
        return format!("{generation}:{}\n", String::from(now.clone()));
    };
    let mut line = format!("{generation}+");
    for (at, piece) in gained.iter().enumerate() {
        // Writing to a string does not fail.
        let _ = write!(line, "{}{piece}", if at == 0 { "" } else { "," });
    }
    line.push('\n');
    line
}

/// Reads a line without its end: the generation and what changed; `None`: it is none.
pub(super) fn read(line: &str) -> Option<(u64, Change)> {
    if let Some((generation, bits)) = line.split_once(':') {
        let bits = PieceSet::try_from(bits.to_owned()).ok()?;
        return Some((generation.parse().ok()?, Change::All(bits)));
    }
    let (generation, gained) = line.split_once('+')?;
    let gained = gained.split(',').filter(|piece| !piece.is_empty());
    let gained = gained.map(|piece| piece.parse().ok()).collect::<Option<PieceSet>>()?;
    Some((generation.parse().ok()?, Change::Gained(gained)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::pieces::PIECES_MAX;
    use proptest::prelude::*;

    #[test]
    fn a_line_tells_what_came_and_all_when_something_went() {
        let set = |pieces: &[u32]| pieces.iter().copied().collect::<PieceSet>();
        assert_eq!(line(3, None, &set(&[0, 1])), "3:03\n");
        assert_eq!(line(4, Some(&set(&[0, 1])), &set(&[0, 1, 7, 9])), "4+7,9\n");
        assert_eq!(line(5, Some(&set(&[0, 1])), &set(&[1, 7])), "5:82\n");
        assert_eq!(read("5:82"), Some((5, Change::All(set(&[1, 7])))));
        assert_eq!(read("4+7,9"), Some((4, Change::Gained(set(&[7, 9])))));
        assert_eq!(read("4+"), Some((4, Change::Gained(set(&[])))));
        for bad in ["", "4", "x:00", "4+a", "4+1;2", ":", "-1+2", "4+4294967296"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_longest_line_fits_and_no_piece_is_beyond_the_bound() {
        let all = PieceSet::full(PIECES_MAX);
        let before: PieceSet = [0].into_iter().collect();
        assert!(line(u64::MAX, Some(&before), &all).len() < LINE_BYTES_MAX);
        let Some((_, Change::Gained(gained))) = read("1+4294967295") else { panic!() };
        assert!(gained.is_empty(), "it would take 512 MiB");
    }

    proptest! {
        #[test]
        fn who_reads_every_line_knows_what_there_is(
            sets in prop::collection::vec(prop::collection::vec(0u32..200, 0..60), 1..20)
        ) {
            let (mut before, mut known) = (None::<PieceSet>, PieceSet::new());
            for (generation, pieces) in sets.into_iter().enumerate() {
                let now: PieceSet = pieces.into_iter().collect();
                let told = line(generation as u64, before.as_ref(), &now);
                match read(told.trim_end()).unwrap().1 {
                    Change::All(all) => known = all,
                    Change::Gained(gained) => known.extend(&gained),
                }
                prop_assert_eq!(&known, &now);
                before = Some(now);
            }
        }

        #[test]
        fn no_line_breaks_the_reader(line in ".{0,300}") {
            let _ = read(&line);
        }
    }
}
