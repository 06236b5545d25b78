//! How long after the end of its handler an output is there: see `benches/README.md`.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a bench")]

use std::sync::LazyLock;
use std::time::Duration;
use std::time::Instant;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::Task;
use taskhare::testing::TestBroker;
use tokio::task::JoinSet;

/// Both ends are in this process, and share its clock.
static STARTED: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Ends after a while.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Wait {
    time: Duration,
}

impl Task for Wait {
    const NAME: &'static str = "wait";
    /// When its handler ended, since this process has started.
    type Output = Duration;
}

struct Settings {
    waiters: usize,
    rounds: usize,
    /// How long a handler takes at least and at most, in milliseconds.
    times: (u64, u64),
    without_events: bool,
}

fn settings() -> Settings {
    let mut settings = Settings { waiters: 1_000, rounds: 5, times: (1_000, 5_000), without_events: false };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().unwrap().parse::<u64>().unwrap();
        match argument.as_str() {
            "--waiters" => settings.waiters = number() as usize,
            "--rounds" => settings.rounds = number() as usize,
            "--longest" => settings.times.1 = number().max(settings.times.0),
            "--without-events" => settings.without_events = true,
            _ => {}
        }
    }
    settings
}

#[tokio::main]
async fn main() {
    let settings = settings();
    LazyLock::force(&STARTED);
    let lab = TestBroker::shared().await.unwrap();
    println!(
        "RabbitMQ {}, quorum queues; ms from the end of the handler to the output",
        lab.management().version().await.unwrap()
    );
    let url = lab.fresh_vhost().await.unwrap();
    tokio::spawn(run(url, settings)).await.unwrap();
}

async fn connect(url: &str, settings: &Settings) -> Broker {
    let builder = Broker::builder().url(url);
    let builder = if settings.without_events { builder.without_events() } else { builder };
    builder.connect().await.unwrap()
}

async fn run(url: String, settings: Settings) {
    // Over connections of their own, as in two processes.
    let (theirs, ours) = (connect(&url, &settings).await, connect(&url, &settings).await);
    let consumer = Consumer::builder(&theirs)
        .concurrency(settings.waiters.max(1))
        .handler_fn(|wait: Wait, _| async move {
            tokio::time::sleep(wait.time).await;
            Ok(STARTED.elapsed())
        })
        .start()
        .await
        .unwrap();
    let producer = Producer::builder(&ours).queue("default").build().await.unwrap();
    ask(&producer, (10, 10)).await;

    let mut late = Vec::new();
    for _ in 0..200 {
        late.push(ask(&producer, (10, 10)).await);
    }
    tell("one waiter", late);

    let (times, rounds) = (settings.times, settings.rounds);
    let mut waiters = JoinSet::new();
    for _ in 0..settings.waiters {
        let producer = producer.clone();
        waiters.spawn(async move {
            let mut late = Vec::new();
            for _ in 0..rounds {
                late.push(ask(&producer, times).await);
            }
            late
        });
    }
    let late = waiters.join_all().await.concat();
    tell(&format!("{} waiters", settings.waiters), late);
    consumer.shutdown().await;
    theirs.close().await;
    ours.close().await;
}

/// How late the output of a task is that takes so many milliseconds, at least and at most.
async fn ask(producer: &Producer, (shortest, longest): (u64, u64)) -> Duration {
    let time = Duration::from_millis(fastrand::u64(shortest..=longest));
    let ended = producer.enqueue(Wait { time }).await.unwrap().output().await.unwrap();
    STARTED.elapsed() - ended
}

fn tell(what: &str, mut late: Vec<Duration>) {
    late.sort();
    let at = |part: f64| late[((late.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    println!(
        "{what:<14}{:>7} outputs  p50 {:.2}  p90 {:.2}  p99 {:.2}  max {:.2}",
        late.len(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0)
    );
}
