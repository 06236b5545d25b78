//! A dead letter as the event that it is.

use std::borrow::Cow;
use std::time::Duration;

use crate::dead::DeadLetter;
use crate::envelope;
use crate::event::TaskEvent;
use crate::lane::Lane;
use crate::message::Message;
use crate::message::since_epoch;
use crate::topology::Names;
use crate::topology::QueueName;

/// What a message says that went to the dead letters, or found no queue; `None` if it was not a task's. `exchange` is
/// the one it came over, where that is known, and `latest`, since the Unix epoch, when what was read before it happened.
pub(crate) fn event(
    mut message: Message,
    exchange: Option<&str>,
    latest: Duration,
    names: &Names,
) -> Option<TaskEvent> {
    restore_death(&mut message, exchange, latest, names);
    let letter = match envelope::buried_from(&message.headers) {
        Some(queue) => {
            let queue = QueueName::new(queue).ok()?;
            DeadLetter::read(message, &queue)
        }
        None => {
            let last = envelope::last_queue(&message.headers)?;
            match names.queue_of(last) {
                Some(queue) => DeadLetter::read(message, &queue),
                None if names.is_on_its_way(last) => DeadLetter::read_undeliverable(message),
                None => return None,
            }
        }
    };
    Some(TaskEvent {
        id: letter.id().filter(|_| letter.is_task())?,
        name: Cow::Owned(letter.name().to_owned()),
        queue: letter.queue().into(),
        lane: None,
        attempt: letter.attempt(),
        at: letter.dead_at()?,
        by: "".into(),
        change: letter.change(),
    })
}

/// Streams of RabbitMQ 3.x keep no `x-death`, only why and where a message died first. That is all for one that has not
/// waited elsewhere before. For another one it is known from the exchange whether it died in a lane: then past its
/// deadline if it has one, or else because it came back too often. When it was, is when others were told of before it.
fn restore_death(message: &mut Message, exchange: Option<&str>, latest: Duration, names: &Names) {
    let headers = &message.headers;
    if envelope::buried_from(headers).is_some() || envelope::last_queue(headers).is_some() {
        return;
    }
    let Some((first, reason)) = envelope::first_death(headers) else { return };
    let deadline = envelope::deadline(message);
    let waited = names.is_on_its_way(first) && exchange == Some(names.dead().as_str());
    let (queue, reason) = match envelope::bound_for(headers).and_then(|queue| QueueName::new(queue).ok()) {
        Some(queue) if waited => {
            let reason = if deadline.is_some() { "expired" } else { "delivery_limit" };
            (names.lane(&queue, Lane::Normal).to_string(), reason.to_owned())
        }
        _ => (first.to_owned(), reason.to_owned()),
    };
    let enqueued = since_epoch(message.timestamp.unwrap_or_default());
    let at = deadline.filter(|_| reason == "expired").unwrap_or(latest.max(enqueued));
    envelope::set_death(&mut message.headers, &queue, &reason, at);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::TaskChange;
    use crate::message::Headers;
    use crate::message::Value;
    use crate::outcome::DeadReason;
    use crate::task::TaskId;
    use crate::topology::Namespace;

    /// What a stream of RabbitMQ 3.10 keeps of a task that the broker took out of a queue.
    fn letter(queue: &str, reason: &str, headers: &[(&'static str, Value)]) -> Message {
        let first = [("x-first-death-queue", queue.into()), ("x-first-death-reason", reason.into())];
        let headers: Headers = first.into_iter().chain(headers.iter().cloned()).collect();
        Message {
            id: Some(TaskId::from_u128(1).to_string()),
            kind: Some("resize".into()),
            content_type: Some("application/vnd.taskhare.v1+msgpack".into()),
            timestamp: Some(100),
            headers,
            ..Message::default()
        }
    }

    #[test]
    fn what_a_stream_has_dropped_is_told_from_what_it_keeps() {
        use DeadReason::{Crashed, ExpiredInQueue, Undeliverable};
        let names = Names::new(Namespace::new("ns").unwrap());
        let deadline = ("taskhare-deadline", Value::from(150_000_i64));
        let bound = ("taskhare-queue", Value::from("images"));
        let (lane, wheel) = ("ns.images.low", "ns.delay.03.1");
        for (queue, reason, headers, exchange, expected, at) in [
            (lane, "delivery_limit", vec![], "ns.dead", Crashed, 120),
            (lane, "delivery_limit", vec![deadline.clone()], "ns.dead", Crashed, 120),
            (lane, "expired", vec![deadline.clone()], "ns.dead", ExpiredInQueue, 150),
            (wheel, "expired", vec![bound.clone()], "ns.dead", Crashed, 120),
            (wheel, "expired", vec![bound.clone(), deadline], "ns.dead", ExpiredInQueue, 150),
            (wheel, "expired", vec![bound], "ns.delay.03", Undeliverable, 120),
        ] {
            let case = format!("{queue} {reason} {headers:?} {exchange}");
            let message = letter(queue, reason, &headers);
            let event = event(message, Some(exchange), Duration::from_secs(120), &names).expect(&case);
            assert_eq!(&*event.queue, "images", "{case}");
            assert_eq!(event.at, std::time::UNIX_EPOCH + Duration::from_secs(at), "{case}");
            let (TaskChange::Dead { reason, .. } | TaskChange::Expired { reason, .. }) = event.change else {
                panic!("{case}: {event:?}")
            };
            assert_eq!(reason, expected, "{case}");
        }
    }

    #[test]
    fn what_is_no_task_of_this_namespace_is_not_told() {
        let names = Names::new(Namespace::new("ns").unwrap());
        let told = |message| event(message, Some("ns.dead"), Duration::ZERO, &names);
        assert!(told(letter("other.images.low", "expired", &[])).is_none());
        assert!(told(Message { id: None, ..letter("ns.images.low", "expired", &[]) }).is_none());
        assert!(told(Message::default()).is_none());
    }
}
