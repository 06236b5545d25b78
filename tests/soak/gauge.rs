//! [`Gauges`]: what was measured over time, and what of it has grown. Pure.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Samples by what they are of.
#[derive(Debug)]
pub struct Gauges {
    time: Duration,
    samples: BTreeMap<String, Vec<(Duration, f64)>>,
}

impl Gauges {
    /// Of a run that takes so long.
    pub fn new(time: Duration) -> Self {
        Self { time, samples: BTreeMap::new() }
    }

    pub fn enter(&mut self, at: Duration, what: &str, value: f64) {
        self.samples.entry(what.to_owned()).or_default().push((at, value));
    }

    /// What is larger in the last quarter than in the second one, by more than chance makes it. The first is for caches
    /// and buffers to become as large as they get.
    pub fn growing(&self) -> Vec<String> {
        let is_growing = |what: &String| {
            let [before, after] = [1, 3].map(|quarter| self.median(what, quarter));
            !matches!((before, after), (Some(before), Some(after)) if after <= before + tolerance(what, before))
        };
        self.samples.keys().filter(|what| is_growing(what)).cloned().collect()
    }

    fn median(&self, what: &str, quarter: u32) -> Option<f64> {
        let (from, to) = (self.time / 4 * quarter, self.time / 4 * (quarter + 1));
        // The last sample may be a little later than the end.
        let to = if quarter == 3 { Duration::MAX } else { to };
        let samples = self.samples.get(what)?.iter().filter(|(at, _)| (from..to).contains(at));
        let mut values: Vec<f64> = samples.map(|(_, value)| *value).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied()
    }
}

/// How much larger the median may be.
fn tolerance(what: &str, before: f64) -> f64 {
    match what.rsplit(' ').next() {
        // An allocator takes its memory in pieces of some MiB, one for each thread that allocates.
        Some("KiB") => before / 10.0 + 8.0 * 1024.0,
        // What runs is a few tasks more or less; each reconnect is a chance to forget one, and there are many.
        Some("tasks") => 4.0,
        // What is under way.
        Some("unacknowledged") => 50.0,
        // A connection that is being made: two of its ends, or a channel for one answer.
        _ => 2.0,
    }
}

impl fmt::Display for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:32} {:>10} {:>10} {:>10} {:>10}", "median in quarter", 1, 2, 3, 4)?;
        let growing = self.growing();
        for what in self.samples.keys() {
            write!(f, "{what:32}")?;
            for quarter in 0..4 {
                write!(f, " {:>10}", self.median(what, quarter).map_or("-".to_owned(), |it| it.to_string()))?;
            }
            writeln!(f, "{}", if growing.contains(what) { "  grows" } else { "" })?;
        }
        Ok(())
    }
}

#[test]
fn what_is_larger_in_the_last_quarter_than_in_the_second_grows() {
    let cases: [(&str, [f64; 4], bool); 9] = [
        ("a: resident KiB", [20_000.0, 40_000.0, 44_000.0, 52_000.0], false),
        ("a: resident KiB", [20_000.0, 40_000.0, 44_000.0, 53_000.0], true),
        ("a: resident KiB", [90_000.0, 40_000.0, 40_000.0, 30_000.0], false),
        ("a: tasks", [10.0, 30.0, 60.0, 34.0], false),
        ("a: tasks", [10.0, 30.0, 33.0, 35.0], true),
        ("broker: queues", [10.0, 20.0, 20.0, 22.0], false),
        ("broker: queues", [10.0, 20.0, 20.0, 23.0], true),
        ("broker: unacknowledged", [0.0, 10.0, 90.0, 60.0], false),
        ("broker: unacknowledged", [0.0, 10.0, 50.0, 61.0], true),
    ];
    for (what, medians, expected) in cases {
        let mut gauges = Gauges::new(Duration::from_secs(40));
        for second in 0..41_u32 {
            // One sample in each quarter is far off.
            let odd = if second % 10 == 3 { 1_000_000.0 } else { 0.0 };
            let value = medians[(second / 10).min(3) as usize] + odd;
            gauges.enter(Duration::from_secs(second.into()), what, value);
        }
        assert_eq!(!gauges.growing().is_empty(), expected, "{gauges}");
    }
}
