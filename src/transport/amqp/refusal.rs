//! What the broker says when it refuses, as an [`Error`]. Pure: texts in, errors out.

use std::time::Duration;

use amqprs::error::Error as ClientError;

use crate::error::Error;
use crate::transport::PublishError;
use crate::transport::amqp::url::Endpoint;

/// RabbitMQ waits 3 seconds before it hangs up on a wrong password, and says nothing. A proxy without a broker behind
/// it hangs up at once.
const SILENT_REFUSAL: Duration = Duration::from_millis(2500);

/// Why a channel was closed by the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Closed {
    pub(super) code: u16,
    pub(super) text: String,
}

/// The meaning of a failed attempt to connect that took `elapsed`.
pub(super) fn connect(endpoint: &Endpoint, error: ClientError, elapsed: Duration) -> Error {
    let host = endpoint.to_string();
    match &error {
        ClientError::ConnectionOpenError(text) => {
            if let Some(closed) = close_in(text) {
                return match closed.code {
                    403 => Error::Login { host, user: endpoint.user.clone() },
                    530 => Error::VirtualHost { host, vhost: endpoint.vhost.clone(), reason: closed.text },
                    code => Error::Connect {
                        hosts: host,
                        source: format!("closed: {code} {}", closed.text).into(),
                    },
                };
            }
        }
        ClientError::NetworkError(text) if elapsed >= SILENT_REFUSAL && is_hang_up(text) => {
            return Error::Login { host, user: endpoint.user.clone() };
        }
        _ => {}
    }
    Error::Connect { hosts: host, source: Box::new(error) }
}

fn is_hang_up(text: &str) -> bool {
    ["Connection reset", "peer shutdown", "interrupted", "Broken pipe"].iter().any(|sign| text.contains(sign))
}

/// The close frame that the client library prints into its error.
fn close_in(text: &str) -> Option<Closed> {
    let code = text.split_once("reply_code: ")?.1;
    let code = code.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    let reply = text.split_once("reply_text: ShortStr(")?.1.split_once('"')?.1;
    let reply = reply.split_once("\")").map_or(reply, |(reply, _)| reply);
    Some(Closed { code, text: reply.replace("\\'", "'").replace("\\\"", "\"") })
}

/// The meaning of a channel closed while `object` was declared.
pub(super) fn declare(object: &str, closed: &Closed) -> Error {
    match closed.code {
        403 => Error::AccessRefused { action: format!("declare {object}"), reason: closed.text.clone() },
        406 => conflict(object, &closed.text).unwrap_or_else(|| failed(object, closed)),
        _ => failed(object, closed),
    }
}

/// The meaning of a connection lost while queues were declared, if that was because of a kind of queue that is switched off:
/// the broker ends the connection then, not the channel, and would do so again on the next.
pub(super) fn disabled(why: &str) -> Option<Error> {
    let (object, rest) = why.split_once("Cannot declare a queue '")?.1.split_once("' of type 'rabbit_")?;
    let feature = rest.split(|c: char| !c.is_ascii_lowercase() && c != '_').next()?;
    Some(Error::FeatureDisabled { object: object.to_owned(), feature: feature.to_owned() })
}

fn failed(object: &str, closed: &Closed) -> Error {
    Error::Declare { object: object.to_owned(), reason: closed.text.clone() }
}

/// Whether declaring once more may go differently: many processes declare the same at the same time, and a broker that
/// has just started may not have elected its leaders.
pub(super) fn is_transient(closed: &Closed) -> bool {
    let inequivalent = closed.text.contains("inequivalent arg") || closed.text.contains("invalid arg");
    match closed.code {
        404 => !closed.text.contains("no exchange") && !closed.text.contains("no queue"),
        406 => !inequivalent,
        403 | 405 | 530 | 540 => false,
        _ => true,
    }
}

/// `inequivalent arg 'a' for queue 'q' in vhost '/': received A but current is B`
fn conflict(object: &str, text: &str) -> Option<Error> {
    let (argument, rest) = text.split_once("inequivalent arg '")?.1.split_once("' for ")?;
    let (ours, theirs) = rest.rsplit_once(": received ")?.1.split_once(" but current is ")?;
    Some(Error::TopologyConflict {
        object: object.to_owned(),
        argument: argument.to_owned(),
        ours: value(ours),
        theirs: value(theirs),
    })
}

/// `'5'`, `the value '5' of type 'long'` or `none`.
fn value(text: &str) -> String {
    let text = text.strip_prefix("the value ").unwrap_or(text);
    let text = text.rsplit_once(" of type ").map_or(text, |(text, _)| text);
    match text.strip_prefix('\'') {
        Some(text) => text.strip_suffix('\'').unwrap_or(text).to_owned(),
        None => text.to_owned(),
    }
}

/// The meaning of a channel closed while `queue` was consumed.
pub(super) fn consume(queue: &str, closed: &Closed) -> Error {
    match closed.code {
        403 => {
            Error::AccessRefused { action: format!("consume queue '{queue}'"), reason: closed.text.clone() }
        }
        _ => Error::Consume { queue: queue.to_owned(), reason: closed.text.clone() },
    }
}

