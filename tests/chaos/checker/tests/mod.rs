//! The test of the tester: of a history in which all is well nothing is found, and each thing that can be wrong with it
//! is found, and only that.

mod excuses;
mod wrongs;

use std::time::Duration;

use taskhare::Priority;

use super::Cause;
use super::Scope;
use super::Verdict;
use crate::history::Act;
use crate::history::End;
use crate::history::Record;
use crate::history::What;
use crate::load::Fate;
use crate::load::Load;
use crate::load::Operation;
use crate::load::Then;

/// When the run begins, in milliseconds since the Unix epoch.
const EPOCH: u64 = 1_700_000_000_000;
/// When a consumer is killed in it, and when another one is in its place.
const KILL: (u64, u64) = (20_000, 21_000);

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// In microseconds since the Unix epoch, so many milliseconds after the run began.
const fn at(ms: u64) -> u64 {
    (EPOCH + ms) * 1000
}

fn scope() -> Scope {
    Scope { aftermath: ms(500), ..Scope::default() }
}

/// The tasks of the sound history.
mod task {
    pub const PLAIN: u32 = 0;
    pub const DELAYED: u32 = 1;
    pub const FAILS: u32 = 2;
    pub const HOPELESS: u32 = 3;
    pub const REJECTED: u32 = 4;
    pub const EXPIRED: u32 = 5;
    pub const IN_TIME: u32 = 6;
    pub const CANCELLED: u32 = 7;
    pub const RESCHEDULED: u32 = 8;
    pub const UNKNOWN: u32 = 9;
    pub const REFUSED: u32 = 10;
    pub const INTERRUPTED: u32 = 11;
    /// Overruns its time once.
    pub const STUBBORN: u32 = 12;
    /// Kills its process.
    pub const FATAL: u32 = 13;
    pub const COUNT: u32 = 14;
    /// None of the load.
    pub const STRAY: u32 = 1_000_000;
}

fn load() -> Load {
    let plain = |number| Operation {
        number,
        at: Duration::ZERO,
        queue: "mail",
        priority: Priority::Normal,
        delay: None,
        deadline: None,
        fate: Fate::Succeeds,
        takes: ms(10),
        then: Then::Nothing,
    };
    let mut operations: Vec<Operation> = (0..task::COUNT).map(plain).collect();
    let mut set = |number: u32, change: &dyn Fn(&mut Operation)| change(&mut operations[number as usize]);
    set(task::DELAYED, &|it| it.delay = Some(ms(1000)));
    set(task::FAILS, &|it| it.fate = Fate::Fails(1));
    set(task::HOPELESS, &|it| it.fate = Fate::FailsAlways);
    set(task::REJECTED, &|it| it.fate = Fate::IsRejected);
    set(task::EXPIRED, &|it| (it.delay, it.deadline) = (Some(ms(100)), Some(ms(500))));
    set(task::IN_TIME, &|it| it.deadline = Some(ms(500)));
    set(task::STUBBORN, &|it| it.fate = Fate::Overruns(1));
    set(task::FATAL, &|it| it.fate = Fate::Kills);
    set(task::CANCELLED, &|it| (it.delay, it.then) = (Some(ms(3000)), Then::Cancel(ms(500))));
    set(task::RESCHEDULED, &|it| {
        (it.delay, it.then) = (Some(ms(3000)), Then::Reschedule(ms(500), ms(1000)));
    });
    Load { seed: 1, operations }
}

/// A history that one can write down, and spoil. Times are in milliseconds after it began.
#[derive(Clone, Default)]
struct Story(Vec<Record>);

impl Story {
    fn add(&mut self, time: u64, who: &str, what: What) -> &mut Self {
        self.0.push(Record { at: at(time), who: who.to_owned(), what });
        self
    }

    /// A producer does it within 5 ms.
    fn act(&mut self, time: u64, task: u32, act: Act) -> &mut Self {
        self.add(time, "producer 1", What::Invoked { task, act });
        self.add(time + 5, "producer 1", What::Confirmed { task, act })
    }

    fn start(&mut self, time: u64, who: &str, task: u32, copy: u32, attempt: u32) -> &mut Self {
        self.told(task, "started", attempt, time);
        self.add(time, who, What::Started { task, copy, attempt, again: false })
    }

    /// A run that takes 10 ms and comes to its end.
    fn run(&mut self, time: u64, who: &str, task: u32, attempt: u32, end: End) -> &mut Self {
        self.start(time, who, task, 0, attempt);
        self.finish(time + 10, who, task, 0, attempt, end)
    }

    fn finish(&mut self, time: u64, who: &str, task: u32, copy: u32, attempt: u32, end: End) -> &mut Self {
        if end == End::Succeeded {
            self.told(task, "succeeded", attempt, time);
        }
        self.add(time, who, What::Finished { task, copy, attempt, end })
    }

    fn told(&mut self, task: u32, kind: &str, attempt: u32, moment: u64) -> &mut Self {
        let what = What::Told { task, kind: kind.to_owned(), attempt, moment: at(moment) };
        // Read at the end, in its order.
        self.add(60_000 + moment, "run", what)
    }

