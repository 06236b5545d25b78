//! [`Consumer`]: where tasks are run.
//!
//! The life of a delivery:
//!
//! ```text
//!  urgent ─┐                       slot free?             ┌─ Ok ──────────► reply, if wanted ─► ack
//!  normal ─┼─► intake ─► dispatcher ────────► executor ───┼─ Err, panic ──► publish the next attempt, confirmed ─► ack
//!  low    ─┘   │  ▲      one loop per queue   one attempt └─ reject, last, undecodable,
//!              ▼  │ due                                      late … ──────► publish a dead letter, confirmed ─► ack
//!              held: not due yet
//! ```
//!
//! - [`intake`] has what was delivered and not started: at most `prefetch` for each lane.
//! - [`held`] keeps what is not due yet, and [`put_back`] returns to the delay wheel what is not due for long;
//!   [`skew`] sees to the clocks.
//! - [`ready`] is what of that may start, of one lane, the most pressing first.
//! - [`dispatcher`] waits for a slot, takes the next delivery, starts an attempt.
//! - [`gate`] keeps waiting what a rate limit or a circuit breaker of its type (`limits`, a feature) does not let
//!   start.
//! - [`suspicion`] decides, purely, about what came back without an end; [`quarantine`] takes it in, and the [`ward`]
//!   starts it there, apart from all others.
//! - [`pace`] spares attempts that take microseconds a task of their own.
//! - [`renewal`] keeps what is running, and [`intake`] what waits, from being held for longer than the broker allows:
//!   [`term`] says when, [`lease`] is where long tasks are held.
//! - [`executor`] is one attempt as a straight line; [`attempt`] runs its handler within deadline and timeout;
//!   [`settle`] decides, purely, what becomes of its task.
//! - [`sequel`] publishes what follows, and acknowledges then.
//! - [`feedback`] tells of attempts; the end of a task is acknowledged after it is told.
//! - [`beat`] tells of the consumer itself, from what [`tally`] counts.
//! - [`registry`] finds the handler, and is the only place where types are erased.
//!
//! A message is acknowledged last, after what follows it is safe on the broker. So a crash at any instant repeats a
//! task and never loses one.

mod attempt;
mod beat;
mod builder;
mod dispatcher;
mod executor;
mod feedback;
mod gate;
mod held;
mod intake;
mod lease;
#[cfg(feature = "limits")]
mod limits;
mod pace;
mod put_back;
mod quarantine;
mod ready;
mod receipt;
mod registry;
mod renewal;
mod sequel;
mod settle;
mod skew;
mod suspicion;
mod tally;
mod term;
mod ward;

use std::future::Future;
use std::sync::Arc;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::sync::DropGuard;

use crate::broker::Broker;
use beat::Beating;
use lease::LeaseQueue;

pub use builder::ConsumerBuilder;
pub use builder::QueueSettings;
#[cfg(feature = "limits")]
pub use limits::CircuitBreaker;
#[cfg(feature = "limits")]
pub use limits::RateLimit;
pub use receipt::Fate;
pub use receipt::ShutdownEntry;
pub use receipt::ShutdownReceipt;

/// Runs tasks until it is shut down. Survives every loss of its connection by itself.
///
/// ```
/// # use taskhare::{Broker, Consumer, Task, TaskContext, TaskError};
/// # #[derive(serde::Serialize, serde::Deserialize)] struct Greet { name: String }
/// # impl Task for Greet { const NAME: &'static str = "greet"; type Output = (); }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> taskhare::Result<()> {
/// # let broker = Broker::in_process();
/// let consumer = Consumer::builder(&broker)
///     .handler_fn(|task: Greet, _ctx| async move {
///         println!("Hello, {}!", task.name);
///         Ok(())
///     })
///     .start()
///     .await?;
/// // …
/// let receipt = consumer.shutdown().await;
/// println!("{} finished, {} unstarted", receipt.finished(), receipt.unstarted());
/// # Ok(()) }
/// ```
///
/// Dropped without [`shutdown`](Self::shutdown), it shuts down in the background.
#[derive(Debug)]
#[must_use = "dropping a consumer shuts it down"]
pub struct Consumer {
    stop: DropGuard,
    dispatchers: JoinSet<Vec<ShutdownEntry>>,
    leases: Arc<LeaseQueue>,
    /// `None`: nobody wants to know.
    beating: Option<Beating>,
}

impl Consumer {
    /// A consumer of tasks from `broker`.
    pub fn builder(broker: &Broker) -> ConsumerBuilder {
        ConsumerBuilder::new(broker)
    }

    fn new(
        stop: CancellationToken,
        dispatchers: JoinSet<Vec<ShutdownEntry>>,
        leases: Arc<LeaseQueue>,
        beating: Option<Beating>,
    ) -> Self {
        Self { stop: stop.drop_guard(), dispatchers, leases, beating }
    }

    /// Takes no more tasks, gives back what was not started, lets what runs finish within the grace period
    /// ([`shutdown_grace`](ConsumerBuilder::shutdown_grace)), stops the rest, and tells what became of each task.
    ///
    /// Handlers hear of it by [`TaskContext::cancelled`](crate::TaskContext::cancelled). What is stopped, or stops
    /// early, goes back to its queue with its attempts uncounted.
    pub async fn shutdown(mut self) -> ShutdownReceipt {
        drop(self.stop);
        let mut receipt = ShutdownReceipt::default();
        while let Some(entries) = self.dispatchers.join_next().await {
            receipt.tasks.extend(entries.unwrap_or_default());
        }
        self.leases.close().await;
        if let Some(beating) = self.beating {
            beating.stop(&receipt).await;
        }
        receipt
    }

    /// Runs until `stop` is done, then [shuts down](Self::shutdown).
    pub async fn run_until(self, stop: impl Future) -> ShutdownReceipt {
        stop.await;
        self.shutdown().await
    }
}
