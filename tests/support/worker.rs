//! What runs in the other processes: this very binary again, with what to be in its environment.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::ConsumerBuilder;
use taskhare::Producer;
use taskhare::Replication;
use taskhare::RetryPolicy;
use taskhare::Scheduler;
use taskhare::Task;
use taskhare::TaskContext;
use taskhare::TaskError;
use tokio::task::JoinSet;
use tracing_subscriber::filter::LevelFilter;

use crate::account::Attempt;
use crate::child::parent;
use crate::child::say;
use crate::ticks::Plan;
use crate::ticks::Ran;

/// `producer`, `steady` (a producer that takes its time, until it is told to end), `consumer`, `retrier` (a consumer of
/// [`Flaky`] tasks), `fated` (one of [`Fated`] ones), `waiter` (one of [`Later`] ones), `blocker` (one whose handlers keep all threads from anything else), `timer`
/// (a producer of tasks to be started at certain times), `timed` (a consumer of these), `victim`, `dozer` (a consumer whose
/// tasks take for ever), `scheduler` or `ticker` (a consumer of [`Tock`] tasks). With [`CLASSIC`] before it, its queues are
/// classic ones.
pub const ROLE: &str = "TASKHARE_FAULTS_ROLE";
/// Before a role.
const CLASSIC: &str = "classic ";
/// The broker.
pub const URL: &str = "TASKHARE_FAULTS_URL";
/// How many tasks the producer has on their way at a time, or the consumer runs at a time.
pub const AT_A_TIME: &str = "TASKHARE_FAULTS_AT_A_TIME";

/// What a scheduler has to know, a [`Plan`], or a blocker, a path.
pub const PLAN: &str = "TASKHARE_FAULTS_PLAN";
/// `debug`, to have more in the log.
const LOG: &str = "TASKHARE_FAULTS_LOG";

/// How many tasks there are, numbered from 0.
pub const TASKS: u32 = 20_000;
/// Tasks with this number or more kill their process.
pub const POISON: u32 = 1_000_000;
/// How many unsettled tasks a consumer may have.
pub const PREFETCH: u16 = 128;

/// Longer than any fault.
const ENQUEUE_TIMEOUT: Duration = Duration::from_secs(120);
/// How often a dozing consumer says that it is alive.
pub const BEAT: Duration = Duration::from_secs(2);

/// What a long task takes.
pub const LONG: Duration = Duration::from_secs(12);

/// Of the connections of schedulers.
const HEARTBEAT: Duration = Duration::from_secs(2);

/// What a task takes, at both ends.
const WORK: Duration = Duration::from_millis(1);

/// Of a producer that takes its time.
const PAUSE: Duration = Duration::from_millis(50);

/// What the tasks of a victim take, the poison among them.
const SOME_TIME: Duration = Duration::from_millis(30);

/// Its number.
#[derive(Serialize, Deserialize)]
pub struct Count {
    pub number: u32,
}

impl Task for Count {
    const NAME: &'static str = "count";
    type Output = ();
}

/// It fails three times.
#[derive(Serialize, Deserialize)]
pub struct Flaky {
    pub number: u32,
}

impl Task for Flaky {
    const NAME: &'static str = "flaky";
    type Output = ();
}

/// Its number decides how it ends.
#[derive(Serialize, Deserialize)]
pub struct Fated {
    pub number: u32,
}

impl Task for Fated {
    const NAME: &'static str = "fated";
    type Output = ();
}

/// How a [`Fated`] task ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Succeeds,
    /// One in 20: fails at its first attempt.
    Retries,
    /// One in 100: fails for good.
    Dies,
}

impl Fate {
    pub fn of(number: u32) -> Self {
        match number % 100 {
            0 => Self::Dies,
            1..=5 => Self::Retries,
            _ => Self::Succeeds,
        }
    }
}

