//! What exists on the broker, as values: [`Topology`].
//!
//! ```text
//!                      {ns}.tasks (direct)                          {ns}.dead (direct)
//!   enqueue ──────────►  key {queue}.urgent ──► {ns}.{queue}.urgent ──┐  key {queue}
//!                        key {queue}.normal ──► {ns}.{queue}.normal ──┼──────────────► {ns}.{queue}.dead
//!                        key {queue}.low    ──► {ns}.{queue}.low    ──┘  over the delivery limit,
//!                                                                        or dead-lettered by the consumer
//! ```

mod names;
mod queue;

use std::time::Duration;

use crate::name::Name;

pub(crate) use names::Names;
pub use names::Namespace;
pub use names::QueueName;
pub use queue::DeadLetter;
pub use queue::Queue;
pub use queue::QueueKind;

/// Exchanges, queues and bindings to declare, in that order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Topology {
    /// The exchanges; an alternate exchange before those that name it.
    pub exchanges: Vec<Exchange>,
    /// The queues.
    pub queues: Vec<Queue>,
    /// The bindings.
    pub bindings: Vec<Binding>,
}

/// An exchange. Always durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// Its name.
    pub name: Name,
    /// How it routes.
    pub kind: ExchangeKind,
    /// Where messages go that match no binding.
    pub alternate: Option<Name>,
}

/// How an exchange routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExchangeKind {
    /// To the bindings with exactly the message's key.
    Direct,
    /// To the bindings whose pattern matches: words separated by dots, `*` one word, `#` any number.
    Topic,
    /// To all bindings.
    Fanout,
}

impl ExchangeKind {
    /// As AMQP writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Topic => "topic",
            Self::Fanout => "fanout",
        }
    }
}

/// A route from an exchange.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The exchange.
    pub exchange: Name,
    /// The key or pattern.
    pub key: Name,
    /// Where to.
    pub to: Target,
}

/// The far end of a binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// A queue.
    Queue(Name),
    /// Another exchange.
    Exchange(Name),
}

impl Topology {
    /// Adds what `other` has and this has not.
    pub fn merge(&mut self, other: &Self) {
        fn add<T: Clone + PartialEq>(into: &mut Vec<T>, from: &[T]) {
            for item in from {
                if !into.contains(item) {
                    into.push(item.clone());
                }
            }
        }
        add(&mut self.exchanges, &other.exchanges);
        add(&mut self.queues, &other.queues);
        add(&mut self.bindings, &other.bindings);
    }
}

/// How the broker keeps copies of the queues. Chosen once per namespace, because a queue's type can never be changed
/// under its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Replication {
    /// Quorum queues: a Raft log on `group_size` nodes (fewer if the cluster is smaller). The default, with 3.
    Quorum {
        /// On how many nodes.
        group_size: u8,
    },
    /// Classic queues on a single node: lost with the disk of that node, unavailable while it is down, and neither
    /// counted redeliveries nor at-least-once dead-lettering. For caches and laptops.
    Classic,
}

impl Default for Replication {
    fn default() -> Self {
        Self::Quorum { group_size: 3 }
    }
}

/// The largest limit, where none is wanted: on 3.10 a quorum queue without one requeues to the tail, and `-1` makes it
/// drop a message at its first requeue.
#[allow(dead_code, reason = "the ledger and the wheel use it")]
const NO_DELIVERY_LIMIT: u32 = 1_000_000;

/// What is the same for all queues of a namespace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueDefaults {
    pub(crate) replication: Replication,
    pub(crate) delivery_limit: u32,
    pub(crate) dead_letter_age: Duration,
    pub(crate) dead_letter_count: u64,
}
