//! [`Exchanges`]: where a message goes.

use std::collections::HashMap;

use crate::error::Error;
use crate::error::Result;
use crate::message::Message;
use crate::message::Value;
use crate::name::Name;
use crate::topology;
use crate::topology::Binding;
use crate::topology::ExchangeKind;
use crate::topology::Target;

use super::conflict::conflict;

/// Where a message was published to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Origin {
    pub(super) exchange: Name,
    pub(super) key: Name,
}

impl Origin {
    /// All keys it is routed by: its own, and those of the `CC` header.
    pub(super) fn keys<'a>(&'a self, message: &'a Message) -> Vec<&'a str> {
        let copies = match message.headers.get("CC") {
            Some(Value::List(copies)) => copies.as_slice(),
            _ => &[],
        };
        std::iter::once(self.key.as_str()).chain(copies.iter().filter_map(Value::as_text)).collect()
    }
}

/// All exchanges of a broker.
#[derive(Debug, Default)]
pub(super) struct Exchanges(HashMap<Name, Exchange>);

#[derive(Debug)]
struct Exchange {
    declared: topology::Exchange,
    bindings: Vec<(Name, Target)>,
}

impl Exchanges {
    pub(super) fn declare(&mut self, ours: &topology::Exchange) -> Result<()> {
        let Some(Exchange { declared: theirs, .. }) = self.0.get(&ours.name) else {
            let exchange = Exchange { declared: ours.clone(), bindings: Vec::new() };
            self.0.insert(ours.name.clone(), exchange);
            return Ok(());
        };
        let object = || format!("exchange '{}'", ours.name);
        let kind = |exchange: &topology::Exchange| Some(Value::from(exchange.kind.as_str()));
        let alternate =
            |exchange: &topology::Exchange| exchange.alternate.as_ref().map(|a| a.as_str().into());
        conflict(object, "type", kind(ours), kind(theirs))?;
        conflict(object, "alternate-exchange", alternate(ours), alternate(theirs))
    }

    /// Adds a binding, once. Whoever calls it has looked for a target that is a queue.
    pub(super) fn bind(&mut self, binding: &Binding) -> Result<()> {
        let Binding { exchange, key, to } = binding;
        if let Target::Exchange(target) = to {
            self.must_have(target, binding)?;
        }
        self.must_have(exchange, binding)?;
        let route = (key.clone(), to.clone());
        if let Some(Exchange { bindings, .. }) = self.0.get_mut(exchange)
            && !bindings.contains(&route)
        {
            bindings.push(route);
        }
        Ok(())
    }

    /// Removes the bindings to a queue.
    pub(super) fn unbind(&mut self, queue: &Name) {
        let is_other = |target: &Target| !matches!(target, Target::Queue(name) if name == queue);
        for exchange in self.0.values_mut() {
            exchange.bindings.retain(|(_, target)| is_other(target));
        }
    }

    fn must_have(&self, exchange: &Name, binding: &Binding) -> Result<()> {
        if self.0.contains_key(exchange) {
            return Ok(());
        }
        Err(unbound(binding, format!("no exchange '{exchange}'")))
    }

    /// The queues that a message with these keys reaches from `exchange`, each once; `None` if there is no such
    /// exchange.
    pub(super) fn route(&self, exchange: &Name, keys: &[&str]) -> Option<Vec<Name>> {
        let first = self.0.get(exchange)?;
        let mut pending = vec![first];
        let mut visited = vec![exchange];
        let mut queues = Vec::new();
        while let Some(exchange) = pending.pop() {
            for target in exchange.targets(keys) {
                match target {
                    Step::Queue(queue) if !queues.contains(queue) => queues.push(queue.clone()),
                    Step::Exchange(name) if !visited.contains(&name) => {
                        visited.push(name);
                        pending.extend(self.0.get(name));
                    }
                    _ => {}
                }
            }
        }
        Some(queues)
    }
}

/// Where a message goes next.
enum Step<'a> {
    Queue(&'a Name),
    Exchange(&'a Name),
}

impl Exchange {
    /// The targets of the bindings that match; of none, the alternate exchange.
    fn targets(&self, keys: &[&str]) -> Vec<Step<'_>> {
        let is_match = |pattern: &Name| match self.declared.kind {
            ExchangeKind::Fanout => true,
            ExchangeKind::Direct => keys.contains(&pattern.as_str()),
            ExchangeKind::Topic => keys.iter().any(|key| topic_matches(pattern.as_str(), key)),
        };
        let matching = self.bindings.iter().filter(|(pattern, _)| is_match(pattern));
        let mut targets: Vec<Step<'_>> = matching
            .map(|(_, target)| match target {
                Target::Queue(name) => Step::Queue(name),
                Target::Exchange(name) => Step::Exchange(name),
            })
            .collect();
        if targets.is_empty() {
            targets.extend(self.declared.alternate.as_ref().map(Step::Exchange));
        }
        targets
    }
}

/// Words separated by dots; in the pattern `*` is one word and `#` any number.
fn topic_matches(pattern: &str, key: &str) -> bool {
    fn matches(pattern: &[&str], key: &[&str]) -> bool {
        match (pattern.split_first(), key.split_first()) {
            (None, None) => true,
            (Some((&"#", rest)), _) => (0..=key.len()).any(|skipped| matches(rest, &key[skipped..])),
            (Some((&"*", pattern)), Some((_, key))) => matches(pattern, key),
            (Some((word, pattern)), Some((same, key))) if word == same => matches(pattern, key),
            _ => false,
        }
    }
    let pattern: Vec<&str> = pattern.split('.').collect();
    let key: Vec<&str> = key.split('.').collect();
    matches(&pattern, &key)
}