    fn letter(&mut self, task: u32, reason: &str, attempts: u32, moment: u64) -> &mut Self {
        let what = What::Dead { task, reason: reason.to_owned(), attempts, moment: at(moment) };
        self.add(59_000, "run", what)
    }

    fn fault(&mut self, fault: &str, whom: &str, (began, healed): (u64, u64)) -> &mut Self {
        let (fault, whom) = (fault.to_owned(), whom.to_owned());
        self.add(began, "run", What::Began { fault: fault.clone(), whom: whom.clone() });
        self.add(healed, "run", What::Healed { fault, whom })
    }

    fn tick(&mut self, time: u64, who: &str, sequence: u64) -> &mut Self {
        let (schedule, planned) = ("often".to_owned(), at(5000 + 500 * (sequence - 1)));
        self.add(time, who, What::Ran { schedule, sequence, planned, id: sequence.to_string(), again: false })
    }

    fn left(&mut self, messages: u64) -> &mut Self {
        let queue = "mail.normal".to_owned();
        self.add(58_000, "run", What::Left { queue, messages, nominal: 0 })
    }

    /// Without what is meant.
    fn drop(&mut self, is_meant: impl Fn(&What) -> bool) -> &mut Self {
        let before = self.0.len();
        self.0.retain(|it| !is_meant(&it.what));
        assert!(self.0.len() < before, "nothing to drop");
        self
    }

    /// What is meant, at another time.
    fn shift(&mut self, time: u64, is_meant: impl Fn(&What) -> bool) -> &mut Self {
        let record = self.0.iter_mut().find(|it| is_meant(&it.what)).expect("something to shift");
        record.at = at(time);
        self
    }

    fn verdict(&self) -> Verdict {
        Verdict::of(&load(), &self.0, scope())
    }
}

fn is_start(what: &What, of: u32, number: u32) -> bool {
    matches!(what, What::Started { task, attempt, .. } if (*task, *attempt) == (of, number))
}

fn is_end(what: &What, of: u32, number: u32) -> bool {
    matches!(what, What::Finished { task, attempt, .. } if (*task, *attempt) == (of, number))
}

fn is_told(what: &What, of: u32, kinds: &[&str]) -> bool {
    matches!(what, What::Told { task, kind, .. } if *task == of && kinds.contains(&kind.as_str()))
}

fn is_letter(what: &What, of: u32) -> bool {
    matches!(what, What::Dead { task, .. } if *task == of)
}

/// All is well, though a consumer is killed.
fn sound() -> Story {
    const C1: &str = "consumer 1";
    const C2: &str = "consumer 2";
    let mut story = Story::default();
    for number in 0..task::COUNT {
        let time = match number {
            task::INTERRUPTED => KILL.0 - 100,
            task::STUBBORN => 900,
            task::FATAL => 25_900,
            _ => 0,
        };
        match number {
            task::UNKNOWN | task::REFUSED => {}
            _ => {
                story.act(time, number, Act::Enqueue).told(number, "accepted", 1, time);
            }
        }
    }
    let error = String::new;
    story.add(0, "producer 1", What::Invoked { task: task::UNKNOWN, act: Act::Enqueue });
    let unknown = What::Unknown { task: task::UNKNOWN, act: Act::Enqueue, error: error() };
    story.add(900, "producer 1", unknown);
    story.add(0, "producer 1", What::Invoked { task: task::REFUSED, act: Act::Enqueue });
    let refused = What::Refused { task: task::REFUSED, act: Act::Enqueue, error: error() };
    story.add(900, "producer 1", refused);

    story.run(10, C1, task::PLAIN, 1, End::Succeeded);
    story.run(1001, C1, task::DELAYED, 1, End::Succeeded);
    story.run(10, C1, task::FAILS, 1, End::Failed).run(321, C2, task::FAILS, 2, End::Succeeded);
    for attempt in 1..=4 {
        story.run(u64::from(attempt) * 400, C1, task::HOPELESS, attempt, End::Failed);
    }
    story.letter(task::HOPELESS, "attempts-exhausted", 4, 1620).told(task::HOPELESS, "dead", 4, 1620);
    story.run(30, C1, task::REJECTED, 1, End::Rejected);
    story.letter(task::REJECTED, "rejected", 1, 41).told(task::REJECTED, "dead", 1, 41);
    story.letter(task::EXPIRED, "expired-in-queue", 0, 501).told(task::EXPIRED, "expired", 1, 501);
    story.run(450, C1, task::IN_TIME, 1, End::Succeeded);
    story.act(500, task::CANCELLED, Act::Cancel).told(task::CANCELLED, "cancelled", 1, 3001);
    story.act(500, task::RESCHEDULED, Act::Reschedule).told(task::RESCHEDULED, "accepted", 1, 500);
    story.start(1501, C2, task::RESCHEDULED, 1, 1);
    story.finish(1511, C2, task::RESCHEDULED, 1, 1, End::Succeeded);

    story.start(KILL.0 - 50, C1, task::INTERRUPTED, 0, 1);
    story.fault("killed", C1, KILL);
    story.run(KILL.0 + 300, C2, task::INTERRUPTED, 1, End::Succeeded);

    story.start(1000, C1, task::STUBBORN, 0, 1);
    story.add(1399, C1, What::Overran { task: task::STUBBORN, copy: 0, attempt: 1 });
    story.run(1900, C2, task::STUBBORN, 2, End::Succeeded);
    for number in 0..5 {
        let (who, time) = (format!("consumer {}", 3 + number), 26_000 + number * 1000);
        story.start(time, &who, task::FATAL, 0, 1).fault("abort", &who, (time + 1, time + 500));
    }
    story.letter(task::FATAL, "crashed", 1, 32_000).told(task::FATAL, "dead", 1, 32_000);
    let reason = "undecodable".to_owned();
    story.add(600, "run", What::Strayed { task: task::STRAY, reason });
    story.letter(task::STRAY, "undecodable", 0, 700).told(task::STRAY, "dead", 1, 700);

    let schedule = "often".to_owned();
    let (period, starts, ends) = (500_000, at(5000), at(6000));
    story.add(
        100,
        "scheduler 1",
        What::Scheduled { schedule, queue: "mail".to_owned(), period, starts, ends },
    );
    story.tick(5001, C1, 1).tick(5502, C2, 2).tick(6003, C1, 3);

    let held = |before, memory| What::Held { before, memory, tasks: 10, files: 10 };
    story.add(0, C2, held(true, 10_000)).add(57_000, C2, held(false, 12_000));
    for (time, before) in [(0, true), (57_000, false)] {
        story.add(
            time,
            "run",
            What::Counted { before, connections: 5, channels: 9, consumers: 6, queues: 70 },
        );
    }
    story.left(0).add(50_000, "run", What::Loaded).clone()
}

