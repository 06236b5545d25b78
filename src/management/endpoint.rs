//! [`Endpoint`]: one node's management API, as a URL names it.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ureq::http::HeaderValue;

use crate::error::Error;
use crate::error::Result;
use crate::url;

/// Where RabbitMQ's plugin listens.
const DEFAULT_PORT: u16 = 15_672;
const DEFAULT_TLS_PORT: u16 = 15_671;

/// Where to ask, and as who. `Display` is `host:port`, and `Debug` leaves the password out.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    host: String,
    port: u16,
    /// Whether it is `https://`: reached by TLS, or not at all.
    pub(super) is_tls: bool,
    /// What stands before `/api`, without a slash at its end.
    prefix: String,
    pub(super) user: String,
    pub(super) authorization: HeaderValue,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", url::bracketed(&self.host), self.port)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Endpoint").field(&format_args!("{}@{self}{}", self.user, self.prefix)).finish()
    }
}

impl Endpoint {
    /// Reads one URL, or several separated by commas.
    pub(super) fn parse(urls: &str) -> Result<Vec<Self>> {
        let one = |url: &str| Self::parse_one(url.trim()).map_err(|reason| Error::InvalidUrl { reason });
        urls.split(',').map(one).collect()
    }

    /// The URL of `path`, which begins with a slash. No password is in it.
    pub(super) fn url(&self, path: &str) -> String {
        format!("{}://{self}{}/api{path}", if self.is_tls { "https" } else { "http" }, self.prefix)
    }

    fn parse_one(text: &str) -> Result<Self, String> {
        let uri = url::parse(text)?;
        let is_tls = match uri.scheme().as_str().to_ascii_lowercase().as_str() {
            "http" => false,
            "https" if cfg!(feature = "tls") => true,
            "https" => return Err("https:// needs the feature `tls` of taskhare".to_owned()),
            _ => return Err("it does not begin with http:// or https://".to_owned()),
        };
        let authority = uri.authority().ok_or("it does not begin with http:// or https://")?;
        if uri.query().is_some() || uri.fragment().is_some() {
            return Err("it has a ? or #: write %3F or %23".to_owned());
        }
        let (user, password) = url::login(authority)?;
        if user.contains(':') {
            return Err("the user name contains :, which HTTP cannot carry".to_owned());
        }
        let mut authorization =
            HeaderValue::try_from(format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
                .map_err(|_| "user name and password are too long")?;
        authorization.set_sensitive(true);
        Ok(Self {
            host: url::host(authority)?,
            port: url::port(authority)?.unwrap_or(if is_tls { DEFAULT_TLS_PORT } else { DEFAULT_PORT }),
            is_tls,
            prefix: uri.path().as_str().trim_end_matches('/').to_owned(),
            user,
            authorization,
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn urls_are_read_with_their_defaults_and_decoded() {
        let table = [
            ("http://", "http://localhost:15672/api/x", "guest", "Basic Z3Vlc3Q6Z3Vlc3Q="),
            ("http://h/", "http://h:15672/api/x", "guest", "Basic Z3Vlc3Q6Z3Vlc3Q="),
            ("HTTP://u:p%40:@h:1", "http://h:1/api/x", "u", "Basic dTpwQDo="),
            ("http://u:@[::1]:1/mq/", "http://[::1]:1/mq/api/x", "u", "Basic dTo="),
            #[cfg(feature = "tls")]
            ("https://u:@h", "https://h:15671/api/x", "u", "Basic dTo="),
        ];
        for (url, at, user, authorization) in table {
            let [endpoint] = &Endpoint::parse(url).unwrap_or_else(|error| panic!("{url}: {error}"))[..]
            else {
                panic!("{url}: one")
            };
            assert_eq!((endpoint.url("/x").as_str(), endpoint.user.as_str()), (at, user), "{url}");
            assert_eq!(endpoint.authorization, authorization, "{url}");
        }
        let both = Endpoint::parse("http://a, http://b").unwrap();
        assert_eq!(both.iter().map(ToString::to_string).collect::<Vec<_>>(), ["a:15672", "b:15672"]);
    }

    #[test]
    fn what_cannot_be_used_says_why_and_keeps_the_secret() {
        let table = [
            ("", "not a URL"),
            ("http://u:secret@h:99999", "port"),
            #[cfg(not(feature = "tls"))]
            ("https://u:secret@h", "feature `tls`"),
            ("amqp://u:secret@h", "http://"),
            ("http:secret", "http://"),
            ("http://u:secret@h/?x=1", "?"),
            ("http://a%3Ab:secret@h", "user name"),
            ("http://u:secret@h,", "not a URL"),
        ];
        for (url, expected) in table {
            let error = Endpoint::parse(url).unwrap_err().to_string();
            assert!(error.contains(expected) && !error.contains("secret"), "{url}: {error}");
        }
    }

    #[test]
    fn the_password_is_never_shown() {
        let endpoint = &Endpoint::parse("http://u:secret@h").unwrap()[0];
        let shown = format!("{endpoint:?} {endpoint} {:?}", endpoint.authorization);
        assert!(!shown.contains("secret") && !shown.contains(&STANDARD.encode("u:secret")), "{shown}");
    }
}