/// Whether the broker closes a connection because it ends itself, or pauses because it is in a minority. An operator who
/// has it closed gives another reason.
pub(super) fn is_end_of_broker(code: u16, text: &str) -> bool {
    code == 320 && text.contains("broker forced connection closure")
}

/// Whether the stream that was to be consumed has no copy on this node, and may have one on another.
pub(super) fn has_no_copy_here(closed: &Closed) -> bool {
    closed.code == 406 && closed.text.contains("replica on the local node")
}

/// The meaning of a channel closed because of a publish.
pub(super) fn publish(closed: Closed) -> PublishError {
    match closed.code {
        403 => PublishError::Forbidden(closed.text),
        _ => PublishError::Refused(closed.text),
    }
}

/// Whether a channel may have been closed because of a publish to `exchange` with a body of `size` bytes. Others on the
/// channel are closed with it; most texts tell whose fault it was.
pub(super) fn blames(closed: &Closed, exchange: &str, size: usize) -> bool {
    let text = &closed.text;
    if text.contains(" exchange '") {
        return text.contains(&format!(" exchange '{exchange}'"));
    }
    if let Some((_, rest)) = text.split_once("message size ") {
        return rest.split(' ').next() == Some(size.to_string().as_str());
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed(code: u16, text: &str) -> Closed {
        Closed { code, text: text.to_owned() }
    }

    #[test]
    fn a_broker_that_ends_is_told_from_one_that_only_closes_the_connection() {
        for (code, text, expected) in [
            (320, "CONNECTION_FORCED - broker forced connection closure with reason 'shutdown'", true),
            (320, "CONNECTION_FORCED - Closed via management plugin", false),
            (541, "INTERNAL_ERROR", false),
        ] {
            assert_eq!(is_end_of_broker(code, text), expected, "{text}");
        }
    }

    // Verbatim from RabbitMQ 3.10.8 and 4.3.6, which say the same unless noted.
    #[test]
    fn conflicts_name_the_argument_and_both_values() {
        let table = [
            (
                "'x-delivery-limit' for queue 'q' in vhost '/': received '5' but current is '20'",
                "x-delivery-limit",
                "5",
                "20",
            ),
            (
                "'x-delivery-limit' for queue 'q' in vhost '/': received none but current is the value '20' of type 'long'",
                "x-delivery-limit",
                "none",
                "20",
            ),
            (
                "'x-delivery-limit' for queue 'q' in vhost '/': received the value '5' of type 'signedint' but current is the value '20' of type 'signedint'",
                "x-delivery-limit",
                "5",
                "20",
            ),
            (
                "'x-dead-letter-exchange' for queue 'q' in vhost '/': received 'other' but current is 'dlx'",
                "x-dead-letter-exchange",
                "other",
                "dlx",
            ),
            (
                "'x-dead-letter-strategy' for queue 'q' in vhost '/': received the value 'at-least-once' of type 'longstr' but current is none",
                "x-dead-letter-strategy",
                "at-least-once",
                "none",
            ),
            (
                "'x-single-active-consumer' for queue 'q' in vhost '/': received none but current is the value 'true' of type 'bool'",
                "x-single-active-consumer",
                "none",
                "true",
            ),
            (
                "'x-queue-type' for queue 'q' in vhost '/': received 'classic' but current is 'quorum'",
                "x-queue-type",
                "classic",
                "quorum",
            ),
            (
                "'durable' for queue 'q' in vhost '/': received 'false' but current is 'true'",
                "durable",
                "false",
                "true",
            ),
            (
                "'type' for exchange 'e' in vhost '/': received 'topic' but current is 'direct'",
                "type",
                "topic",
                "direct",
            ),
            (
                "'alternate-exchange' for exchange 'e' in vhost '/': received none but current is the value 'alt' of type 'longstr'",
                "alternate-exchange",
                "none",
                "alt",
            ),
            (
                "'x' for queue 'it's: received ' in vhost 'a b': received 'it's' but current is 'o'",
                "x",
                "it's",
                "o",
            ),
        ];
        for (text, argument, ours, theirs) in table {
            let text = format!("PRECONDITION_FAILED - inequivalent arg {text}");
            match declare("queue 'q'", &closed(406, &text)) {
                Error::TopologyConflict { object, argument: a, ours: o, theirs: t } => {
                    assert_eq!(
                        (object.as_str(), a.as_str(), o.as_str(), t.as_str()),
                        ("queue 'q'", argument, ours, theirs)
                    );
                }
                other => panic!("{text}: {other:?}"),
            }
            assert!(!is_transient(&closed(406, &text)), "{text}");
        }
    }

    // Verbatim from RabbitMQ 3.10.8, where it is switched off. Cut off at 255 bytes, if the names are long.
    #[test]
    fn a_kind_of_queue_that_is_switched_off_is_named_by_its_feature_flag() {
        let text = "541 INTERNAL_ERROR - Cannot declare a queue 'queue 's' in vhost '/'' of type 'rabbit_stream_queue' on node 'rabbit@localhost': the corresponding feature flag is disabled";
        for (text, feature) in [
            (text.to_owned(), Some("stream_queue")),
            (format!("{text}: connection is closed"), Some("stream_queue")),
            (text.replace("stream", "quorum"), Some("quorum_queue")),
            (text.split_once("on node").unwrap().0.to_owned(), Some("stream_queue")),
            ("541 INTERNAL_ERROR".to_owned(), None),
            ("the socket was closed, or the broker fell silent".to_owned(), None),
        ] {
            match (disabled(&text), feature) {
                (Some(Error::FeatureDisabled { object, feature }), Some(expected)) => {
                    assert_eq!((object.as_str(), feature.as_str()), ("queue 's' in vhost '/'", expected));
                }
                (found, expected) => assert!(found.is_none() && expected.is_none(), "{text}: {found:?}"),
            }
        }
    }

    #[test]
    fn other_refusals_keep_their_text() {
        let table = [
            // 4.3 says "configure access to queue".
            (
                403,
                "ACCESS_REFUSED - access to queue 'q' in vhost '/' refused for user 'limited'",
                "permission",
                false,
            ),
            (
                403,
                "ACCESS_REFUSED - queue name 'amq.x' contains reserved prefix 'amq.*'",
                "permission",
                false,
            ),
            (404, "NOT_FOUND - no exchange 'e' in vhost '/'", "no exchange 'e'", false),
            (
                404,
                "NOT_FOUND - home node 'a@b' of durable queue 'q' in vhost '/' is down or inaccessible",
                "home node",
                true,
            ),
            (
                405,
                "RESOURCE_LOCKED - cannot obtain exclusive access to locked queue 'q' in vhost '/'.",
                "locked",
                false,
            ),
            (
                406,
                "PRECONDITION_FAILED - invalid arg 'x-queue-type' for queue 'q' in vhost '/': \"unsupported\"",
                "unsupported",
                false,
            ),
            // Cut off at 255 bytes.
            (
                406,
                "PRECONDITION_FAILED - inequivalent arg 'x-overflow' for queue 'q' in vhost '/': received none but cur",
                "x-overflow",
                false,
            ),
            (541, "INTERNAL_ERROR", "INTERNAL_ERROR", true),
        ];
        for (code, text, expected, transient) in table {
            let closed = closed(code, text);
            let error = declare("queue 'q'", &closed).to_string();
            assert!(error.contains(expected), "{error}");
            assert_eq!(is_transient(&closed), transient, "{text}");
        }
    }

    #[test]
    fn a_closed_channel_is_blamed_on_whom_its_text_names() {
        let table = [
            ("NOT_FOUND - no exchange 'e' in vhost '/'", true),
            ("NOT_FOUND - no exchange 'other' in vhost '/'", false),
            ("ACCESS_REFUSED - access to exchange 'e' in vhost '/' refused for user 'u'", true),
            ("ACCESS_REFUSED - write access to exchange 'e2' in vhost '/' refused for user 'u'", false),
            ("PRECONDITION_FAILED - message size 7 is larger than configured max size 5", true),
            ("PRECONDITION_FAILED - message size 8 is larger than configured max size 5", false),
            ("PRECONDITION_FAILED - invalid expiration 'x': no_integer", true),
        ];
        for (text, expected) in table {
            assert_eq!(blames(&closed(406, text), "e", 7), expected, "{text}");
        }
    }

    #[test]
    fn a_failed_login_is_told_from_a_broker_that_is_not_there() {
        let endpoint = crate::transport::amqp::url::parse("amqp://u:p@h/v").unwrap().remove(0);
        let network = |text: &str| ClientError::NetworkError(format!("network io error: {text}"));
        let open = |code: u16, text: &str| {
            ClientError::ConnectionOpenError(format!(
                "failed to open connection, reason: Close(MethodHeader {{ class_id: 10, method_id: 50 }}, Close {{ reply_code: {code}, reply_text: ShortStr({}, {text:?}), class_id: 10, method_id: 40 }})",
                text.len()
            ))
        };
        let reset = "Connection reset by peer (os error 104)";
        let table = [
            (network(reset), 3000, "h:5672 refused the login of user \"u\""),
            (network(reset), 10, "cannot connect to h:5672"),
            (network("Connection refused (os error 111)"), 3000, "cannot connect to h:5672"),
            (ClientError::NetworkError("peer shutdown".to_owned()), 3001, "refused the login"),
            (
                open(530, "NOT_ALLOWED - vhost v not found"),
                3,
                "virtual host \"v\" on h:5672: NOT_ALLOWED - vhost v not found",
            ),
            (
                open(530, "NOT_ALLOWED - access to vhost 'v' refused for user 'u'"),
                3,
                "access to vhost 'v' refused",
            ),
            (open(403, "ACCESS_REFUSED - Login was refused"), 3, "refused the login"),
            (open(541, "INTERNAL_ERROR"), 3, "cannot connect"),
        ];
        for (error, millis, expected) in table {
            let error = connect(&endpoint, error, Duration::from_millis(millis)).to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
