//! [`Address`]: what the harness needs of an AMQP URL.

use std::fmt;

use crate::testing::error::Error;
use crate::testing::error::Result;
use crate::transport::amqp::Options;
use crate::url::encoded;

/// An AMQP URL in its parts, decoded. `Debug` leaves the password out.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) user: String,
    pub(super) password: String,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) vhost: String,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, password: _, host, port, vhost } = self;
        f.debug_tuple("Address").field(&format_args!("{user}@{host}:{port}/{vhost}")).finish()
    }
}

impl Address {
    /// The default user of a broker on this machine.
    pub(super) fn guest(host: impl Into<String>, port: u16) -> Self {
        let guest = "guest".to_owned();
        Self { user: guest.clone(), password: guest, host: host.into(), port, vhost: "/".to_owned() }
    }

    /// Reads what the library itself would; of several brokers the first.
    pub(super) fn parse(url: &str) -> Result<Self> {
        let options = Options::from_urls(url).map_err(Error::because("not an AMQP URL"))?;
        let endpoint =
            options.endpoints.into_iter().next().ok_or_else(|| Error::new("the AMQP URL is empty"))?;
        Ok(Self {
            host: endpoint.address(),
            port: endpoint.port,
            user: endpoint.user,
            password: endpoint.password,
            vhost: endpoint.vhost,
        })
    }

    pub(super) fn url(&self) -> String {
        let Self { user, password, host, port, vhost } = self;
        format!("amqp://{}:{}@{host}:{port}/{}", encoded(user), encoded(password), encoded(vhost))
    }

    pub(super) fn host_and_port(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// The virtual host that an AMQP URL names, decoded; `/` where it names none.
///
/// ```
/// assert_eq!(taskhare::testing::vhost_of("amqp://guest:guest@localhost/test%2F1")?, "test/1");
/// # Ok::<(), taskhare::testing::Error>(())
/// ```
///
/// # Errors
///
/// If it is not an AMQP URL.
pub fn vhost_of(url: &str) -> Result<String> {
    Address::parse(url).map(|address| address.vhost)
}

#[cfg(test)]
mod tests {
    use super::Address;

    #[test]
    fn a_url_is_taken_apart_and_put_together_again() {
        let cases = [
            ("amqp://localhost", "amqp://guest:guest@localhost:5672/%2F"),
            ("amqp://localhost/", "amqp://guest:guest@localhost:5672/%2F"),
            ("amqp://a%40b:c%3Ad@[::1]:5673/x%2Fy", "amqp://a%40b:c%3Ad@[::1]:5673/x%2Fy"),
            ("amqp://h:1/v?heartbeat=10", "amqp://guest:guest@h:1/v"),
        ];
        for (url, whole) in cases {
            assert_eq!(Address::parse(url).unwrap().url(), whole, "{url}");
        }
    }

    #[test]
    fn what_is_no_url_is_refused_without_repeating_it() {
        for url in ["", "localhost", "amqp:secret", "amqp://u:secret@h:99999/"] {
            let error = Address::parse(url).unwrap_err();
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }
}
