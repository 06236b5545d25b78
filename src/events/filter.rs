//! [`Filter`]: which events a reader asks for. Pure.

use std::collections::BTreeSet;

use crate::event::Event;
use crate::event::Kind;
use crate::task::TaskId;

/// What is asked for: of each set one of these, or anything if it is empty.
#[derive(Clone, Debug, Default)]
pub(super) struct Filter {
    pub(super) queues: BTreeSet<String>,
    pub(super) names: BTreeSet<String>,
    pub(super) ids: BTreeSet<TaskId>,
    pub(super) kinds: BTreeSet<Kind>,
}

impl Filter {
    /// Whether this event is asked for. That some were missed always is; what consumers say is only if nothing else is.
    pub(super) fn lets(&self, event: &Event) -> bool {
        let Self { queues, names, ids, kinds } = self;
        match event {
            Event::Task(task) => {
                (queues.is_empty() || queues.contains(&*task.queue))
                    && (names.is_empty() || names.contains(&*task.name))
                    && (ids.is_empty() || ids.contains(&task.id))
                    && (kinds.is_empty() || kinds.contains(&task.change.kind()))
            }
            Event::Consumer(_) => queues.is_empty() && names.is_empty() && ids.is_empty() && kinds.is_empty(),
            Event::Missed(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::event::ConsumerChange;
    use crate::event::ConsumerEvent;
    use crate::event::TaskChange;
    use crate::event::TaskEvent;

    #[test]
    fn each_set_that_is_not_empty_must_have_it() {
        let id = TaskId::from_u128(1);
        let task = Event::Task(TaskEvent {
            id,
            name: "resize".into(),
            queue: "images".into(),
            lane: None,
            attempt: 1,
            at: UNIX_EPOCH,
            by: "host:1:c0de".into(),
            change: TaskChange::Cancelled,
        });
        let change = ConsumerChange::Draining;
        let consumer = Event::Consumer(ConsumerEvent { consumer: "c".into(), at: UNIX_EPOCH, change });
        type Ask = fn(&mut Filter);
        let table: [(&[Ask], bool, bool); 8] = [
            (&[], true, true),
            (&[|it| it.queues.extend(["images".into()])], true, false),
            (&[|it| it.queues.extend(["mail".into()])], false, false),
            (&[|it| it.names.extend(["resize".into()])], true, false),
            (&[|it| it.ids.extend([TaskId::from_u128(2)])], false, false),
            (&[|it| it.ids.extend([1, 2].map(TaskId::from_u128))], true, false),
            (&[|it| it.kinds.extend([Kind::Cancelled])], true, false),
            (
                &[|it| it.kinds.extend([Kind::Cancelled]), |it| it.queues.extend(["mail".into()])],
                false,
                false,
            ),
        ];
        for (asks, lets_task, lets_consumer) in table {
            let mut filter = Filter::default();
            asks.iter().for_each(|ask| ask(&mut filter));
            assert_eq!(
                (filter.lets(&task), filter.lets(&consumer)),
                (lets_task, lets_consumer),
                "{filter:?}"
            );
            assert!(filter.lets(&Event::Missed(1)));
        }
    }
}
