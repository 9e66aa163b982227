//! Rows in columns.

use super::text::{cut, width};

/// The narrowest that a column is cut to.
const NARROWEST: usize = 8;
const GAP: usize = 2;

/// A column's heading, and whether its cells are cut if the terminal is too narrow.
#[derive(Clone, Copy, Debug)]
pub(in crate::cli::client) struct Column {
    heading: &'static str,
    can_be_cut: bool,
}

impl Column {
    /// Whole, whatever the width: numbers, lengths of time.
    pub(in crate::cli::client) const fn whole(heading: &'static str) -> Self {
        Self {
            heading,
            can_be_cut: false,
        }
    }

    /// Cut if the terminal is too narrow: names.
    pub(in crate::cli::client) const fn flexible(heading: &'static str) -> Self {
        Self {
            heading,
            can_be_cut: true,
        }
    }
}

/// Rows under their headings. Cells are visible texts.
#[derive(Debug)]
pub(in crate::cli::client) struct Table<'a> {
    columns: &'a [Column],
    rows: Vec<Vec<String>>,
}

impl<'a> Table<'a> {
    pub(in crate::cli::client) fn new(columns: &'a [Column]) -> Self {
        Self {
            columns,
            rows: Vec::new(),
        }
    }

    /// Adds a row with a cell for each column.
    pub(in crate::cli::client) fn push(&mut self, row: Vec<String>) {
        self.rows.push(row);
    }

    /// True if it has no row.
    pub(in crate::cli::client) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The lines, the headings first. Columns that may be cut are, the widest first, until a line
    /// fits the terminal; `None` if there is no terminal, and nothing is cut.
    pub(in crate::cli::client) fn lines(&self, terminal_width: Option<usize>) -> Vec<String> {
        let widths = self.widths(terminal_width);
        let headings = self.columns.iter().map(|column| column.heading.to_owned());
        let headings: Vec<String> = headings.collect();
        std::iter::once(&headings)
            .chain(&self.rows)
            .map(|row| line(row, &widths))
            .collect()
    }

    fn widths(&self, terminal_width: Option<usize>) -> Vec<usize> {
        let mut widths: Vec<usize> = self.columns.iter().map(|it| width(it.heading)).collect();
        for row in &self.rows {
            for (column, cell) in widths.iter_mut().zip(row) {
                *column = (*column).max(width(cell));
            }
        }
        let Some(terminal_width) = terminal_width else {
            return widths;
        };
        loop {
            let total = widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
            let widest = widths
                .iter_mut()
                .zip(self.columns)
                .filter(|(width, column)| column.can_be_cut && **width > NARROWEST)
                .map(|(width, _)| width)
                .max();
            match widest {
                Some(width) if total > terminal_width => *width -= 1,
                _ => return widths,
            }
        }
    }
}

/// Names and values, one a line. Values are visible texts.
pub(in crate::cli::client) fn fields(pairs: &[(&str, String)]) -> Vec<String> {
    let name_width = pairs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    pairs
        .iter()
        .map(|(name, value)| format!("{name:name_width$}  {value}"))
        .collect()
}

fn line(row: &[String], widths: &[usize]) -> String {
    let mut line = String::new();
    for (cell, &column) in row.iter().zip(widths) {
        let cell = cut(cell, column);
        line.push_str(&cell);
        line.extend(std::iter::repeat_n(' ', column - width(&cell) + GAP));
    }
    line.truncate(line.trim_end_matches(' ').len());
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] = [
        Column::flexible("NAME"),
        Column::flexible("HOLDER"),
        Column::whole("REMAINING"),
    ];

    fn table() -> Table<'static> {
        let mut table = Table::new(&COLUMNS);
        for row in [
            ["nightly-report-of-everything", "host1:4711", "4 min 30 s"],
            ["日本", "-", "59 s"],
        ] {
            table.push(row.map(str::to_owned).into());
        }
        table
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let lines = table().lines(None);
        assert_eq!(
            lines,
            [
                "NAME                          HOLDER      REMAINING",
                "nightly-report-of-everything  host1:4711  4 min 30 s",
                "日本                          -           59 s",
            ]
        );
        assert_eq!(table().lines(Some(52)), lines);
    }

    #[test]
    fn a_narrow_terminal_cuts_names_and_never_numbers() {
        assert_eq!(
            table().lines(Some(40)),
            [
                "NAME              HOLDER      REMAINING",
                "nightly-report-…  host1:4711  4 min 30 s",
                "日本              -           59 s",
            ]
        );
        // No terminal is that narrow: the lines wrap.
        assert_eq!(table().lines(Some(5))[1], "nightly…  host1:4…  4 min 30 s");
    }
}
