//! Three real RabbitMQ nodes of which some fail: no confirmed task is lost, and work goes on where there is a majority.
//!
//! The tests share one cluster and have it one after the other: see [`cluster`].

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    dead_code,
    unreachable_pub,
    reason = "tests"
)]

#[path = "../support/account.rs"]
mod account;
#[path = "../support/child.rs"]
mod child;
mod cluster;
mod hosts;
mod mirrors;
mod nodes;
mod outputs;
mod partition;
mod placement;
#[path = "../support/process.rs"]
mod process;
#[path = "../support/run.rs"]
mod run;
mod schedules;
mod streams;
#[path = "../support/ticks.rs"]
mod ticks;
#[path = "../support/worker.rs"]
mod worker;
