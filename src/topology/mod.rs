//! What exists on the broker, as values: [`Topology`].
//!
//! ```text
//!                      {ns}.tasks (direct)                          {ns}.dead (direct)
//!   enqueue ──────────►  key {queue}.urgent ──► {ns}.{queue}.urgent ──┐  key {queue}
//!                        key {queue}.normal ──► {ns}.{queue}.normal ──┼──────────────► {ns}.{queue}.dead
//!                        key {queue}.low    ──► {ns}.{queue}.low    ──┤  over the delivery limit,
//!   consumer ─────────►  key {queue}.quarantine ► {ns}.….quarantine ──┘  or dead-lettered by the consumer
//! ```

mod names;
mod queue;

use std::time::Duration;

use crate::lane::Lane;
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

/// What is the same for all queues of a namespace. Immutable on the broker once declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueDefaults {
    pub(crate) replication: Replication,
    pub(crate) delivery_limit: u32,
    pub(crate) dead_letter_age: Duration,
}

impl Default for QueueDefaults {
    fn default() -> Self {
        Self {
            replication: Replication::default(),
            delivery_limit: 100,
            dead_letter_age: Duration::from_secs(30 * 24 * 60 * 60),
        }
    }
}

/// Where no delivery limit is wanted. Without one a quorum queue of 3.10 requeues to the tail, with `-1` it drops a
/// message at its first requeue.
const NO_DELIVERY_LIMIT: u32 = 1_000_000;

impl QueueDefaults {
    fn kind(self, delivery_limit: u32) -> QueueKind {
        match self.replication {
            Replication::Quorum { group_size } => QueueKind::Quorum { group_size, delivery_limit },
            Replication::Classic => QueueKind::Classic,
        }
    }
}

impl Replication {
    /// Whether its queues count how often a message came back.
    pub(crate) fn counts_returns(self) -> bool {
        matches!(self, Self::Quorum { .. })
    }
}

/// Everything that `queue` needs.
pub(crate) fn of_queue(names: &Names, defaults: QueueDefaults, queue: &QueueName) -> Topology {
    let (tasks, dead) = (names.tasks(), names.dead());
    let direct = |name: &Name| Exchange { name: name.clone(), kind: ExchangeKind::Direct, alternate: None };
    let dead_queue = Queue {
        message_ttl: Some(defaults.dead_letter_age),
        ..Queue::new(names.dead_queue(queue), defaults.kind(NO_DELIVERY_LIMIT))
    };
    let mut topology = Topology {
        exchanges: vec![direct(&tasks), direct(&dead)],
        bindings: vec![Binding {
            exchange: dead.clone(),
            key: Names::dead_key(queue),
            to: Target::Queue(dead_queue.name.clone()),
        }],
        queues: vec![dead_queue],
    };
    for lane in Lane::ALL {
        let name = names.lane(queue, lane);
        topology.bindings.push(Binding {
            exchange: tasks.clone(),
            key: Names::lane_key(queue, lane),
            to: Target::Queue(name.clone()),
        });
        topology.queues.push(Queue {
            dead_letter: Some(DeadLetter { exchange: dead.clone(), key: Some(Names::dead_key(queue)) }),
            ..Queue::new(name, defaults.kind(defaults.delivery_limit))
        });
    }
    // Always one that counts: its count is what it is for.
    let group_size = match defaults.replication {
        Replication::Quorum { group_size } => group_size,
        Replication::Classic => 1,
    };
    let kind = QueueKind::Quorum { group_size, delivery_limit: defaults.delivery_limit };
    let quarantine = Queue {
        dead_letter: Some(DeadLetter { exchange: dead, key: Some(Names::dead_key(queue)) }),
        ..Queue::new(names.quarantine(queue), kind)
    };
    topology.bindings.push(Binding {
        exchange: tasks,
        key: Names::quarantine_key(queue),
        to: Target::Queue(quarantine.name.clone()),
    });
    topology.queues.push(quarantine);
    topology
}

/// Where the outputs for one producer arrive. They are nothing that must survive, so a classic queue, which the broker
/// deletes when it has gone unused for a while.
pub(crate) fn of_outputs(names: &Names, queue: &Name, key: &Name) -> Topology {
    let exchange = Exchange { name: names.outputs(), kind: ExchangeKind::Direct, alternate: None };
    let binding =
        Binding { exchange: exchange.name.clone(), key: key.clone(), to: Target::Queue(queue.clone()) };
    let queue = Queue { expires: Some(UNUSED_OUTPUTS), ..Queue::new(queue.clone(), QueueKind::Classic) };
    Topology { exchanges: vec![exchange], queues: vec![queue], bindings: vec![binding] }
}

/// Longer than a producer takes to reconnect.
const UNUSED_OUTPUTS: Duration = Duration::from_secs(10 * 60);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Headers;
    use crate::message::Value;

    fn topology(replication: Replication) -> Topology {
        let names = Names::new(Namespace::new("ns").unwrap());
        let defaults = QueueDefaults { replication, ..QueueDefaults::default() };
        of_queue(&names, defaults, &QueueName::new("mail").unwrap())
    }

    #[test]
    fn a_queue_is_three_lanes_its_quarantine_and_its_dead_letters() {
        let topology = topology(Replication::default());
        let queues: Vec<&str> = topology.queues.iter().map(|queue| queue.name.as_str()).collect();
        let expected =
            ["ns.mail.dead", "ns.mail.urgent", "ns.mail.normal", "ns.mail.low", "ns.mail.quarantine"];
        assert_eq!(queues, expected);
        let keys: Vec<&str> = topology.bindings.iter().map(|binding| binding.key.as_str()).collect();
        assert_eq!(keys, ["mail", "mail.urgent", "mail.normal", "mail.low", "mail.quarantine"]);
    }

    #[test]
    fn arguments_are_all_explicit() {
        let quorum: Headers = [
            ("x-queue-type", Value::from("quorum")),
            ("x-quorum-initial-group-size", 3.into()),
            ("x-delivery-limit", 100.into()),
            ("x-consumer-disconnected-timeout", 5000.into()),
            ("x-overflow", "reject-publish".into()),
            ("x-dead-letter-strategy", "at-least-once".into()),
            ("x-dead-letter-exchange", "ns.dead".into()),
            ("x-dead-letter-routing-key", "mail".into()),
        ]
        .into_iter()
        .collect();
        let classic: Headers = [
            ("x-queue-type", Value::from("classic")),
            ("x-dead-letter-exchange", "ns.dead".into()),
            ("x-dead-letter-routing-key", "mail".into()),
        ]
        .into_iter()
        .collect();
        assert_eq!(topology(Replication::default()).queues[2].arguments(), quorum);
        assert_eq!(topology(Replication::Classic).queues[2].arguments(), classic);
    }

    #[test]
    fn quarantine_counts_also_where_the_lanes_do_not() {
        for (replication, group_size) in [(Replication::default(), 3), (Replication::Classic, 1)] {
            let quarantine = topology(replication).queues.pop().unwrap();
            assert_eq!(quarantine.kind, QueueKind::Quorum { group_size, delivery_limit: 100 });
            assert!(quarantine.dead_letter.is_some());
        }
    }
}
