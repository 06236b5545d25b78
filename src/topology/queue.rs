//! [`Queue`]: one queue on the broker and its arguments.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::message::Headers;
use crate::name::Name;

/// A queue. Always durable, never exclusive.
#[derive(Clone, Debug, PartialEq)]
pub struct Queue {
    /// Its name.
    pub name: Name,
    /// How it stores.
    pub kind: QueueKind,
    /// How long a message may stay; then it is dead-lettered, or dropped.
    pub message_ttl: Option<Duration>,
    /// Where messages go that are rejected, expire, or come back too often.
    pub dead_letter: Option<DeadLetter>,
    /// How many messages may wait in it.
    pub max_length: Option<u64>,
    /// What happens to one more.
    pub overflow: Overflow,
    /// After how long without a consumer it is deleted with all that is in it. Not for a queue where tasks wait.
    pub expires: Option<Duration>,
    /// Whether of many consumers only one gets deliveries.
    pub single_active_consumer: bool,
    /// How long the broker lets a consumer hold a delivery, at least; `None` for the broker's own limit, which is 30
    /// minutes unless configured. Quorum queues of RabbitMQ 4.0 and later know it: 3.10 ignores it.
    pub consumer_timeout: Option<Duration>,
}

/// How a queue stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueueKind {
    /// A replicated log.
    Quorum {
        /// On how many nodes.
        group_size: u8,
        /// How often a message may come back before it is dead-lettered. At least 1.
        delivery_limit: u32,
    },
    /// On one node, not replicated.
    Classic,
    /// A replicated log that consumers only read: each sees everything. It has none of the other properties of a
    /// [`Queue`].
    Stream {
        /// On how many nodes at first.
        group_size: u8,
        /// How long a message is kept at least, in whole seconds, unless the stream grows too large. At least 1 second.
        max_age: Duration,
        /// How large it may become, in bytes. The broker removes what is too old or too much in segments of an eighth
        /// of this (1 to 64 MiB) and never the last one, so it takes up to two segments more, and holds what is too
        /// old for as long as little is published.
        max_bytes: u64,
    },
}

/// A smaller segment costs files, a larger one keeps more than it should.
const SEGMENT: RangeInclusive<u64> = 1 << 20..=64 << 20;

/// What a full queue does with one more message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// It refuses it, and its publisher is told. The default.
    #[default]
    Reject,
    /// It takes it, and drops what has waited longest: to the dead-letter exchange, if there is one, and at most once,
    /// because RabbitMQ dead-letters at least once only from queues that refuse.
    DropHead,
}

impl Overflow {
    /// As AMQP writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reject => "reject-publish",
            Self::DropHead => "drop-head",
        }
    }
}

/// A dead-letter target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The exchange.
    pub exchange: Name,
    /// The routing key; the message's own if absent.
    pub key: Option<Name>,
}

/// How long 4.3 waits for a consumer whose broker node is gone before it hands its messages on. Its own default is 60
/// seconds; older brokers hand over in half a second and ignore the argument.
const DISCONNECTED_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the leader of a new queue goes: to the node that leads the fewest. By default it would be the node of who
/// declares it first, who declares all: one node would lead everything. Classic queues of 3.10 refuse it.
const LEADER_LOCATOR: &str = "x-queue-leader-locator";
const BALANCED: &str = "balanced";

impl Queue {
    /// A queue with no limits.
    pub fn new(name: Name, kind: QueueKind) -> Self {
        Self {
            name,
            kind,
            message_ttl: None,
            dead_letter: None,
            max_length: None,
            overflow: Overflow::default(),
            expires: None,
            single_active_consumer: false,
            consumer_timeout: None,
        }
    }

    /// Whether a dead letter leaves it only once its target has it.
    pub fn is_dead_lettering_at_least_once(&self) -> bool {
        matches!(self.kind, QueueKind::Quorum { .. }) && self.overflow == Overflow::Reject
    }

