//! What exists on the broker, as values: [`Topology`].
//!
//! ```text
//!                      {ns}.tasks (direct)                          {ns}.dead (direct)
//!   enqueue ──────────►  key {queue}.urgent ──► {ns}.{queue}.urgent ──┐  key {queue}
//!                        key {queue}.normal ──► {ns}.{queue}.normal ──┼──────────────► {ns}.{queue}.dead
//!                        key {queue}.low    ──► {ns}.{queue}.low    ──┤  over the delivery limit,
//!   consumer ─────────►  key {queue}.quarantine ► {ns}.….quarantine ──┘  or dead-lettered by the consumer
//!
//!           {ns}.delay.15 (topic) ─ 1 ──► {ns}.delay.15.1 ──┐ after 1, 2 or 3 times 4^15 × 64 ms
//!   later ►   the 1st word of the ─ 2 ──► {ns}.delay.15.2 ──┤
//!             key, of sixteen     ─ 3 ──► {ns}.delay.15.3 ──┴─► {ns}.delay.14 ─► … ─► {ns}.due (topic)
//!                  │ -            └ 0 ────────────────────────► {ns}.delay.14           │ *.*.….{queue}.{lane}
//!                  └──────────────────────────────────────────► {ns}.due                ▼
//!                                                                     {ns}.{queue}.{lane}, or {ns}.undeliverable
//!
//!   a tick ───────────►  {ns}.tasks ── key {queue}.{lane} ──► its lane, and by CC: key schedules ──► {ns}.schedules
//!
//!   events ───────────►  {ns}.events (topic) ─── # ──► {ns}.history (stream)
//!   {ns}.dead, {ns}.undeliverable ─── # ──► {ns}.events: a dead letter is an event
//!
//!   held for long ►  {ns}.lease (topic) ── key {holder}.… ──► {ns}.lease.{holder} ── unheld for 5 s ──► {ns}.due
//! ```

mod names;
mod queue;
pub(crate) mod wheel;

use std::time::Duration;

use crate::lane::Lane;
use crate::name::Name;

pub(crate) use names::Names;
pub use names::Namespace;
pub use names::QueueName;
pub use queue::DeadLetter;
pub use queue::Overflow;
pub use queue::Queue;
pub use queue::QueueKind;
use wheel::Level;
use wheel::OVER;
use wheel::POSITIONS;

/// How long a queue that was deleted is left alone before it is declared again. Its consumers hear of its end meanwhile:
/// RabbitMQ 3.10, told so when there is one of that name again, takes a consumer over to it without a word, and nothing
/// of what it then delivers to that arrives.
pub(crate) const REDECLARE_AFTER: Duration = Duration::from_secs(1);

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

    /// That queue and what leads to it, where all else is declared already.
    pub(crate) fn only(mut self, queue: &Name) -> Self {
        self.exchanges.clear();
        self.queues.retain(|known| known.name == *queue);
        self.bindings.retain(|binding| binding.to == Target::Queue(queue.clone()));
        self
    }
}

/// How the broker keeps copies of the queues. Chosen once per namespace, because a queue's type can never be changed
/// under its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Replication {
    /// Quorum queues: a Raft log on `group_size` nodes. The default, with 3. What was confirmed survives the loss of any
    /// minority of them, and goes on meanwhile; without a majority nothing is confirmed, and nothing confirmed is lost.
    ///
    /// On a cluster with fewer nodes, a single one for instance, a queue is on those that there are. It stays on them when
    /// nodes are added: an operator puts it there (`rabbitmq-queues grow NODE all`, and `rabbitmq-streams add_replica STREAM NODE` for each stream: streams are on all
    /// nodes, because one can only be read at a node that has a copy). The leaders of new queues are spread over
    /// the nodes; after failures and restarts an operator spreads them again (`rabbitmq-queues rebalance quorum`).
    Quorum {
        /// On how many nodes. Odd, as a rule: a fourth copy survives no more than three do.
        group_size: u8,
    },
    /// Classic queues on a single node: lost with the disk of that node, unavailable while it is down, and neither
    /// counted redeliveries nor at-least-once dead-lettering. For caches and laptops.
    ///
    /// That is what tasks wait in. What only a log can keep (delayed tasks, schedules, the quarantine, the history) is on three
    /// nodes, or as many as there are.
    ///
    /// RabbitMQ 3.x, not 4.x, can mirror classic queues to other nodes if a policy says so: see
    #[cfg_attr(
        feature = "management",
        doc = "[`Management::mirror_classic_queues`](crate::management::Management::mirror_classic_queues)."
    )]
    #[cfg_attr(
        not(feature = "management"),
        doc = "`Management::mirror_classic_queues` of the feature `management`."
    )]
    Classic,
}

