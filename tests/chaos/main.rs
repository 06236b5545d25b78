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

mod checker;
mod history;
mod load;
