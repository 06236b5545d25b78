//! A [`Message`] as bytes, and any bytes as a message: what a fuzzer changes a little is still one, with another field.

use crate::message::Headers;
use crate::message::Message;
use crate::message::Value;
use std::time::Duration;

/// Deeper than the transport lets headers be nested.
const DEEPEST: u8 = 40;

/// The first byte of each field, by its place here; that of each value, by its place in [`Value`].
enum Field {
    Id,
    Kind,
    ContentType,
    CorrelationId,
    ReplyTo,
    Timestamp,
    Expiration,
    Header,
    Body,
}

/// The message that the bytes stand for. All do.
pub fn from_bytes(bytes: &[u8]) -> Message {
    let mut bytes = Bytes(bytes);
    let mut message = Message::default();
    while let Some(field) = bytes.byte() {
        match field % 9 {
            0 => message.id = Some(bytes.text()),
            1 => message.kind = Some(bytes.text().into()),
            2 => message.content_type = Some(bytes.text().into()),
            3 => message.correlation_id = Some(bytes.text()),
            4 => message.reply_to = Some(bytes.text()),
            5 => message.timestamp = Some(bytes.number()),
            6 => message.expiration = Some(Duration::from_millis(bytes.number())),
            7 => {
                let name = bytes.text();
                message.headers.insert(name, bytes.value(DEEPEST));
            }
            _ => message.body = bytes.some().to_vec(),
        }
    }
    message
}

/// The inverse. A text or list that is too long for two bytes is cut.
pub fn to_bytes(message: &Message) -> Vec<u8> {
    let mut bytes = Vec::new();
    let texts = [
        (Field::Id, message.id.as_deref()),
        (Field::Kind, message.kind.as_deref()),
        (Field::ContentType, message.content_type.as_deref()),
        (Field::CorrelationId, message.correlation_id.as_deref()),
        (Field::ReplyTo, message.reply_to.as_deref()),
    ];
    for (field, text) in texts {
        if let Some(text) = text {
            bytes.push(field as u8);
            write_some(&mut bytes, text.as_bytes());
        }
    }
    let expiration = message.expiration.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    for (field, number) in [(Field::Timestamp, message.timestamp), (Field::Expiration, expiration)] {
        if let Some(number) = number {
            bytes.push(field as u8);
            bytes.extend(number.to_le_bytes());
        }
    }
    for (name, value) in message.headers.iter() {
        bytes.push(Field::Header as u8);
        write_some(&mut bytes, name.as_bytes());
        write_value(&mut bytes, value);
    }
    if !message.body.is_empty() {
        bytes.push(Field::Body as u8);
        write_some(&mut bytes, &message.body);
    }
    bytes
}

/// What is still to be read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).first().copied()
    }

    fn length(&mut self) -> usize {
        self.take(2).iter().rev().fold(0, |length, byte| length << 8 | usize::from(*byte))
    }

    fn number(&mut self) -> u64 {
        self.take(8).iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn some(&mut self) -> &'a [u8] {
        let length = self.length();
        self.take(length)
    }

    fn text(&mut self) -> String {
        String::from_utf8_lossy(self.some()).into_owned()
    }

    fn value(&mut self, depth: u8) -> Value {
        let kind = self.byte().unwrap_or_default() % 9;
        match kind {
            1 => Value::Bool(self.byte().is_some_and(|byte| byte != 0)),
            2 => Value::Int(self.number() as i64),
            3 => Value::Float(f64::from_bits(self.number())),
            4 => Value::Text(self.text()),
            5 => Value::Bytes(self.some().to_vec()),
            6 => Value::Timestamp(self.number()),
            7 if depth > 0 => {
                let mut list = Vec::new();
                for _ in 0..self.length() {
                    if self.0.is_empty() {
                        break;
                    }
                    list.push(self.value(depth - 1));
                }
                Value::List(list)
            }
            8 if depth > 0 => {
                let mut table = Headers::new();
                for _ in 0..self.length() {
                    if self.0.is_empty() {
                        break;
                    }
                    let name = self.text();
                    table.insert(name, self.value(depth - 1));
                }
                Value::Table(table)
            }
            _ => Value::Null,
        }
    }
}

fn write_length(bytes: &mut Vec<u8>, length: usize) -> usize {
    let length = u16::try_from(length).unwrap_or(u16::MAX);
    bytes.extend(length.to_le_bytes());
    length.into()
}

fn write_some(bytes: &mut Vec<u8>, some: &[u8]) {
    let length = write_length(bytes, some.len());
    bytes.extend(&some[..length]);
}

fn write_value(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => bytes.push(0),
        Value::Bool(value) => bytes.extend([1, u8::from(*value)]),
        Value::Int(value) => write_number(bytes, 2, *value as u64),
        Value::Float(value) => write_number(bytes, 3, value.to_bits()),
        Value::Text(text) => {
            bytes.push(4);
            write_some(bytes, text.as_bytes());
        }
        Value::Bytes(some) => {
            bytes.push(5);
            write_some(bytes, some);
        }
        Value::Timestamp(seconds) => write_number(bytes, 6, *seconds),
        Value::List(list) => {
            bytes.push(7);
            let length = write_length(bytes, list.len());
            list[..length].iter().for_each(|value| write_value(bytes, value));
        }
        Value::Table(table) => {
            bytes.push(8);
            let length = write_length(bytes, table.len());
            for (name, value) in table.iter().take(length) {
                write_some(bytes, name.as_bytes());
                write_value(bytes, value);
            }
        }
    }
}

fn write_number(bytes: &mut Vec<u8>, kind: u8, number: u64) {
    bytes.push(kind);
    bytes.extend(number.to_le_bytes());
}
