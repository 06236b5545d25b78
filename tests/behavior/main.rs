//! What applications see, on the broker inside this process and a paused clock. Needs nothing.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "tests")]

mod bad_input;
mod consume;
mod control;
mod dead_letters;
mod deadline;
mod delay;
mod enqueue;
mod events;
mod heartbeat;
mod lanes;
#[cfg(feature = "limits")]
mod limits;
mod long;
mod mixed_releases;
mod output;
mod progress;
mod quarantine;
mod retry;
mod schedule;
mod schedule_control;
mod schedule_feedback;
mod schedule_policies;
mod shutdown;
#[cfg(feature = "stats")]
mod stats;
mod status;
mod support;
mod timeout;
mod unique;
mod watch;