#[ignore = "run by the other tests, as a process"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process() {
    let (Ok(role), Ok(url)) = (std::env::var(ROLE), std::env::var(URL)) else { return };
    let level = if std::env::var(LOG).is_ok() { LevelFilter::DEBUG } else { LevelFilter::INFO };
    tracing_subscriber::fmt().with_max_level(level).with_writer(std::io::stderr).with_ansi(false).init();
    // Ends the line that libtest has begun.
    say("");
    let mut broker = Broker::builder().url(&url);
    let role = match role.strip_prefix(CLASSIC) {
        Some(role) => {
            broker = broker.replication(Replication::Classic);
            role
        }
        None => role.as_str(),
    };
    if role == "scheduler" {
        broker = broker.heartbeat(HEARTBEAT).app_name(&scheduler_name(std::process::id()));
    }
    let broker = broker.connect().await.unwrap();
    let at_a_time = std::env::var(AT_A_TIME).unwrap().parse().unwrap();
    match role {
        "producer" => produce(&broker, at_a_time).await,
        "steady" => produce_steadily(&broker, at_a_time).await,
        "retrier" => retry(&broker, at_a_time).await,
        "fated" => meet_fate(&broker, at_a_time).await,
        "digger" => dig(&broker, at_a_time).await,
        "dozer" => doze(&broker, at_a_time).await,
        "waiter" => wait(&broker, at_a_time).await,
        "blocker" => block(&broker, at_a_time, &std::env::var(PLAN).unwrap()).await,
        "timer" => time(&broker, at_a_time).await,
        "timed" => run_timed(&broker, at_a_time).await,
        "scheduler" => schedule(&broker, &Plan::parse(&std::env::var(PLAN).unwrap())).await,
        "ticker" => tick(&broker, at_a_time).await,
        "victim" => fall_victim(&broker, at_a_time).await,
        _ => consume(&broker, at_a_time).await,
    }
    broker.close().await;
}

/// Enqueues all tasks, and says which are confirmed.
async fn produce(broker: &Broker, at_a_time: usize) {
    let _ = parent(|_| ());
    let producer = Producer::builder(broker).timeout(ENQUEUE_TIMEOUT).build().await.unwrap();
    let next = Arc::new(AtomicU32::new(0));
    let mut hands = JoinSet::new();
    for _ in 0..at_a_time {
        let (producer, next) = (producer.clone(), next.clone());
        hands.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= TASKS {
                    return;
                }
                tokio::time::sleep(WORK).await;
                producer.enqueue(Count { number }).await.unwrap();
                say(&format!("confirmed {number}"));
            }
        });
    }
    hands.join_all().await;
}

/// Enqueues some tasks in each [`PAUSE`] until the parent closes our standard input, and says which are confirmed.
async fn produce_steadily(broker: &Broker, at_a_time: usize) {
    let told = parent(|_| ());
    let producer = Producer::builder(broker).timeout(ENQUEUE_TIMEOUT).build().await.unwrap();
    let (mut number, mut under_way) = (0, JoinSet::new());
    while !told.is_cancelled() && number < TASKS {
        while under_way.try_join_next().is_some() {}
        for _ in 0..at_a_time {
            let producer = producer.clone();
            number += 1;
            let number = number - 1;
            under_way.spawn(async move {
                let id = taskhare::TaskId::new();
                // Again with the same id, as one is told to: a queue without its leader refuses for seconds.
                while let Err(error) = producer.enqueue(Count { number }).id(id).await {
                    assert!(error.is_transient(), "{error}");
                }
                say(&format!("confirmed {number}"));
            });
        }
        tokio::time::sleep(PAUSE).await;
    }
    under_way.join_all().await;
}

/// Says which tasks are done.
async fn consume(broker: &Broker, at_a_time: usize) {
    let builder = Consumer::builder(broker)
        .handler_fn(|task: Count, ctx| async move {
            tokio::time::sleep(WORK).await;
            let word = if ctx.is_redelivered() { "again" } else { "done" };
            say(&format!("{word} {}", task.number));
            Ok(())
        })
        .prefetch(PREFETCH)
        .shutdown_grace(Duration::from_secs(5));
    run(builder, at_a_time).await;
}

/// Its tasks take for ever. Says often that it is alive.
async fn doze(broker: &Broker, at_a_time: usize) {
    let builder = Consumer::builder(broker)
        .handler_fn(|_: Count, _| async { std::future::pending().await })
        .beat_every(BEAT)
        .shutdown_grace(Duration::ZERO);
    run(builder, at_a_time).await;
}

/// It is delayed.
#[derive(Serialize, Deserialize)]
pub struct Later {
    pub number: u32,
}

impl Task for Later {
    const NAME: &'static str = "later";
    type Output = ();
}

