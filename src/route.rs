//! [`Route`]: the way of a task into its queue: which lane, at once or through the delay wheel, until when. Pure.

use std::time::Duration;

use crate::envelope;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::lane::Lane;
use crate::message::LONGEST_TIME_TO_LIVE;
use crate::message::Message;
use crate::message::Value;
use crate::message::whole_milliseconds;
use crate::name::Name;
use crate::task::TaskId;
use crate::topology::Names;
use crate::topology::QueueName;
use crate::topology::wheel::Passage;
use crate::transport::Publish;
use crate::transport::PublishError;

/// More routing keys, beside the message's own: to RabbitMQ a header.
const COPY_TO: &str = "CC";

/// Why a queue refuses. RabbitMQ says the same of both.
const FULL: &str = "it is full, or has lost the majority of its nodes";

/// Where a task belongs that is held elsewhere for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Home {
    /// In its lane.
    Lane,
    /// Apart from others.
    Quarantine,
}

/// The ways into one queue.
#[derive(Clone, Debug)]
pub(crate) struct Route {
    names: Names,
    queue: QueueName,
    tasks: Name,
    keys: [Name; 3],
    urgent_within: Duration,
}

impl Route {
    pub(crate) fn new(names: &Names, queue: QueueName, urgent_within: Duration) -> Self {
        let keys = Lane::ALL.map(|lane| Names::lane_key(&queue, lane));
        Self { names: names.clone(), tasks: names.tasks(), keys, queue, urgent_within }
    }

    pub(crate) fn queue(&self) -> &QueueName {
        &self.queue
    }

    /// Whether a task due at that time goes through the delay wheel. Times are since the Unix epoch.
    pub(crate) fn is_delayed(due: Option<Duration>, now: Duration) -> bool {
        Self::passage(due, now).is_some()
    }

    fn passage(due: Option<Duration>, now: Duration) -> Option<Passage> {
        Passage::within(due?.saturating_sub(now))
    }

    /// The next message of a task.
    pub(crate) fn publish(&self, mut envelope: Envelope, now: Duration) -> Publish {
        envelope.due = envelope.due.map(whole_milliseconds);
        let start = envelope.due.map_or(now, |due| due.max(now));
        let left = envelope.deadline.map(|deadline| deadline.saturating_sub(start));
        let lane = Lane::choose(envelope.priority, left, self.urgent_within);
        let passage = Self::passage(envelope.due, now);
        let arrival = now + passage.map_or(Duration::ZERO, Passage::time);
        envelope.hold = envelope.due.and_then(|due| due.checked_sub(arrival)).map(whole_milliseconds);
        let Some(passage) = passage else {
            return self.to(self.keys[lane as usize].clone(), envelope, now);
        };
        // Without an expiration: the shorter of two times to live counts, and the wheel's is to.
        let mut message = envelope.seal();
        envelope::address(&mut message, self.queue.as_str());
        Publish {
            exchange: self.names.delay(passage.entry()),
            key: Names::delay_key(passage, &self.queue, lane),
            mandatory: true,
            message,
        }
    }

    /// A message that cannot be read here, into its lane after `wait`.
    pub(crate) fn pass_on(&self, message: Message, wait: Duration, now: Duration) -> Publish {
        let left = envelope::deadline(&message).map(|deadline| deadline.saturating_sub(now));
        let lane = Lane::choose(envelope::priority(&message), left, self.urgent_within);
        let (exchange, key) = match Passage::within(wait) {
            Some(passage) => {
                (self.names.delay(passage.entry()), Names::delay_key(passage, &self.queue, lane))
            }
            None => (self.tasks.clone(), self.keys[lane as usize].clone()),
        };
        Publish { exchange, key, mandatory: true, message }
    }

    /// The task of a tick, into its lane and the queue with key `schedules` in one publish. Without an expiration, which would
    /// take the schedule out of its queue; the consumer looks at the deadline.
    pub(crate) fn tick(&self, envelope: Envelope, now: Duration, schedules: &Name) -> Publish {
        let left = envelope.deadline.map(|deadline| deadline.saturating_sub(now));
        let lane = Lane::choose(envelope.priority, left, self.urgent_within);
        let mut message = envelope.seal();
        message.headers.insert(COPY_TO, Value::List(vec![schedules.as_str().into()]));
        Publish {
            exchange: self.tasks.clone(),
            key: self.keys[lane as usize].clone(),
            mandatory: true,
            message,
        }
    }

