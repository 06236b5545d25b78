//! What feedback costs, beside the same work without it; and how soon the end of a task is known: see
//! `benches/README.md`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    unreachable_pub,
    missing_docs,
    dead_code,
    reason = "a bench"
)]

#[path = "throughput/measure.rs"]
mod measure;
#[path = "throughput/work.rs"]
mod work;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use measure::Sample;
use measure::percentiles;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Event;
use taskhare::Kind;
use taskhare::Producer;
use taskhare::TaskId;
use taskhare::testing::TestBroker;
use work::Payload;
use work::fill;

/// The payload of a task, in bytes.
const SIZE: usize = 128;

struct Settings {
    rounds: usize,
    tasks: u64,
    only: Vec<String>,
}

fn settings() -> Settings {
    let mut settings = Settings { rounds: 7, tasks: 40_000, only: Vec::new() };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--rounds" => settings.rounds = arguments.next().unwrap().parse().unwrap(),
            "--tasks" => settings.tasks = arguments.next().unwrap().parse().unwrap(),
            "--bench" => {}
            row => settings.only.push(row.to_owned()),
        }
    }
    settings
}

#[tokio::main]
async fn main() {
    let settings = settings();
    let broker = TestBroker::shared().await.unwrap();
    let version = broker.management().version().await.unwrap();
    println!("RabbitMQ {version}, quorum queues, 128 B, medians of {} rounds", settings.rounds);
    println!("row         prefetch |   events   without   ratio (least, most) |  cpu µs  without   ratio");
    println!("-------------------- | ---------------------------------------- | ------------------------");
    let rows = [("enqueue", 0), ("consume", 256), ("consume", 32), ("consume", 1)];
    let rows = rows.into_iter().chain([("end-to-end", 256), ("end-to-end", 32), ("end-to-end", 1)]);
    for (row, prefetch) in rows {
        let named = format!("{row}-{prefetch}");
        if !settings.only.is_empty() && !settings.only.iter().any(|only| *only == named || only == row) {
            continue;
        }
        // One at a time is slow.
        let tasks = if prefetch == 1 { settings.tasks / 10 } else { settings.tasks };
        let mut samples: [Vec<Sample>; 2] = Default::default();
        for round in 0..settings.rounds {
            // Who goes first takes turns.
            for turn in [round % 2, (round + 1) % 2] {
                let url = broker.fresh_vhost().await.unwrap();
                let vhost = url.clone();
                // In a task, as a service would, and not on the thread that runs `main`.
                let sample = tokio::spawn(async move { run(row, prefetch, &vhost, tasks, turn == 0).await });
                samples[turn].push(sample.await.unwrap());
                broker.remove_vhost(&url).await.unwrap();
            }
        }
        report(row, prefetch, &samples);
    }
    for row in ["known-idle", "known-busy"] {
        if !settings.only.is_empty() && !settings.only.iter().any(|only| only == row) {
            continue;
        }
        let url = broker.fresh_vhost().await.unwrap();
        let vhost = url.clone();
        let tasks = settings.tasks;
        let known = tokio::spawn(async move { known(row == "known-busy", &vhost, tasks).await });
        let [p50, p99] = known.await.unwrap().values();
        println!("{row}: from a handler's end until a reader has it: p50 {p50:.0} µs, p99 {p99:.0} µs");
        broker.remove_vhost(&url).await.unwrap();
    }
}

fn report(row: &str, prefetch: u16, samples: &[Vec<Sample>; 2]) {
    let median = |mut values: Vec<f64>| {
        values.sort_by(f64::total_cmp);
        (values[values.len() / 2], values[0], values[values.len() - 1])
    };
    let column =
        |turn: usize, index: usize| median(samples[turn].iter().map(|it| it.values()[index]).collect()).0;
    // Of the two runs of a round, which had the same neighbours.
    let ratios = |index: usize| {
        let pairs = samples[0].iter().zip(&samples[1]);
        median(pairs.map(|(with, without)| with.values()[index] / without.values()[index]).collect())
    };
    let (ratio, least, most) = ratios(0);
    println!(
        "{row:<11} {prefetch:>8} | {:>8.0}  {:>8.0}  {ratio:>6.2} ({least:>5.2}, {most:>4.2}) | {:>7.2}  {:>7.2}  {:>6.2}",
        column(0, 0),
        column(1, 0),
        column(0, 1),
        column(1, 1),
        ratios(1).0,
    );
}

async fn connect(url: &str, has_events: bool) -> Broker {
    let builder = Broker::builder().url(url);
    let builder = if has_events { builder } else { builder.without_events() };
    builder.connect().await.unwrap()
}

async fn run(row: &str, prefetch: u16, url: &str, tasks: u64, has_events: bool) -> Sample {
    let broker = connect(url, has_events).await;
    let producer = Producer::builder(&broker).queue("default").build().await.unwrap();
    let sample = work::run(row, &broker, &producer, prefetch, SIZE, tasks).await.stop(tasks);
    broker.close().await;
    sample
}

/// From the end of handlers until a reader in another process would know.
async fn known(is_busy: bool, url: &str, tasks: u64) -> Sample {
    let (broker, other) = (connect(url, true).await, connect(url, true).await);
    let producer = Producer::builder(&broker).queue("default").build().await.unwrap();
    let mut events = other.events().kind(Kind::Succeeded).subscribe().await.unwrap();
    let ends = Arc::new(Mutex::new(HashMap::<TaskId, Instant>::new()));
    let noting = ends.clone();
    let consumer = Consumer::builder(&broker)
        .handler_fn(move |_: Payload, ctx| {
            noting.lock().unwrap().insert(ctx.id(), Instant::now());
            async { Ok(()) }
        })
        .concurrency(64)
        .start()
        .await
        .unwrap();
    let count = if is_busy { tasks } else { 500 };
    let reading = tokio::spawn(async move {
        let mut latencies = Vec::new();
        while (latencies.len() as u64) < count {
            if let Some(Event::Task(event)) = events.next().await {
                latencies.push(ends.lock().unwrap()[&event.id].elapsed());
            }
        }
        latencies
    });
    if is_busy {
        fill(&producer, SIZE, count).await;
    } else {
        for number in 0..count {
            producer.enqueue(Payload::new(number, SIZE)).await.unwrap();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    let latencies = reading.await.unwrap();
    consumer.shutdown().await;
    broker.close().await;
    other.close().await;
    percentiles(latencies)
}