/// Says when tasks start.
async fn wait(broker: &Broker, at_a_time: usize) {
    let builder = Consumer::builder(broker).handler_fn(|task: Later, ctx| async move {
        say_attempt(task.number, &ctx);
        Ok(())
    });
    run(builder, at_a_time).await;
}

/// Of [`Count`] tasks: blocks all threads of the runtime.
pub const BLOCKS: u32 = 0;
/// What it says it has started, once each thread is blocked.
pub const BLOCKED: u32 = 1_000_000;

/// Says which tasks are done. One of them blocks all threads, once, until there is a file.
async fn block(broker: &Broker, at_a_time: usize, file: &str) {
    let file: Arc<Path> = Path::new(file).into();
    let block = |file: &Path| {
        while !file.exists() {
            std::thread::sleep(SOME_TIME);
        }
    };
    let builder = Consumer::builder(broker).handler_fn(move |task: Count, ctx| {
        let file = file.clone();
        async move {
            if task.number == BLOCKS && !ctx.is_redelivered() {
                // Many, because a thread keeps the last one for itself; the other thread takes one of the rest.
                for _ in 0..16 {
                    let file = file.clone();
                    tokio::spawn(async move {
                        say(&format!("started {BLOCKED}"));
                        block(&file);
                    });
                }
                block(&file);
            }
            let word = if ctx.is_redelivered() { "again" } else { "done" };
            say(&format!("{word} {}", task.number));
            Ok(())
        }
    });
    run(builder.prefetch(PREFETCH), at_a_time).await;
}

/// How many tasks of each kind a timer enqueues: [`Later`] ones, [`Flaky`] ones from this number on, and [`Count`] ones
/// with a deadline from twice this number on.
pub const TIMED: u32 = 200;

/// When the [`Later`] task of that number is due after it is enqueued.
pub fn delay(number: u32) -> Duration {
    Duration::from_millis(100 + u64::from(number * 37 % 5_000))
}

/// Between two attempts of a timer's [`Flaky`] task.
pub const BACKOFF: Duration = Duration::from_secs(1);

/// Longer than its task takes to be started, and not as much as its clock is set.
const DEADLINE: Duration = Duration::from_secs(600);

/// Enqueues tasks, and says when it does, as an attempt of number 0.
async fn time(broker: &Broker, at_a_time: usize) {
    let _ = parent(|_| ());
    let producer = Producer::builder(broker).timeout(ENQUEUE_TIMEOUT).build().await.unwrap();
    let enqueued = |task| say(&format!("attempt {}", Attempt { task, number: 0, at: uptime(), process: 0 }));
    for number in 0..TIMED {
        enqueued(number);
        producer.enqueue(Later { number }).delay(delay(number)).await.unwrap();
        let (flaky, count) = (TIMED + number, 2 * TIMED + number);
        enqueued(flaky);
        producer.enqueue(Flaky { number: flaky }).retry(RetryPolicy::fixed(BACKOFF)).await.unwrap();
        enqueued(count);
        producer.enqueue(Count { number: count }).deadline_in(DEADLINE).await.unwrap();
        tokio::time::sleep(SOME_TIME * u32::try_from(at_a_time).unwrap()).await;
    }
}

/// Says when tasks start, by a clock that nobody sets.
async fn run_timed(broker: &Broker, at_a_time: usize) {
    let start = |task, ctx: &TaskContext| {
        let attempt = Attempt { task, number: ctx.attempt(), at: uptime(), process: std::process::id() };
        say(&format!("attempt {attempt}"));
    };
    let builder = Consumer::builder(broker)
        .handler_fn(move |task: Later, ctx| async move {
            start(task.number, &ctx);
            Ok(())
        })
        .handler_fn(move |task: Flaky, ctx| async move {
            start(task.number, &ctx);
            if ctx.attempt() <= 3 { Err(TaskError::retry("not yet")) } else { Ok(()) }
        })
        .handler_fn(move |task: Count, ctx| async move {
            start(task.number, &ctx);
            Ok(())
        });
    run(builder, at_a_time).await;
}

/// Since the machine has started, to ten milliseconds: the same in all processes, whatever becomes of their clocks.
fn uptime() -> Duration {
    let text = std::fs::read_to_string("/proc/uptime").unwrap();
    Duration::from_secs_f64(text.split(' ').next().unwrap().parse().unwrap())
}

