//! What applications see, on the broker inside this process and a paused clock. Needs nothing.

#![allow(clippy::unwrap_used, clippy::panic, unreachable_pub, reason = "tests")]

mod bad_input;
mod consume;
<<<<<<< HEAD
mod delay;
=======
mod deadline;
>>>>>>> 580c9d8 (Show on a paused clock where deadlines, timeouts and policies end an attempt)
mod enqueue;
mod output;
mod retry;
mod shutdown;
mod support;
mod timeout;
