//! Rows and columns: aligned for people, TAB-separated for programs.
//!
//! A cell knows both of its forms ("4m" and RFC 3339, ten digits and sixty-four), so
//! a command fills a table once. Decides no format and prints nothing.

use comfy_table::{Attribute, Color, ColumnConstraint, ContentArrangement, Row, presets};

use super::output::Tone;
use crate::model::time::UnixMillis;
use crate::wire::words;
pub use crate::wire::words::{age, bytes, count, took};

/// Columns of prose: these are cut where the terminal is too narrow.
const FLEXIBLE: [&str; 7] =
    ["SUBJECT", "MESSAGE", "REASON", "REPO", "BLOBS", "WAITING ON", "LABELS"];

/// The column of prose that is shown whole, on as many lines as it takes: a check's outcome.
const FOLDED: &str = "SAYS";

/// Columns that go, in this order, where the only prose that is left has no room.
const SPARE: [&str; 2] = ["KIND", "ACTOR"];

/// Fewest characters of a column of prose that are worth showing beside another.
const PROSE_MIN: usize = 16;

/// One value in its two forms.
#[derive(Debug, Clone)]
pub struct Cell {
    short: String,
    full: String,
    tone: Tone,
    glyph: bool,
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        let text = text.into();
        Self { short: text.clone(), full: text, tone: Tone::Plain, glyph: false }
    }
}

impl Cell {
    /// A cell that people see as `short` and programs as `full`.
    #[must_use]
    pub fn pair(short: impl Into<String>, full: impl Into<String>) -> Self {
        Self { short: short.into(), full: full.into(), tone: Tone::Plain, glyph: false }
    }

    /// A state's word, with glyph and colour for people.
    #[must_use]
    pub fn state(word: &str, tone: Tone) -> Self {
        Self { short: word.into(), full: word.into(), tone, glyph: true }
    }

    /// With a longer form for programs.
    #[must_use]
    pub fn in_full(self, full: impl Into<String>) -> Self {
        Self { full: full.into(), ..self }
    }

    /// An instant: its age for people, RFC 3339 for programs.
    #[must_use]
    pub fn time(at: Option<UnixMillis>, now: UnixMillis) -> Self {
        at.map_or_else(|| Self::pair("-", ""), |at| Self::pair(age(now.since(at)), at.to_string()))
    }

    /// A number of bytes.
    #[must_use]
    pub fn bytes(count: u64) -> Self {
        Self::pair(bytes(count), count.to_string())
    }

    /// A long id, cut to ten digits for people.
    #[must_use]
    pub fn id(full: impl ToString) -> Self {
        let full = full.to_string();
        Self::pair(full.chars().take(10).collect::<String>(), full)
    }

    /// What may be missing.
    #[must_use]
    pub fn maybe(text: Option<impl ToString>) -> Self {
        text.map_or_else(|| Self::pair("-", ""), |text| text.to_string().into())
    }
}

/// A table under construction.
#[derive(Debug, Clone, Default)]
pub struct Table {
    columns: Vec<&'static str>,
    /// Columns from here on are shown only when wide.
    narrow: usize,
    /// A wide column that people see anyway, and the place among the others.
    beside: Option<(usize, usize)>,
    rows: Vec<Vec<Cell>>,
    /// The column that is enough to name a row.
    name: usize,
    /// What people read when there are no rows.
    pub when_empty: String,
}

/// How a table is written.
#[derive(Debug, Clone, Copy)]
pub enum Mode {
    /// Header and columns without borders.
    Aligned {
        /// With the wide columns.
        wide: bool,
        /// The terminal's, in columns.
        width: u16,
        /// With colour.
        color: bool,
        /// With glyphs beyond ASCII.
        unicode: bool,
    },
    /// No header, full values.
    Tabs {
        /// With the wide columns.
        wide: bool,
    },
    /// What names a row only.
    Names,
}

