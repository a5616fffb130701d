//! Samples, their medians and ratios.

use crate::proxies::Proxy;
use clap::ValueEnum;
use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::io::Write as _;
use tidegate_tests::load::Shape;

/// A line of the table.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Line {
    pub(crate) shape: Shape,
    /// Whether requests are logged.
    pub(crate) logs: bool,
}

impl Line {
    fn name(self) -> String {
        let log = if self.logs { "" } else { ", no log" };
        format!("{}{log}", self.shape.name())
    }
}

/// Whether requests are logged.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Logs {
    /// Small requests on connections that are kept once more without, on a line of their own
    Both,
    On,
    Off,
}

impl Logs {
    /// The lines that these shapes have.
    pub(crate) fn lines(self, shapes: &[Shape]) -> Vec<Line> {
        let small = [Shape::Get, Shape::TlsGet, Shape::Http2Get, Shape::Grpc];
        let logged = |shape| -> &[bool] {
            match self {
                Logs::On => &[true],
                Logs::Off => &[false],
                Logs::Both if small.contains(shape) => &[true, false],
                Logs::Both => &[true],
            }
        };
        let each = |shape| logged(shape).iter().map(|logs| Line { shape: *shape, logs: *logs });
        shapes.iter().flat_map(each).collect()
    }
}

/// One load of one proxy.
pub(crate) struct Sample {
    pub(crate) proxy: Proxy,
    pub(crate) line: Line,
    pub(crate) round: usize,
    /// CPU time a request, microseconds.
    pub(crate) micros: f64,
    /// The share of its CPU that the proxy used.
    pub(crate) busy: f64,
    /// Requests a second.
    pub(crate) rate: f64,
}

/// The samples of a proxy on a line.
struct Samples<'a>(Vec<&'a Sample>);

impl<'a> Samples<'a> {
    fn of(samples: &'a [Sample], line: Line, proxy: Proxy) -> Samples<'a> {
        Samples(samples.iter().filter(|s| s.line == line && s.proxy == proxy).collect())
    }

    fn median(&self, value: fn(&Sample) -> f64) -> Option<f64> {
        (!self.0.is_empty()).then(|| median(self.0.iter().copied().map(value).collect()))
    }

    /// The median of the ratios within a round.
    fn ratio(&self, to: &Samples<'_>) -> Option<f64> {
        let in_round = |s: &&Sample| Some(s.micros / to.0.iter().find(|t| t.round == s.round)?.micros);
        let ratios: Vec<f64> = self.0.iter().filter_map(in_round).collect();
        (!ratios.is_empty()).then(|| median(ratios))
    }
}

/// Prints what README.md shows, in its own format: figures of all proxies side by side with Tidegate's ratios to them, and
/// then how far to trust each.
pub(crate) fn print(samples: &[Sample], lines: &[Line]) {
    let mut text =
        "\nMicroseconds of CPU time a request or message, and Tidegate's as a multiple of the others':\n\n"
            .to_owned();
    text += "| shape | Tidegate | nginx | HAProxy | Envoy | x nginx | x HAProxy | x Envoy |\n";
    text += "|---|--:|--:|--:|--:|--:|--:|--:|\n";
    let number = |value: Option<f64>, digits| value.map_or("-".to_owned(), |v| format!("{v:.digits$}"));
    for line in lines {
        let of = Proxy::ALL.map(|proxy| Samples::of(samples, *line, proxy));
        let [ours, others @ ..] = &of;
        let micros = of.iter().map(|of| number(of.median(|s| s.micros), 1));
        let ratios = others.iter().map(|other| number(ours.ratio(other), 2));
        let cells: Vec<String> = [line.name()].into_iter().chain(micros).chain(ratios).collect();
        let _ = writeln!(text, "| {} |", cells.join(" | "));
    }
    text += "\nThe least and the most of the rounds, how busy the proxy's CPU was, and requests or messages a second:\n\n";
    text += "| shape | proxy | least | most | busy | a second |\n|---|---|--:|--:|--:|--:|\n";
    for line in lines {
        for proxy in Proxy::ALL {
            let of = Samples::of(samples, *line, proxy);
            let (Some(busy), Some(rate)) = (of.median(|s| s.busy), of.median(|s| s.rate)) else { continue };
            let micros = || of.0.iter().map(|s| s.micros);
            let (least, most) = (micros().fold(f64::MAX, f64::min), micros().fold(0.0, f64::max));
            let (line, proxy, busy) = (line.name(), proxy.name(), busy * 100.0);
            let _ = writeln!(text, "| {line} | {proxy} | {least:.1} | {most:.1} | {busy:.0} % | {rate:.0} |");
        }
    }
    say(&text);
}

/// The one in the middle, or between the two.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let (below, above) = (values.get(values.len().saturating_sub(1) / 2), values.get(values.len() / 2));
    match (below, above) {
        (Some(a), Some(b)) => f64::midpoint(*a, *b),
        _ => f64::NAN,
    }
}

/// The items in a random order.
pub(crate) fn shuffled<T>(items: &[T]) -> Vec<&T> {
    let random = RandomState::new();
    let mut order: Vec<usize> = (0..items.len()).collect();
    order.sort_by_key(|i| random.hash_one(i));
    order.into_iter().map(|i| &items[i]).collect()
}

/// Prints text as it is.
pub(crate) fn say(text: &str) {
    let mut out = std::io::stdout().lock();
    // nobody may be reading
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}
