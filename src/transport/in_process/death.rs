//! What becomes of a message's headers when it is dead-lettered.

use crate::message::Headers;
use crate::message::Message;
use crate::message::Value;
use crate::name::Name;
use crate::topology::DeadLetter;

use super::exchange::Origin;
use super::queue::Dead;

/// Why a message left its queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Expired,
    Rejected,
    DeliveryLimit,
    MaxLength,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Rejected => "rejected",
            Self::DeliveryLimit => "delivery_limit",
            Self::MaxLength => "maxlen",
        }
    }
}

/// The dead letter as it is published: to where, and with the record of its death. `time` is in seconds since the Unix
/// epoch.
pub(super) fn dead_letter(dead: &Dead, queue: &Name, to: &DeadLetter, time: u64) -> (Origin, Message) {
    let Dead { origin, message, reason } = dead;
    let mut message = message.clone();
    let headers = &mut message.headers;
    headers.insert("x-death", Value::List(with_death(headers, origin, queue, *reason, time)));
    if headers.get("x-first-death-reason").is_none() {
        headers.insert("x-first-death-reason", reason.as_str());
        headers.insert("x-first-death-queue", queue.as_str());
        headers.insert("x-first-death-exchange", origin.exchange.as_str());
    }
    if to.key.is_some() {
        headers.remove("CC");
    }
    message.expiration = None;
    let key = to.key.clone().unwrap_or_else(|| origin.key.clone());
    (Origin { exchange: to.exchange.clone(), key }, message)
}

/// The deaths so far and this one, the newest first; one entry for each queue and reason.
fn with_death(headers: &Headers, origin: &Origin, queue: &Name, reason: Reason, time: u64) -> Vec<Value> {
    let is_same =
        |death: &Headers| is(death, "queue", queue.as_str()) && is(death, "reason", reason.as_str());
    let (same, others): (Vec<&Headers>, Vec<&Headers>) = deaths(headers).partition(|death| is_same(death));
    let before = same.first().and_then(|death| death.get("count")?.as_int()).unwrap_or(0);
    let mut newest = Headers::new();
    newest.insert("queue", queue.as_str());
    newest.insert("reason", reason.as_str());
    newest.insert("count", before + 1);
    newest.insert("exchange", origin.exchange.as_str());
    newest.insert("routing-keys", Value::List(vec![origin.key.as_str().into()]));
    newest.insert("time", Value::Timestamp(time));
    std::iter::once(newest).chain(others.into_iter().cloned()).map(Value::Table).collect()
}

/// Whether a dead letter would go in circles: it died in `target` before, and nobody rejected it since. RabbitMQ skips
/// such a target.
pub(super) fn is_cycle(headers: &Headers, target: &Name) -> bool {
    for death in deaths(headers) {
        if is(death, "reason", Reason::Rejected.as_str()) {
            return false;
        }
        if is(death, "queue", target.as_str()) {
            return true;
        }
    }
    false
}

/// The tables of `x-death`, the newest first.
fn deaths(headers: &Headers) -> impl Iterator<Item = &Headers> {
    let list = match headers.get("x-death") {
        Some(Value::List(list)) => list.as_slice(),
        _ => &[],
    };
    list.iter().filter_map(|death| match death {
        Value::Table(death) => Some(death),
        _ => None,
    })
}

fn is(death: &Headers, field: &str, text: &str) -> bool {
    death.get(field).and_then(Value::as_text) == Some(text)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn name(name: &str) -> Name {
        Name::new("name", name).unwrap()
    }

    type Death = (&'static str, Reason);

    /// A message that died in these queues for these reasons, the last one last.
    fn after(deaths: &[Death], key: Option<&str>) -> (Origin, Message) {
        let to = DeadLetter { exchange: name("dead"), key: key.map(name) };
        let mut origin = Origin { exchange: name("exchange"), key: name("key") };
        let mut message = Message { expiration: Some(Duration::from_secs(1)), ..Message::default() };
        message.headers.insert("CC", Value::List(vec!["copy".into()]));
        for (queue, reason) in deaths {
            let dead = Dead { origin, message, reason: *reason };
            (origin, message) = dead_letter(&dead, &name(queue), &to, 7);
        }
        (origin, message)
    }

    fn summary(message: &Message) -> Vec<String> {
        let text = |death: &Headers, field| death.get(field).and_then(Value::as_text).unwrap().to_owned();
        let count = |death: &Headers| death.get("count").and_then(Value::as_int).unwrap();
        deaths(&message.headers)
            .map(|death| format!("{} {} {}", text(death, "queue"), text(death, "reason"), count(death)))
            .collect()
    }

    #[test]
    fn deaths_are_counted_by_queue_and_reason_the_newest_first() {
        use Reason::DeliveryLimit;
        use Reason::Expired;
        use Reason::Rejected;
        let deaths = [("a", Rejected), ("b", Expired), ("a", Rejected), ("a", DeliveryLimit)];
        let (_, message) = after(&deaths, None);
        assert_eq!(summary(&message), ["a delivery_limit 1", "a rejected 2", "b expired 1"]);
        let first = message.headers.get("x-first-death-queue").and_then(Value::as_text);
        assert_eq!(first, Some("a"));
    }

    #[test]
    fn a_dead_letter_has_no_expiration_and_copies_only_by_its_own_key() {
        for (key, expected_key, has_copies) in [(None, "key", true), (Some("other"), "other", false)] {
            let (origin, message) = after(&[("a", Reason::Expired)], key);
            assert_eq!(message.expiration, None);
            assert_eq!(origin, Origin { exchange: name("dead"), key: name(expected_key) });
            assert_eq!(message.headers.get("CC").is_some(), has_copies);
        }
    }

    #[test]
    fn it_is_a_cycle_unless_somebody_rejected_it_on_the_way() {
        use Reason::Expired;
        use Reason::Rejected;
        let table: [(&[Death], &str, bool); 6] = [
            (&[], "a", false),
            (&[("a", Expired)], "a", true),
            (&[("a", Expired)], "b", false),
            (&[("a", Expired), ("b", Expired)], "a", true),
            (&[("a", Rejected), ("b", Expired)], "a", false),
            (&[("a", Expired), ("b", Rejected)], "a", false),
        ];
        for (deaths, target, expected) in table {
            let (_, message) = after(deaths, None);
            assert_eq!(is_cycle(&message.headers, &name(target)), expected, "{deaths:?} to {target}");
        }
    }
}