impl Default for Replication {
    fn default() -> Self {
        Self::Quorum { group_size: USUAL_GROUP_SIZE }
    }
}

/// The smallest that survives the loss of a node.
const USUAL_GROUP_SIZE: u8 = 3;

/// Of streams: on all nodes that there are. One can be read only at a node that has a copy, and each process reads all.
const EVERY_NODE: u8 = u8::MAX;

/// What is the same for all queues of a namespace. Immutable on the broker once declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueDefaults {
    pub(crate) replication: Replication,
    pub(crate) delivery_limit: u32,
    pub(crate) dead_letter_age: Duration,
    pub(crate) dead_letter_length: u64,
    /// `None`: nothing is told of tasks.
    pub(crate) history: Option<HistoryLimits>,
}

/// How much of the history is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct HistoryLimits {
    pub(crate) age: Duration,
    pub(crate) bytes: u64,
}

impl Default for HistoryLimits {
    fn default() -> Self {
        Self { age: Duration::from_secs(7 * 24 * 60 * 60), bytes: 1024 * 1024 * 1024 }
    }
}

impl Default for QueueDefaults {
    fn default() -> Self {
        Self {
            replication: Replication::default(),
            delivery_limit: 100,
            dead_letter_age: Duration::from_secs(30 * 24 * 60 * 60),
            dead_letter_length: 100_000,
            history: Some(HistoryLimits::default()),
        }
    }
}

/// Where no delivery limit is wanted. Without one a quorum queue of 3.10 requeues to the tail, with `-1` it drops a
/// message at its first requeue.
const NO_DELIVERY_LIMIT: u32 = 1_000_000;

impl QueueDefaults {
    fn kind(self, delivery_limit: u32) -> QueueKind {
        match self.replication {
            Replication::Quorum { .. } => self.quorum(delivery_limit),
            Replication::Classic => QueueKind::Classic,
        }
    }

    /// A quorum queue, whatever the others are.
    fn quorum(self, delivery_limit: u32) -> QueueKind {
        QueueKind::Quorum { group_size: self.replication.group_size(), delivery_limit }
    }

    /// A quorum queue without a delivery limit.
    fn lasting(self) -> QueueKind {
        self.quorum(NO_DELIVERY_LIMIT)
    }

    /// A queue for what nobody takes out but an operator: the oldest go.
    fn of_dead_letters(self, name: Name, kind: QueueKind) -> Queue {
        Queue {
            message_ttl: Some(self.dead_letter_age),
            max_length: Some(self.dead_letter_length),
            overflow: Overflow::DropHead,
            ..Queue::new(name, kind)
        }
    }
}

impl Replication {
    /// Whether its queues count how often a message came back.
    pub(crate) fn counts_returns(self) -> bool {
        matches!(self, Self::Quorum { .. })
    }

    /// On how many nodes the queues are, and what is replicated beside classic ones.
    fn group_size(self) -> u8 {
        match self {
            Self::Quorum { group_size } => group_size,
            Self::Classic => USUAL_GROUP_SIZE,
        }
    }
}

/// Everything that `queue` needs.
pub(crate) fn of_queue(names: &Names, defaults: QueueDefaults, queue: &QueueName) -> Topology {
    let (tasks, dead, due) = (names.tasks(), names.dead(), names.due());
    let direct = |name: &Name| Exchange { name: name.clone(), kind: ExchangeKind::Direct, alternate: None };
    let dead_queue = defaults.of_dead_letters(names.dead_queue(queue), defaults.kind(NO_DELIVERY_LIMIT));
    let mut topology = of_due(names, defaults);
    topology.exchanges.extend([direct(&tasks), direct(&dead)]);
    topology.bindings.push(Binding {
        exchange: dead.clone(),
        key: Names::dead_key(queue),
        to: Target::Queue(dead_queue.name.clone()),
    });
    topology.queues.push(dead_queue);
    for lane in Lane::ALL {
        let name = names.lane(queue, lane);
        topology.bindings.extend(two_ways(&tasks, &due, &Names::lane_key(queue, lane), &name));
        topology.queues.push(Queue {
            dead_letter: Some(DeadLetter { exchange: dead.clone(), key: Some(Names::dead_key(queue)) }),
            ..Queue::new(name, defaults.kind(defaults.delivery_limit))
        });
    }
    // Always one that counts: its count is what it is for.
    let quarantine = Queue {
        dead_letter: Some(DeadLetter { exchange: dead, key: Some(Names::dead_key(queue)) }),
        ..Queue::new(names.quarantine(queue), defaults.quorum(defaults.delivery_limit))
    };
    topology.bindings.extend(two_ways(&tasks, &due, &Names::quarantine_key(queue), &quarantine.name));
    topology.queues.push(quarantine);
    if defaults.history.is_some() {
        topology.merge(&of_history(names, defaults));
        topology.bindings.push(Binding {
            exchange: names.dead(),
            key: Names::dead_key(queue),
            to: Target::Exchange(names.events()),
        });
    }
    topology
}

