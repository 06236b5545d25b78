//! [`Options`]: how to reach RabbitMQ, and how much may be under way.

use std::sync::Arc;
use std::time::Duration;

use crate::error::Error;
use crate::error::Result;
use crate::instance::Instance;
#[cfg(feature = "tls")]
use crate::tls::Secured;
use crate::transport::amqp::url;
use crate::transport::amqp::url::Endpoint;

/// What a connection needs to know. Every wait and every buffer has a limit here.
#[derive(Clone, Debug)]
pub struct Options {
    /// The nodes of one cluster. Each process has a random order of them, and tries the next one after each failure.
    pub endpoints: Vec<Endpoint>,
    /// A peer that was silent for twice this long is taken for dead. Defaults to 10 seconds; whole seconds, at least 2
    /// (with 1 the client library sends heartbeats without a pause). The broker may ask for less.
    pub heartbeat: Duration,
    /// How long one attempt to connect may take, login included. Defaults to 5 seconds. Under 4, a wrong password
    /// looks like a broker that does not answer: RabbitMQ waits 3 seconds before it hangs up.
    pub connect_timeout: Duration,
    /// How long the broker may take to answer a request (open a channel, declare, consume). After it the connection is
    /// given up and made anew. Defaults to 30 seconds.
    pub request_timeout: Duration,
    /// The application's name, shown first in the names of its connections. Defaults to `taskhare`.
    pub app: String,
    /// The process, shown last in those names. Defaults to `host:pid:xxxx`, where the last part is random.
    pub instance: Arc<str>,
    /// How many publishes may wait for their confirm at a time; more wait their turn. Defaults to 512, where a broker's
    /// throughput levels off. From 1 to 4096.
    pub confirm_window: usize,
    /// The first pause before connecting again; it doubles up to [`longest_backoff`](Self::longest_backoff), and each
    /// is shortened by a random part of up to half. Defaults to 100 ms.
    pub first_backoff: Duration,
    /// The longest pause before connecting again. Defaults to 2 seconds: a broker that is back is found soon.
    pub longest_backoff: Duration,
    /// Of `amqps://`.
    #[cfg(feature = "tls")]
    pub(crate) tls: Option<Secured>,
}

impl Options {
    /// The defaults, for the URLs in `urls`: one, or several separated by commas.
    ///
    /// `amqp://user:password@host:port/vhost?heartbeat=10&connection_timeout=5000`, where everything after `amqp://`
    /// may be left out: `guest`, `guest`, `localhost`, 5672 and the virtual host `/`. `heartbeat` is in seconds,
    /// `connection_timeout` in milliseconds. Special characters are percent-encoded, a comma too.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidUrl`].
    pub fn from_urls(urls: &str) -> Result<Self> {
        Ok(Self::new(url::parse(urls)?))
    }

    /// The defaults.
    pub fn new(endpoints: Vec<Endpoint>) -> Self {
        Self {
            endpoints,
            heartbeat: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(5),
            request_timeout: Duration::from_secs(30),
            app: "taskhare".to_owned(),
            instance: Instance::new().name().clone(),
            confirm_window: 512,
            first_backoff: Duration::from_millis(100),
            longest_backoff: Duration::from_secs(2),
            #[cfg(feature = "tls")]
            tls: None,
        }
    }

    /// Everything in its range.
    pub(super) fn check(&self) -> Result<()> {
        let invalid =
            |setting, reason: &str| Err(Error::InvalidSetting { setting, reason: reason.to_owned() });
        if self.endpoints.is_empty() {
            return Err(Error::InvalidUrl { reason: "there is none".to_owned() });
        }
        let heartbeats = self.endpoints.iter().filter_map(|endpoint| endpoint.heartbeat);
        if heartbeats.chain([self.heartbeat]).any(|it| it.as_secs() < 2 || it.as_secs() > 65_535) {
            return invalid("heartbeat", "it must be 2 to 65535 seconds");
        }
        let timeouts = self.endpoints.iter().filter_map(|endpoint| endpoint.connect_timeout);
        if timeouts.chain([self.connect_timeout, self.request_timeout]).any(|it| it.is_zero()) {
            return invalid("timeout", "it must be over zero");
        }
        if self.app.is_empty() || self.app.len() > 64 || self.app.chars().any(char::is_control) {
            return invalid("app", "it must have 1 to 64 bytes and no control characters");
        }
        if !(1..=4096).contains(&self.confirm_window) {
            return invalid("confirm_window", "it must be 1 to 4096");
        }
        #[cfg(feature = "tls")]
        if self.endpoints.iter().any(|endpoint| endpoint.is_tls != self.tls.is_some()) {
            return invalid("tls", "it is for amqps://, and the URL is another");
        }
        if self.first_backoff.is_zero() || self.longest_backoff < self.first_backoff {
            return invalid("backoff", "the first must be over zero, and the longest not shorter");
        }
        Ok(())
    }

    /// The pause before attempt number `attempt` (from 0) to connect again; `random` is from 0 to 1.
    pub(super) fn backoff(&self, attempt: u32, random: f64) -> Duration {
        let doubled = self.first_backoff.saturating_mul(2_u32.saturating_pow(attempt.min(20)));
        doubled.min(self.longest_backoff).mul_f64(1.0 - random / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_doubles_to_its_cap_and_is_shortened_at_random() {
        let options = Options::from_urls("amqp://").unwrap();
        let table = [
            (0, 0.0, 100),
            (0, 1.0, 50),
            (1, 0.0, 200),
            (3, 0.5, 600),
            (6, 0.0, 2_000),
            (u32::MAX, 0.0, 2_000),
            (u32::MAX, 1.0, 1_000),
        ];
        for (attempt, random, millis) in table {
            assert_eq!(options.backoff(attempt, random), Duration::from_millis(millis), "{attempt} {random}");
        }
    }

    #[test]
    fn settings_out_of_range_are_named() {
        type Change = fn(&mut Options);
        let table: [(Change, &str); 8] = [
            (|it| it.heartbeat = Duration::from_secs(1), "heartbeat"),
            (|it| it.endpoints[0].heartbeat = Some(Duration::ZERO), "heartbeat"),
            (|it| it.connect_timeout = Duration::ZERO, "timeout"),
            (|it| it.app.clear(), "app"),
            (|it| it.confirm_window = 0, "confirm_window"),
            (|it| it.confirm_window = 4097, "confirm_window"),
            (|it| it.first_backoff = Duration::from_secs(60), "backoff"),
            (|it| it.endpoints.clear(), "URL"),
        ];
        for (change, named) in table {
            let mut options = Options::from_urls("amqp://").unwrap();
            options.check().unwrap();
            change(&mut options);
            let error = options.check().unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }
}
