//! Tasks are neither lost nor repeated more than they may be: producer and consumer in processes of their own, on a
//! real RabbitMQ, while each of the three and what is between them fails.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "tests"
)]

#[path = "../support/account.rs"]
mod account;
mod broker_restarts;
#[path = "../support/child.rs"]
mod child;
mod clocks;
mod connections_close;
mod consumer_dies;
mod delays;
mod handlers;
mod history;
mod link_is_cut;
mod long;
mod poison;
#[path = "../support/process.rs"]
mod process;
mod process_ends;
mod producer_dies;
mod queue_is_new;
mod retries;
#[path = "../support/run.rs"]
mod run;
mod schedules;
#[path = "../support/ticks.rs"]
mod ticks;
mod watch;
#[path = "../support/worker.rs"]
mod worker;
