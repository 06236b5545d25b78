//! [`Endpoint`]: one broker, as a URL names it. The client library's own parser decodes nothing and panics on `?x`.

use std::fmt;
use std::time::Duration;

use fluent_uri::pct_enc::EStr;

use crate::error::Error;
use crate::error::Result;
use crate::url;

const DEFAULT_PORT: u16 = 5672;
const DEFAULT_TLS_PORT: u16 = 5671;

/// A broker's address, the login and the virtual host. `Display` is `host:port`, and `Debug` leaves the password out.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// A host name or an address; an IPv6 address without brackets.
    pub host: String,
    /// The port, by default 5672, or 5671 of `amqps://`.
    pub port: u16,
    /// Whether it is `amqps://`: reached by TLS, or not at all.
    pub is_tls: bool,
    /// The user, `guest` by default.
    pub user: String,
    /// The password, `guest` by default.
    pub password: String,
    /// The virtual host, `/` by default.
    pub vhost: String,
    /// `heartbeat=` of the URL.
    pub heartbeat: Option<Duration>,
    /// `connection_timeout=` of the URL.
    pub connect_timeout: Option<Duration>,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.address(), self.port)
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("is_tls", &self.is_tls)
            .field("user", &self.user)
            .field("vhost", &self.vhost)
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    /// The host as it stands before a port: IPv6 in brackets.
    pub(crate) fn address(&self) -> String {
        url::bracketed(&self.host)
    }
}

/// Reads one URL, or several separated by commas.
pub(super) fn parse(urls: &str) -> Result<Vec<Endpoint>> {
    let invalid = |reason| Error::InvalidUrl { reason };
    let endpoints = urls.split(',').map(|url| parse_one(url.trim()).map_err(invalid));
    let endpoints: Vec<Endpoint> = endpoints.collect::<Result<_>>()?;
    if endpoints.iter().any(|it| it.is_tls != endpoints[0].is_tls) {
        // Whoever keeps the one from answering would get the password by the other.
        return Err(invalid("amqps:// and amqp:// in one list: all or none are by TLS".to_owned()));
    }
    Ok(endpoints)
}

// The reasons must not repeat what might be a password: see `crate::url`.
fn parse_one(url: &str) -> Result<Endpoint, String> {
    let uri = url::parse(url)?;
    let is_tls = match uri.scheme().as_str().to_ascii_lowercase().as_str() {
        "amqp" => false,
        "amqps" if cfg!(feature = "tls") => true,
        "amqps" => return Err("amqps:// needs taskhare's feature `tls`".to_owned()),
        _ => return Err("it does not begin with amqp://".to_owned()),
    };
    let authority = uri.authority().ok_or("it does not begin with amqp://")?;
    let (user, password) = url::login(authority)?;
    let mut endpoint = Endpoint {
        host: url::host(authority)?,
        port: url::port(authority)?.unwrap_or(if is_tls { DEFAULT_TLS_PORT } else { DEFAULT_PORT }),
        is_tls,
        user,
        password,
        vhost: vhost(uri.path().as_str())?,
        heartbeat: None,
        connect_timeout: None,
    };
    if uri.fragment().is_some() {
        return Err("it has a fragment: write # as %23".to_owned());
    }
    for pair in uri.query().map(EStr::as_str).unwrap_or_default().split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let number = value.parse::<u64>().map_err(|_| format!("{} is not a number", shown(key)));
        match key {
            "heartbeat" => endpoint.heartbeat = Some(Duration::from_secs(number?)),
            "connection_timeout" => endpoint.connect_timeout = Some(Duration::from_millis(number?)),
            _ => return Err(format!("it has no parameter {}", shown(key))),
        }
    }
    Ok(endpoint)
}

fn shown(key: &str) -> String {
    format!("{:?}", key.chars().take(24).collect::<String>())
}

