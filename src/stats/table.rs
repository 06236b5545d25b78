//! [`Table`]: figures of all tasks, and of those of each queue, type, lane and consumer.

use std::collections::BTreeMap;
use std::time::Duration;

use super::figures::Figures;
use crate::event::TaskChange;
use crate::event::TaskEvent;
use crate::lane::Lane;

/// By what figures are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Dimension {
    /// The task's queue.
    Queue,
    /// Its type: [`Task::NAME`](crate::Task::NAME).
    Task,
    /// The lane that it was in, as its consumer tells: started, succeeded, failed, retried and handed back. What else
    /// happens tells none and is in no row, and neither is what waits in quarantine.
    Lane,
    /// The consumer that says so, or that was lost. What producers, schedulers and the broker say is in no row: tasks
    /// accepted, redriven, and those that are dead letters.
    Consumer,
}

impl Dimension {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Queue, Self::Task, Self::Lane, Self::Consumer];

    /// Its name in exports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Task => "task",
            Self::Lane => "lane",
            Self::Consumer => "consumer",
        }
    }

    /// The row of an event.
    fn of(self, event: &TaskEvent) -> Option<&str> {
        match self {
            Self::Queue => Some(&event.queue),
            Self::Task => Some(&event.name),
            Self::Lane => event.lane.map(Lane::as_str),
            Self::Consumer => match &event.change {
                TaskChange::Lost { consumer } => Some(consumer),
                TaskChange::Accepted { .. } | TaskChange::Redriven => None,
                // A process without a number is no consumer.
                _ => Some(&*event.by).filter(|by| by.contains('/')),
            },
        }
    }
}

/// Figures of all tasks, and row by row.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    total: Figures,
    /// As many as [`Dimension::ALL`], in its order.
    rows: [Rows; Dimension::ALL.len()],
    window: Option<Duration>,
}

/// The first names that came, and what has become of all others.
#[derive(Clone, Debug, Default)]
struct Rows {
    named: BTreeMap<Box<str>, Figures>,
    other: Option<Box<Figures>>,
}

impl Table {
    /// The name of the row for what has no row of its own.
    pub(super) const OTHER: &'static str = "(other)";

    pub(super) fn of_window(window: Duration) -> Self {
        Self { total: Figures::of_window(window), window: Some(window), ..Self::default() }
    }

    /// Takes in an event, into at most `limit` rows by each dimension and one for the others.
    pub(super) fn count(&mut self, event: &TaskEvent, repeats: bool, limit: usize) {
        self.total.count(event, repeats);
        for (dimension, rows) in Dimension::ALL.into_iter().zip(&mut self.rows) {
            if let Some(name) = dimension.of(event) {
                rows.named(name, limit, self.window).count(event, repeats);
            }
        }
    }

    pub(super) fn merge(&mut self, other: &Self, limit: usize) {
        self.total.merge(&other.total);
        for (rows, others) in self.rows.iter_mut().zip(&other.rows) {
            for (name, figures) in &others.named {
                rows.named(name, limit, self.window).merge(figures);
            }
            if let Some(figures) = &others.other {
                rows.other(self.window).merge(figures);
            }
        }
    }

    pub(super) fn total(&self) -> &Figures {
        &self.total
    }

    /// By name; the others last.
    pub(super) fn by(&self, dimension: Dimension) -> impl Iterator<Item = (&str, &Figures)> {
        let rows = Dimension::ALL.into_iter().zip(&self.rows).filter(move |(other, _)| *other == dimension);
        rows.flat_map(|(_, rows)| {
            let named = rows.named.iter().map(|(name, figures)| (&**name, figures));
            named.chain(rows.other.iter().map(|figures| (Self::OTHER, &**figures)))
        })
    }
}

impl Rows {
    fn named(&mut self, name: &str, limit: usize, window: Option<Duration>) -> &mut Figures {
        if !self.named.contains_key(name) {
            if self.named.len() >= limit {
                return self.other(window);
            }
            self.named.insert(name.into(), figures(window));
        }
        self.named.get_mut(name).expect("a row that was there or was inserted")
    }

    fn other(&mut self, window: Option<Duration>) -> &mut Figures {
        self.other.get_or_insert_with(|| Box::new(figures(window)))
    }
}

fn figures(window: Option<Duration>) -> Figures {
    window.map(Figures::of_window).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::lane::Priority;
    use crate::task::TaskId;

    fn event(name: &'static str, lane: Option<Lane>, by: &str, change: TaskChange) -> TaskEvent {
        TaskEvent {
            id: TaskId::new(),
            name: name.into(),
            queue: "images".into(),
            lane,
            attempt: 1,
            at: UNIX_EPOCH,
            by: by.into(),
            change,
        }
    }

    fn names(table: &Table, dimension: Dimension) -> Vec<&str> {
        table.by(dimension).map(|(name, _)| name).collect()
    }

    #[test]
    fn an_event_is_in_the_row_of_what_it_tells() {
        let accepted = TaskChange::Accepted {
            priority: Priority::Normal,
            due: None,
            deadline: None,
            schedule: None,
            again: false,
        };
        let lost = TaskChange::Lost { consumer: "host:8:beef/1".into() };
        let mut table = Table::default();
        for event in [
            event("resize", Some(Lane::Low), "host:7:c0de/2", TaskChange::Cancelled),
            event("resize", None, "", TaskChange::Cancelled),
            event("charge", Some(Lane::Urgent), "host:7:c0de", accepted),
            event("charge", None, "host:9:cafe", lost),
        ] {
            table.count(&event, false, 9);
        }
        assert_eq!(names(&table, Dimension::Queue), ["images"]);
        assert_eq!(names(&table, Dimension::Task), ["charge", "resize"]);
        assert_eq!(names(&table, Dimension::Lane), ["low", "urgent"]);
        assert_eq!(names(&table, Dimension::Consumer), ["host:7:c0de/2", "host:8:beef/1"]);
        assert_eq!((table.total().cancelled, table.total().lost, table.total().accepted), (2, 1, 1));
    }

    #[test]
    fn beyond_the_limit_rows_are_one() {
        let mut table = Table::default();
        for name in ["b", "c", "a", "d", "b"] {
            table.count(&event(name, None, "", TaskChange::Cancelled), false, 2);
        }
        let rows: Vec<(&str, u64)> =
            table.by(Dimension::Task).map(|(name, figures)| (name, figures.cancelled)).collect();
        assert_eq!(rows, [("b", 2), ("c", 1), (Table::OTHER, 2)]);

        let mut merged = Table::default();
        merged.count(&event("d", None, "", TaskChange::Cancelled), false, 2);
        merged.merge(&table, 2);
        let rows: Vec<(&str, u64)> =
            merged.by(Dimension::Task).map(|(name, figures)| (name, figures.cancelled)).collect();
        assert_eq!(rows, [("b", 2), ("d", 1), (Table::OTHER, 3)]);
    }
}
