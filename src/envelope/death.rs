//! [`Death`]: what a dead letter says beside its task.
//!
//! | where | what |
//! | --- | --- |
//! | `taskhare-reason` | why: a [`DeadReason`] |
//! | `taskhare-error` | the last failure, at most 2 KiB |
//! | `taskhare-dead-at` | when, in milliseconds since the Unix epoch |
//! | `taskhare-queue` | the queue it was in |
//! | `taskhare-failures` | its last attempts |
//!
//! A consumer writes them. What the broker dead-letters by itself has its `x-death` instead: what it takes from a lane is
//! past its deadline (`expired`), has come back too often (`delivery_limit`), or was rejected by a consumer because the
//! broker had refused the message that was to follow it.

use std::time::Duration;

use super::ERROR;
use super::FAILURES;
use super::HOLD;
use super::LONGEST_ERROR;
use super::QUEUE;
use super::RETURNED;
use super::milliseconds;
use crate::failures;
use crate::failures::FailedAttempt;
use crate::message::Headers;
use crate::message::Message;
use crate::message::Value;
use crate::message::since_epoch;
use crate::outcome::DeadReason;

const REASON: &str = "taskhare-reason";
const DEAD_AT: &str = "taskhare-dead-at";

/// Why, when and where a message became a dead letter. Times are since the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Death {
    pub(crate) reason: DeadReason,
    pub(crate) error: Option<String>,
    pub(crate) queue: Option<String>,
    pub(crate) at: Option<Duration>,
    /// The last attempts.
    pub(crate) failures: Vec<FailedAttempt>,
}

impl Death {
    pub(crate) fn read(headers: &Headers) -> Self {
        let text = |name| headers.get(name).and_then(Value::as_text);
        // A reason of a later release reads as foreign too: it is one, to this release.
        let ours = text(REASON).map(|reason| DeadReason::parse(reason).unwrap_or(DeadReason::Foreign));
        Self {
            reason: ours.or_else(|| by_broker(headers)).unwrap_or(DeadReason::Foreign),
            error: text(ERROR).map(str::to_owned),
            queue: text(QUEUE).map(str::to_owned),
            at: milliseconds(headers, DEAD_AT).or_else(|| time_by_broker(headers)),
            failures: failures::read(headers.get(FAILURES)),
        }
    }
}

/// The queue from which a consumer has put it into the dead letters, read without opening it.
pub(crate) fn buried_from(headers: &Headers) -> Option<&str> {
    headers.get(REASON)?;
    headers.get(QUEUE)?.as_text()
}

/// The queue on the broker that it has left last by itself, read without opening it.
pub(crate) fn last_queue(headers: &Headers) -> Option<&str> {
    newest(headers)?.get("queue")?.as_text()
}

/// Where and why the broker has taken it out of a queue first: queue and reason.
pub(crate) fn first_death(headers: &Headers) -> Option<(&str, &str)> {
    let text = |name| headers.get(name).and_then(Value::as_text);
    Some((text("x-first-death-queue")?, text("x-first-death-reason")?))
}

/// The queue it is to go to after a wait.
pub(crate) fn bound_for(headers: &Headers) -> Option<&str> {
    headers.get(QUEUE)?.as_text()
}

/// Writes down where, why and when the broker has taken it out of a queue.
pub(crate) fn set_death(headers: &mut Headers, queue: &str, reason: &str, at: Duration) {
    let mut death = Headers::new();
    death.insert("queue", queue);
    death.insert("reason", reason);
    death.insert("time", Value::Timestamp(at.as_secs()));
    headers.insert("x-death", Value::List(vec![Value::Table(death)]));
}

/// A message for the dead letters: as it was, with why, when and where from.
pub(crate) fn dead_letter(
    mut message: Message,
    reason: DeadReason,
    error: &str,
    queue: &str,
    now: Duration,
) -> Message {
    message.expiration = None;
    message.headers.strip_broker_headers();
    message.headers.remove(HOLD);
    message.headers.remove(RETURNED);
    message.headers.insert(REASON, reason.as_str());
    message.headers.insert(ERROR, failures::excerpt(error, LONGEST_ERROR));
    message.headers.insert(QUEUE, queue);
    message.headers.insert(DEAD_AT, now);
    message
}