impl Table {
    /// A table whose columns from `narrow` on are shown only when wide.
    #[must_use]
    pub fn new(columns: &[&'static str], narrow: usize, when_empty: impl Into<String>) -> Self {
        let (columns, when_empty) = (columns.to_vec(), when_empty.into());
        Self { columns, narrow, beside: None, rows: vec![], name: 0, when_empty }
    }

    /// Shows the wide column `name` to people anyway, as column number `at`. Programs find
    /// it where it always is.
    pub fn show(&mut self, name: &str, at: usize) {
        let column = self.columns.iter().position(|column| *column == name);
        self.beside = column.map(|column| (column, at));
    }

    /// Puts columns before the others, with their cells of each row.
    pub fn lead<const N: usize>(
        &mut self,
        columns: [&'static str; N],
        cells: impl IntoIterator<Item = [Cell; N]>,
    ) {
        self.columns.splice(0..0, columns);
        self.narrow += N;
        self.name += N;
        self.beside = self.beside.map(|(column, at)| (column + N, at + N));
        for (row, cells) in self.rows.iter_mut().zip(cells) {
            row.splice(0..0, cells);
        }
    }

    /// Adds a row: as many cells as there are columns.
    pub fn push(&mut self, row: impl Into<Vec<Cell>>) {
        let row = row.into();
        debug_assert_eq!(row.len(), self.columns.len(), "a cell for each column");
        self.rows.push(row);
    }

    /// Whether there are no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text.
    #[must_use]
    pub fn render(&self, mode: Mode) -> String {
        let shown = |wide: bool| if wide { self.columns.len() } else { self.narrow };
        match mode {
            Mode::Names => {
                self.rows.iter().map(|row| format!("{}\n", row[self.name].full)).collect()
            }
            Mode::Tabs { wide } => self.tabs(shown(wide)),
            Mode::Aligned { .. } if self.rows.is_empty() => String::new(),
            Mode::Aligned { wide, width, color, unicode } => {
                let mut shown: Vec<usize> = (0..shown(wide)).collect();
                if let Some((column, at)) = self.beside {
                    shown.retain(|other| *other != column);
                    shown.insert(at.min(shown.len()), column);
                }
                let shown = self.fitting(shown, usize::from(width));
                let mut table = comfy_table::Table::new();
                table.load_style(presets::NOTHING);
                table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
                table.force_no_tty();
                if color {
                    table.enforce_styling();
                }
                let header = shown.iter().map(|column| {
                    comfy_table::Cell::new(self.columns[*column]).add_attribute(Attribute::Dim)
                });
                table.set_header(Row::from(header.collect::<Vec<_>>()));
                for cells in &self.rows {
                    let cells = shown.iter().map(|column| cells[*column].styled(color, unicode));
                    let mut row = Row::from(cells.collect::<Vec<_>>());
                    if !self.columns.contains(&FOLDED) {
                        row.max_height(1);
                    }
                    table.add_row(row);
                }
                for (column, place) in table.column_iter_mut().zip(&shown) {
                    column.set_padding((0, 2));
                    if !is_prose(self.columns[*place]) {
                        column.set_constraint(ColumnConstraint::ContentWidth);
                    }
                }
                table.trim_fmt() + "\n"
            }
        }
    }

    /// The columns that fit `width`: those that are only shown when wide go first, from the
    /// right, then of those with prose the last, until each that is left has room for a few
    /// words. `-o wide` in a wide window shows all of them.
    fn fitting(&self, mut columns: Vec<usize>, width: usize) -> Vec<usize> {
        let long = |text: &str| text.chars().count();
        let widest = |column: usize| {
            let cells = self
                .rows
                .iter()
                .map(|row| long(&row[column].short) + usize::from(row[column].glyph) * 2);
            cells.max().unwrap_or(0).max(long(self.columns[column])) + 2
        };
        loop {
            let (prose, fixed): (Vec<usize>, Vec<usize>) =
                columns.iter().partition(|column| is_prose(self.columns[**column]));
            let fixed: usize = fixed.into_iter().map(widest).sum();
            let wanted: usize = prose.iter().map(|column| widest(*column).min(PROSE_MIN)).sum();
            if fixed + wanted <= width {
                return columns;
            }
            let beside = self.beside.map(|(column, _)| column);
            let extra = |column: &&usize| **column >= self.narrow && Some(**column) != beside;
            if let Some(extra) = columns.iter().rfind(extra).copied() {
                columns.retain(|column| *column != extra);
                continue;
            }
            let named = |name: &&str| columns.iter().find(|c| self.columns[**c] == *name);
            let spare = match prose[..] {
                [] => None,
                [_] => SPARE.iter().find_map(named).copied(),
                _ => prose.last().copied(),
            };
            // The last prose may be cut short, but not below its own name.
            let room = width.saturating_sub(fixed);
            let unfit = prose.iter().find(|column| room < long(self.columns[**column]) + 2);
            let Some(spare) = spare.or(unfit.copied()) else { return columns };
            columns.retain(|column| *column != spare);
        }
    }

    fn tabs(&self, shown: usize) -> String {
        let clean = |cell: &Cell| cell.full.replace(['\t', '\n', '\r'], " ");
        let line = |row: &Vec<Cell>| row[..shown].iter().map(clean).collect::<Vec<_>>().join("\t");
        self.rows.iter().map(|row| line(row) + "\n").collect()
    }
}

fn is_prose(column: &str) -> bool {
    column == FOLDED || FLEXIBLE.contains(&column)
}

impl Cell {
    fn styled(&self, color: bool, unicode: bool) -> comfy_table::Cell {
        let text = if self.glyph {
            format!("{} {}", words::glyph(&self.short, self.tone, unicode), self.short)
        } else {
            self.short.clone()
        };
        // A terminal must not be steered by what a repository says.
        let text: String = text.chars().filter(|c| !c.is_control()).collect();
        let cell = comfy_table::Cell::new(text);
        match self.tone {
            _ if !color => cell,
            Tone::Plain => cell,
            Tone::Good => cell.fg(Color::Green),
            Tone::Moving => cell.fg(Color::Cyan),
            Tone::Look => cell.fg(Color::Yellow),
            Tone::Bad => cell.fg(Color::Red),
            Tone::Dim => cell.add_attribute(Attribute::Dim),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Table {
        let mut table = Table::new(&["APP", "STATE", "REPO"], 2, "");
        table.push(["a".into(), Cell::state("running", Tone::Moving), "x\ty".into()]);
        table.push(["longer".into(), Cell::state("failed", Tone::Bad), "z".into()]);
        table
    }

    #[test]
    fn programs_get_tabs_without_header_and_no_tab_inside() {
        let text = sample().render(Mode::Tabs { wide: true });
        assert_eq!(text, "a\trunning\tx y\nlonger\tfailed\tz\n");
        assert_eq!(sample().render(Mode::Names), "a\nlonger\n");
    }

    #[test]
    fn prose_that_has_no_room_is_left_out_and_not_cut_to_nothing() {
        let mut table = Table::new(&["RELEASE", "SUBJECT", "MESSAGE"], 3, "");
        table.push(["r1".into(), "a subject of some length".into(), "a message as long".into()]);
        let render = |width| {
            table.render(Mode::Aligned { wide: false, width, color: false, unicode: false })
        };
        assert!(!render(40).contains("MESSAGE"), "{}", render(40));
        assert!(render(40).contains("a subject of some length"), "{}", render(40));
        assert!(render(80).contains("a message as long"), "{}", render(80));
    }

    #[test]
    fn what_a_check_says_is_whole_however_narrow_the_terminal() {
        let mut table = Table::new(&["CHECK", "STATE", "SAYS"], 3, "");
        let says = "one two three four five six seven eight nine ten eleven twelve";
        table.push(["stores".into(), Cell::state("failed", Tone::Bad), says.into()]);
        table.push(["queue".into(), Cell::state("ok", Tone::Good), "empty".into()]);
        let mode = Mode::Aligned { wide: false, width: 40, color: false, unicode: true };
        let text = table.render(mode);
        let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
        assert!(lines[0].starts_with("CHECK") && lines[0].ends_with("SAYS"), "{text}");
        assert!(lines[1].starts_with("stores") && lines[1].contains("one two"), "{text}");
        let fits = |line: &&str| !line.is_empty() && line.chars().count() <= 40;
        assert!(lines.iter().all(fits), "{text}");
        let words = text.split_whitespace().filter(|word| says.contains(word)).count();
        assert_eq!(words, 12, "{text}");
    }

    #[test]
    fn wide_columns_that_have_no_room_go_first_from_the_right() {
        let mut table = Table::new(&["RELEASE", "KIND", "SUBJECT", "BUILD", "REASON"], 3, "");
        table.push(
            ["r1", "deploy", "a subject of some length", "b1", "all went well"].map(Cell::from),
        );
        let header = |wide, width| {
            let text = table.render(Mode::Aligned { wide, width, color: false, unicode: false });
            assert!(text.lines().all(|line| line.chars().count() <= usize::from(width)), "{text}");
            text.lines().next().unwrap().split_whitespace().collect::<Vec<_>>().join(" ")
        };
        assert_eq!(header(true, 80), "RELEASE KIND SUBJECT BUILD REASON");
        assert_eq!(header(true, 50), "RELEASE KIND SUBJECT BUILD");
        assert_eq!(header(true, 38), "RELEASE KIND SUBJECT");
        assert_eq!(header(false, 38), "RELEASE KIND SUBJECT");
        assert_eq!(header(true, 28), "RELEASE SUBJECT");
        assert_eq!(header(true, 20), "RELEASE SUBJECT");
        assert_eq!(header(true, 16), "RELEASE");
    }

    #[test]
    fn people_see_a_wide_column_where_it_matters_and_programs_where_it_always_is() {
        let mut table = sample();
        let people = Mode::Aligned { wide: false, width: 60, color: false, unicode: false };
        assert!(!table.render(people).contains("REPO"));
        table.show("REPO", 1);
        let text = table.render(people);
        let header = text.lines().next().unwrap();
        assert!(header.find("REPO") < header.find("STATE"), "{text}");
        assert_eq!(table.render(Mode::Tabs { wide: false }), "a\trunning\nlonger\tfailed\n");
    }

    #[test]
    fn people_get_aligned_columns_within_the_width() {
        let mode = Mode::Aligned { wide: true, width: 40, color: false, unicode: false };
        let text = sample().render(mode);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert_eq!(lines[0].find("STATE"), lines[1].find("> running"), "{text}");
        assert!(lines.iter().all(|line| line.len() <= 40));
    }
}
