//! What a process tells of itself: logs, spans, traces, measures.
//!
//! # Logs and spans
//!
//! Everything goes to [`tracing`], with targets that begin with `taskhare`; `RUST_LOG=taskhare=debug` shows all. Names
//! and fields are kept stable as the API is; messages and the rest of a target are not.
//!
//! | span | level | around | fields |
//! | --- | --- | --- | --- |
//! | `task` | INFO | one attempt, until what follows it is stored | `task.id`, `task.name`, `queue`, `attempt`; at its end `outcome` |
//! | `enqueue` | DEBUG | enqueuing one task, until it is confirmed | `task.name`, `queue`; at its end `task.id` or `error` |
//! | `enqueue_all` | DEBUG | enqueuing many | `task.name`, `queue` |
//!
//! Their target is `taskhare`. A span `task` has no parent in its process. Where nobody wants a span there is none, which
//! costs a look at one number.
//!
//! | level | what is logged |
//! | --- | --- |
//! | ERROR | a task is dead; something is lost or cannot be done without somebody's help |
//! | WARN | an attempt failed, a task expired, a connection was lost: what is dealt with, and should not be frequent |
//! | INFO | connected, a scheduler is active, a schedule was changed, a task was cancelled: rare and expected |
//! | DEBUG | what belongs to normal work |
//!
//! A task that succeeds is not logged.
//!
//! | field | what it is |
//! | --- | --- |
//! | `task.id`, `task.name` | the task's id and name |
//! | `queue` | the task's queue, as it was named when enqueuing |
//! | `attempt` | the number of the attempt, from 1 |
//! | `outcome` | `succeeded`, `retried`, `dead`, `expired`, `cancelled` or `handed-back` |
//! | `reason` | why: of a dead or expired task as [`DeadReason`](crate::DeadReason) is written, elsewhere in words |
//! | `error` | what failed, in words |
//! | `wait` | how long until the next try |
//! | `tries` | how many tries there were to connect |
//! | `message.id`, `message.kind` | of a message that is not a task: its `message-id` and `type` |
//! | `schedule`, `sequence`, `cadence` | a schedule's name, the number of a tick, when its ticks are |
//! | `schedules` | how many there are |
//! | `breaker`, `failures` | the new state of a circuit breaker, and after how many failures |
//! | `clock.difference` | how far this machine's clock is from the broker's |
//! | `broker.address`, `broker.vhost` | to whom we are connected |
//! | `broker.role` | which of our connections: `publish`, `consume`, `read` (dead letters, say) or `schedule` |
//! | `broker.queue` | a queue or stream, as RabbitMQ's console shows it |
//! | `broker.consumer` | a consumer, by its tag |
//! | `broker.code` | the code with which the broker closed something |
//! | `action` | what was tried |
//! | `missed` | what an application was not told, because it does not keep up |
//! | `count` | how many dead letters were redriven |
//! | `connections`, `closed` | of a consumer that is cut off: its connections, by name, and how many the broker has closed |
//! | `alert` | what the scheduler has noticed: an [`Alert`](crate::Alert) |
//!
//! # Traces
//!
//! With the feature `otel` a trace goes from the enqueuer through the broker to the handler, as [W3C trace context] in
//! the task's headers `traceparent` and `tracestate`. It needs a subscriber with the layer of `tracing-opentelemetry` on
//! both sides (see `examples/tracing.rs`); a propagator need not be set.
//!
//! - Enqueuing writes the context of the span `enqueue` or `enqueue_all`; with those filtered out, of the span around
//!   it; without a span, OpenTelemetry's own current context. Outside of a trace nothing is written: a task that needs no
//!   header still has none.
//! - The span `task` of each attempt is a child of that. Retries, the dead letter and whoever requeues it keep the
//!   headers, so all attempts of a task are in one trace.
//! - A task without a trace, such as that of a schedule's tick, begins one with its first attempt. If that fails its
//!   further attempts are children of it. So each tick is a trace of its own.
//! - In OpenTelemetry the spans are named `run {task.name}`, `enqueue {task.name}` and `enqueue_all {task.name}`; their kinds
//!   are consumer and producer; the status is an error for an attempt that failed, and for a task that was not enqueued.
//! - A header that is not a trace context is left alone.
//!
//! Without the feature these headers are neither read nor written, and kept like all others.
//!
//! # Metrics
//!
//! With the feature `metrics` these go to the facade of the crate `metrics`, and from there to whichever recorder the
//! application has installed (for Prometheus, say). Install it first: what was begun before it is not in the gauges.
//! They are those of one process, whether events are on or not. An attempt costs some microseconds more.
//!
//! | name | kind | labels | what it is |
//! | --- | --- | --- | --- |
//! | `taskhare_tasks_enqueued_total` | counter | `queue`, `task` | tasks that the broker has confirmed, those of ticks among them |
//! | `taskhare_enqueue_failures_total` | counter | `task` | tasks whose enqueuing failed, or was dropped before it was confirmed |
//! | `taskhare_enqueue_seconds` | histogram | `queue`, `task` | from the enqueue to its confirm |
//! | `taskhare_attempts_total` | counter | `queue`, `task`, `outcome` | attempts that have ended; `outcome` as in the span |
//! | `taskhare_tasks_dead_total` | counter | `queue`, `task`, `reason` | dead letters that consumers have made, by [`DeadReason`](crate::DeadReason); not those that the broker makes by itself |
//! | `taskhare_task_wait_seconds` | histogram | `queue`, `task` | from when an attempt could start (it was enqueued, or is due) to its start |
//! | `taskhare_task_run_seconds` | histogram | `queue`, `task` | how long a handler ran, whatever its end |
//! | `taskhare_task_total_seconds` | histogram | `queue`, `task` | from when a task could start first to its success, over all attempts |
//! | `taskhare_tasks_running` | gauge | `queue` | attempts under way |
//! | `taskhare_slots` | gauge | `queue` | how many may be under way; one in quarantine comes on top |
//! | `taskhare_schedulers_active` | gauge | | 1 in the process whose scheduler is the active one |
//! | `taskhare_connections_lost_total` | counter | `role` | connections to the broker that were lost, by `broker.role` |
//! | `taskhare_events_missed_total` | counter | | events that were not written because the broker took none |
//!
//! `queue` is the name used when enqueuing, `task` the task's name; a task without a handler is `unknown`. So there are as
//! many series as an application has queues and types of tasks, and no more. An attempt that was stopped at the end of a
//! shutdown's grace period has no outcome, and is in no counter.
//!
//! [W3C trace context]: https://www.w3.org/TR/trace-context/

#[cfg(feature = "metrics")]
mod meter;
#[cfg(not(feature = "metrics"))]
#[path = "unmetered.rs"]
mod meter;
mod observation;
mod span;
#[cfg(feature = "otel")]
mod trace;
#[cfg(not(feature = "otel"))]
#[path = "untraced.rs"]
mod trace;

pub(crate) use meter::EnqueueMeter;
pub(crate) use meter::Raised;
pub(crate) use meter::connection_lost;
pub(crate) use meter::dead;
pub(crate) use meter::describe;
pub(crate) use meter::event_missed;
pub(crate) use meter::tick_confirmed;
pub(crate) use observation::Observation;
pub(crate) use span::EnqueueSpan;
pub(crate) use trace::write_current;
