//! [`Event`]: what has happened to a task or to a consumer. [`wire`] is how events travel, many in a message;
//! [`state`] is what they tell of one task.

mod consumer;
mod ends;
mod state;
mod task;
mod times;
mod wire;

pub use consumer::ConsumerChange;
pub use consumer::ConsumerEvent;
pub use consumer::Heartbeat;
pub use consumer::QueueLoad;
pub use consumer::RunningTask;
pub(crate) use ends::Effect;
pub(crate) use ends::Ends;
pub use state::Progress;
pub use state::Standing;
pub use state::TaskState;
pub use task::Kind;
pub use task::TaskChange;
pub use task::TaskEvent;
pub(crate) use wire::Batch;
pub(crate) use wire::Stamp;
pub(crate) use wire::announce;

/// Something that has happened.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// To a task.
    Task(TaskEvent),
    /// To a consumer, or what it says of itself.
    Consumer(ConsumerEvent),
    /// So many messages of the log, each with up to 2,000 events, were gone before they were read, or so many events
    /// were never written because the broker took none for long.
    Missed(u64),
}
