//! Samples, their medians and ratios.

use crate::proxies::Proxy;
use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::io::Write as _;
use tidegate_tests::load::Shape;

/// One load of one proxy.
pub(crate) struct Sample {
    pub(crate) proxy: Proxy,
    pub(crate) shape: Shape,
    pub(crate) round: usize,
    /// CPU time a request, microseconds.
    pub(crate) micros: f64,
    /// The share of its CPU that the proxy used.
    pub(crate) busy: f64,
    /// Requests a second.
    pub(crate) rate: f64,
}

/// Prints the table: a line for each shape and proxy; ratios are medians of the ratios within a round.
pub(crate) fn print(samples: &[Sample], shapes: &[Shape]) {
    let mut text = format!(
        "\n{:9} {:9} {:>9} {:>17} {:>6} {:>9}   tidegate is (median of rounds, x)\n",
        "shape", "proxy", "us/req", "least-most", "busy", "req/s"
    );
    for shape in shapes {
        for proxy in Proxy::ALL {
            let of = |p: Proxy| samples.iter().filter(move |s| s.shape == *shape && s.proxy == p);
            let all = |value: fn(&Sample) -> f64| of(proxy).map(value).collect::<Vec<f64>>();
            let micros = all(|s| s.micros);
            if micros.is_empty() {
                continue;
            }
            let (least, most) =
                (micros.iter().copied().fold(f64::MAX, f64::min), micros.iter().copied().fold(0.0, f64::max));
            let ours = |round: usize| of(Proxy::Tidegate).find(|s| s.round == round).map(|s| s.micros);
            let ratios: Vec<f64> = of(proxy).filter_map(|s| Some(ours(s.round)? / s.micros)).collect();
            let _ = writeln!(
                text,
                "{:9} {:9} {:>9.1} {:>17} {:>5.0}% {:>9.0}   {:.2}",
                shape.name(),
                proxy.name(),
                median(micros),
                format!("{least:.1}-{most:.1}"),
                median(all(|s| s.busy)) * 100.0,
                median(all(|s| s.rate)),
                median(ratios)
            );
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