    /// The same task, to be started apart from all others.
    pub(crate) fn quarantine(&self, envelope: Envelope, now: Duration) -> Publish {
        self.to(Names::quarantine_key(&self.queue), envelope, now)
    }

    /// The same task, to be held by whoever runs it, in the lease queue of `holder`. Without an expiration: there it has
    /// a time to live of its own.
    pub(crate) fn lease(&self, envelope: Envelope, now: Duration, holder: &Name, home: Home) -> Publish {
        let left = envelope.deadline.map(|deadline| deadline.saturating_sub(now));
        let key = match home {
            Home::Lane => {
                self.keys[Lane::choose(envelope.priority, left, self.urgent_within) as usize].clone()
            }
            Home::Quarantine => Names::quarantine_key(&self.queue),
        };
        let (exchange, key) = (self.names.leases(), Names::lease_key(holder, &key));
        let mut message = envelope.seal();
        envelope::address(&mut message, self.queue.as_str());
        Publish { exchange, key, mandatory: true, message }
    }

    fn to(&self, key: Name, envelope: Envelope, now: Duration) -> Publish {
        let expiration = envelope.deadline.map(|deadline| deadline.saturating_sub(now));
        let mut message = envelope.seal();
        message.expiration = expiration.filter(|expiration| *expiration <= LONGEST_TIME_TO_LIVE);
        Publish { exchange: self.tasks.clone(), key, mandatory: true, message }
    }
}

/// A failed publish in the words of tasks.
pub(crate) fn refused(error: PublishError, id: TaskId, queue: &QueueName) -> Error {
    let (id, queue) = (id.to_string(), queue.to_string());
    match error {
        PublishError::Unroutable => Error::Unroutable { id, queue },
        PublishError::Rejected => Error::Rejected { id, queue, reason: FULL.to_owned() },
        PublishError::Forbidden(reason) => {
            Error::AccessRefused { action: format!("enqueue task {id} in queue '{queue}'"), reason }
        }
        PublishError::Refused(reason) => Error::Rejected { id, queue, reason },
        PublishError::Unconfirmed { waited, last_loss } => {
            Error::Unconfirmed { id, queue, waited, last_loss }
        }
        PublishError::Unavailable { waited, last_loss } => Error::Unavailable { id, waited, last_loss },
        PublishError::Closed => Error::Closed,
    }
}

#[cfg(test)]
mod tests {

    use super::*;
    use crate::lane::Priority;
    use crate::message::Headers;
    use crate::task::TaskId;
    use crate::topology::Namespace;

    const NOW: Duration = Duration::from_secs(1_700_000_000);

    fn route() -> Route {
        let names = Names::new(Namespace::new("ns").unwrap());
        Route::new(&names, QueueName::new("mail").unwrap(), Duration::from_secs(10))
    }

    /// A task that is due and past its deadline so many milliseconds from now.
    fn envelope(due: Option<i64>, deadline: Option<u64>) -> Envelope {
        let due = due.map(|ms| match u64::try_from(ms) {
            Ok(ms) => NOW + Duration::from_millis(ms),
            Err(_) => NOW - Duration::from_millis(ms.unsigned_abs()),
        });
        Envelope {
            priority: Priority::Low,
            due,
            hold: Some(Duration::from_secs(77)),
            deadline: deadline.map(|ms| NOW + Duration::from_millis(ms)),
            ..Envelope::new(TaskId::from_u128(7), "send", NOW, Vec::new())
        }
    }

