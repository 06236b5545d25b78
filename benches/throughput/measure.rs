//! Time, processor time, medians.

use std::time::Duration;
use std::time::Instant;

/// One measurement.
#[derive(Clone, Copy, Debug)]
pub enum Sample {
    /// Tasks a second, and this process's CPU time for each in µs.
    Rate { rate: f64, cpu: f64 },
    /// Percentiles in µs.
    Latency { p50: f64, p99: f64 },
}

/// Runs from [`start`](Self::start) to [`stop`](Self::stop).
#[derive(Clone, Copy, Debug)]
pub struct Stopwatch {
    at: Instant,
    cpu: Duration,
}

impl Stopwatch {
    pub fn start() -> Self {
        Self { at: Instant::now(), cpu: cpu() }
    }

    pub fn stop(self, tasks: u64) -> Sample {
        let (elapsed, cpu) = (self.at.elapsed(), cpu().saturating_sub(self.cpu));
        let tasks = tasks as f64;
        Sample::Rate { rate: tasks / elapsed.as_secs_f64(), cpu: cpu.as_secs_f64() * 1e6 / tasks }
    }
}

/// The percentiles of latencies.
pub fn percentiles(mut latencies: Vec<Duration>) -> Sample {
    latencies.sort();
    let at = |part: f64| latencies[((latencies.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e6;
    Sample::Latency { p50: at(0.5), p99: at(0.99) }
}

/// What all threads of this process have used. In nanoseconds from Linux's scheduler; zero elsewhere.
fn cpu() -> Duration {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else {
        return Duration::ZERO;
    };
    let used = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(used.sum())
}

pub const HEADING: &str = "\
row         payload |   taskhare        raw   ratio |  cpu µs      raw   ratio
------------------- | ---------------------------- | -----------------------";

pub fn report(row: &str, size: usize, ours: &[Sample], raw: &[Sample], json: bool) {
    let (first, second, names) = match ours[0] {
        Sample::Rate { .. } => (column(ours, raw, 0), column(ours, raw, 1), ["per_second", "cpu_us"]),
        Sample::Latency { .. } => (column(ours, raw, 0), column(ours, raw, 1), ["p50_us", "p99_us"]),
    };
    if json {
        let [a, b] = names;
        println!(
            r#"{{"row":"{row}","payload":{size},"{a}":{:.1},"raw_{a}":{:.1},"{b}":{:.2},"raw_{b}":{:.2}}}"#,
            first.0, first.1, second.0, second.1
        );
        return;
    }
    let ratio = |(ours, raw): (f64, f64)| ours / raw;
    println!(
        "{row:<11} {size:>5} B | {:>9.0}  {:>9.0}  {:>6.2} | {:>7.2}  {:>7.2}  {:>6.2}{}",
        first.0,
        first.1,
        ratio(first),
        second.0,
        second.1,
        ratio(second),
        if names[0] == "p50_us" { "   (p50 µs | p99 µs)" } else { "" }
    );
}

fn column(ours: &[Sample], raw: &[Sample], index: usize) -> (f64, f64) {
    let median = |samples: &[Sample]| {
        let mut values: Vec<f64> = samples.iter().map(|sample| sample.values()[index]).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    (median(ours), median(raw))
}

impl Sample {
    /// Both numbers.
    pub fn values(self) -> [f64; 2] {
        match self {
            Self::Rate { rate, cpu } => [rate, cpu],
            Self::Latency { p50, p99 } => [p50, p99],
        }
    }
}