    /// The arguments it is declared with, alike on 3.10 to 4.3. All explicit: defaults differ by version and by
    /// virtual host, and the broker compares each of them when the queue is declared again.
    pub fn arguments(&self) -> Headers {
        let mut arguments = Headers::new();
        match self.kind {
            QueueKind::Quorum { group_size, delivery_limit } => {
                arguments.insert("x-queue-type", "quorum");
                arguments.insert("x-quorum-initial-group-size", i64::from(group_size));
                arguments.insert(LEADER_LOCATOR, BALANCED);
                arguments.insert("x-delivery-limit", i64::from(delivery_limit));
                arguments.insert("x-consumer-disconnected-timeout", DISCONNECTED_TIMEOUT);
                // At-least-once needs reject-publish: with the default overflow the broker silently falls back to
                // at-most-once, which loses messages when a node crashes.
                arguments.insert("x-overflow", self.overflow.as_str());
                if self.dead_letter.is_some() {
                    let strategy =
                        if self.is_dead_lettering_at_least_once() { "at-least-once" } else { "at-most-once" };
                    arguments.insert("x-dead-letter-strategy", strategy);
                }
                if let Some(timeout) = self.consumer_timeout {
                    arguments.insert("x-consumer-timeout", timeout);
                }
            }
            QueueKind::Classic => {
                arguments.insert("x-queue-type", "classic");
                if self.max_length.is_some() {
                    arguments.insert("x-overflow", self.overflow.as_str());
                }
            }
            QueueKind::Stream { group_size, max_age, max_bytes } => {
                let segment = (max_bytes / 8).clamp(*SEGMENT.start(), *SEGMENT.end());
                arguments.insert("x-queue-type", "stream");
                arguments.insert("x-initial-cluster-size", i64::from(group_size));
                arguments.insert(LEADER_LOCATOR, BALANCED);
                arguments.insert("x-max-age", format!("{}s", max_age.as_secs().max(1)));
                arguments.insert("x-max-length-bytes", max_bytes);
                arguments.insert("x-stream-max-segment-size-bytes", segment);
                return arguments;
            }
        }
        if let Some(DeadLetter { exchange, key }) = &self.dead_letter {
            arguments.insert("x-dead-letter-exchange", exchange.as_str());
            if let Some(key) = key {
                arguments.insert("x-dead-letter-routing-key", key.as_str());
            }
        }
        if let Some(ttl) = self.message_ttl {
            arguments.insert("x-message-ttl", ttl);
        }
        if let Some(length) = self.max_length {
            arguments.insert("x-max-length", length);
        }
        if let Some(expires) = self.expires {
            arguments.insert("x-expires", expires);
        }
        if self.single_active_consumer {
            arguments.insert("x-single-active-consumer", true);
        }
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Value;

    const QUORUM: QueueKind = QueueKind::Quorum { group_size: 1, delivery_limit: 5 };

    fn queue(kind: QueueKind, with: impl FnOnce(&mut Queue)) -> Queue {
        let mut queue = Queue::new(Name::new("queue", "q").unwrap(), kind);
        with(&mut queue);
        queue
    }

    #[test]
    fn only_a_queue_that_refuses_dead_letters_at_least_once() {
        let exchange = Name::new("exchange", "dead").unwrap();
        let table = [
            (Overflow::Reject, "reject-publish", "at-least-once"),
            (Overflow::DropHead, "drop-head", "at-most-once"),
        ];
        for (overflow, written, strategy) in table {
            let arguments = queue(QUORUM, |queue| {
                queue.overflow = overflow;
                queue.dead_letter = Some(DeadLetter { exchange: exchange.clone(), key: None });
            })
            .arguments();
            assert_eq!(arguments.get("x-overflow"), Some(&written.into()));
            assert_eq!(arguments.get("x-dead-letter-strategy"), Some(&strategy.into()));
        }
    }

    #[test]
    fn only_a_quorum_queue_limits_how_long_a_delivery_is_held() {
        for (kind, expected) in [(QUORUM, Some(Value::Int(60_000))), (QueueKind::Classic, None)] {
            let limited = queue(kind, |queue| queue.consumer_timeout = Some(Duration::from_secs(60)));
            assert_eq!(limited.arguments().get("x-consumer-timeout"), expected.as_ref());
        }
    }

    #[test]
    fn a_stream_has_segments_that_fit_its_size_and_nothing_of_other_queues() {
        const MIB: u64 = 1 << 20;
        for (max_bytes, segment) in [(1, MIB), (32 * MIB, 4 * MIB), (1 << 40, 64 * MIB)] {
            let max_age = Duration::from_millis(90_500);
            let kind = QueueKind::Stream { group_size: 3, max_age, max_bytes };
            let arguments = queue(kind, |queue| queue.message_ttl = Some(max_age)).arguments();
            let expected: Headers = [
                ("x-queue-type", Value::from("stream")),
                ("x-initial-cluster-size", 3.into()),
                ("x-queue-leader-locator", "balanced".into()),
                ("x-max-age", "90s".into()),
                ("x-max-length-bytes", Value::Int(max_bytes.try_into().unwrap())),
                ("x-stream-max-segment-size-bytes", Value::Int(segment.try_into().unwrap())),
            ]
            .into_iter()
            .collect();
            assert_eq!(arguments, expected);
        }
    }
}
