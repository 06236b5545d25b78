//! Background tasks for Rust services on RabbitMQ: enqueue, run, retry, schedule.
//!
//! A [`Task`] is a payload with a name. A [`Producer`] enqueues it, and when that returns `Ok` the broker has it,
//! durably. A [`Consumer`] runs it with your [`TaskHandler`], at least once, whatever dies in between: a message is
//! acknowledged only after what follows it (an output, the next attempt, a dead letter) is safe. A [`Broker`] is the
//! handle to RabbitMQ, or to its double inside this process.
//!
//! ```
//! use taskhare::{Broker, Consumer, Producer, Task};
//!
//! #[derive(serde::Serialize, serde::Deserialize)]
//! struct Resize {
//!     image: String,
//!     width: u32,
//! }
//!
//! impl Task for Resize {
//!     const NAME: &'static str = "resize";
//!     type Output = String;
//! }
//!
//! #[tokio::main]
//! async fn main() -> taskhare::Result<()> {
//!     let broker = Broker::from_env().await?; // AMQP_URL, or inside this process when it is unset
//!     let consumer = Consumer::builder(&broker)
//!         .handler_fn(|task: Resize, _ctx| async move { Ok(format!("{}@{}", task.image, task.width)) })
//!         .start()
//!         .await?;
//!     let producer = Producer::builder(&broker).build().await?;
//!
//!     let task = producer.enqueue(Resize { image: "hare.png".into(), width: 640 }).await?;
//!     assert_eq!(task.output().await?, "hare.png@640");
//!     consumer.shutdown().await;
//!     Ok(())
//! }
//! ```
//!
//! # When it fails
//!
//! In a handler, `?` on any error means: try again, by the [`RetryPolicy`]. [`TaskError::reject`] gives up,
//! [`TaskError::retry_after`] says when. What has failed for good, cannot be decoded or has no handler is in the
//! queue's dead letters, with the [`DeadReason`] and the error. A crash can run a task twice; [`TaskContext::id`] stays
//! the same.
//!
//! # When it takes too long
//!
//! A task with a [`deadline`](Enqueue::deadline) never starts after it: enqueuing refuses it, the broker takes it out
//! of its queue, the consumer does not start it, and no retry is planned beyond it. What runs at its deadline, or for
//! longer than its [`run_timeout`](ConsumerBuilder::run_timeout), is told by [`TaskContext::cancellation`], and dropped
//! after a grace period. Each such end is a dead letter with its reason, or a failed attempt.
//!
//! # When it recurs
//!
//! A [`Schedule`] enqueues a task at each tick of a [`Cadence`]: an interval, a cron expression, or once. Any number of
//! [`Scheduler`]s stand by, one is active; when it dies another fires the next tick, without a database, and no tick is
//! missed or fired twice. [`Broker::schedules`] lists, pauses, triggers and removes them.
//!
//! # What becomes of it
//!
//! [`Enqueued::output`] waits for the output, or for the typed reason why there is none. From any process,
//! [`Broker::status`] says where a task stands by its id, [`Broker::follow`] tells it as it changes, with what its handler
//! says by [`TaskContext::progress`], and [`Broker::events`] is a stream of all that happens to tasks and consumers, now or
//! since a time of the last seven days. The active [`Scheduler`] watches the same: it tells of lost and overdue tasks and
//! of silent consumers ([`on_alert`](SchedulerBuilder::on_alert)), and enqueues failed tasks again by [`Redrive`].
//!
//! # Testing handlers
//!
//! [`Broker::in_process`] keeps the same contract as RabbitMQ (one suite runs against both) on tokio's clock: under
//! `#[tokio::test(start_paused = true)]` an hour of backoff takes no time.
//!
//! # Features
//!
//! None by default. `limits`: rate limits and circuit breakers for each type of task
//! (`ConsumerBuilder::rate_limit`, `circuit_breaker`). `stats`: figures of what became of tasks and how long it took, from
//! their events, as JSON and CSV (`taskhare::stats`). `otel`: traces from the enqueuer to the handler, by OpenTelemetry;
//! `metrics`: counters, gauges and histograms; both, and what is logged, are in [`telemetry`]. `management`: a client of
//! RabbitMQ's management API, which closes the connections of consumers that hang. `full`: all of these.
//! `tls`: `amqps://`, by rustls (`taskhare::Tls`).
//! `testing`: a real RabbitMQ for tests, with faults;
//! `testcontainers`: the same, from Docker.
//!
//! Do not build with `panic = "abort"`: panics of handlers are caught, and the AMQP client relies on unwinding as well.
//!
//! # Layout
//!
//! Top down: [`Producer`] and [`Consumer`] (`consumer/mod.rs` draws the life of a delivery), [`Broker`], then the seam,
//! `transport`, with its two implementations. `ARCHITECTURE.md` has the map.