    #[test]
    fn due_time_and_deadline_choose_the_way() {
        let wheel = |words: &str, lane: &str| format!("{words}.mail.{lane}");
        let low = "mail.low".to_owned();
        for (due, deadline, exchange, key, hold, expiration) in [
            (None, None, "ns.tasks", low.clone(), None, None),
            (Some(-5), None, "ns.tasks", low.clone(), None, None),
            (Some(0), None, "ns.tasks", low.clone(), Some(0), None),
            (Some(150), None, "ns.tasks", low.clone(), Some(150), None),
            (Some(150), Some(60_000), "ns.tasks", low.clone(), Some(150), Some(60_000)),
            (None, Some(5_000), "ns.tasks", "mail.urgent".to_owned(), None, Some(5_000)),
            (
                Some(20_000),
                Some(60_000),
                "ns.delay.04",
                wheel("0.0.0.0.0.0.0.0.0.0.0.1.0.3.1.2", "low"),
                Some(160),
                None,
            ),
            (
                Some(20_000),
                Some(21_000),
                "ns.delay.04",
                wheel("0.0.0.0.0.0.0.0.0.0.0.1.0.3.1.2", "urgent"),
                Some(160),
                None,
            ),
        ] {
            let ms = |ms: Option<u64>| ms.map(Duration::from_millis);
            let publish = route().publish(envelope(due, deadline), NOW);
            let case = format!("due {due:?}, deadline {deadline:?}");
            assert_eq!((publish.exchange.as_str(), publish.key.as_str()), (exchange, key.as_str()), "{case}");
            assert_eq!(publish.message.expiration, ms(expiration), "{case}");
            assert_eq!(envelope::due(&publish.message).and_then(|(_, hold)| hold), ms(hold), "{case}");
            let is_delayed = exchange != "ns.tasks";
            assert_eq!(Route::is_delayed(envelope(due, deadline).due, NOW), is_delayed, "{case}");
            let queue = publish.message.headers.get("taskhare-queue").and_then(Value::as_text);
            assert_eq!(queue, is_delayed.then_some("mail"), "{case}");
        }
    }

    #[test]
    fn what_cannot_be_read_waits_and_comes_to_its_lane() {
        let headers = |name: &'static str, value: Value| [(name, value)].into_iter().collect();
        let soon = Value::from(NOW + Duration::from_secs(5));
        for (headers, wait, exchange, lane) in [
            (Headers::new(), 1, "ns.delay.01", "normal"),
            (Headers::new(), 60, "ns.delay.04", "normal"),
            (headers("taskhare-priority", "low".into()), 1, "ns.delay.01", "low"),
            (headers("taskhare-priority", "of a later release".into()), 1, "ns.delay.01", "normal"),
            (headers("taskhare-deadline", soon), 1, "ns.delay.01", "urgent"),
        ] {
            let message = Message { headers, ..Message::default() };
            let publish = route().pass_on(message.clone(), Duration::from_secs(wait), NOW);
            assert_eq!(publish.exchange.as_str(), exchange, "{message:?}");
            assert!(publish.key.as_str().ends_with(&format!(".mail.{lane}")), "{message:?}");
            assert_eq!(publish.message, message);
        }
        let at_once = route().pass_on(Message::default(), Duration::ZERO, NOW);
        assert_eq!((at_once.exchange.as_str(), at_once.key.as_str()), ("ns.tasks", "mail.normal"));
    }

    #[test]
    fn a_lease_goes_home_by_its_key() {
        let holder = Name::new("holder", "h").unwrap();
        for (deadline, home, to) in [
            (None, Home::Lane, "mail.low"),
            (Some(60_000), Home::Lane, "mail.low"),
            (Some(5_000), Home::Lane, "mail.urgent"),
            (Some(5_000), Home::Quarantine, "mail.quarantine"),
        ] {
            let publish = route().lease(envelope(None, deadline), NOW, &holder, home);
            let key = format!("h.-.-.-.-.-.-.-.-.-.-.-.-.-.-.-.{to}");
            assert_eq!((publish.exchange.as_str(), publish.key.as_str()), ("ns.lease", key.as_str()));
            assert_eq!(publish.message.expiration, None, "the queue's own counts");
        }
    }

    #[test]
    fn a_delay_beyond_the_wheel_is_held_for_the_rest() {
        let years = 20 * 365 * 24 * 60 * 60 * 1000;
        let publish = route().publish(envelope(Some(years), None), NOW);
        let (_, hold) = envelope::due(&publish.message).unwrap();
        assert_eq!(publish.exchange.as_str(), "ns.delay.15");
        assert!(hold.unwrap() > Duration::from_secs(11 * 365 * 24 * 60 * 60));
    }
}