#[test]
fn nothing_is_found_in_a_sound_history() {
    let verdict = sound().verdict();
    assert!(verdict.is_clean(), "{verdict}");
    let Verdict { operations, confirmed, unknown, refused, .. } = verdict;
    assert_eq!((operations, confirmed, unknown, refused), (14, 12, 1, 1));
    let Verdict { succeeded, dead, expired, cancelled, lost, taken, .. } = verdict;
    assert_eq!((succeeded, dead, expired, cancelled, lost, taken), (7, 3, 1, 1, 0, 0));
    assert_eq!(Vec::from_iter(verdict.repeated), [(Cause::Redelivered, 5)]);
    assert_eq!((verdict.ticks, verdict.ticks_repeated, verdict.unexplained), (3, 0, 0));
}

#[test]
fn what_is_in_doubt_when_clocks_are_apart_is_nothing_against_anybody() {
    let mut story = sound();
    story.shift(950, |it| is_start(it, task::DELAYED, 1));
    assert_eq!(story.verdict().violations.len(), 1);
    let apart = Scope { clocks: ms(3000), ..scope() };
    let verdict = Verdict::of(&load(), &story.0, apart);
    assert!(verdict.is_clean(), "{verdict}");
    // What waits in the wheel does so by the broker's clock.
    story.shift(750, |it| is_start(it, task::DELAYED, 1));
    assert_eq!(Verdict::of(&load(), &story.0, apart).violations.len(), 1);
}

#[test]
fn the_order_of_the_lines_does_not_matter() {
    let mut story = sound();
    story.0.reverse();
    // Of what was at the same time the order counts: a producer asks before it is answered.
    story.0.sort_by_key(|it| (it.who.clone(), it.at));
    let verdict = story.verdict();
    assert!(verdict.is_clean(), "{verdict}");
}

#[test]
fn the_time_to_recover_counts_from_the_beginning_of_the_fault() {
    let mut story = sound();
    story.fault("frozen", "broker", (1100, 1400));
    let recoveries = story.verdict().recoveries;
    let [frozen, killed, ..] = &recoveries[..] else { panic!("{recoveries:?}") };
    assert_eq!((frozen.fault.as_str(), killed.fault.as_str()), ("frozen", "killed"));
    // Done: attempts at 1210 ms and at 1511 ms; then there is a pause of 300 ms or so, and the kill's is longer.
    assert_eq!((frozen.lasted, frozen.back, frozen.idle), (Some(ms(300)), Some(ms(411)), ms(301)));
    assert_eq!((killed.lasted, killed.back, killed.idle), (Some(ms(1000)), None, ms(310)));
}

/// This takes a second where nothing is optimized; what is quadratic in the records takes minutes.
#[test]
fn a_hundred_thousand_records_are_judged_like_a_hundred() {
    let load = Load::new(1, 1000, Duration::from_secs(16));
    let mut story = Story::default();
    for operation in &load.operations {
        let (task, time) = (operation.number, u64::from(operation.number));
        story.act(time, task, Act::Enqueue).told(task, "accepted", 1, time);
        story.run(time + 30_000, "consumer 1", task, 1, End::Succeeded);
    }
    for number in 0..100 {
        story.fault("cut", "link", (number * 300, number * 300 + 100));
    }
    assert!(story.0.len() > 110_000);
    let verdict = Verdict::of(&load, &story.0, scope());
    assert_eq!((verdict.succeeded, verdict.lost), (load.operations.len(), 0));
}
