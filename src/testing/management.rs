//! [`Management`]: RabbitMQ's management API, as far as tests need it.

use std::time::Duration;

use serde_json::Value;
use ureq::http;

use crate::testing::address::encoded;
use crate::testing::error::Error;
use crate::testing::error::Result;

/// A client of RabbitMQ's management API: JSON in, JSON out, plus the calls that tests make often. Cheap to clone.
///
/// Paths start behind `/api`; what stands for a name in them must be percent-encoded (the virtual host `/` is `%2F`).
/// A request takes at most 30 s. Every answer but a 2xx is an error.
///
/// Much of what RabbitMQ tells here are samples: up to 2 s old on a broker that the harness started, 5 s and more on
/// others. So poll for what you expect. What is exact says so.
#[derive(Clone, Debug)]
pub struct Management {
    base: String,
    authorization: String,
    agent: ureq::Agent,
}

/// One connection of a client.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Connection {
    /// `client:port -> broker:port`, the key of the API.
    pub name: String,
    /// What the client calls itself (`connection_name`); empty if it does not say.
    pub user_provided_name: String,
    /// All it said of itself.
    pub client_properties: Value,
    /// How many channels it has open: a sample.
    pub channels: u64,
}

/// One queue.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Queue {
    /// Its name.
    pub name: String,
    /// `classic`, `quorum` or `stream`.
    pub kind: String,
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

impl Management {
    /// For the API at `base`, such as `http://127.0.0.1:15672`.
    pub fn new(base: &str, user: &str, password: &str) -> Self {
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(Duration::from_secs(30)))
            .proxy(None)
            .build()
            .into();
        let base = format!("{}/api", base.trim_end_matches('/'));
        Self {
            base,
            authorization: format!("Basic {}", base64(format!("{user}:{password}").as_bytes())),
            agent,
        }
    }

    /// `GET`.
    ///
    /// # Errors
    ///
    /// If there is no answer, or one that is not a 2xx.
    pub async fn get(&self, path: &str) -> Result<Value> {
        self.request(http::Method::GET, path, None).await
    }

    /// `PUT`: creates or changes.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn put(&self, path: &str, body: &Value) -> Result<Value> {
        self.request(http::Method::PUT, path, Some(body)).await
    }

    /// `POST`.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn post(&self, path: &str, body: &Value) -> Result<Value> {
        self.request(http::Method::POST, path, Some(body)).await
    }

    /// `DELETE`.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get): also if there is nothing to delete.
    pub async fn delete(&self, path: &str) -> Result<Value> {
        self.request(http::Method::DELETE, path, None).await
    }

    /// The broker's version, such as `3.10.8`.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn version(&self) -> Result<String> {
        Ok(text(&self.get("/overview").await?["rabbitmq_version"]))
    }

    /// The connections to `vhost`. A new one may take a moment to appear, a lost one to disappear.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn connections(&self, vhost: &str) -> Result<Vec<Connection>> {
        let all = self.get(&format!("/vhosts/{}/connections", encoded(vhost))).await?;
        let connection = |it: &Value| Connection {
            name: text(&it["name"]),
            user_provided_name: text(&it["user_provided_name"]),
            client_properties: it["client_properties"].clone(),
            channels: number(&it["channels"]),
        };
        // Those about to go have lost all but their name.
        Ok(rows(&all).filter(|it| it["client_properties"].is_object()).map(connection).collect())
    }

    /// Closes every connection to `vhost` the way an operator does: the client is told `CONNECTION_FORCED`. Returns how
    /// many there were.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get). A connection that is gone already is none.
    pub async fn close_connections(&self, vhost: &str) -> Result<usize> {
        let mut closed = 0;
        for connection in self.connections(vhost).await? {
            let path = format!("/connections/{}", encoded(&connection.name));
            match self.delete(&path).await {
                Ok(_) => closed += 1,
                Err(error) if error.to_string().contains(": 404") => {}
                Err(error) => return Err(error),
            }
        }
        Ok(closed)
    }

    /// The queues of `vhost`. All but the consumers is asked of the queues themselves: exact, except that the messages
    /// of a quorum queue may be half a second old on a broker that the harness started, 5 s on others.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get).
    pub async fn queues(&self, vhost: &str) -> Result<Vec<Queue>> {
        let path = format!("/queues/{}", encoded(vhost));
        let sampled = self.get(&path).await?;
        let exact = self.get(&format!("{path}?disable_stats=true&enable_queue_totals=true")).await?;
        let queue = |it: &Value| Queue {
            name: text(&it["name"]),
            kind: text(&it["type"]),
            arguments: it["arguments"].clone(),
            consumers: rows(&sampled)
                .find(|row| row["name"] == it["name"])
                .map_or(0, |row| number(&row["consumers"])),
            totals: totals(it),
        };
        Ok(rows(&exact).map(queue).collect())
    }

    /// Deletes `queue` with all it holds.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get): also if there is no such queue.
    pub async fn delete_queue(&self, vhost: &str, queue: &str) -> Result<()> {
        self.delete(&queue_path(vhost, queue)).await.map(drop)
    }

    /// Removes what waits in `queue`; what a consumer has stays.
    ///
    /// # Errors
    ///
    /// As [`get`](Self::get): also if there is no such queue.
    pub async fn purge(&self, vhost: &str, queue: &str) -> Result<()> {
        self.delete(&format!("{}/contents", queue_path(vhost, queue))).await.map(drop)
    }

    async fn request(&self, method: http::Method, path: &str, body: Option<&Value>) -> Result<Value> {
        let what = format!("{method} {}{path}", self.base);
        let request = http::Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.base))
            .header("authorization", &self.authorization)
            .header("content-type", "application/json")
            .body(body.map(Value::to_string).unwrap_or_default())
            .map_err(Error::because(what.clone()))?;
        let agent = self.agent.clone();
        let answer = tokio::task::spawn_blocking(move || {
            let mut answer = agent.run(request)?;
            Ok((answer.status(), answer.body_mut().read_to_string()?))
        });
        let (status, text) = answer
            .await
            .map_err(Error::because(what.clone()))?
            .map_err(|error: ureq::Error| Error::because(what.clone())(error))?;
        if !status.is_success() {
            return Err(Error::new(format!("{what}: {}: {text}", status.as_u16())));
        }
        if text.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_str(&text).map_err(Error::because(what))
    }
}

fn queue_path(vhost: &str, queue: &str) -> String {
    format!("/queues/{}/{}", encoded(vhost), encoded(queue))
}

fn rows(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn totals(queue: &Value) -> Totals {
    Totals {
        messages: number(&queue["messages"]),
        ready: number(&queue["messages_ready"]),
        unacknowledged: number(&queue["messages_unacknowledged"]),
    }
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for chunk in bytes.chunks(3) {
        let three = chunk.iter().chain([&0, &0]).take(3).fold(0, |all, byte| all << 8 | usize::from(*byte));
        for place in 0..4 {
            let digit = DIGITS[three >> (18 - 6 * place) & 63];
            out.push(if place > chunk.len() { '=' } else { char::from(digit) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_is_what_rfc_4648_says() {
        let cases = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (plain, code) in cases {
            assert_eq!(base64(plain.as_bytes()), code);
        }
    }
}