/// A tick of a schedule.
#[derive(Serialize, Deserialize)]
pub struct Tock;

impl Task for Tock {
    const NAME: &'static str = "tock";
    type Output = ();
}

/// What a scheduler calls itself, before the broker.
pub fn scheduler_name(process: u32) -> String {
    format!("scheduler-{process}")
}

/// Declares the schedules of a plan, fires their ticks while it is the active one, and says when it is.
async fn schedule(broker: &Broker, plan: &Plan) {
    let mut builder = Scheduler::builder(broker).misfire_after(plan.misfire_after);
    for schedule in plan.schedules() {
        builder = builder.schedule(schedule);
    }
    let scheduler = builder.start().await.unwrap();
    let (parent, mut was_active) = (parent(|_| ()), false);
    while !parent.is_cancelled() {
        let is_active = scheduler.is_active();
        if is_active != was_active {
            say(&format!("{} {}", if is_active { "active" } else { "inactive" }, std::process::id()));
            was_active = is_active;
        }
        tokio::time::sleep(WORK).await;
    }
    scheduler.shutdown().await;
}

/// Says which ticks it runs.
async fn tick(broker: &Broker, at_a_time: usize) {
    let builder = Consumer::builder(broker)
        .handler_fn(|_: Tock, ctx| async move {
            say(&format!("ran {}", Ran::now(&ctx)));
            Ok(())
        })
        .prefetch(PREFETCH);
    run(builder, at_a_time).await;
}

/// Takes long for each task, for a broker that lets it hold one for less.
async fn dig(broker: &Broker, at_a_time: usize) {
    let builder = Consumer::builder(broker)
        .handler_fn(|task: Count, ctx| async move {
            say_attempt(task.number, &ctx);
            tokio::time::sleep(LONG).await;
            let word = if ctx.is_redelivered() { "again" } else { "done" };
            say(&format!("{word} {}", task.number));
            Ok(())
        })
        .consumer_timeout(LONG / 3);
    run(builder, at_a_time).await;
}

/// Fails, and says when it tried.
async fn retry(broker: &Broker, at_a_time: usize) {
    let builder = Consumer::builder(broker).handler_fn(|task: Flaky, ctx| async move {
        say_attempt(task.number, &ctx);
        if ctx.attempt() <= 3 { Err(TaskError::retry("not yet")) } else { Ok(()) }
    });
    run(builder, at_a_time).await;
}

/// Ends tasks as their numbers say, and says which are done. Half of them wait for something.
async fn meet_fate(broker: &Broker, at_a_time: usize) {
    let builder = Consumer::builder(broker)
        .handler_fn(|task: Fated, ctx| async move {
            if task.number.is_multiple_of(2) {
                tokio::time::sleep(WORK).await;
            }
            match Fate::of(task.number) {
                Fate::Dies => return Err(TaskError::reject("as its number says")),
                Fate::Retries if ctx.attempt() == 1 => return Err(TaskError::retry("as its number says")),
                Fate::Retries | Fate::Succeeds => {}
            }
            let word = if ctx.is_redelivered() { "again" } else { "done" };
            say(&format!("{word} {}", task.number));
            Ok(())
        })
        .prefetch(PREFETCH);
    run(builder, at_a_time).await;
}

/// Runs tasks until one of them kills this process.
async fn fall_victim(broker: &Broker, at_a_time: usize) {
    let builder = Consumer::builder(broker).handler_fn(|task: Count, _ctx| async move {
        say(&format!("started {}", task.number));
        tokio::time::sleep(SOME_TIME).await;
        if task.number >= POISON {
            std::process::abort();
        }
        say(&format!("done {}", task.number));
        Ok(())
    });
    run(builder, at_a_time).await;
}

/// Runs tasks until the parent closes our standard input.
async fn run(builder: ConsumerBuilder, at_a_time: usize) {
    let consumer = builder.concurrency(at_a_time).start().await.unwrap();
    consumer.run_until(parent(|_| ()).cancelled()).await;
}

/// Says that an attempt starts, and when.
fn say_attempt(task: u32, ctx: &TaskContext) {
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let attempt = Attempt { task, number: ctx.attempt(), at, process: std::process::id() };
    say(&format!("attempt {attempt}"));
}
