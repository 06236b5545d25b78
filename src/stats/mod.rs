//! [`Stats`]: what has become of tasks and how long it took, by queue, type, lane and consumer, over time.
//!
//! It is fed with events, live ones or those of the past, and asks nothing of the broker. The same events give the same
//! figures.
//!
//! ```
//! use std::time::Duration;
//! use taskhare::stats::{Dimension, Stats};
//!
//! # fn main() -> taskhare::Result<()> {
//! let mut stats = Stats::builder().window(Duration::from_secs(10)).keep(360).build()?;
//! # let events: Vec<taskhare::Event> = Vec::new();
//! for event in &events {
//!     stats.record(event);
//! }
//! println!("{} done, {:.1} a second", stats.total().succeeded, stats.total().per_second());
//! for (queue, figures) in stats.by(Dimension::Queue) {
//!     println!("{queue}: 99% have waited for no longer than {:?}", figures.wait.quantile(0.99));
//! }
//! for window in stats.windows() {
//!     println!("{:?}: {} attempts have failed", window.start(), window.total().failed);
//! }
//! std::fs::write(std::env::temp_dir().join("stats.csv"), stats.to_csv()).expect("room on the disk");
//! # Ok(()) }
//! ```

mod durations;
mod export;
mod figures;
mod table;

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use crate::error::Error;
use crate::error::Result;
use crate::event::Effect;
use crate::event::Ends;
use crate::event::Event;
use crate::event::TaskChange;
use crate::event::TaskEvent;

pub use durations::Durations;
pub use figures::Attempts;
pub use figures::Figures;
pub use table::Dimension;
use table::Table;

/// What has become of tasks, in all and window by window. The module shows how it is used.
///
/// - **The first end of a task counts.** A crash can let a task run twice; a second end is counted as
///   [`repeated`](Figures::repeated) and as nothing else, and what an older attempt says later is not counted. That is
///   kept for at least the 229,376 newest tasks that have ended or been tried again, in at most 18 MB.
/// - **Windows go by the time in the events**, not by when they are read, and begin at multiples of their length since
///   the Unix epoch. Those are kept in which anything happened, the newest [`keep`](StatsBuilder::keep) of them. What
///   comes for an older one is in the whole alone, and so is what a window had that is dropped.
/// - **Rows**: the first [`rows`](StatsBuilder::rows) names of each [`Dimension`] that come, and `(other)` for all
///   further ones. A row takes 1 KB, and 1 to 16 KB more for each of its four [`Durations`] that has any.
///
/// Events of consumers are left aside.
#[derive(Debug)]
pub struct Stats {
    window: Duration,
    keep: usize,
    rows: usize,
    whole: Table,
    /// By when they begin, in microseconds since the Unix epoch.
    windows: BTreeMap<u64, Table>,
    ends: Ends,
    missed: u64,
}

/// Sets up [`Stats`].
#[derive(Clone, Debug)]
#[must_use = "nothing is counted until it is built"]
pub struct StatsBuilder {
    window: Duration,
    keep: usize,
    rows: usize,
}

/// What happened from [`start`](Self::start) on, for the length of a window.
#[derive(Clone, Copy, Debug)]
pub struct Window<'a> {
    start: u64,
    length: Duration,
    table: &'a Table,
}

impl Stats {
    /// Starts the setup.
    pub fn builder() -> StatsBuilder {
        StatsBuilder { window: Duration::from_secs(60), keep: 60, rows: 50 }
    }

    /// Takes in the next event. Those of a task must come in the order of the log.
    pub fn record(&mut self, event: &Event) {
        match event {
            Event::Task(event) => self.record_task(event),
            Event::Consumer(_) => {}
            Event::Missed(count) => self.missed = self.missed.saturating_add(*count),
        }
    }

