//! [`Message`] to and from the client library's properties and tables.

use std::borrow::Cow;
use std::time::Duration;

use amqprs::BasicProperties;
use amqprs::DELIVERY_MODE_PERSISTENT;
use amqprs::FieldArray;
use amqprs::FieldName;
use amqprs::FieldTable;
use amqprs::FieldValue;

use crate::message::Headers;
use crate::message::LONGEST_TIME_TO_LIVE;
use crate::message::Message;
use crate::message::Value;

/// What AMQP's "short strings" hold, in bytes. The client library panics on more.
const LONGEST_TEXT: usize = 255;

/// All properties travel in one frame of at most 131,072 bytes, and the broker closes the connection on a larger one.
/// What remains is for the other properties and for what the broker adds (`x-death`).
const LARGEST_HEADERS: usize = 100 * 1024;

/// How deeply lists and tables in headers may be nested. Beyond it nothing is read: whoever looks at a value, copies or
/// drops it calls himself for each level, and stacks are small.
const DEEPEST: usize = 32;

/// Counts what came back unsettled. Read into [`Delivery::returned`](crate::transport::Delivery::returned) instead of
/// the headers, where it was not published.
const DELIVERY_COUNT: &str = "x-delivery-count";

/// Whether `message` fits, before anything below can panic or cost the connection.
pub(super) fn check(message: &Message) -> Result<(), String> {
    let texts = [
        ("message id", message.id.as_deref()),
        ("type", message.kind.as_deref()),
        ("content type", message.content_type.as_deref()),
        ("correlation id", message.correlation_id.as_deref()),
        ("reply-to", message.reply_to.as_deref()),
    ];
    for (what, text) in texts {
        if let Some(text) = text.filter(|text| text.len() > LONGEST_TEXT) {
            return Err(format!("its {what} has {} bytes, and AMQP carries {LONGEST_TEXT}", text.len()));
        }
    }
    if message.expiration.is_some_and(|expiration| expiration > LONGEST_TIME_TO_LIVE) {
        return Err("it expires in more than ten years, which RabbitMQ does not take".to_owned());
    }
    let size = table_size(&message.headers, 0)?;
    if size > LARGEST_HEADERS {
        return Err(format!("its headers have {size} bytes, and {LARGEST_HEADERS} fit"));
    }
    Ok(())
}

fn table_size(headers: &Headers, depth: usize) -> Result<usize, String> {
    if depth > DEEPEST {
        return Err(format!("its headers are nested more than {DEEPEST} deep"));
    }
    headers.iter().try_fold(4, |sum, (name, value)| {
        if name.len() > LONGEST_TEXT {
            return Err(format!("a header's name has {} bytes, and AMQP carries {LONGEST_TEXT}", name.len()));
        }
        Ok(sum + 2 + name.len() + value_size(value, depth)?)
    })
}

fn value_size(value: &Value, depth: usize) -> Result<usize, String> {
    if depth > DEEPEST {
        return Err(format!("its headers are nested more than {DEEPEST} deep"));
    }
    Ok(match value {
        Value::Null => 0,
        Value::Bool(_) => 1,
        // RabbitMQ 3.10 answers it with an internal error, which costs the connection.
        Value::Float(float) if !float.is_finite() => return Err(format!("a header is {float}")),
        Value::Int(_) | Value::Float(_) | Value::Timestamp(_) => 8,
        Value::Text(text) => 4 + text.len(),
        Value::Bytes(bytes) => 4 + bytes.len(),
        Value::List(values) => values
            .iter()
            .try_fold(4, |sum, value| Ok::<_, String>(sum + 1 + value_size(value, depth + 1)?))?,
        Value::Table(table) => table_size(table, depth + 1)?,
    })
}

/// The properties of a checked message. Always persistent.
pub(super) fn encode(message: &Message) -> BasicProperties {
    BasicProperties::new(
        message.content_type.as_deref().map(str::to_owned),
        None,
        (!message.headers.is_empty()).then(|| table(&message.headers)),
        Some(DELIVERY_MODE_PERSISTENT),
        None,
        message.correlation_id.clone(),
        message.reply_to.clone(),
        message.expiration.map(|expiration| expiration.as_millis().to_string()),
        message.id.clone(),
        message.timestamp,
        message.kind.as_deref().map(str::to_owned),
        None,
        None,
        None,
    )
}

