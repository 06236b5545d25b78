//! What the history tells of tasks, beside what truly became of them, while consumers, broker and connections fail.
//!
//! The truth is not taken from events. How a task ends is decided by its number. That it was done, and how often it was
//! tried, its handler wrote down; that it is dead the dead letters say.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::collections::HashMap;
use std::future::IntoFuture;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream;
use taskhare::Broker;
use taskhare::Event;
use taskhare::EventStream;
use taskhare::Kind;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::TaskId;
use taskhare::testing::Result;
use taskhare::testing::TestBroker;
use tokio::task::JoinHandle;

use crate::process::Process;
use crate::run::Run;
use crate::run::SLOW;
use crate::worker::Fate;
use crate::worker::Fated;

/// How many tasks there are, unless [`COUNT`] says so.
const DEFAULT_COUNT: u32 = 4_000;
/// `20000` for the full size.
const COUNT: &str = "TASKHARE_FAULTS_HISTORY";
/// How many are on their way at a time.
const ENQUEUED: usize = 64;
/// A stream that was declared in the last seconds before its only node is killed is of no use afterwards.
const SETTLED: Duration = Duration::from_secs(12);
const ENQUEUE_TIMEOUT: Duration = Duration::from_secs(120);
/// Seconds, on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);

fn count() -> u32 {
    std::env::var(COUNT).map_or(DEFAULT_COUNT, |count| count.parse().unwrap())
}

fn id(number: u32) -> TaskId {
    // From 1: what is 0 may be taken for none.
    TaskId::from_u128(u128::from(number) + 1)
}

fn number(id: TaskId) -> u32 {
    u32::try_from(id.as_u128() - 1).unwrap()
}

/// What a reader makes of the events, by rules of its own: the first end counts.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    ends: BTreeMap<u32, Kind>,
    accepted: BTreeSet<u32>,
    /// The ends beyond the first of each task.
    repeats: usize,
    /// Those that are of another kind than the first.
    contradictions: Vec<u32>,
    missed: u64,
}

impl Told {
    fn enter(&mut self, event: &Event) {
        match event {
            Event::Missed(count) => self.missed += count,
            Event::Task(event) => {
                let (kind, number) = (event.change.kind(), number(event.id));
                if kind == Kind::Accepted {
                    self.accepted.insert(number);
                }
                if !kind.is_end() {
                    return;
                }
                match self.ends.get(&number) {
                    None => drop(self.ends.insert(number, kind)),
                    Some(first) => {
                        self.repeats += 1;
                        if *first != kind {
                            self.contradictions.push(number);
                        }
                    }
                }
            }
            _ => {}
        }
    }

    fn by_outcome(&self) -> BTreeMap<Kind, usize> {
        let mut counts = BTreeMap::new();
        self.ends.values().for_each(|kind| *counts.entry(*kind).or_default() += 1);
        counts
    }
}

/// Reads what happens until all tasks have ended.
fn read_live(mut events: EventStream, count: u32) -> JoinHandle<Told> {
    tokio::spawn(async move {
        let mut told = Told::default();
        while told.ends.len() < count as usize {
            let Ok(event) = tokio::time::timeout(PATIENCE, events.next()).await else { break };
            told.enter(&event.unwrap());
        }
        told
    })
}

/// Reads what the history holds.
async fn read_later(broker: &Broker) -> Told {
    let mut events = broker.events().from_start().until_now().subscribe().await.unwrap();
    let mut told = Told::default();
    while let Some(event) = events.next().await {
        told.enter(&event);
    }
    told
}

/// Tasks, of which 5% fail once and 1% for good, and one who reads what is told of them from the beginning.
struct Case<'a> {
    run: Run<'a>,
    broker: Broker,
    count: u32,
    enqueuing: JoinHandle<()>,
    live: JoinHandle<Told>,
}

impl<'a> Case<'a> {
    async fn new(broker: &'a TestBroker, wait: Duration) -> Self {
        let (run, count) = (Run::new(broker, SLOW).await, count());
        let broker = Broker::connect(&run.url).await.unwrap();
        let producer = Producer::builder(&broker).timeout(ENQUEUE_TIMEOUT).build().await.unwrap();
        let live = read_live(broker.events().subscribe().await.unwrap(), count);
        tokio::time::sleep(wait).await;
        let enqueuing = tokio::spawn(async move {
            let enqueue = |number| {
                let task = producer.enqueue(Fated { number }).id(id(number));
                task.retry(RetryPolicy::fixed(Duration::from_millis(200))).into_future()
            };
            let mut enqueued = stream::iter((0..count).map(enqueue)).buffer_unordered(ENQUEUED);
            while let Some(enqueued) = enqueued.next().await {
                enqueued.unwrap();
            }
        });
        Self { run, broker, count, enqueuing, live }
    }

