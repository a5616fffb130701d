//! Prometheus' text, in pieces: with many label sets it is far more than is to be held of it at once.

use super::histogram::Total;
use prometheus::proto::LabelPair;
use std::fmt::{Display, Write};

/// About so many bytes are one piece.
pub(crate) const PIECE: usize = 64 << 10;

/// Where a piece begins.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct At {
    /// Which family.
    pub(super) family: usize,
    /// From which of its series on.
    pub(super) series: usize,
}

impl At {
    /// Where it goes on: at a series of the same family, or at the next one.
    pub(super) fn next(self, series: Option<usize>) -> At {
        series.map_or(At { family: self.family + 1, series: 0 }, |series| At { series, ..self })
    }
}

/// One of the families that have a sample or a histogram for each series.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) kind: &'static str,
    pub(super) help: &'static str,
}

// Writing to a string cannot fail.
impl Family {
    /// Writes it from one of its series on, up to the size of a piece. `series` writes the one of a number, and says
    /// whether others follow. Returns where it goes on.
    pub(super) fn write(
        &self,
        from: usize,
        out: &mut String,
        mut series: impl FnMut(usize, &mut String) -> bool,
    ) -> Option<usize> {
        let begin = out.len();
        if from == 0 {
            let Family { name, kind, help } = self;
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        }
        for index in from.. {
            if out.len() - begin >= PIECE {
                return Some(index);
            }
            if !series(index, out) {
                break;
            }
        }
        None
    }

    /// Writes the one sample of a series with these labels.
    pub(super) fn sample(&self, labels: &str, value: u64, out: &mut String) {
        let _ = writeln!(out, "{}{{{labels}}} {value}", self.name);
    }

    /// Writes the histogram of a series with these labels.
    pub(super) fn histogram<const UNIT: u64>(&self, labels: &str, total: &Total<UNIT>, out: &mut String) {
        let name = self.name;
        let mut bucket = |le: &dyn Display, count: u64| {
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"{le}\"}} {count}");
        };
        total.cumulative().for_each(|(bound, count)| bucket(&bound, count));
        bucket(&"+Inf", total.count());
        let _ = writeln!(
            out,
            "{name}_sum{{{labels}}} {}\n{name}_count{{{labels}}} {}",
            total.sum(),
            total.count()
        );
    }
}

/// Labels as they stand between braces.
pub(super) fn between_braces(labels: &[LabelPair]) -> String {
    let mut out = String::new();
    for label in labels {
        let separator = if out.is_empty() { "" } else { "," };
        let _ = write!(out, "{separator}{}=\"{}\"", label.name(), escaped(label.value()));
    }
    out
}

/// The value of a label.
pub(crate) fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}