pub(super) fn unbound(binding: &Binding, reason: String) -> Error {
    let Binding { exchange, key, to } = binding;
    let (Target::Queue(target) | Target::Exchange(target)) = to;
    Error::Declare { object: format!("binding '{key}' from '{exchange}' to '{target}'"), reason }
}

#[cfg(test)]
mod tests {
    use crate::message::Headers;

    use super::*;

    fn name(name: &str) -> Name {
        Name::new("name", name).unwrap()
    }

    /// Exchanges (name, kind, alternate) and bindings (exchange, key, target); targets in capitals are queues.
    fn exchanges(all: &[(&str, ExchangeKind, &str)], bindings: &[(&str, &str, &str)]) -> Exchanges {
        let mut exchanges = Exchanges::default();
        for (exchange, kind, alternate) in all {
            let alternate = Name::new("name", *alternate).ok();
            exchanges.declare(&topology::Exchange { name: name(exchange), kind: *kind, alternate }).unwrap();
        }
        for (exchange, key, target) in bindings {
            let is_queue = target.starts_with(char::is_uppercase);
            let to = if is_queue { Target::Queue(name(target)) } else { Target::Exchange(name(target)) };
            exchanges.bind(&Binding { exchange: name(exchange), key: name(key), to }).unwrap();
        }
        exchanges
    }

    fn routed(exchanges: &Exchanges, keys: &[&str]) -> String {
        let mut queues = exchanges.route(&name("x"), keys).unwrap();
        queues.sort();
        queues.iter().map(Name::as_str).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn each_kind_matches_its_own_way() {
        let bindings = [("x", "a.b", "A"), ("x", "a.*", "B"), ("x", "#", "C"), ("x", "a.b", "D")];
        for (kind, key, expected) in [
            (ExchangeKind::Direct, "a.b", "A D"),
            (ExchangeKind::Direct, "a.*", "B"),
            (ExchangeKind::Direct, "a.c", ""),
            (ExchangeKind::Topic, "a.b", "A B C D"),
            (ExchangeKind::Topic, "a.c", "B C"),
            (ExchangeKind::Topic, "z", "C"),
            (ExchangeKind::Fanout, "z", "A B C D"),
        ] {
            let exchanges = exchanges(&[("x", kind, "")], &bindings);
            assert_eq!(routed(&exchanges, &[key]), expected, "{kind:?} {key}");
        }
    }

    #[test]
    fn patterns_match_words() {
        for (pattern, key, expected) in [
            ("a.b", "a.b", true),
            ("a.b", "a.bb", false),
            ("*", "a", true),
            ("*", "a.b", false),
            ("*.*", "a.", true),
            ("#", "a.b.c", true),
            ("a.#", "a", true),
            ("a.#", "ab", false),
            ("#.z", "z", true),
            ("#.z", "a.b.z", true),
            ("a.#.z", "a.z", true),
            ("a.#.z", "a.b.c.z", true),
            ("a.#.z", "a.z.b", false),
            ("#.a.#", "b.a.c", true),
            ("#.*.#", "a", true),
            ("a.*.#", "a", false),
        ] {
            assert_eq!(topic_matches(pattern, key), expected, "{pattern} {key}");
        }
    }

    #[test]
    fn several_keys_reach_each_queue_once() {
        let bindings = [("x", "a", "A"), ("x", "b", "A"), ("x", "b", "B"), ("x", "c", "C")];
        let exchanges = exchanges(&[("x", ExchangeKind::Direct, "")], &bindings);
        let headers = Headers::from_iter([("CC", Value::List(vec!["b".into(), Value::Int(1), "z".into()]))]);
        let message = Message { headers, ..Message::default() };
        let origin = Origin { exchange: name("x"), key: name("a") };
        assert_eq!(origin.keys(&message), ["a", "b", "z"]);
        assert_eq!(routed(&exchanges, &origin.keys(&message)), "A B");
    }

    #[test]
    fn only_what_matches_no_binding_goes_to_the_alternate() {
        let all = [
            ("x", ExchangeKind::Direct, "alt"),
            ("alt", ExchangeKind::Fanout, ""),
            ("y", ExchangeKind::Direct, ""),
        ];
        let bindings = [("x", "a", "A"), ("x", "to y", "y"), ("alt", "any", "ALT")];
        let exchanges = exchanges(&all, &bindings);
        for (keys, expected) in
            [(&["a"] as &[&str], "A"), (&["z"], "ALT"), (&["z", "a"], "A"), (&["to y"], "")]
        {
            assert_eq!(routed(&exchanges, keys), expected, "{keys:?}");
        }
    }

    #[test]
    fn circles_and_missing_alternates_end() {
        let all = [("x", ExchangeKind::Fanout, "missing"), ("y", ExchangeKind::Fanout, "x")];
        assert_eq!(routed(&exchanges(&all, &[]), &["a"]), "");
        let around = exchanges(&all, &[("x", "a", "y"), ("y", "a", "x"), ("y", "a", "A")]);
        assert_eq!(routed(&around, &["a"]), "A");
    }
}
