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
#![allow(dead_code, reason = "in the making")]

mod consumer;
mod crew;
mod fault;
mod ground;
mod history;
mod load;
#[path = "../support/process.rs"]
mod process;
mod producer;
mod recorder;
mod scenario;
mod scheduler;
mod sweep;
mod worker;

use std::time::Duration;

use taskhare::testing::Result;
use taskhare::testing::TestBroker;

use fault::Harm;
use ground::Ground;
use scenario::Scenario;

#[tokio::test(flavor = "multi_thread")]
async fn one() -> Result<()> {
    let ground = Ground::Node(TestBroker::start().await?);
    let name = std::env::var("TASKHARE_CHAOS_FAULT").unwrap_or("consumer killed".to_owned());
    let harm = Harm::parse(&name).unwrap();
    let scenario =
        Scenario { name: name.clone(), seed: 1, rate: 60, time: Duration::from_secs(12), harms: vec![harm] };
    let outcome = scenario.play(&ground).await;
    println!("{} records in {}", outcome.records.len(), outcome.history.display());
    println!("{:#?}", outcome.panics);
    Ok(())
}
