//! [`Route`]: the way of a task into its queue: which lane, by which exchange, until when. Pure.

use std::time::Duration;

use crate::envelope::Envelope;
use crate::lane::Lane;
use crate::name::Name;
use crate::topology::Names;
use crate::topology::QueueName;
use crate::transport::Publish;

/// The longest time to live that RabbitMQ takes: ten years.
const LONGEST_EXPIRATION: Duration = Duration::from_millis(315_360_000_000);

/// The ways into one queue.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    queue: QueueName,
    tasks: Name,
    keys: [Name; 3],
    urgent_within: Duration,
}

impl Route {
    pub(crate) fn new(names: &Names, queue: QueueName, urgent_within: Duration) -> Self {
        let keys = Lane::ALL.map(|lane| Names::lane_key(&queue, lane));
        Self { tasks: names.tasks(), keys, queue, urgent_within }
    }

    pub(crate) fn queue(&self) -> &QueueName {
        &self.queue
    }

    /// The next message of a task. `now` is since the Unix epoch.
    pub(crate) fn publish(&self, envelope: Envelope, now: Duration) -> Publish {
        let start = envelope.due.map_or(now, |due| due.max(now));
        let left = envelope.deadline.map(|deadline| deadline.saturating_sub(start));
        let lane = Lane::choose(envelope.priority, left, self.urgent_within);
        self.to(self.keys[lane as usize].clone(), envelope, now)
    }

    /// The same task, to be started apart from all others.
    pub(crate) fn quarantine(&self, envelope: Envelope, now: Duration) -> Publish {
        self.to(Names::quarantine_key(&self.queue), envelope, now)
    }

    fn to(&self, key: Name, envelope: Envelope, now: Duration) -> Publish {
        let expiration = envelope.deadline.map(|deadline| deadline.saturating_sub(now));
        let mut message = envelope.seal();
        message.expiration = expiration.filter(|expiration| *expiration <= LONGEST_EXPIRATION);
        Publish { exchange: self.tasks.clone(), key, mandatory: true, message }
    }
}
