//! [`Sweep`]: what is left at the end of a run, and what the broker's history tells.

use std::collections::HashMap;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use taskhare::Broker;
use taskhare::DeadLetter;
use taskhare::DeadLetters;
use taskhare::Event;
use tokio::time::Instant;
use tokio::time::sleep;

use crate::ground::Ground;
use crate::history::What;
use crate::history::now;
use crate::load::PERIODS;
use crate::load::QUEUES;
use crate::load::WARM_UP;
use crate::load::number;
use crate::recorder::Recorder;

/// How long the queues may take to come to what they ought to hold.
const DRAIN: Duration = Duration::from_secs(90);
/// How often they are looked at, and how often in a row they must be as they ought to.
const LOOK: Duration = Duration::from_millis(400);
const IN_A_ROW: u32 = 4;
/// How often in a row counts must be the same.
const STEADY: u32 = 6;
/// How many more connections, channels, consumers and queues there may be at the end: a scheduler that has been the active
/// one keeps the connections it has made then.
pub const MORE: [u64; 4] = [3, 3, 0, 0];
/// How long counts may take to come back: the broker's samples are 2 s old.
const SETTLE: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub struct Sweep<'a> {
    pub ground: &'a Ground,
    pub vhost: &'a str,
    pub recorder: &'a Recorder,
}

impl Sweep<'_> {
    /// Waits until there is nothing to do any more; or for long enough, and then what is left is told.
    pub async fn drain(&self) {
        let (started, mut quiet, mut before) = (Instant::now(), 0, None);
        while quiet < IN_A_ROW && started.elapsed() < DRAIN {
            sleep(LOOK).await;
            let letters = self.letters_if_drained().await;
            quiet = if letters.is_some() && letters == before { quiet + 1 } else { 0 };
            before = letters;
        }
    }

    /// How many letters there are, if the queues of tasks hold what they ought to.
    async fn letters_if_drained(&self) -> Option<u64> {
        let queues = self.ground.management().queues(self.vhost).await.ok()?;
        let (ends, others): (Vec<_>, Vec<_>) =
            queues.iter().filter(|queue| queue.kind != "stream").partition(|queue| is_end(&queue.name));
        let is_drained = others.iter().all(|queue| queue.totals.messages == nominal(&queue.name));
        (is_drained && !others.is_empty()).then(|| ends.iter().map(|queue| queue.totals.messages).sum())
    }

    /// Writes all of it down.
    pub async fn sweep(&self, broker: &Broker) {
        let mut letters = HashMap::new();
        for queue in QUEUES {
            let (name, dead) = (format!("taskhare.{queue}.dead"), broker.dead_letters(queue).unwrap());
            let count = self.list(&name, &dead).await;
            letters.insert(name, count);
        }
        let name = "taskhare.undeliverable".to_owned();
        let count = self.list(&name, &broker.undeliverable()).await;
        letters.insert(name, count);
        self.read_events(broker).await;
        for queue in self.ground.management().queues(self.vhost).await.unwrap() {
            if queue.kind != "stream" {
                let nominal = letters.get(&queue.name).copied().unwrap_or_else(|| nominal(&queue.name));
                let messages = queue.totals.messages;
                self.recorder.note(What::Left { queue: queue.name, messages, nominal });
            }
        }
    }

    /// The letters of one queue: all of them, though a node that has just become the leader may know of fewer at first.
    async fn list(&self, name: &str, dead: &DeadLetters) -> u64 {
        let started = Instant::now();
        loop {
            let found = dead.list(usize::MAX).await.unwrap();
            let queues = self.ground.management().queues(self.vhost).await.unwrap();
            let there = queues.iter().find(|it| it.name == name).map_or(0, |it| it.totals.messages);
            if found.len() as u64 == there || started.elapsed() > SETTLE {
                found.iter().for_each(|letter| self.dead(letter));
                return found.len() as u64;
            }
            println!("{name} holds {there} messages, and {} were listed", found.len());
            sleep(LOOK).await;
        }
    }

    fn dead(&self, letter: &DeadLetter) {
        let task = letter.id().and_then(number).unwrap_or(u32::MAX);
        let reason = letter.reason().as_str().to_owned();
        let moment = letter.dead_at().map(micros).unwrap_or_default();
        self.recorder.note(What::Dead { task, reason, attempts: letter.attempts(), moment });
    }

    async fn read_events(&self, broker: &Broker) {
        let mut events = broker.events().from_start().until_now().subscribe().await.unwrap();
        while let Some(event) = events.next().await {
            match event {
                Event::Missed(count) => self.recorder.note(What::Missed { count }),
                Event::Task(event) => {
                    // Ticks have ids of their own kind, and are told of by their handler.
                    if event.name != "tock"
                        && let Some(task) = number(event.id).filter(|task| *task < WARM_UP)
                    {
                        let kind = event.change.kind().as_str().to_owned();
                        let (attempt, moment) = (event.attempt, micros(event.at));
                        self.recorder.note(What::Told { task, kind, attempt, moment });
                    }
                }
                _ => {}
            }
        }
    }

    /// Counts until nothing changes any more: what the broker says of it is up to 2 s old. `None` if that is not before
    /// `end`: the machine is too busy for this.
    pub async fn count_before(&self, end: Duration) -> Option<What> {
        let (mut count, mut times) = (self.ground.counted(self.vhost, true).await, 0);
        while times < STEADY {
            if now() > end {
                println!("nothing was counted before the load: the machine is too busy");
                return None;
            }
            sleep(LOOK).await;
            let next = self.ground.counted(self.vhost, true).await;
            times = if next == count { times + 1 } else { 0 };
            count = next;
        }
        self.recorder.note(count.clone());
        Some(count)
    }

    /// Counts until it is about as it was before, or for long enough.
    pub async fn count_after(&self, before: Option<&What>) {
        let Some(before) = before.map(counts) else { return };
        let started = Instant::now();
        loop {
            let count = self.ground.counted(self.vhost, false).await;
            let is_back = before
                .into_iter()
                .zip(counts(&count))
                .zip(MORE)
                .all(|((before, after), more)| (before..=before + more).contains(&after));
            if is_back || started.elapsed() > SETTLE {
                return self.recorder.note(count);
            }
            sleep(LOOK).await;
        }
    }
}

fn counts(what: &What) -> [u64; 4] {
    match what {
        What::Counted { connections, channels, consumers, queues, .. } => {
            [*connections, *channels, *consumers, *queues]
        }
        _ => [0; 4],
    }
}

/// How many messages a queue holds when nothing is to be done.
fn nominal(queue: &str) -> u64 {
    match queue {
        // An entry for each schedule, and the marker.
        "taskhare.schedules" => PERIODS.len() as u64 + 1,
        _ => 0,
    }
}

/// Whether a queue is where letters stay.
fn is_end(queue: &str) -> bool {
    queue.ends_with(".dead") || queue == "taskhare.undeliverable"
}

fn micros(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64)
}
