//! [`policy`]: what has RabbitMQ 3.x mirror classic queues. Pure.

use serde_json::Value;
use serde_json::json;

use crate::error::Error;
use crate::error::Result;

/// What the classic queues of a namespace end with: lanes and dead letters. Outputs are worth no mirror.
const ENDS: &str = "urgent|normal|low|dead";

/// What the policy of `namespace` is called.
pub(super) fn name(namespace: &str) -> String {
    format!("{namespace}.mirrors")
}

/// `copies` of each lane of `namespace`, the one it is consumed from among them.
pub(super) fn policy(namespace: &str, copies: u8) -> Result<Value> {
    if copies < 2 {
        let reason = format!("{copies}; it is at least 2, the queue and its mirror");
        return Err(Error::InvalidSetting { setting: "copies", reason });
    }
    Ok(json!({
        "pattern": format!("^{}\\..+\\.({ENDS})$", escaped(namespace)),
        "apply-to": "queues",
        "priority": 0,
        "definition": {
            "ha-mode": "exactly",
            "ha-params": copies,
            "ha-sync-mode": "automatic",
            // A mirror that has not all is never promoted, as it would be after a failure by default: better a queue that
            // waits for its node than one that has lost what was confirmed.
            "ha-promote-on-failure": "when-synced",
            "ha-promote-on-shutdown": "when-synced",
        },
    }))
}

/// For a regular expression that means the text itself.
fn escaped(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    text.chars().fold(String::new(), |mut all, c| {
        if !is_plain(c) {
            all.push('\\');
        }
        all.push(c);
        all
    })
}

/// RabbitMQ 4 refuses a policy by naming the keys that it does not know, and has no mirroring.
pub(super) fn refusal(error: Error) -> Error {
    match error {
        Error::Management { host, status: 400, reason, .. } if reason.contains("ha-mode") => {
            Error::NoMirroring { host }
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

    use super::*;

    #[test]
    fn the_pattern_means_the_namespace_and_no_other() {
        let table = [
            ("taskhare", r"^taskhare\..+\.(urgent|normal|low|dead)$"),
            ("a.b-c_d", r"^a\.b-c_d\..+\.(urgent|normal|low|dead)$"),
            ("a+b", r"^a\+b\..+\.(urgent|normal|low|dead)$"),
        ];
        for (namespace, pattern) in table {
            assert_eq!(policy(namespace, 2).unwrap()["pattern"], pattern);
        }
    }

    #[test]
    fn a_mirror_is_at_least_one() {
        for (copies, is_right) in [(0, false), (1, false), (2, true), (3, true)] {
            assert_eq!(policy("ns", copies).is_ok(), is_right, "{copies}");
        }
    }

    #[test]
    fn only_a_policy_that_is_not_known_means_that_there_is_no_mirroring() {
        // Shortened, as all that the API says.
        let unknown =
            "Validation failed\n\n[{<<\"ha-mode\">>,<<\"exactly\">>},\n {<<\"ha-params\">>,2},\n {<<\"ha-p";
        for (status, reason, expected) in
            [(400, unknown, true), (400, "bad regex", false), (404, unknown, false)]
        {
            let (host, request) = ("rabbit-1:15672".to_owned(), "PUT".to_owned());
            let error = Error::Management { host, request, status, reason: reason.to_owned() };
            assert_eq!(matches!(refusal(error), Error::NoMirroring { .. }), expected, "{status} {reason}");
        }
    }
}
