//! taskhare beside a raw amqprs program that gives the same guarantees: see `benches/README.md`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    unreachable_pub,
    missing_docs,
    reason = "a bench"
)]

mod measure;
mod ours;
mod raw;
mod work;

use measure::Sample;
use taskhare::testing::TestBroker;

/// The same for both.
pub const WINDOW: usize = 512;
pub const PREFETCH: u16 = 256;

struct Settings {
    rounds: usize,
    tasks: u64,
    json: bool,
    /// For a profiler: run taskhare's side alone.
    alone: bool,
    only: Vec<String>,
}

fn settings() -> Settings {
    let mut settings = Settings { rounds: 5, tasks: 60_000, json: false, alone: false, only: Vec::new() };
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--alone" => settings.alone = true,
            "--json" => settings.json = true,
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
    if !settings.json {
        println!(
            "RabbitMQ {version}, quorum queues, {} tasks, medians of {} rounds",
            settings.tasks, settings.rounds
        );
        println!("{}", measure::HEADING);
    }
    let rows = ["enqueue", "consume", "end-to-end", "latency"];
    assert!(settings.only.iter().all(|only| rows.contains(&only.as_str())), "rows are {rows:?}");
    for row in rows {
        if !settings.only.is_empty() && !settings.only.iter().any(|only| only == row) {
            continue;
        }
        for size in [128, 1024] {
            let mut samples: [Vec<Sample>; 2] = Default::default();
            for round in 0..settings.rounds {
                // Who goes first takes turns.
                for turn in [round % 2, (round + 1) % 2] {
                    let turn = if settings.alone { 0 } else { turn };
                    let url = broker.fresh_vhost().await.unwrap();
                    let (vhost, tasks) = (url.clone(), settings.tasks);
                    // Both in a task, as a service would, and not on the thread that runs `main`.
                    let sample = tokio::spawn(async move {
                        match turn {
                            0 => ours::run(row, &vhost, size, tasks).await,
                            _ => raw::run(row, &vhost, size, tasks).await,
                        }
                    });
                    samples[turn].push(sample.await.unwrap());
                    broker.remove_vhost(&url).await.unwrap();
                }
            }
            if settings.alone {
                samples[1] = samples[0].clone();
            }
            measure::report(row, size, &samples[0], &samples[1], settings.json);
        }
    }
}
