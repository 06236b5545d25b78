//! [`Connection`] and [`Queue`]: what the API lists.

use serde_json::Value;

/// One connection of a client.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Connection {
    /// `client:port -> broker:port`, the key of the API.
    pub name: String,
    /// What the client calls itself (`connection_name`); empty if it does not say.
    pub user_provided_name: String,
    /// Its user.
    pub user: String,
    /// Its virtual host.
    pub vhost: String,
    /// All that the client said of itself.
    pub client_properties: Value,
    /// How many channels it has open: a sample.
    pub channels: u64,
    /// `running`, `blocked` and others: a sample.
    pub state: String,
}

/// One queue.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// `classic`, `quorum` or `stream`.
    pub kind: String,
    /// `running`, `down` and others.
    pub state: String,
    /// What it was declared with.
    pub arguments: Value,
    /// How many consumers it has: a sample.
    pub consumers: u64,
    /// Its messages.
    pub totals: Totals,
}

/// How many messages a queue holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Totals {
    /// All of them.
    pub messages: u64,
    /// Those that wait.
    pub ready: u64,
    /// Those a consumer has and has not settled.
    pub unacknowledged: u64,
}

impl Connection {
    /// What is needed of each.
    pub(super) const COLUMNS: &str = "name,user_provided_name,user,vhost,client_properties,channels,state";

    /// `None` of one that is about to go: it has lost all but its name.
    fn read(row: &Value) -> Option<Self> {
        row["client_properties"].is_object().then(|| Self {
            name: text(&row["name"]),
            user_provided_name: text(&row["user_provided_name"]),
            user: text(&row["user"]),
            vhost: text(&row["vhost"]),
            client_properties: row["client_properties"].clone(),
            channels: number(&row["channels"]),
            state: text(&row["state"]),
        })
    }

    pub(super) fn read_all(rows: &Value) -> Vec<Self> {
        all(rows).filter_map(Self::read).collect()
    }
}

impl Queue {
    /// What is needed of each.
    pub(super) const COLUMNS: &str =
        "name,type,state,arguments,consumers,messages,messages_ready,messages_unacknowledged";

    pub(super) fn read_all(rows: &Value) -> Vec<Self> {
        let queue = |row: &Value| Self {
            name: text(&row["name"]),
            kind: text(&row["type"]),
            state: text(&row["state"]),
            arguments: row["arguments"].clone(),
            consumers: number(&row["consumers"]),
            totals: Totals::read(row),
        };
        all(rows).map(queue).collect()
    }
}

impl Totals {
    pub(crate) fn read(row: &Value) -> Self {
        Self {
            messages: number(&row["messages"]),
            ready: number(&row["messages_ready"]),
            unacknowledged: number(&row["messages_unacknowledged"]),
        }
    }
}

/// The rows of a list; none if it is none.
pub(crate) fn all(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rows_are_read_and_what_is_missing_is_empty() {
        let rows = json!([
            { "name": "going" },
            { "name": "a -> b", "user_provided_name": "app", "client_properties": { "x": 1 }, "channels": 2 },
        ]);
        let found = Connection::read_all(&rows);
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].name.as_str(), found[0].channels, found[0].state.as_str()), ("a -> b", 2, ""));
        let rows = json!([{ "name": "q", "type": "quorum", "messages": 3, "messages_ready": 2 }]);
        let expected = Totals { messages: 3, ready: 2, unacknowledged: 0 };
        assert_eq!(Queue::read_all(&rows)[0].totals, expected);
        assert_eq!(Queue::read_all(&json!({})), []);
    }
}