    fn record_task(&mut self, event: &TaskEvent) {
        if matches!(event.change, TaskChange::Progress { .. }) {
            return;
        }
        let repeats = match self.ends.learn(event) {
            Effect::Counts => false,
            Effect::Repeats => true,
            // It may be late, but says what no other event does.
            Effect::Nothing if matches!(event.change, TaskChange::Accepted { .. }) => false,
            Effect::Nothing => return,
        };
        let rows = self.rows;
        self.whole.count(event, repeats, rows);
        if let Some(window) = self.window_from(self.begin(event.at)) {
            window.count(event, repeats, rows);
        }
    }

    /// All that was recorded.
    #[must_use]
    pub fn total(&self) -> &Figures {
        self.whole.total()
    }

    /// The same by queue, type, lane or consumer: by name, with `(other)` last, if there are any.
    pub fn by(&self, dimension: Dimension) -> impl Iterator<Item = (&str, &Figures)> {
        self.whole.by(dimension)
    }

    /// The windows that are kept, the oldest first; none in which nothing happened.
    pub fn windows(&self) -> impl DoubleEndedIterator<Item = Window<'_>> {
        self.windows.iter().map(|(start, table)| Window { start: *start, length: self.window, table })
    }

    /// How much was never read, as [`Event::Missed`] counts it: these figures are without it.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Adds what another one has recorded: the same as if this one had recorded it too, as long as no task has events
    /// in both, and rows and windows do not reach their limits.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] if its windows have another length.
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        if self.window != other.window {
            let reason =
                format!("windows of {:?} do not merge into those of {:?}", other.window, self.window);
            return Err(Error::InvalidSetting { setting: "window", reason });
        }
        let rows = self.rows;
        self.whole.merge(&other.whole, rows);
        for (start, table) in &other.windows {
            if let Some(window) = self.window_from(*start) {
                window.merge(table, rows);
            }
        }
        self.ends.merge(&other.ends);
        self.missed = self.missed.saturating_add(other.missed);
        Ok(())
    }

    /// The begin of the window with that time.
    fn begin(&self, at: SystemTime) -> u64 {
        let (at, length) = (at.duration_since(UNIX_EPOCH).unwrap_or_default(), self.window.as_micros());
        u64::try_from(at.as_micros() / length * length).unwrap_or(u64::MAX)
    }

    /// The window that begins then. `None` if it is older than all that are kept, and there is no room for more.
    fn window_from(&mut self, start: u64) -> Option<&mut Table> {
        if self.windows.len() >= self.keep && !self.windows.contains_key(&start) {
            let oldest = *self.windows.keys().next()?;
            if start < oldest {
                return None;
            }
            self.windows.remove(&oldest);
        }
        Some(self.windows.entry(start).or_insert_with(|| Table::of_window(self.window)))
    }
}

impl StatsBuilder {
    const SHORTEST_WINDOW: Duration = Duration::from_millis(1);
    const LONGEST_WINDOW: Duration = Duration::from_secs(366 * 24 * 60 * 60);
    const MOST_WINDOWS: usize = 10_000;
    const MOST_ROWS: usize = 10_000;

    /// How long a window is: 1 ms to 366 days. Defaults to a minute.
    pub fn window(mut self, length: Duration) -> Self {
        self.window = length;
        self
    }

    /// How many windows are kept: at most 10,000; 0 keeps none, and counts the whole alone. Defaults to 60.
    pub fn keep(mut self, windows: usize) -> Self {
        self.keep = windows;
        self
    }

    /// How many names have a row of their own in each [`Dimension`], in the whole and in each window: 1 to 10,000.
    /// Defaults to 50.
    pub fn rows(mut self, rows: usize) -> Self {
        self.rows = rows;
        self
    }