/// A checked table.
pub(super) fn table(headers: &Headers) -> FieldTable {
    let mut table = FieldTable::new();
    for (name, value) in headers.iter() {
        let name = FieldName::try_from(name).expect("checked to be at most 255 bytes");
        table.insert(name, field(value));
    }
    table
}

fn field(value: &Value) -> FieldValue {
    const FITS: &str = "checked to be small";
    match value {
        Value::Null => FieldValue::V,
        Value::Bool(value) => FieldValue::t(*value),
        Value::Int(value) => FieldValue::l(*value),
        Value::Float(value) => FieldValue::d(*value),
        Value::Text(value) => FieldValue::S(value.as_str().try_into().expect(FITS)),
        Value::Bytes(value) => FieldValue::x(value.clone().try_into().expect(FITS)),
        Value::Timestamp(value) => FieldValue::T(*value),
        Value::List(values) => {
            let fields: Vec<FieldValue> = values.iter().map(field).collect();
            FieldValue::A(FieldArray::try_from(fields).expect(FITS))
        }
        Value::Table(headers) => FieldValue::F(table(headers)),
    }
}

/// The message, and how often it came back.
pub(super) fn decode(properties: &BasicProperties, body: Vec<u8>) -> (Message, u32) {
    let (mut headers, mut returned) = (Headers::new(), 0);
    for (name, value) in properties.headers().into_iter().flat_map(AsRef::as_ref) {
        if name.as_ref() == DELIVERY_COUNT {
            returned = read(value, 0).as_int().unwrap_or(0);
        } else {
            headers.insert(name.as_ref().clone(), read(value, 0));
        }
    }
    let message = Message {
        id: properties.message_id().cloned(),
        kind: properties.message_type().cloned().map(Cow::Owned),
        content_type: properties.content_type().cloned().map(Cow::Owned),
        correlation_id: properties.correlation_id().cloned(),
        reply_to: properties.reply_to().cloned(),
        timestamp: properties.timestamp(),
        expiration: properties.expiration().and_then(|text| text.parse().ok()).map(Duration::from_millis),
        headers,
        body,
    };
    (message, u32::try_from(returned).unwrap_or(0))
}

fn read_table(table: &FieldTable, depth: usize) -> Headers {
    table.as_ref().iter().map(|(name, value)| (name.as_ref().clone(), read(value, depth))).collect()
}

