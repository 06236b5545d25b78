//! [`Conditions`]: what is wrong with queues, told once when it begins and once when it ends.

use std::collections::HashMap;
use std::sync::Arc;

use super::Alert;

/// What may be wrong with a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Condition {
    FailureRate,
    OldestWaiting,
    DeadLetters,
    NoConsumer,
}

/// What is wrong, as it was told.
#[derive(Debug, Default)]
pub(super) struct Conditions(HashMap<(Arc<str>, Condition), Alert>);

impl Conditions {
    /// What there is to tell, given how it is now.
    pub(super) fn see(
        &mut self,
        queue: &Arc<str>,
        condition: Condition,
        now: Option<Alert>,
    ) -> Option<Alert> {
        let key = (queue.clone(), condition);
        match now {
            Some(_) if self.0.contains_key(&key) => None,
            Some(alert) => {
                self.0.insert(key, alert.clone());
                Some(alert)
            }
            None => self.0.remove(&key).map(|alert| Alert::Resolved(Box::new(alert))),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether anything is wrong with that queue.
    pub(super) fn any(&self, queue: &str) -> bool {
        self.0.keys().any(|(other, _)| **other == *queue)
    }

    /// It was told by mistake, or will not have been told.
    pub(super) fn withdraw(&mut self, queue: &Arc<str>, condition: Condition) {
        self.0.remove(&(queue.clone(), condition));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_told_when_it_begins_and_when_it_ends() {
        let queue: Arc<str> = "mail".into();
        let alert = |rate| Alert::FailureRate { queue: "mail".into(), rate };
        let mut conditions = Conditions::default();
        // How it is, and what is told.
        for (now, told) in [
            (None, None),
            (Some(alert(0.6)), Some(alert(0.6))),
            (Some(alert(0.7)), None),
            (None, Some(Alert::Resolved(Box::new(alert(0.6))))),
            (None, None),
            (Some(alert(0.8)), Some(alert(0.8))),
        ] {
            assert_eq!(conditions.see(&queue, Condition::FailureRate, now.clone()), told, "{now:?}");
        }
        assert!(conditions.any("mail"));
        conditions.withdraw(&queue, Condition::FailureRate);
        assert!(!conditions.any("mail"));
    }
}
