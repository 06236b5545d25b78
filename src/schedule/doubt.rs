//! [`Doubt`]: a tick of which its scheduler does not know whether the broker has put it into both of its queues. Pure.

use super::State;
use crate::message::Headers;
use crate::message::Value;
use crate::task::TaskId;
use crate::tick::Tick;

/// A tick in doubt.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Doubt {
    pub(crate) tick: Tick,
    /// Of its schedule.
    pub(crate) origin: TaskId,
    /// The tenure in which it was fired.
    pub(crate) tenure: u64,
}

impl Doubt {
    /// Whether it may be that the ledger has the tick and its lane has not, given the newest entry.
    ///
    /// Not if the ledger does not have it either: then it is still to be fired. And not if another tenure has fired it: it
    /// would not have, had the ledger had it.
    pub(crate) fn holds(&self, state: &State) -> bool {
        let Self { tick, origin, tenure } = self;
        let is_stored = state.origin == *origin && state.sequence >= tick.sequence;
        let fired_by = state.fired_by.iter().rfind(|by| by.since <= tick.sequence);
        is_stored && fired_by.is_none_or(|by| by.tenure == *tenure)
    }

    pub(super) fn write(&self, table: &mut Headers) {
        table.insert("name", self.tick.schedule.as_str());
        table.insert("tick", self.tick.to_value());
        table.insert("origin", self.origin.to_string());
        table.insert("tenure", self.tenure);
    }

    pub(super) fn read(table: &Headers) -> Result<Self, &'static str> {
        let origin = table.get("origin").and_then(Value::as_text).and_then(|id| id.parse().ok());
        let tenure = table.get("tenure").and_then(Value::as_unsigned);
        Ok(Self {
            tick: table.get("tick").and_then(Tick::from_value).ok_or("no tick")?,
            origin: origin.ok_or("no origin")?,
            tenure: tenure.ok_or("no tenure")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::schedule::entry::tests::entries;

    #[test]
    fn a_doubt_holds_until_somebody_else_has_fired_the_tick() {
        const OURS: u64 = 1;
        const THEIRS: u64 = 2;
        // Who has fired how many ticks; whether the doubt of the first tenure about its third tick holds.
        for (fired, holds) in [
            (vec![(OURS, 2)], false),
            (vec![(OURS, 3)], true),
            (vec![(OURS, 5)], true),
            (vec![(OURS, 3), (THEIRS, 2)], true),
            (vec![(OURS, 2), (THEIRS, 1)], false),
            (vec![(OURS, 2), (THEIRS, 4)], false),
            (vec![(OURS, 1), (THEIRS, 1), (OURS, 1)], true),
            (vec![(OURS, 2), (THEIRS, 2), (3, 1), (4, 1)], false),
            (vec![(OURS, 3), (THEIRS, 2), (3, 1), (4, 1)], true),
            // Nobody knows any more.
            (vec![(OURS, 2), (THEIRS, 2), (3, 1), (4, 1), (5, 1), (6, 1)], true),
        ] {
            let mut entry = entries().remove(0);
            let (definition, state) = (&entry.definition, &mut entry.state);
            let mut third = None;
            for (tenure, ticks) in &fired {
                for _ in 0..*ticks {
                    let tick = state.trigger(definition, Duration::from_secs(1));
                    state.fired_by(*tenure);
                    third = third.or((tick.sequence == 3).then_some(tick));
                }
            }
            let tick = third.unwrap_or_else(|| state.clone().trigger(definition, Duration::from_secs(1)));
            let doubt = Doubt { tick: Tick { sequence: 3, ..tick }, origin: state.origin, tenure: OURS };
            assert_eq!(doubt.holds(state), holds, "{fired:?}");
            let other = Doubt { origin: TaskId::new(), ..doubt };
            assert!(!other.holds(state), "of an earlier schedule of that name");
        }
    }
}