    fn consumer(&self) -> Process {
        self.run.fated()
    }

    async fn until_done(&self, parts: u32, of: u32) {
        let enough = (self.count / of * parts) as usize;
        self.run.until("tasks are done", async |account| account.borrow().done() >= enough).await;
    }

    /// How often ends may be told again: see the test.
    async fn finish(self, consumer: Process, most_repeats: usize) {
        let Self { run, broker, count, enqueuing, live } = self;
        enqueuing.await.unwrap();
        let dying: BTreeSet<u32> = (0..count).filter(|number| Fate::of(*number) == Fate::Dies).collect();
        let done = count as usize - dying.len();
        run.until("all that can be done is", async |account| account.borrow().done() == done).await;
        let dead = async |_: &_| broker.dead("default").await.unwrap() >= dying.len() as u64;
        run.until("all that cannot be done is dead", dead).await;
        let live = live.await.unwrap();
        consumer.shut_down().await;
        // The truth.
        let letters = broker.dead_letters("default").unwrap().list(usize::MAX).await.unwrap();
        let dead: BTreeSet<u32> = letters.iter().map(|letter| number(letter.id().unwrap())).collect();
        assert_eq!(dead, dying, "the dead letters are those that were to be");
        let mut truth = HashMap::new();
        (0..count).for_each(|number| {
            let kind = if dying.contains(&number) { Kind::Dead } else { Kind::Succeeded };
            truth.insert(number, kind);
        });
        // What is told.
        let later = read_later(&broker).await;
        println!(
            "live: {:?}, {} repeats, {} missed; later: {:?}, {} repeats, {} missed; {} accepted; {} letters; {}",
            live.by_outcome(),
            live.repeats,
            live.missed,
            later.by_outcome(),
            later.repeats,
            later.missed,
            later.accepted.len(),
            letters.len(),
            run.summary(),
        );
        for (who, told) in [("live", &live), ("later", &later)] {
            let wrong: Vec<_> =
                truth.iter().filter(|(task, kind)| told.ends.get(task) != Some(kind)).collect();
            assert_eq!(wrong, [], "{who}: what is not told as it was");
            assert_eq!(told.ends.len(), truth.len(), "{who}: nothing is invented");
            assert_eq!(told.contradictions, [0; 0], "{who}: each task has one end");
            assert_eq!(told.missed, 0, "{who}");
        }
        assert_eq!(later.accepted.len(), count as usize, "its enqueuer has survived");
        assert!(later.repeats <= most_repeats, "{} ends are told again", later.repeats);
        broker.close().await;
    }
}

/// Each kill may repeat what the consumer had and had not settled.
#[tokio::test(flavor = "multi_thread")]
async fn the_history_counts_what_became_of_tasks_whose_consumer_is_killed_twice() -> Result<()> {
    let case = Case::new(TestBroker::shared().await?, Duration::ZERO).await;
    let mut consumer = case.consumer();
    for third in 1..=2 {
        case.until_done(third, 3).await;
        consumer.kill().await;
        case.run.note("the consumer is killed");
        consumer = case.consumer();
    }
    case.finish(consumer, 2 * SLOW.held()).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_survives_the_kill_of_its_broker() -> Result<()> {
    let broker = TestBroker::start().await?;
    let case = Case::new(&broker, SETTLED).await;
    let consumer = case.consumer();
    case.until_done(1, 3).await;
    broker.kill().await?;
    case.run.note("the broker is killed");
    broker.start_again().await?;
    case.run.note("the broker is ready again");
    case.finish(consumer, SLOW.held()).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_survives_an_orderly_restart_of_its_broker() -> Result<()> {
    let broker = TestBroker::start().await?;
    let case = Case::new(&broker, SETTLED).await;
    let consumer = case.consumer();
    case.until_done(1, 3).await;
    broker.stop().await?;
    case.run.note("the broker has stopped");
    broker.start_again().await?;
    case.run.note("the broker is ready again");
    case.finish(consumer, SLOW.held()).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_survives_the_end_of_every_connection_five_times() -> Result<()> {
    let case = Case::new(TestBroker::shared().await?, Duration::ZERO).await;
    let consumer = case.consumer();
    let management = case.run.broker.management();
    for part in 1..=5 {
        case.until_done(part, 8).await;
        let are_there = async |_: &_| !management.connections(&case.run.vhost).await.unwrap().is_empty();
        case.run.until("connections are there to be closed", are_there).await;
        let closed = management.close_connections(&case.run.vhost).await?;
        case.run.note(&format!("{closed} connections are closed"));
    }
    case.finish(consumer, 5 * SLOW.held()).await;
    Ok(())
}
