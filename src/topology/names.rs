//! [`QueueName`], [`Namespace`], and every name derived from them. Nobody else concatenates.

use std::fmt;
use std::sync::Arc;

use crate::error::Error;
use crate::error::Result;
use crate::lane::Lane;
use crate::name::Name;
use crate::topology::wheel::Level;
use crate::topology::wheel::POSITIONS;
use crate::topology::wheel::Passage;

/// Leaves room for a namespace, a lane and dots within the broker's 255 bytes.
const LONGEST: usize = 96;

/// What an application calls a queue: 1 to 96 bytes; no spaces, control characters, `*` or `#`.
///
/// On the broker a queue is three, one per lane: `{namespace}.{queue}.urgent`, `.normal` and `.low`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueName(Name);

/// What all names of one application on a broker begin with: rules as for [`QueueName`]. `taskhare` by default.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Namespace(Name);

impl QueueName {
    /// The same, shared.
    pub(crate) fn text(&self) -> Arc<str> {
        self.0.text()
    }

    /// Checks `name`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`].
    pub fn new(name: &str) -> Result<Self> {
        checked("queue", name).map(Self)
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl Namespace {
    /// Checks `name`.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidName`].
    pub fn new(name: &str) -> Result<Self> {
        checked("namespace", name).map(Self)
    }

    /// The name itself.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

fn checked(what: &'static str, name: &str) -> Result<Name> {
    let invalid = |reason: String| Error::InvalidName { what, name: name.chars().take(48).collect(), reason };
    if name.len() > LONGEST {
        return Err(invalid(format!("it has {} bytes, and at most {LONGEST} are allowed", name.len())));
    }
    if let Some(bad) = name.chars().find(|c| c.is_whitespace() || matches!(c, '*' | '#')) {
        return Err(invalid(format!("it contains {bad:?}")));
    }
    Name::new(what, name)
}

impl fmt::Display for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for QueueName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl fmt::Debug for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// All names of a namespace.
#[derive(Clone, Debug)]
pub(crate) struct Names(Namespace);

impl Names {
    pub(crate) fn new(namespace: Namespace) -> Self {
        Self(namespace)
    }

    /// The exchange where tasks come in.
    pub(crate) fn tasks(&self) -> Name {
        self.name(format_args!("tasks"))
    }

    /// The exchange for dead letters.
    pub(crate) fn dead(&self) -> Name {
        self.name(format_args!("dead"))
    }

    /// The queue on the broker that is one lane of `queue`.
    pub(crate) fn lane(&self, queue: &QueueName, lane: Lane) -> Name {
        self.name(format_args!("{queue}.{lane}"))
    }

    /// The queue that has this lane or quarantine on the broker.
    pub(crate) fn queue_of(&self, name: &str) -> Option<QueueName> {
        let (queue, part) = self.without_namespace(name)?.rsplit_once('.')?;
        let is_ours = Lane::parse(part).is_some() || part == "quarantine";
        QueueName::new(queue).ok().filter(|_| is_ours)
    }

    /// Whether in this queue on the broker tasks wait that are not due, or run for long.
    pub(crate) fn is_on_its_way(&self, name: &str) -> bool {
        let name = self.without_namespace(name);
        name.is_some_and(|name| name.starts_with("delay.") || name.starts_with("lease."))
    }

    fn without_namespace<'a>(&self, name: &'a str) -> Option<&'a str> {
        name.strip_prefix(self.0.as_str())?.strip_prefix('.')
    }

    /// The routing key of that lane.
    pub(crate) fn lane_key(queue: &QueueName, lane: Lane) -> Name {
        name(format!("{queue}.{lane}"))
    }

    /// The queue of `queue`'s tasks that came back without an end too often to be started among others.
    pub(crate) fn quarantine(&self, queue: &QueueName) -> Name {
        self.name(format_args!("{queue}.quarantine"))
    }

    /// The routing key of that queue.
    pub(crate) fn quarantine_key(queue: &QueueName) -> Name {
        name(format!("{queue}.quarantine"))
    }

    /// The queue of `queue`'s dead letters.
    pub(crate) fn dead_queue(&self, queue: &QueueName) -> Name {
        self.name(format_args!("{queue}.dead"))
    }

    /// The routing key of that queue.
    pub(crate) fn dead_key(queue: &QueueName) -> Name {
        queue.0.clone()
    }

    /// The exchange of one position of the delay wheel.
    pub(crate) fn delay(&self, position: u8) -> Name {
        self.name(format_args!("delay.{position:02}"))
    }

    /// A queue of the delay wheel.
    pub(crate) fn delay_level(&self, Level { position, digit }: Level) -> Name {
        self.name(format_args!("delay.{position:02}.{digit}"))
    }

    /// The routing key of a task through the wheel to that lane.
    pub(crate) fn delay_key(passage: Passage, queue: &QueueName, lane: Lane) -> Name {
        name(format!("{}.{queue}.{lane}", passage.words()))
    }

    /// The pattern of all keys with `word` at that position.
    pub(crate) fn delay_pattern(position: u8, word: char) -> Name {
        name(format!("{}{word}.#", "*.".repeat((POSITIONS - 1 - position).into())))
    }

    /// The exchange where tasks leave the wheel.
    pub(crate) fn due(&self) -> Name {
        self.name(format_args!("due"))
    }

    /// The pattern of all keys that lead to where `key` does.
    pub(crate) fn due_pattern(key: &Name) -> Name {
        name(format!("{}{key}", "*.".repeat(POSITIONS.into())))
    }

    /// The exchange of the lease queues.
    pub(crate) fn leases(&self) -> Name {
        self.name(format_args!("lease"))
    }

    /// The queue that holds what one consumer runs for long.
    pub(crate) fn lease_queue(&self, holder: &Name) -> Name {
        self.name(format_args!("lease.{holder}"))
    }

    /// The pattern of all keys that lead to that queue.
    pub(crate) fn lease_pattern(holder: &Name) -> Name {
        name(format!("{holder}.#"))
    }

    /// The routing key of a task into that queue, and from there to where `key` leads. As many words before that one as
    /// a key through the wheel has: both go by the same bindings.
    pub(crate) fn lease_key(holder: &Name, key: &Name) -> Name {
        name(format!("{holder}.{}{key}", "-.".repeat((POSITIONS - 1).into())))
    }

    /// The exchange, and the queue behind it, for what left the wheel and found no lane.
    pub(crate) fn undeliverable(&self) -> Name {
        self.name(format_args!("undeliverable"))
    }

    /// The exchange for facts about tasks, and the stream that keeps them.
    pub(crate) fn control(&self) -> Name {
        self.name(format_args!("control"))
    }

    /// The pattern of all keys.
    pub(crate) fn everything() -> Name {
        name("#".to_owned())
    }

    /// The exchange for claims to unique keys, and the stream that keeps them.
    pub(crate) fn unique(&self) -> Name {
        self.name(format_args!("unique"))
    }

    /// The exchange for events.
    pub(crate) fn events(&self) -> Name {
        self.name(format_args!("events"))
    }

    /// The stream that keeps them.
    pub(crate) fn history(&self) -> Name {
        self.name(format_args!("history"))
    }

    /// The queue that holds the schedules.
    pub(crate) fn schedules(&self) -> Name {
        self.name(format_args!("schedules"))
    }

    /// The routing key of that queue. No lane has one without a dot.
    pub(crate) fn schedules_key() -> Name {
        name("schedules".to_owned())
    }

    /// The exchange where outputs go back.
    pub(crate) fn outputs(&self) -> Name {
        self.name(format_args!("outputs"))
    }

    /// The queue where the outputs for one producer arrive.
    pub(crate) fn outputs_queue(&self, key: &Name) -> Name {
        self.name(format_args!("outputs.{key}"))
    }

    fn name(&self, rest: fmt::Arguments<'_>) -> Name {
        name(format!("{}.{rest}", self.0.as_str()))
    }
}

fn name(name: String) -> Name {
    Name::new("name", name).expect("two checked parts of at most 96 bytes and a suffix make a valid name")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_on_the_broker_tells_whose_it_is() {
        let names = Names::new(Namespace::new("shop").unwrap());
        for (name, queue, is_on_its_way) in [
            ("shop.mail.urgent", Some("mail"), false),
            ("shop.mail.quarantine", Some("mail"), false),
            ("shop.eu.mail.low", Some("eu.mail"), false),
            ("shop.mail.dead", None, false),
            ("shop.schedules", None, false),
            ("shop.delay.03.2", None, true),
            ("shop.lease.c0ffee", None, true),
            ("shop.delay.low", Some("delay"), true),
            ("shopping.mail.low", None, false),
            ("mail.low", None, false),
        ] {
            assert_eq!(names.queue_of(name).as_ref().map(QueueName::as_str), queue, "{name}");
            assert_eq!(names.is_on_its_way(name), is_on_its_way, "{name}");
        }
    }
}