mod broker;
mod cadence;
mod clock;
mod consumer;
mod control;
mod dead;
mod envelope;
mod error;
mod event;
mod events;
mod failures;
#[cfg(feature = "testing")]
#[doc(hidden)]
pub mod fuzzing;
mod handler;
mod hook;
mod inbox;
mod instance;
mod journal;
mod lane;
mod lock;
mod log;
#[cfg(feature = "management")]
pub mod management;
mod message;
mod name;
mod outcome;
mod producer;
mod progress;
mod reply;
mod retry;
mod route;
mod schedule;
mod scheduler;
mod schedules;
#[cfg(feature = "stats")]
pub mod stats;
mod task;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
mod tick;
#[cfg(feature = "tls")]
mod tls;
#[doc(hidden)]
pub mod topology;
#[doc(hidden)]
pub mod transport;
mod unique;
mod url;
mod watch;

pub use async_trait::async_trait;
pub use tokio_util::sync::CancellationToken;

pub use broker::Broker;
pub use broker::BrokerBuilder;
pub use cadence::Cadence;
#[cfg(feature = "limits")]
pub use consumer::CircuitBreaker;
pub use consumer::Consumer;
pub use consumer::ConsumerBuilder;
pub use consumer::Fate;
pub use consumer::QueueSettings;
#[cfg(feature = "limits")]
pub use consumer::RateLimit;
pub use consumer::ShutdownEntry;
pub use consumer::ShutdownReceipt;
pub use dead::DeadLetter;
pub use dead::DeadLetters;
pub use dead::Requeue;
pub use error::Error;
pub use error::Result;
pub use event::ConsumerChange;
pub use event::ConsumerEvent;
pub use event::Event;
pub use event::Heartbeat;
pub use event::Kind;
pub use event::Progress;
pub use event::QueueLoad;
pub use event::RunningTask;
pub use event::Standing;
pub use event::TaskChange;
pub use event::TaskEvent;
pub use event::TaskState;
pub use events::EventStream;
pub use events::Events;
pub use events::Follow;
pub use events::Lookup;
pub use failures::FailedAttempt;
pub use handler::CancelReason;
pub use handler::TaskContext;
pub use handler::TaskError;
pub use handler::TaskHandler;
pub use lane::Lane;
pub use lane::Priority;
pub use outcome::DeadReason;
pub use outcome::Outcome;
pub use producer::DeclareSchedule;
pub use producer::Enqueue;
pub use producer::EnqueueAll;
pub use producer::Enqueued;
pub use producer::OnDuplicate;
pub use producer::Producer;
pub use producer::ProducerBuilder;
pub use retry::RetryPolicy;
pub use schedule::LastTick;
pub use schedule::Misfire;
pub use schedule::Overlap;
pub use schedule::Schedule;
pub use scheduler::Redrive;
pub use scheduler::Scheduler;
pub use scheduler::SchedulerBuilder;
pub use schedules::ScheduleStatus;
pub use schedules::Schedules;
pub use task::ParseTaskIdError;
pub use task::Task;
pub use task::TaskId;
pub use tick::Tick;
#[cfg(feature = "tls")]
pub use tls::Tls;
pub use topology::Replication;
pub use watch::Alert;
pub use watch::ConsumerState;
pub use watch::Presence;
pub use watch::Thresholds;

/// The README's program, as a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