/// The log of all events, or nothing where none is kept. What is undeliverable is an event, like what is dead: so what
/// the broker takes out of a queue by itself is in the log by the same publish that puts it into the dead letters.
pub(crate) fn of_history(names: &Names, defaults: QueueDefaults) -> Topology {
    let Some(HistoryLimits { age, bytes }) = defaults.history else { return Topology::default() };
    let mut topology = of_due(names, defaults);
    let events = names.events();
    let kind = QueueKind::Stream { group_size: EVERY_NODE, max_age: age, max_bytes: bytes };
    let stream = Queue::new(names.history(), kind);
    let everything = Names::everything();
    topology.bindings.extend([
        Binding { exchange: events.clone(), key: everything.clone(), to: Target::Queue(stream.name.clone()) },
        Binding { exchange: names.undeliverable(), key: everything, to: Target::Exchange(events.clone()) },
    ]);
    topology.exchanges.push(Exchange { name: events, kind: ExchangeKind::Topic, alternate: None });
    topology.queues.push(stream);
    topology
}

/// Into `queue`: at once, and from the wheel or a lease queue.
fn two_ways(tasks: &Name, due: &Name, key: &Name, queue: &Name) -> [Binding; 2] {
    [(tasks, key.clone()), (due, Names::due_pattern(key))].map(|(exchange, key)| {
        let to = Target::Queue(queue.clone());
        Binding { exchange: exchange.clone(), key, to }
    })
}

/// The end of the wheel: where what is due goes to its lane, and what has no lane any more is kept. Were it not, a queue
/// of the wheel would keep it and try again every three minutes, and 32 such messages hold up all behind them.
fn of_due(names: &Names, defaults: QueueDefaults) -> Topology {
    let undeliverable = names.undeliverable();
    let exchange = Exchange { name: undeliverable.clone(), kind: ExchangeKind::Fanout, alternate: None };
    let due =
        Exchange { name: names.due(), kind: ExchangeKind::Topic, alternate: Some(undeliverable.clone()) };
    let queue = defaults.of_dead_letters(undeliverable.clone(), defaults.lasting());
    let to = Target::Queue(queue.name.clone());
    let binding = Binding { exchange: undeliverable, key: names.undeliverable(), to };
    Topology { exchanges: vec![exchange, due], queues: vec![queue], bindings: vec![binding] }
}

/// The delay wheel. Its queues are quorum queues, whatever the others are: only those hand on at least once.
pub(crate) fn of_wheel(names: &Names, defaults: QueueDefaults) -> Topology {
    let mut topology = of_due(names, defaults);
    let below = |position: u8| position.checked_sub(1).map_or_else(|| names.due(), |next| names.delay(next));
    // From the lowest up: a position is bound to the one below.
    for position in 0..POSITIONS {
        topology.exchanges.push(Exchange {
            name: names.delay(position),
            kind: ExchangeKind::Topic,
            alternate: Some(names.undeliverable()),
        });
        for (word, next) in [('0', below(position)), (OVER, names.due())] {
            topology.bindings.push(Binding {
                exchange: names.delay(position),
                key: Names::delay_pattern(position, word),
                to: Target::Exchange(next),
            });
        }
    }
    for level in Level::all() {
        let queue = Queue {
            message_ttl: Some(level.time_to_live()),
            dead_letter: Some(DeadLetter { exchange: below(level.position), key: None }),
            ..Queue::new(names.delay_level(level), defaults.lasting())
        };
        topology.bindings.push(Binding {
            exchange: names.delay(level.position),
            key: Names::delay_pattern(level.position, char::from(b'0' + level.digit)),
            to: Target::Queue(queue.name.clone()),
        });
        topology.queues.push(queue);
    }
    topology
}

