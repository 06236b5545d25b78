//! [`Plan`]: which schedules there are, and when each of their ticks is planned. [`Ran`]: one that was run.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use taskhare::Cadence;
use taskhare::Misfire;
use taskhare::Schedule;
use taskhare::TaskContext;

use crate::worker::Tock;

/// Of those in [`Plan::POLICIES`].
pub const PERIOD: Duration = Duration::from_millis(500);
/// What the third policy catches up.
pub const CAUGHT_UP: Duration = Duration::from_secs(4);
/// How many of the many are cron expressions.
const CRONS: u64 = 5;

/// Schedules that begin and end together.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// So many of 250 ms to 2 s; none: one of each misfire policy.
    pub many: u64,
    /// Since the Unix epoch, in whole milliseconds: each has its first tick then, or at the next full second.
    pub starts: Duration,
    /// Since the Unix epoch, in whole milliseconds: none has a tick after it.
    pub ends: Duration,
    pub misfire_after: Duration,
}

impl Plan {
    /// The name and policy of those that there are instead of many.
    pub const POLICIES: [(&str, Misfire); 4] = [
        ("skip", Misfire::Skip),
        ("once", Misfire::Once),
        ("some", Misfire::CatchUp(CAUGHT_UP)),
        ("all", Misfire::CatchUp(Duration::from_secs(3600))),
    ];

    /// From `wait` from now on, for so long.
    pub fn new(many: u64, wait: Duration, time: Duration, misfire_after: Duration) -> Self {
        let starts = Duration::from_millis((now() + wait).as_millis() as u64);
        Self { many, starts, ends: starts + time, misfire_after }
    }

    pub fn parse(text: &str) -> Self {
        let numbers: Vec<u64> = text.split(' ').map(|number| number.parse().unwrap()).collect();
        let [many, starts, ends, misfire_after] = numbers[..] else { panic!("{text}") };
        let [starts, ends, misfire_after] = [starts, ends, misfire_after].map(Duration::from_millis);
        Self { many, starts, ends, misfire_after }
    }

    pub fn schedules(&self) -> Vec<Schedule> {
        let many = (0..self.many).map(|number| (name(number), self.period(number), Misfire::default()));
        let policies = Self::POLICIES.map(|(name, policy)| (name.to_owned(), Some(PERIOD), policy));
        let policies = policies.into_iter().filter(|_| self.many == 0);
        let all = many.chain(policies).map(|(name, period, misfire)| {
            let cadence = period.map_or_else(|| Cadence::cron("* * * * * *"), Cadence::every);
            Schedule::new(&name, cadence, Tock)
                .starting_at(UNIX_EPOCH + self.starts)
                .ending_at(UNIX_EPOCH + self.ends)
                .misfire(misfire)
        });
        all.collect()
    }

    /// `None`: cron, each second.
    fn period(&self, number: u64) -> Option<Duration> {
        let spread = 1750 * number / self.many.max(2).saturating_sub(1);
        (number >= CRONS).then_some(Duration::from_millis(250 + spread))
    }

    /// When each tick of each of the many is planned.
    fn planned(&self) -> BTreeMap<String, Vec<Duration>> {
        let planned = |number| {
            let second = Duration::from_secs(1);
            let (mut next, period) = match self.period(number) {
                Some(period) => (self.starts, period),
                None => (Duration::from_secs(self.starts.as_millis().div_ceil(1000) as u64), second),
            };
            let mut all = Vec::new();
            while next <= self.ends {
                all.push(next);
                next += period;
            }
            (name(number), all)
        };
        (0..self.many).map(planned).collect()
    }

    /// How many ticks the many have.
    pub fn ticks(&self) -> usize {
        self.planned().values().map(Vec::len).sum()
    }

    /// Whether the last tick of each of the many was run.
    pub fn is_over(&self, ran: &[Ran]) -> bool {
        let last: BTreeSet<_> = ran.iter().map(|tick| (tick.schedule.as_str(), tick.planned)).collect();
        self.planned()
            .iter()
            .all(|(name, planned)| planned.last().is_none_or(|time| last.contains(&(name, *time))))
    }

