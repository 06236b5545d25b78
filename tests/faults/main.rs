//! Tasks are neither lost nor repeated more than they may be: producer and consumer in processes of their own, on a
//! real RabbitMQ, while each of the three and what is between them fails.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "tests"
)]

mod account;
mod broker_restarts;
mod clocks;
mod connections_close;
mod consumer_dies;
mod delays;
mod handlers;
mod history;
mod link_is_cut;
mod long;
mod poison;
mod process;
mod process_ends;
mod producer_dies;
mod queue_is_new;
mod retries;
mod run;
mod schedules;
mod schedules_cluster;
mod ticks;
mod watch;
mod worker;
