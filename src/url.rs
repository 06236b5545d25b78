//! What a URL says of whom to ask and as who, decoded. The reasons must not repeat what might be a password: in a
//! mistyped URL, any part might.

use fluent_uri::Uri;
use fluent_uri::component::Authority;
use fluent_uri::pct_enc::EStr;
use fluent_uri::pct_enc::Encoder;

/// Reads any URL.
pub(crate) fn parse(url: &str) -> Result<Uri<&str>, String> {
    Uri::parse(url).map_err(|error| {
        format!("not a URL from byte {} on; special characters must be percent-encoded", error.index())
    })
}

/// User and password, each `guest` by default.
pub(crate) fn login(authority: Authority<'_>) -> Result<(String, String), String> {
    let Some(info) = authority.userinfo() else { return Ok(("guest".to_owned(), "guest".to_owned())) };
    let (user, password) = match info.split_once(':') {
        Some((user, password)) => (decode("user name", user)?, decode("password", password)?),
        None => (decode("user name", info)?, "guest".to_owned()),
    };
    if user.contains('\0') || password.contains('\0') {
        return Err("user name and password cannot contain %00".to_owned());
    }
    Ok((user, password))
}

/// A host name or an address, an IPv6 address without brackets; `localhost` by default.
pub(crate) fn host(authority: Authority<'_>) -> Result<String, String> {
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    if bare.contains('%') {
        return Err("the host contains %".to_owned());
    }
    Ok(if bare.is_empty() { "localhost".to_owned() } else { bare.to_owned() })
}

/// The port, if it names one.
pub(crate) fn port(authority: Authority<'_>) -> Result<Option<u16>, String> {
    authority.port_to_u16().map_err(|_| "the port is not a number up to 65535".to_owned())
}

/// `what` says in the reason which part it is.
pub(crate) fn decode<E: Encoder>(what: &str, text: &EStr<E>) -> Result<String, String> {
    let decoded = text.decode().to_string().map_err(|_| format!("the {what} is not UTF-8"))?;
    Ok(decoded.into_owned())
}

/// A host as it stands before a port: IPv6 in brackets.
pub(crate) fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// As one segment of a path.
#[cfg(feature = "management")]
pub(crate) fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
