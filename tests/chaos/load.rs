//! [`Load`]: what is done to a scheduler in a run, everything at once, decided by a seed before it begins.

use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Priority;
use taskhare::TaskId;

use crate::history::Record;
use crate::history::What;

/// Tasks go to these, by turns of the seed.
pub const QUEUES: [&str; 2] = ["mail", "report"];
/// How often a task is tried.
pub const ATTEMPTS: u32 = 4;
/// Tasks from this number on are done before there is any load, and no part of it: so that what is made when it is first
/// needed is there.
pub const WARM_UP: u32 = u32::MAX - 10_000;
/// What is put into the queues and is no task has a number from this one on.
pub const STRAYS: u32 = 1_000_000;
/// What those tasks take that are no ordinary ones.
const LONG: Duration = Duration::from_secs(2);
/// How often a task that kills its process is started: the library's default.
pub const CRASHES: u32 = 5;
/// What lies between two attempts, at least.
pub const BACKOFF: Duration = Duration::from_millis(300);
/// The periods of the schedules, whose ticks must all be run.
pub const PERIODS: [Duration; 5] = [
    Duration::from_millis(300),
    Duration::from_millis(500),
    Duration::from_millis(700),
    Duration::from_millis(1100),
    Duration::from_millis(2000),
];

/// What becomes of a task, if nothing prevents it. Travels in its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Fate {
    Succeeds,
    /// The first attempts fail, so many; fewer than [`ATTEMPTS`].
    Fails(u32),
    /// The same by a panic.
    Panics(u32),
    /// Each attempt fails.
    FailsAlways,
    /// The first attempt gives it up.
    IsRejected,
    /// The first attempts go on though they are told to stop, so many; fewer than [`ATTEMPTS`].
    Overruns(u32),
    /// Blocks a thread of its runtime for as long as it takes, and succeeds.
    Blocks,
    /// Kills its process, each time: it is dead after [`CRASHES`] starts. Its consumer says that a fault `abort` begins.
    Kills,
}

/// What its producer does to it once it is enqueued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    Nothing,
    /// Cancels it after so long, while it is delayed for longer.
    Cancel(Duration),
    /// Reschedules it after so long, while it is delayed for longer, to start after the second time.
    Reschedule(Duration, Duration),
}

/// One task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Operation {
    /// From 0.
    pub number: u32,
    /// When it is enqueued, from the beginning of the load.
    pub at: Duration,
    pub queue: &'static str,
    pub priority: Priority,
    pub delay: Option<Duration>,
    /// From when it is enqueued; beyond its delay.
    pub deadline: Option<Duration>,
    pub fate: Fate,
    /// What an attempt takes.
    pub takes: Duration,
    pub then: Then,
}

/// All tasks of a run, in the order in which they are enqueued; those [with](Load::with) a fate of their own after them.
#[derive(Clone, Debug)]
pub struct Load {
    pub seed: u64,
    pub operations: Vec<Operation>,
}

impl Load {
    /// So many tasks a second, for so long.
    pub fn new(seed: u64, rate: u32, time: Duration) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let count = (f64::from(rate) * time.as_secs_f64()) as u32;
        let mut times: Vec<Duration> = (0..count).map(|_| time.mul_f64(random.f64())).collect();
        times.sort_unstable();
        let operation = |(number, at)| Operation::choose(number, at, &mut random);
        Self { seed, operations: (0..).zip(times).map(operation).collect() }
    }

    /// That of a history.
    pub fn of(records: &[Record]) -> Option<Self> {
        records.iter().find_map(|record| match &record.what {
            What::Planned { seed, rate, time, fates } => {
                let time = Duration::from_micros(*time);
                Some(Self::new(*seed, *rate, time).with(fates, time))
            }
            _ => None,
        })
    }

    /// Tasks of these fates as well, spread over the time.
    pub fn with(mut self, fates: &[Fate], time: Duration) -> Self {
        for (place, fate) in (1..).zip(fates) {
            let number = self.operations.len() as u32;
            let at = time * place / (fates.len() as u32 + 1);
            self.operations.push(Operation { fate: *fate, takes: LONG, ..Operation::plain(number, at) });
        }
        self
    }

    /// The id of a task, different in each run.
    pub fn id(&self, number: u32) -> TaskId {
        id(self.seed, number)
    }
}

/// The id of a task of the run of that seed.
pub fn id(seed: u64, number: u32) -> TaskId {
    TaskId::from_u128((u128::from(seed) << 32) | (u128::from(number) + 1))
}

/// The number of a task, from its id.
pub fn number(id: TaskId) -> Option<u32> {
    u32::try_from((id.as_u128() & u128::from(u32::MAX)).checked_sub(1)?).ok()
}

impl Operation {
    /// One that succeeds at once.
    pub fn plain(number: u32, at: Duration) -> Self {
        Self {
            number,
            at,
            queue: QUEUES[0],
            priority: Priority::Normal,
            delay: None,
            deadline: None,
            fate: Fate::Succeeds,
            takes: Duration::ZERO,
            then: Then::Nothing,
        }
    }

    fn choose(number: u32, at: Duration, random: &mut fastrand::Rng) -> Self {
        let millis = |random: &mut fastrand::Rng, range| Duration::from_millis(random.u64(range));
        let plain = Self {
            queue: QUEUES[random.usize(..QUEUES.len())],
            priority: [Priority::Urgent, Priority::Normal, Priority::Low][random.usize(..3)],
            takes: millis(random, 0..20),
            ..Self::plain(number, at)
        };
        match random.u32(..100) {
            0..40 => plain,
            // Runs while something happens to whoever runs it.
            40..45 => Self { takes: millis(random, 500..2_000), ..plain },
            45..60 => Self { delay: Some(millis(random, 50..8_000)), ..plain },
            60..68 => Self { fate: Fate::Fails(random.u32(1..ATTEMPTS)), ..plain },
            68..70 => Self { fate: Fate::Panics(random.u32(1..ATTEMPTS)), ..plain },
            70..73 => Self { fate: Fate::FailsAlways, ..plain },
            73..76 => Self { fate: Fate::IsRejected, ..plain },
            // Mostly met, unless something happens.
            76..82 => Self { deadline: Some(millis(random, 300..3_000)), ..plain },
            82..86 => {
                let delay = millis(random, 500..3_000);
                Self { delay: Some(delay), deadline: Some(delay + millis(random, 100..2_000)), ..plain }
            }
            86..94 => {
                let delay = millis(random, 3_000..8_000);
                Self { delay: Some(delay), then: Then::Cancel(millis(random, 0..1_000)), ..plain }
            }
            _ => {
                let delay = millis(random, 3_000..8_000);
                let then = Then::Reschedule(millis(random, 0..1_000), millis(random, 50..4_000));
                Self { delay: Some(delay), then, ..plain }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_is_a_load() {
        let load = |seed| Load::new(seed, 100, Duration::from_secs(10)).operations;
        assert_eq!(load(1), load(1));
        assert_ne!(load(1), load(2));
        assert_eq!(load(1).len(), 1000);
    }

    #[test]
    fn an_id_tells_its_number() {
        let load = Load::new(u64::MAX, 10, Duration::from_secs(1));
        assert!(load.operations.iter().all(|it| number(load.id(it.number)) == Some(it.number)));
    }
}
