//! [`read`]: what an answer of the API means.

use serde_json::Value;

use crate::error::Error;
use crate::error::Result;
use crate::management::endpoint::Endpoint;

/// How much of what the API says is shown.
const LONGEST_REASON: usize = 200;

/// What `endpoint` answered to `request`: the JSON, or what to do about it.
pub(super) fn read(endpoint: &Endpoint, request: &str, status: u16, body: &[u8]) -> Result<Value> {
    let json = if body.is_empty() { Ok(Value::Null) } else { serde_json::from_slice::<Value>(body) };
    let said = json.as_ref().ok().and_then(reason);
    let failed = |reason: String| Error::Management {
        host: endpoint.to_string(),
        request: request.to_owned(),
        status,
        reason: reason.chars().take(LONGEST_REASON).collect(),
    };
    match (status, said) {
        (200..=299, _) => json.map_err(|error| failed(format!("no JSON: {error}"))),
        (401, said) if is_login(said.as_deref()) => {
            Err(Error::Login { host: endpoint.to_string(), user: endpoint.user.clone() })
        }
        (401 | 403, said) => Err(Error::AccessRefused {
            action: format!("{request} on {endpoint}"),
            reason: refused(&endpoint.user, &said.unwrap_or_default()),
        }),
        (300..=399, _) => Err(failed("it leads elsewhere, where no password is sent: use that URL".to_owned())),
        (404, None) => Err(failed(
            "this is no management API: is the plugin enabled (rabbitmq-plugins enable rabbitmq_management), and are \
             its port and path right?"
                .to_owned(),
        )),
        (_, said) => Err(failed(said.unwrap_or_else(|| String::from_utf8_lossy(body).trim().to_owned()))),
    }
}

/// `{"error": …, "reason": …}`, where the reason may be missing.
fn reason(json: &Value) -> Option<String> {
    let field = |name| json.get(name).and_then(Value::as_str).map(str::to_owned);
    field("reason").or_else(|| field("error"))
}

/// Whether it was the login that failed, not what was asked for.
fn is_login(said: Option<&str>) -> bool {
    said.is_none_or(|said| ["login failed", "not_authori"].iter().any(|it| said.to_lowercase().contains(it)))
}

fn refused(user: &str, said: &str) -> String {
    let said: String = said.chars().take(LONGEST_REASON).collect();
    format!(
        "{said}; user {user:?} needs the tag `management` for what is its own, `monitoring` to see what is not, \
         `policymaker` to set policies, and `administrator` to change what is not its own (rabbitmqctl set_user_tags), and access to the virtual host"
    )
}