/// Nothing beyond [`DEEPEST`].
fn read(value: &FieldValue, depth: usize) -> Value {
    match value {
        FieldValue::A(_) | FieldValue::F(_) if depth > DEEPEST => Value::Null,
        FieldValue::t(value) => Value::Bool(*value),
        FieldValue::b(value) => Value::Int(i64::from(*value)),
        FieldValue::B(value) => Value::Int(i64::from(*value)),
        FieldValue::s(value) => Value::Int(i64::from(*value)),
        FieldValue::u(value) => Value::Int(i64::from(*value)),
        FieldValue::I(value) => Value::Int(i64::from(*value)),
        FieldValue::i(value) => Value::Int(i64::from(*value)),
        FieldValue::l(value) => Value::Int(*value),
        FieldValue::f(value) => Value::Float(f64::from(*value)),
        FieldValue::d(value) => Value::Float(*value),
        FieldValue::S(value) => Value::Text(value.as_ref().clone()),
        FieldValue::x(value) => Value::Bytes(value.clone().into()),
        FieldValue::T(value) => Value::Timestamp(*value),
        FieldValue::A(values) => {
            Value::List(Vec::from(values.clone()).iter().map(|value| read(value, depth + 1)).collect())
        }
        FieldValue::F(table) => Value::Table(read_table(table, depth + 1)),
        FieldValue::D(_) | FieldValue::V => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Message {
        let text = |text: &str| Some(text.to_owned());
        let mut nested = Headers::new();
        nested.insert("deep", Value::List(vec![Value::Int(-1), Value::Text("ü".to_owned()), Value::Null]));
        let mut headers = Headers::new();
        headers.insert("null", Value::Null);
        headers.insert("true", true);
        headers.insert("int", i64::MIN);
        headers.insert("float", Value::Float(0.1));
        headers.insert("text", "hare");
        headers.insert("bytes", Value::Bytes(vec![0, 255]));
        headers.insert("time", Value::Timestamp(u64::MAX));
        headers.insert("empty", Value::List(vec![]));
        headers.insert("table", Value::Table(nested));
        Message {
            id: text("id"),
            kind: Some("resize".into()),
            content_type: Some("application/msgpack".into()),
            correlation_id: text("c"),
            reply_to: text("r"),
            timestamp: Some(1_700_000_000),
            expiration: Some(Duration::from_millis(1234)),
            headers,
            body: b"body".to_vec(),
        }
    }

    #[test]
    fn every_field_and_value_survives() {
        for message in [full(), Message::default()] {
            check(&message).unwrap();
            let properties = encode(&message);
            assert_eq!(properties.delivery_mode(), Some(2));
            assert_eq!(decode(&properties, message.body.clone()), (message, 0));
        }
    }

    #[test]
    fn the_delivery_count_is_read_and_removed() {
        for (count, expected) in
            [(Value::Int(3), 3), (Value::Int(0), 0), (Value::Int(-1), 0), (Value::Null, 0)]
        {
            let mut message = Message::default();
            message.headers.insert(DELIVERY_COUNT, count);
            assert_eq!(decode(&encode(&message), vec![]), (Message::default(), expected));
        }
    }

    fn nested(size: usize) -> Value {
        let table = [("y", Value::Bytes(vec![0; size]))].into_iter().collect();
        Value::List(vec![Value::Table(table)])
    }

    /// Lists in a list, so many.
    fn lists(depth: usize) -> Message {
        let value = (0..depth).fold(Value::Int(1), |value, _| Value::List(vec![value]));
        Message { headers: [("x", value)].into_iter().collect(), ..Message::default() }
    }

    #[test]
    fn headers_are_read_and_written_as_deep_as_they_may_be_nested() {
        let deepest = lists(DEEPEST);
        check(&deepest).unwrap();
        assert_eq!(decode(&encode(&deepest), vec![]).0, deepest);
        let (cut, _) = decode(&encode(&lists(10 * DEEPEST)), vec![]);
        check(&cut).unwrap_err();
        let levels = std::iter::successors(cut.headers.get("x"), |value| match value {
            Value::List(values) => values.first(),
            _ => None,
        });
        assert_eq!(levels.count(), DEEPEST + 2, "the last one is nothing");
    }

    #[test]
    fn what_would_panic_or_cost_the_connection_is_refused() {
        type Change = fn(&mut Message);
        let table: [(Change, &str); 11] = [
            (|it| it.id = Some("x".repeat(256)), "message id has 256 bytes"),
            (|it| it.kind = Some("x".repeat(256).into()), "type"),
            (|it| it.content_type = Some("x".repeat(256).into()), "content type"),
            (|it| it.correlation_id = Some("x".repeat(256)), "correlation id"),
            (|it| it.reply_to = Some("x".repeat(256)), "reply-to"),
            (|it| it.expiration = Some(Duration::from_secs(11 * 365 * 86_400)), "ten years"),
            (|it| it.headers.insert("x".repeat(256), 1), "name has 256 bytes"),
            (|it| it.headers.insert("x", "x".repeat(110_000)), "headers have"),
            (|it| it.headers.insert("x", nested(110_000)), "headers have"),
            (|it| it.headers.insert("x", Value::Float(f64::NAN)), "header is NaN"),
            (|it| it.headers = lists(DEEPEST + 1).headers, "nested more than 32 deep"),
        ];
        for (change, expected) in table {
            let mut message = full();
            change(&mut message);
            let reason = check(&message).unwrap_err();
            assert!(reason.contains(expected), "{reason}");
        }
        let mut message = full();
        message.id = Some("x".repeat(255));
        message.headers.insert("x", "x".repeat(100_000));
        check(&message).unwrap();
    }
}