fn vhost(path: &str) -> Result<String, String> {
    let name = path.strip_prefix('/').unwrap_or(path);
    if name.contains('/') {
        return Err("the virtual host contains /: write it %2F".to_owned());
    }
    let name =
        EStr::<fluent_uri::pct_enc::encoder::Path>::new(name).ok_or("the virtual host is malformed")?;
    let name = url::decode("virtual host", name)?;
    if name.len() > 255 {
        return Err("the virtual host has more than 255 bytes".to_owned());
    }
    Ok(if name.is_empty() { "/".to_owned() } else { name })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(host: &str, port: u16, user: &str, password: &str, vhost: &str) -> Endpoint {
        Endpoint {
            host: host.to_owned(),
            port,
            is_tls: false,
            user: user.to_owned(),
            password: password.to_owned(),
            vhost: vhost.to_owned(),
            heartbeat: None,
            connect_timeout: None,
        }
    }

    #[test]
    fn urls_are_read_with_their_defaults_and_decoded() {
        let table = [
            ("amqp://", endpoint("localhost", 5672, "guest", "guest", "/")),
            ("amqp://h", endpoint("h", 5672, "guest", "guest", "/")),
            ("AMQP://h/", endpoint("h", 5672, "guest", "guest", "/")),
            ("amqp://h:1/%2f", endpoint("h", 1, "guest", "guest", "/")),
            ("amqp://h:1/a%2Fb", endpoint("h", 1, "guest", "guest", "a/b")),
            ("amqp://u@h/v", endpoint("h", 5672, "u", "guest", "v")),
            ("amqp://u:p%2Fw%40%2C@h/v%20w", endpoint("h", 5672, "u", "p/w@,", "v w")),
            ("amqp://%C3%BC:a:b@h", endpoint("h", 5672, "ü", "a:b", "/")),
            ("amqp://u:@h", endpoint("h", 5672, "u", "", "/")),
            ("amqp://u:p@[::1]:5673/v", endpoint("::1", 5673, "u", "p", "v")),
            ("amqp://10.0.0.1:5673", endpoint("10.0.0.1", 5673, "guest", "guest", "/")),
        ];
        for (url, expected) in table {
            let found = parse(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!(found, [expected], "{url}");
        }
    }

    #[test]
    #[cfg(feature = "tls")]
    fn tls_has_a_port_of_its_own() {
        let expected = Endpoint { is_tls: true, ..endpoint("h", 5671, "guest", "guest", "/") };
        assert_eq!(parse("AMQPS://h").unwrap(), [expected]);
    }

    #[test]
    fn several_urls_and_their_parameters_are_read() {
        let found = parse("amqp://a?heartbeat=7&connection_timeout=1500, amqp://b").unwrap();
        assert_eq!(found[0].heartbeat, Some(Duration::from_secs(7)));
        assert_eq!(found[0].connect_timeout, Some(Duration::from_millis(1500)));
        assert_eq!(found[1], endpoint("b", 5672, "guest", "guest", "/"));
    }

    #[test]
    fn what_cannot_be_used_says_why_and_keeps_the_secret() {
        let table = [
            ("", "not a URL"),
            ("amqp://u:secret@h:99999", "port"),
            ("amqp://u:sec ret@h", "percent-encoded"),
            #[cfg(not(feature = "tls"))]
            ("amqps://u:secret@h", "`tls`"),
            #[cfg(feature = "tls")]
            ("amqps://u:secret@h,amqp://u:secret@h", "in one list"),
            ("http://u:secret@h", "amqp://"),
            ("amqp:secret", "amqp://"),
            ("amqp://u:secret@h/a/b", "%2F"),
            ("amqp://u:secret@h?x", "no parameter \"x\""),
            ("amqp://u:secret@h?heartbeat=soon", "\"heartbeat\" is not a number"),
            ("amqp://u:secret@h?heartbeat=-1", "\"heartbeat\" is not a number"),
            ("amqp://u:secret@h#x", "fragment"),
            ("amqp://u:secret%00@h", "%00"),
            ("amqp://%FF:secret@h", "user name is not UTF-8"),
            ("amqp://u:secret@h,", "not a URL"),
        ];
        for (url, expected) in table {
            let error = parse(url).unwrap_err().to_string();
            assert!(error.contains(expected), "{url}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn the_password_is_never_shown() {
        let endpoint = &parse("amqp://u:secret@[::1]/v").unwrap()[0];
        assert_eq!(endpoint.to_string(), "[::1]:5672");
        assert!(!format!("{endpoint:?}").contains("secret"));
    }
}