/// The queue that holds what one consumer runs for long. What nobody holds there goes home: to its lane, or to quarantine.
/// A quorum queue, whatever the others are, for the same reason as those of the wheel.
pub(crate) fn of_lease(names: &Names, defaults: QueueDefaults, holder: &Name) -> Topology {
    let mut topology = of_due(names, defaults);
    let exchange = leases(names);
    let queue = Queue {
        message_ttl: Some(UNHELD_LEASE),
        dead_letter: Some(DeadLetter { exchange: names.due(), key: None }),
        expires: Some(UNUSED_LEASES),
        ..Queue::new(names.lease_queue(holder), defaults.lasting())
    };
    topology.bindings.push(Binding {
        exchange: exchange.name.clone(),
        key: Names::lease_pattern(holder),
        to: Target::Queue(queue.name.clone()),
    });
    topology.exchanges.push(exchange);
    topology.queues.push(queue);
    topology
}

/// The queue that holds the schedules, one message each, for the one scheduler that is active. Its exchange is that of the
/// tasks, so that one publish leads to a lane and to it. What is nothing of a scheduler's goes to the undeliverable.
pub(crate) fn of_schedules(names: &Names, defaults: QueueDefaults) -> Topology {
    let mut topology = of_due(names, defaults);
    let exchange = Exchange { name: names.tasks(), kind: ExchangeKind::Direct, alternate: None };
    let queue = Queue {
        dead_letter: Some(DeadLetter { exchange: names.undeliverable(), key: None }),
        single_active_consumer: true,
        ..Queue::new(names.schedules(), defaults.lasting())
    };
    topology.bindings.push(Binding {
        exchange: exchange.name.clone(),
        key: Names::schedules_key(),
        to: Target::Queue(queue.name.clone()),
    });
    topology.exchanges.push(exchange);
    topology.queues.push(queue);
    topology
}

/// How long what is in a lease queue may be held by nobody. It counts from when it was published: what is older, as what
/// a dead process held most often is, goes home at once.
pub(crate) const UNHELD_LEASE: Duration = Duration::from_secs(5);

/// After how long the broker removes the lease queue of a process that has died; others remove theirs. With it would go
/// what is in it, and that is gone within seconds of the death, unless its lane takes nothing for all this time.
const UNUSED_LEASES: Duration = Duration::from_secs(24 * 60 * 60);

/// The exchanges that lead to queues which processes declare for themselves.
pub(crate) fn of_own_queues(names: &Names) -> Topology {
    Topology { exchanges: vec![leases(names), outputs(names)], ..Topology::default() }
}

fn leases(names: &Names) -> Exchange {
    Exchange { name: names.leases(), kind: ExchangeKind::Topic, alternate: None }
}

fn outputs(names: &Names) -> Exchange {
    Exchange { name: names.outputs(), kind: ExchangeKind::Direct, alternate: None }
}

/// Where the outputs for one producer arrive. They are nothing that must survive, so a classic queue, which the broker
/// deletes when it has gone unused for a while.
pub(crate) fn of_outputs(names: &Names, queue: &Name, key: &Name) -> Topology {
    let exchange = outputs(names);
    let binding =
        Binding { exchange: exchange.name.clone(), key: key.clone(), to: Target::Queue(queue.clone()) };
    let queue = Queue { expires: Some(UNUSED_OUTPUTS), ..Queue::new(queue.clone(), QueueKind::Classic) };
    Topology { exchanges: vec![exchange], queues: vec![queue], bindings: vec![binding] }
}