    /// Begins with nothing.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidSetting`] if a setting is outside its range.
    pub fn build(self) -> Result<Stats> {
        let invalid =
            |setting, reason: &str| Err(Error::InvalidSetting { setting, reason: reason.to_owned() });
        if self.window < Self::SHORTEST_WINDOW || self.window > Self::LONGEST_WINDOW {
            return invalid("window", "a window lasts from 1 ms to 366 days");
        }
        if self.keep > Self::MOST_WINDOWS {
            return invalid("keep", "at most 10,000 windows are kept");
        }
        if self.rows == 0 || self.rows > Self::MOST_ROWS {
            return invalid("rows", "there are 1 to 10,000 rows");
        }
        Ok(Stats {
            window: self.window,
            keep: self.keep,
            rows: self.rows,
            whole: Table::default(),
            windows: BTreeMap::new(),
            ends: Ends::default(),
            missed: 0,
        })
    }
}

impl<'a> Window<'a> {
    /// When it begins: at a multiple of its length since the Unix epoch.
    #[must_use]
    pub fn start(&self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_micros(self.start)).unwrap_or(UNIX_EPOCH)
    }

    /// How long it is.
    #[must_use]
    pub fn length(&self) -> Duration {
        self.length
    }

    /// All that happened in it.
    #[must_use]
    pub fn total(&self) -> &'a Figures {
        self.table.total()
    }

    /// The same by queue, type, lane or consumer: by name, with `(other)` last, if there are any.
    pub fn by(&self, dimension: Dimension) -> impl Iterator<Item = (&'a str, &'a Figures)> + use<'a> {
        self.table.by(dimension)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fastrand::Rng;
    use serde_json::Value;

    use super::*;
    use crate::lane::Lane;
    use crate::lane::Priority;
    use crate::outcome::DeadReason;
    use crate::task::TaskId;

    const SECOND: Duration = Duration::from_secs(1);

    fn at(second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(second)
    }

    fn event(id: TaskId, at: SystemTime, attempt: u32, change: TaskChange) -> TaskEvent {
        TaskEvent {
            id,
            name: "resize".into(),
            queue: "images".into(),
            lane: Some(Lane::Normal),
            attempt,
            at,
            by: "host:7:c0de/1".into(),
            change,
        }
    }

    fn succeeded() -> TaskChange {
        TaskChange::Succeeded { ran: SECOND, total: 2 * SECOND }
    }

    /// One that succeeds at each of these seconds.
    fn record(stats: &mut Stats, seconds: impl IntoIterator<Item = u64>) {
        for second in seconds {
            stats.record(&Event::Task(event(TaskId::new(), at(second), 1, succeeded())));
        }
    }

    /// The windows: when they begin, how many have succeeded.
    fn windows(stats: &Stats) -> Vec<(u64, u64)> {
        let second = |window: &Window<'_>| window.start().duration_since(UNIX_EPOCH).unwrap().as_secs();
        stats.windows().map(|window| (second(&window), window.total().succeeded)).collect()
    }

    fn stats(window: u64, keep: usize) -> Stats {
        Stats::builder().window(Duration::from_secs(window)).keep(keep).build().unwrap()
    }

    #[test]
    fn windows_go_by_the_time_in_the_events() {
        let mut stats = stats(10, 9);
        record(&mut stats, [31, 20, 29, 1_000, 30]);
        assert_eq!(windows(&stats), [(20, 2), (30, 2), (1_000, 1)]);
        assert_eq!(stats.windows().next().unwrap().total().per_second(), 0.2);
    }

    #[test]
    fn the_newest_windows_are_kept_and_the_whole_has_all() {
        let mut stats = stats(10, 2);
        record(&mut stats, [1, 11, 21, 5, 12]);
        assert_eq!(windows(&stats), [(10, 2), (20, 1)]);
        assert_eq!(stats.total().succeeded, 5);
    }

    #[test]
    fn a_clock_that_is_far_ahead_takes_one_window() {
        let mut stats = stats(10, 3);
        record(&mut stats, [1, 4_000_000_000, 11, 21]);
        assert_eq!(windows(&stats), [(10, 1), (20, 1), (4_000_000_000, 1)]);
    }

    #[test]
    fn none_are_kept_where_none_are_asked_for() {
        let mut stats = stats(10, 0);
        record(&mut stats, [1, 11]);
        assert_eq!((windows(&stats).len(), stats.total().succeeded), (0, 2));
    }

    #[test]
    fn a_task_that_ends_twice_has_one_outcome() {
        let (mut stats, id) = (stats(10, 9), TaskId::new());
        let started = TaskChange::Started { waited: SECOND, delayed: false, redelivered: false, limit: None };
        for (second, change) in [(1, started.clone()), (2, succeeded()), (3, started), (14, succeeded())] {
            stats.record(&Event::Task(event(id, at(second), 1, change)));
        }
        let total = stats.total();
        assert_eq!((total.started, total.succeeded, total.repeated, total.run.count()), (1, 1, 1, 1));
        assert_eq!(windows(&stats), [(0, 1), (10, 0)]);
    }

    #[test]
    fn what_was_accepted_counts_even_if_the_word_comes_last() {
        let (mut stats, id) = (stats(10, 9), TaskId::new());
        let accepted = TaskChange::Accepted {
            priority: Priority::Normal,
            due: None,
            deadline: None,
            schedule: None,
            again: false,
        };
        for change in [succeeded(), accepted] {
            stats.record(&Event::Task(event(id, at(1), 1, change)));
        }
        assert_eq!((stats.total().accepted, stats.total().ended()), (1, 1));
    }

    #[test]
    fn what_was_missed_is_told() {
        let mut stats = stats(10, 9);
        stats.record(&Event::Missed(3));
        stats.record(&Event::Missed(4));
        assert_eq!(stats.missed(), 7);
    }

    #[test]
    fn settings_outside_their_range_are_refused() {
        for (setting, builder) in [
            ("window", Stats::builder().window(Duration::ZERO)),
            ("window", Stats::builder().window(Duration::MAX)),
            ("keep", Stats::builder().keep(10_001)),
            ("rows", Stats::builder().rows(0)),
            ("rows", Stats::builder().rows(10_001)),
        ] {
            let refused = builder.build().unwrap_err();
            assert!(
                matches!(refused, Error::InvalidSetting { setting: named, .. } if named == setting),
                "{refused}"
            );
        }
    }

    #[test]
    fn windows_of_other_lengths_do_not_merge() {
        let refused = stats(10, 9).merge(&stats(60, 9)).unwrap_err();
        assert!(matches!(refused, Error::InvalidSetting { setting: "window", .. }), "{refused}");
    }

    #[test]
    fn what_one_has_seen_ended_repeats_after_the_merge() {
        let end = Event::Task(event(TaskId::new(), at(1), 1, succeeded()));
        let (mut one, mut other) = (stats(10, 9), stats(10, 9));
        other.record(&end);
        one.merge(&other).unwrap();
        one.record(&end);
        assert_eq!((one.total().succeeded, one.total().repeated), (1, 1));
    }

    /// What happens to one task.
    fn life(random: &mut Rng) -> Vec<TaskEvent> {
        let id = TaskId::from_u128(random.u128(..));
        let (name, queue) = (["resize", "charge", "mail"], ["images", "default"]);
        let (name, queue) = (name[random.usize(..name.len())], queue[random.usize(..queue.len())]);
        let lane = Lane::ALL[random.usize(..3)];
        let mut now = at(random.u64(..600));
        let mut events = Vec::new();
        let (mut attempt, mut has_ended) = (1, false);
        // Some end twice.
        while !has_ended || random.u8(..10) == 0 {
            now += Duration::from_micros(10f64.powf(random.f64() * 8.0) as u64);
            let (ran, total) = (
                Duration::from_micros(random.u64(..1_000_000)),
                Duration::from_micros(random.u64(..9_000_000)),
            );
            let reason = DeadReason::ALL[random.usize(..DeadReason::ALL.len())];
            let change = match random.u8(..14) {
                0 => TaskChange::Accepted {
                    priority: Priority::Normal,
                    due: None,
                    deadline: None,
                    schedule: None,
                    again: random.bool(),
                },
                1 | 2 => TaskChange::Started {
                    waited: Duration::from_micros(10f64.powf(random.f64() * 10.0) as u64),
                    delayed: random.bool(),
                    redelivered: random.u8(..5) == 0,
                    limit: None,
                },
                3 => TaskChange::Progress { done: 1, total: None, note: String::new() },
                4 | 5 => TaskChange::Succeeded { ran, total },
                6 | 7 => TaskChange::Failed { ran, error: "no".into() },
                8 => TaskChange::Retrying { due: now },
                9 if reason.is_expiry() => TaskChange::Expired { reason, total: None },
                9 => TaskChange::Dead { reason, error: None, total: None },
                10 => TaskChange::Cancelled,
                11 => TaskChange::HandedBack,
                12 => TaskChange::Lost { consumer: "host:8:beef/1".into() },
                _ => TaskChange::Redriven,
            };
            attempt += u32::from(matches!(change, TaskChange::Retrying { .. }));
            has_ended |= change.kind().is_end();
            let by: Arc<str> = format!("host:7:c0de/{}", random.u8(..4)).into();
            events.push(TaskEvent {
                id,
                name: name.into(),
                queue: queue.into(),
                lane: Some(lane),
                attempt: attempt - random.u32(..attempt.min(2)),
                at: now,
                by,
                change,
            });
        }
        events
    }

    #[test]
    fn halves_merge_into_the_whole() {
        for seed in 0..20 {
            let mut random = Rng::with_seed(seed);
            let mut events: Vec<TaskEvent> = (0..300).flat_map(|_| life(&mut random)).collect();
            events.sort_by_key(|event| event.at);
            let cut = random.u128(..);
            let [mut whole, mut half, mut rest] = [stats(60, 60), stats(60, 60), stats(60, 60)];
            for event in events {
                let part = if event.id.as_u128() < cut { &mut half } else { &mut rest };
                let event = Event::Task(event);
                part.record(&event);
                whole.record(&event);
            }
            half.merge(&rest).unwrap();
            assert!(whole.total().repeated > 0, "seed {seed}: some end twice");
            same(&whole.to_json(), &half.to_json(), seed);
            // Without a limit in reach the rows of the export are all there are.
            assert_eq!(whole.to_csv().lines().count(), half.to_csv().lines().count(), "seed {seed}");
        }
    }

    /// Sums of durations are rounded on their way, and nothing else.
    fn same(one: &str, other: &str, seed: u64) {
        fn compare(path: &str, one: &Value, other: &Value, seed: u64) {
            match (one, other) {
                (Value::Object(one), Value::Object(other)) => {
                    assert_eq!(one.len(), other.len(), "seed {seed}: {path}");
                    for (key, value) in one {
                        compare(&format!("{path}/{key}"), value, &other[key], seed);
                    }
                }
                (Value::Array(one), Value::Array(other)) => {
                    assert_eq!(one.len(), other.len(), "seed {seed}: {path}");
                    for (at, (one, other)) in one.iter().zip(other).enumerate() {
                        compare(&format!("{path}/{at}"), one, other, seed);
                    }
                }
                (Value::Number(one), Value::Number(other)) if path.ends_with("mean") => {
                    let (one, other) = (one.as_f64().unwrap(), other.as_f64().unwrap());
                    assert!((one - other).abs() <= 1e-6, "seed {seed}: {path}: {one}, {other}");
                }
                _ => assert_eq!(one, other, "seed {seed}: {path}"),
            }
        }
        compare("", &serde_json::from_str(one).unwrap(), &serde_json::from_str(other).unwrap(), seed);
    }
}