/// When a message last left a queue because its time there was over, by the broker's clock, to the second.
pub(crate) fn expired_at(message: &Message) -> Option<Duration> {
    let is_expired = |death: &&Headers| death.get("reason").and_then(Value::as_text) == Some("expired");
    // RabbitMQ 3.10 does not keep them in order.
    deaths(&message.headers).filter(is_expired).filter_map(time).max()
}

/// Removes what [`dead_letter`] added, and what is remembered of earlier attempts.
pub(super) fn forget(headers: &mut Headers) {
    for name in [REASON, ERROR, FAILURES, QUEUE, DEAD_AT] {
        headers.remove(name);
    }
}

/// Why the broker took it out of the last queue it was in.
fn by_broker(headers: &Headers) -> Option<DeadReason> {
    // 4.x says it apart; on 3.x the newest entry is the first.
    let reason = headers.get("x-last-death-reason").or_else(|| newest(headers)?.get("reason"));
    match reason?.as_text()? {
        "expired" => Some(DeadReason::ExpiredInQueue),
        "delivery_limit" => Some(DeadReason::Crashed),
        "rejected" => Some(DeadReason::Rejected),
        _ => None,
    }
}

fn time_by_broker(headers: &Headers) -> Option<Duration> {
    time(newest(headers)?)
}

/// The newest entry of `x-death`.
fn newest(headers: &Headers) -> Option<&Headers> {
    deaths(headers).next()
}

/// The entries of `x-death`, one for each queue and reason.
fn deaths(headers: &Headers) -> impl Iterator<Item = &Headers> {
    let deaths = match headers.get("x-death") {
        Some(Value::List(deaths)) => deaths.as_slice(),
        _ => &[],
    };
    deaths.iter().filter_map(|death| match death {
        Value::Table(death) => Some(death),
        _ => None,
    })
}

/// When a death was, to the second.
fn time(death: &Headers) -> Option<Duration> {
    match death.get("time")? {
        Value::Timestamp(seconds) => Some(since_epoch(*seconds)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn died(reasons: &[&str]) -> Headers {
        let death = |reason: &&str| {
            let mut death = Headers::new();
            death.insert("reason", *reason);
            death.insert("time", Value::Timestamp(1_700_000_000));
            Value::Table(death)
        };
        [("x-death", Value::List(reasons.iter().map(death).collect()))].into_iter().collect()
    }

    #[test]
    fn what_a_consumer_wrote_is_read_back() {
        let now = Duration::from_millis(1_700_000_000_123);
        for reason in DeadReason::ALL {
            let message = Message { headers: died(&["expired"]), ..Message::default() };
            let letter = dead_letter(message, reason, "no such image", "mail", now);
            let expected = Death {
                reason,
                error: Some("no such image".to_owned()),
                queue: Some("mail".to_owned()),
                at: Some(now),
                failures: Vec::new(),
            };
            assert_eq!(Death::read(&letter.headers), expected);
        }
    }

    #[test]
    fn a_death_by_the_broker_has_a_reason_and_a_time() {
        use DeadReason::{Crashed, ExpiredInQueue, Foreign, Rejected};
        let died_at = Some(Duration::from_secs(1_700_000_000));
        for (headers, reason, at) in [
            (died(&["expired"]), ExpiredInQueue, died_at),
            (died(&["delivery_limit"]), Crashed, died_at),
            (died(&["rejected"]), Rejected, died_at),
            // It came through the delay wheel before.
            (died(&["delivery_limit", "expired", "expired"]), Crashed, died_at),
            (died(&["eaten"]), Foreign, died_at),
            (died(&[]), Foreign, None),
            ([("x-death", "broken")].into_iter().collect(), Foreign, None),
            ([("x-last-death-reason", "expired")].into_iter().collect(), ExpiredInQueue, None),
            ([("taskhare-reason", "of a later release")].into_iter().collect(), Foreign, None),
            (Headers::new(), Foreign, None),
        ] {
            let death = Death::read(&headers);
            assert_eq!((death.reason, death.at), (reason, at), "{headers:?}");
        }
    }
}
