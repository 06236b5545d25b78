//! How late delayed tasks start, and what it costs to have them wait: see `benches/README.md`.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a bench")]

use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::Task;
use taskhare::testing::TestBroker;
use tokio::sync::mpsc;

const SHORTEST: Duration = Duration::from_millis(50);
const LONGEST: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_secs(60 * 60);
/// How many are enqueued at once of those that only wait.
const PORTION: usize = 2_000;

#[derive(Debug, serde::Serialize, serde::Deserialize)]
struct Note {
    due: SystemTime,
}

impl Task for Note {
    const NAME: &'static str = "note";
    type Output = ();
}

struct Settings {
    tasks: usize,
    waiting: usize,
}

fn settings() -> Settings {
    let mut settings = Settings { tasks: 2_000, waiting: 200_000 };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--tasks" => settings.tasks = arguments.next().unwrap().parse().unwrap(),
            "--waiting" => settings.waiting = arguments.next().unwrap().parse().unwrap(),
            _ => {}
        }
    }
    settings
}

#[tokio::main]
async fn main() {
    let settings = settings();
    let lab = TestBroker::shared().await.unwrap();
    println!("RabbitMQ {}, quorum queues", lab.management().version().await.unwrap());
    // In tasks, as a service would, and not on the thread that runs `main`.
    let url = lab.fresh_vhost().await.unwrap();
    tokio::spawn(lateness(url.clone(), settings.tasks)).await.unwrap();
    tokio::spawn(waiting(url, settings.waiting)).await.unwrap();
}

/// Of tasks whose delays are spread over all that is short.
async fn lateness(url: String, tasks: usize) {
    let broker = Broker::connect(&url).await.unwrap();
    let (started, mut starts) = mpsc::unbounded_channel();
    let consumer = Consumer::builder(&broker)
        .handler_fn(move |note: Note, _| {
            started.send((note.due, SystemTime::now())).unwrap();
            async { Ok(()) }
        })
        .start()
        .await
        .unwrap();
    let producer = Producer::builder(&broker).queue("default").build().await.unwrap();
    for _ in 0..tasks {
        let span = (LONGEST - SHORTEST).as_millis() as u64;
        let due = SystemTime::now() + SHORTEST + Duration::from_millis(fastrand::u64(0..=span));
        producer.enqueue(Note { due }).at(due).await.unwrap();
    }
    let (mut early, mut late) = (0, Vec::new());
    for _ in 0..tasks {
        let (due, start) = starts.recv().await.unwrap();
        early += usize::from(start < due);
        late.push(start.duration_since(due).unwrap_or_default());
    }
    late.sort();
    let at = |part: f64| late[((late.len() - 1) as f64 * part) as usize].as_secs_f64() * 1e3;
    println!("{tasks} tasks, delays from {SHORTEST:?} to {LONGEST:?}");
    println!("  early     {early}");
    println!("  late, ms  p50 {:.2}  p90 {:.2}  p99 {:.2}  max {:.2}", at(0.5), at(0.9), at(0.99), at(1.0));
    consumer.shutdown().await;
    broker.close().await;
}

/// Of tasks that only wait: what they cost this process.
async fn waiting(url: String, tasks: usize) {
    let broker = Broker::connect(&url).await.unwrap();
    let producer = Producer::builder(&broker).queue("default").build().await.unwrap();
    let _consumer =
        Consumer::builder(&broker).handler_fn(|_: Note, _| async { Ok(()) }).start().await.unwrap();
    let enqueue = async |count: usize| {
        let due = SystemTime::now() + HOUR;
        for task in producer.enqueue_all((0..count).map(move |_| Note { due })).at(due).await {
            task.unwrap();
        }
    };
    enqueue(PORTION.min(tasks)).await;
    let (before, begun) = (resident(), Instant::now());
    let mut left = tasks.saturating_sub(PORTION);
    while left > 0 {
        enqueue(PORTION.min(left)).await;
        left = left.saturating_sub(PORTION);
    }
    let (after, took) = (resident(), begun.elapsed());
    println!(
        "{} tasks wait for an hour, enqueued in {:.1} s",
        broker.delayed().await.unwrap(),
        took.as_secs_f64()
    );
    println!("  this process, MiB  {before:.1} after the first {PORTION}, {after:.1} after all");
    broker.close().await;
}

/// What this process has in memory, in MiB. From Linux; zero elsewhere.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}