    /// What is wrong with what was run of the many.
    pub fn judge(&self, ran: &[Ran]) -> Verdict {
        let mut verdict = Verdict { ran: ran.len(), ..Verdict::default() };
        let mut ids = BTreeSet::new();
        let mut by_schedule: BTreeMap<&str, Vec<&Ran>> = BTreeMap::new();
        for tick in ran {
            if !ids.insert(&tick.id) {
                verdict.repeated.push(tick.clone());
            } else {
                by_schedule.entry(&tick.schedule).or_default().push(tick);
            }
        }
        for (name, planned) in self.planned() {
            let mut ticks = by_schedule.remove(name.as_str()).unwrap_or_default();
            ticks.sort_by_key(|tick| (tick.sequence, tick.planned));
            let there: BTreeSet<Duration> = ticks.iter().map(|tick| tick.planned).collect();
            let missing = planned.iter().filter(|time| !there.contains(time));
            verdict.missing.extend(missing.map(|time| (name.clone(), *time)));
            let expected: BTreeSet<&Duration> = planned.iter().collect();
            verdict
                .unplanned
                .extend(ticks.iter().filter(|it| !expected.contains(&it.planned)).map(|it| (*it).clone()));
            for pair in ticks.windows(2) {
                if pair[1].sequence == pair[0].sequence || pair[1].planned <= pair[0].planned {
                    verdict.at_odds.push((pair[0].clone(), pair[1].clone()));
                }
            }
            let last = ticks.last().map_or(0, |tick| tick.sequence);
            let sequences: BTreeSet<u64> = ticks.iter().map(|tick| tick.sequence).collect();
            let unheard = (1..=last).filter(|sequence| !sequences.contains(sequence));
            verdict.unheard.extend(unheard.map(|sequence| (name.clone(), sequence)));
        }
        verdict.unplanned.extend(by_schedule.into_values().flatten().cloned());
        verdict
    }
}

impl fmt::Display for Plan {
    /// As [`parse`](Self::parse) reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let times = [self.starts, self.ends, self.misfire_after].map(|time| time.as_millis());
        write!(f, "{} {} {} {}", self.many, times[0], times[1], times[2])
    }
}

fn name(number: u64) -> String {
    format!("s{number:03}")
}

/// What was run, against what was planned.
#[derive(Debug, Default)]
pub struct Verdict {
    pub ran: usize,
    /// Planned and never run.
    pub missing: Vec<(String, Duration)>,
    /// Run and never planned.
    pub unplanned: Vec<Ran>,
    /// The same task once more.
    pub repeated: Vec<Ran>,
    /// Different tasks of one sequence, or of one planned time.
    pub at_odds: Vec<(Ran, Ran)>,
    /// Sequences that were left out.
    pub unheard: Vec<(String, u64)>,
}

impl Verdict {
    /// Every planned tick was run exactly once.
    pub fn is_perfect(&self) -> bool {
        self.repeated.is_empty() && self.is_perfect_but_for_repeats()
    }

    /// Every planned tick was run, and no other.
    pub fn is_perfect_but_for_repeats(&self) -> bool {
        self.missing.is_empty()
            && self.unplanned.is_empty()
            && self.at_odds.is_empty()
            && self.unheard.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ran, missing, unplanned, repeated, at_odds, unheard } = self;
        write!(
            f,
            "{ran} runs; {} planned ticks missing, {} unplanned, {} repeated, {} at odds, {} sequences left out",
            missing.len(),
            unplanned.len(),
            repeated.len(),
            at_odds.len(),
            unheard.len()
        )?;
        if !self.is_perfect() {
            let few = |all: &dyn fmt::Debug| format!("{all:?}").chars().take(1500).collect::<String>();
            write!(f, "\n  missing {}\n  unplanned {}", few(missing), few(unplanned))?;
            write!(
                f,
                "\n  repeated {}\n  at odds {}\n  left out {}",
                few(repeated),
                few(at_odds),
                few(unheard)
            )?;
        }
        Ok(())
    }
}

/// A tick that was run. Times are since the Unix epoch.
#[derive(Clone, PartialEq, Eq)]
pub struct Ran {
    pub schedule: String,
    pub sequence: u64,
    pub planned: Duration,
    /// By the clock of the scheduler.
    pub fired: Duration,
    /// By the clock of the consumer.
    pub at: Duration,
    pub id: String,
    /// The consumer may have run it before.
    pub is_redelivered: bool,
}

impl Ran {
    pub fn now(ctx: &TaskContext) -> Self {
        let tick = ctx.tick().expect("it is one of a schedule");
        let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap();
        Self {
            schedule: tick.schedule().to_owned(),
            sequence: tick.sequence(),
            planned: since(tick.planned_at()),
            fired: since(ctx.enqueued_at()),
            at: now(),
            id: ctx.id().to_string(),
            is_redelivered: ctx.is_redelivered(),
        }
    }

    pub fn parse(line: &str) -> Self {
        let words: Vec<&str> = line.split(' ').collect();
        let [schedule, sequence, planned, fired, at, id, is_redelivered] = words[..] else {
            panic!("{line}")
        };
        let time = |text: &str| Duration::from_micros(text.parse().unwrap());
        Self {
            schedule: schedule.to_owned(),
            sequence: sequence.parse().unwrap(),
            planned: time(planned),
            fired: time(fired),
            at: time(at),
            id: id.to_owned(),
            is_redelivered: is_redelivered.parse().unwrap(),
        }
    }
}

impl fmt::Display for Ran {
    /// As [`parse`](Self::parse) reads it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [planned, fired, at] = [self.planned, self.fired, self.at].map(|time| time.as_micros());
        let Self { schedule, sequence, id, is_redelivered, .. } = self;
        write!(f, "{schedule} {sequence} {planned} {fired} {at} {id} {is_redelivered}")
    }
}

impl fmt::Debug for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({self})")
    }
}

/// Since the Unix epoch.
pub fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}
