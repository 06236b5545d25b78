//! [`Agenda`]: which schedule to look at when, each once.

use std::collections::BTreeSet;
use std::collections::HashMap;
use std::sync::Arc;

/// Schedules by time.
pub(super) struct Agenda<T> {
    order: BTreeSet<(T, Arc<str>)>,
    times: HashMap<Arc<str>, T>,
}

impl<T: Ord + Copy> Agenda<T> {
    pub(super) fn new() -> Self {
        Self { order: BTreeSet::new(), times: HashMap::new() }
    }

    /// Looks at a schedule then, and not at any time set before; `None`: not at all.
    pub(super) fn set(&mut self, name: &Arc<str>, at: Option<T>) {
        let old = match at {
            Some(at) => self.times.insert(name.clone(), at),
            None => self.times.remove(name),
        };
        if let Some(old) = old {
            self.order.remove(&(old, name.clone()));
        }
        self.order.extend(at.map(|at| (at, name.clone())));
    }

    /// Looks then at all that it would look at some time.
    pub(super) fn hasten(&mut self, at: T) {
        self.times.values_mut().for_each(|time| *time = at);
        self.order = self.times.keys().map(|name| (at, name.clone())).collect();
    }

    /// When to look at a schedule.
    pub(super) fn get(&self, name: &Arc<str>) -> Option<T> {
        self.times.get(name).copied()
    }

    /// When to look at the first one.
    pub(super) fn first(&self) -> Option<T> {
        self.order.first().map(|(at, _)| *at)
    }

    /// Takes out the first one, if its time has come.
    pub(super) fn pop(&mut self, now: T) -> Option<Arc<str>> {
        self.first().filter(|at| *at <= now)?;
        let (_, name) = self.order.pop_first()?;
        self.times.remove(&name);
        Some(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_looked_at_once_at_the_time_set_last() {
        let [a, b, c]: [Arc<str>; 3] = ["a", "b", "c"].map(Arc::from);
        let mut agenda = Agenda::new();
        for (name, at) in [(&a, Some(1)), (&b, Some(2)), (&c, Some(2)), (&a, Some(3)), (&c, None), (&c, None)]
        {
            agenda.set(name, at);
        }
        assert_eq!((agenda.get(&a), agenda.get(&b), agenda.get(&c)), (Some(3), Some(2), None));
        assert_eq!((agenda.first(), agenda.pop(1)), (Some(2), None));
        assert_eq!((agenda.pop(9), agenda.pop(9), agenda.pop(9)), (Some(b.clone()), Some(a.clone()), None));
        assert_eq!(agenda.first(), None);
        [(&a, Some(8)), (&b, None), (&c, Some(9))].into_iter().for_each(|(name, at)| agenda.set(name, at));
        agenda.hasten(1);
        assert_eq!((agenda.pop(1), agenda.pop(1), agenda.pop(1)), (Some(a), Some(c), None));
    }
}
