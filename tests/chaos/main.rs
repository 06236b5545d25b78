//! Everything at once, while everything fails: a seeded load, faults on a timetable, and a checker that is told nothing
//! but what was done.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "tests"
)]

mod checker;
#[path = "../support/child.rs"]
mod child;
mod consumer;
mod crew;
mod field;
mod ground;
mod harm;
mod history;
mod load;
mod producer;
mod recorder;
mod scenario;
mod scheduler;
mod sweep;
mod table;
mod worker;

use std::sync::Arc;
use std::time::Duration;

use taskhare::testing::TestBroker;
use taskhare::testing::TestCluster;

use checker::Verdict;
use ground::Ground;
use harm::Harm;
use harm::Needs;
use load::Load;
use scenario::Scenario;
use table::Row;

/// What a run is made of, but for its faults; another number for each run if it is not set.
const SEED: &str = "TASKHARE_CHAOS_SEED";
/// Of the matrix, only these faults, with commas between them.
const FAULT: &str = "TASKHARE_CHAOS_FAULT";
/// How long `everything` is to last.
const MINUTES: &str = "TASKHARE_CHAOS_MINUTES";
/// A file to be judged again.
const HISTORY: &str = "TASKHARE_CHAOS_HISTORY";

/// Of the run that everybody makes, so that whoever breaks something finds the same.
const DEFAULT_SEED: u64 = 6;
/// Tasks a second, and for how long, where there is one fault; where a node of a cluster fails, which takes longer.
const RATE: u32 = 80;
const TIME: Duration = Duration::from_secs(12);
const CLUSTER_RATE: u32 = 40;
const CLUSTER_TIME: Duration = Duration::from_secs(36);
/// What a fault has for itself where there are several.
const SLOT: Duration = Duration::from_secs(8);

fn seed(default: u64) -> u64 {
    std::env::var(SEED).map_or(default, |seed| seed.parse().expect("a number"))
}

/// What everybody's run meets.
const SELECTION: [&str; 8] = [
    "task aborts its process",
    "consumer killed",
    "connections closed",
    "scheduler frozen",
    "broker killed",
    "link swallows all",
    "memory alarm",
    "scheduler killed",
];

/// A run with several faults, one after the other. Small enough for each change.
#[tokio::test(flavor = "multi_thread")]
async fn selection() {
    let harms = SELECTION.iter().filter_map(|name| Harm::find(name)).collect();
    let ground = Ground::Node(TestBroker::start().await.unwrap());
    run(
        &ground,
        "selection",
        seed(DEFAULT_SEED),
        harms,
        "cargo test --features full,testing --test chaos selection",
    )
    .await;
}

/// Each fault alone.
#[ignore = "takes half an hour: ./dev chaos"]
#[tokio::test(flavor = "multi_thread")]
async fn matrix() {
    let seed = seed(fastrand::u64(..1 << 32));
    let chosen = std::env::var(FAULT).unwrap_or_default();
    let chosen: Vec<Harm> = chosen
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| Harm::find(name).unwrap_or_else(|| panic!("no fault {name:?}; there are {}", names())))
        .collect();
    let chosen = if chosen.is_empty() { Harm::ALL.to_vec() } else { chosen };
    let (mut rows, mut bad, mut version) = (Vec::new(), Vec::new(), String::new());
    for needs in [Needs::Node, Needs::Cluster] {
        let harms: Vec<Harm> = chosen.iter().copied().filter(|harm| harm.needs() == needs).collect();
        if harms.is_empty() {
            continue;
        }
        let (ground, rate, time) = match needs {
            Needs::Node => (Ground::Node(TestBroker::start().await.unwrap()), RATE, TIME),
            Needs::Cluster => {
                (Ground::Cluster(TestCluster::start().await.unwrap()), CLUSTER_RATE, CLUSTER_TIME)
            }
        };
        let ground = Arc::new(ground);
        version = ground.management().version().await.unwrap();
        for harm in harms {
            let again = format!("{SEED}={seed} ./dev chaos {}", harm.name.replace(' ', "-"));
            println!("\n== {}", harm.name);
            let (scenario, ground) = (Scenario::new(harm.name, seed, rate, time, vec![harm]), ground.clone());
            // A run that breaks off leaves the others their turn.
            let Ok(outcome) = tokio::spawn(async move { scenario.play(&ground).await }).await else {
                println!("broken off; again: {again}");
                bad.push(harm.name);
                continue;
            };
            outcome.keep(&again);
            let row = Row { fault: harm.name, verdict: &outcome.verdict }.to_string();
            println!("{row}");
            rows.push(row);
            if !outcome.is_good() {
                bad.push(harm.name);
            }
        }
    }
    println!("\nRabbitMQ {version}, seed {seed}, {}:\n\n{}\n{}", today(), table::HEAD, rows.join("\n"));
    assert!(bad.is_empty(), "not as promised under: {}", bad.join(", "));
}

/// Faults by chance, for as long as one likes.
#[ignore = "takes TASKHARE_CHAOS_MINUTES, 10 by default"]
#[tokio::test(flavor = "multi_thread")]
async fn everything() {
    let seed = seed(fastrand::u64(..1 << 32));
    let minutes = std::env::var(MINUTES).map_or(10, |minutes| minutes.parse().expect("a number"));
    let mut random = fastrand::Rng::with_seed(seed);
    let all: Vec<Harm> = Harm::ALL.into_iter().filter(|harm| harm.needs() == Needs::Node).collect();
    let count = (Duration::from_secs(60 * minutes).as_secs() / SLOT.as_secs()).max(1);
    let harms = (0..count).map(|_| all[random.usize(..all.len())]).collect();
    let ground = Ground::Node(TestBroker::start().await.unwrap());
    let again =
        format!("{SEED}={seed} {MINUTES}={minutes} cargo test … --test chaos everything -- --ignored");
    run(&ground, "everything", seed, harms, &again).await;
}

async fn run(ground: &Ground, name: &str, seed: u64, harms: Vec<Harm>, again: &str) {
    let time = SLOT * (harms.len() as u32 + 2);
    let outcome = Scenario::new(name, seed, RATE, time, harms).play(ground).await;
    outcome.keep(&format!("{SEED}={seed} {again}"));
    println!("{}\n{}", table::HEAD, Row { fault: name, verdict: &outcome.verdict });
    assert!(outcome.is_good(), "not as promised: see above");
}

/// For whoever doubts a verdict, or mends the checker.
#[ignore = "judges the file TASKHARE_CHAOS_HISTORY again"]
#[test]
fn judge() {
    let text = std::fs::read_to_string(std::env::var(HISTORY).expect(HISTORY)).unwrap();
    let records = history::read(&text).unwrap();
    let verdict = Verdict::of(&Load::of(&records).unwrap(), &records, Scenario::scope(false));
    println!("{verdict}");
    assert!(verdict.is_clean());
}

fn names() -> String {
    Harm::ALL.map(|harm| harm.name.replace(' ', "-")).join(", ")
}

/// `2026-11-23`.
fn today() -> String {
    let date = std::process::Command::new("date").arg("+%F").output().unwrap();
    String::from_utf8_lossy(&date.stdout).trim().to_owned()
}