/// A stream that every process reads, and the exchange of the same name that leads to it.
pub(crate) fn of_log(name: &Name, age: Duration, bytes: u64) -> Topology {
    let exchange = Exchange { name: name.clone(), kind: ExchangeKind::Fanout, alternate: None };
    let binding = Binding { exchange: name.clone(), key: name.clone(), to: Target::Queue(name.clone()) };
    let kind = QueueKind::Stream { group_size: EVERY_NODE, max_age: age, max_bytes: bytes };
    let stream = Queue::new(name.clone(), kind);
    Topology { exchanges: vec![exchange], queues: vec![stream], bindings: vec![binding] }
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
        let defaults = QueueDefaults { replication, history: None, ..QueueDefaults::default() };
        of_queue(&names, defaults, &QueueName::new("mail").unwrap())
    }

    #[test]
    fn where_there_is_a_history_each_dead_letter_goes_there_too() {
        let names = Names::new(Namespace::new("ns").unwrap());
        let topology = of_queue(&names, QueueDefaults::default(), &QueueName::new("mail").unwrap());
        let leads = |exchange: &str, key: &str, to: Target| {
            topology.bindings.iter().any(|binding| {
                binding.exchange.as_str() == exchange && binding.key.as_str() == key && binding.to == to
            })
        };
        assert!(leads("ns.events", "#", Target::Queue(names.history())));
        for (exchange, key) in [("ns.dead", "mail"), ("ns.undeliverable", "#")] {
            assert!(leads(exchange, key, Target::Exchange(names.events())), "{exchange}");
        }
    }

    #[test]
    fn a_queue_is_three_lanes_its_quarantine_and_its_dead_letters() {
        let topology = topology(Replication::default());
        let queues: Vec<&str> = topology.queues.iter().map(|queue| queue.name.as_str()).collect();
        let undeliverable = "ns.undeliverable";
        assert_eq!(
            queues,
            [
                undeliverable,
                "ns.mail.dead",
                "ns.mail.urgent",
                "ns.mail.normal",
                "ns.mail.low",
                "ns.mail.quarantine"
            ]
        );
        let keys: Vec<&str> = topology.bindings.iter().map(|binding| binding.key.as_str()).collect();
        let due = Lane::ALL.map(|lane| format!("*.*.*.*.*.*.*.*.*.*.*.*.*.*.*.*.mail.{lane}"));
        let expected = [
            undeliverable,
            "mail",
            "mail.urgent",
            &due[0],
            "mail.normal",
            &due[1],
            "mail.low",
            &due[2],
            "mail.quarantine",
            "*.*.*.*.*.*.*.*.*.*.*.*.*.*.*.*.mail.quarantine",
        ];
        assert_eq!(keys, expected);
    }

    #[test]
    fn the_wheel_is_48_quorum_queues_and_nothing_in_it_leads_nowhere() {
        let names = Names::new(Namespace::new("ns").unwrap());
        let defaults = QueueDefaults { replication: Replication::Classic, ..QueueDefaults::default() };
        let wheel = of_wheel(&names, defaults);
        assert_eq!((wheel.exchanges.len(), wheel.queues.len(), wheel.bindings.len()), (18, 49, 81));
        let kinds = wheel.queues.iter().map(|queue| queue.kind);
        assert!(kinds.eq([defaults.lasting()].repeat(49)));
        for queue in wheel.queues.iter().filter(|queue| queue.name != names.undeliverable()) {
            let to = queue.dead_letter.as_ref().unwrap();
            let exchange = wheel.exchanges.iter().find(|exchange| exchange.name == to.exchange).unwrap();
            assert_eq!(exchange.alternate, Some(names.undeliverable()), "{queue:?}");
        }
        let pattern = Names::delay_pattern(13, '2');
        assert_eq!(pattern.as_str(), "*.*.2.#");
    }

    #[test]
    fn arguments_are_all_explicit() {
        let quorum: Headers = [
            ("x-queue-type", Value::from("quorum")),
            ("x-quorum-initial-group-size", 3.into()),
            ("x-queue-leader-locator", "balanced".into()),
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
        assert_eq!(topology(Replication::default()).queues[3].arguments(), quorum);
        assert_eq!(topology(Replication::Classic).queues[3].arguments(), classic);
    }

    #[test]
    fn what_is_in_a_lease_queue_finds_home_by_its_key() {
        let names = Names::new(Namespace::new("ns").unwrap());
        let (queue, holder) = (QueueName::new("mail.out").unwrap(), Name::new("holder", "c0ffee").unwrap());
        let lease = of_lease(&names, QueueDefaults::default(), &holder);
        let last = lease.queues.last().unwrap();
        assert_eq!((last.name.as_str(), last.message_ttl), ("ns.lease.c0ffee", Some(UNHELD_LEASE)));
        assert_eq!(last.dead_letter, Some(DeadLetter { exchange: names.due(), key: None }));
        for home in [Names::lane_key(&queue, Lane::Low), Names::quarantine_key(&queue)] {
            let (key, pattern) = (Names::lease_key(&holder, &home), Names::due_pattern(&home));
            let matches = |(word, wanted): (&str, &str)| wanted == "*" || wanted == word;
            assert_eq!(key.as_str().split('.').count(), pattern.as_str().split('.').count());
            assert!(key.as_str().split('.').zip(pattern.as_str().split('.')).all(matches), "{key} {pattern}");
            assert!(key.as_str().starts_with("c0ffee."), "{key}");
        }
    }

    #[test]
    fn quarantine_counts_also_where_the_lanes_do_not() {
        for (replication, group_size) in
            [(Replication::Quorum { group_size: 5 }, 5), (Replication::Classic, 3)]
        {
            let quarantine = topology(replication).queues.pop().unwrap();
            assert_eq!(quarantine.kind, QueueKind::Quorum { group_size, delivery_limit: 100 });
            assert!(quarantine.dead_letter.is_some());
        }
    }
}
