//! [`Faults`]: what was done to the system, and whom and when that may have touched.

use std::time::Duration;

use super::Scope;
use crate::history::Record;
use crate::history::What;

/// How long after a handler is done its message may still be unacknowledged: the journal holds it back until the end is
/// stored, for 2 s at most (`PATIENCE` in `src/journal.rs`), and acknowledges in batches. With half a second for a busy
/// machine.
pub const ACK: Duration = Duration::from_millis(2_500);

/// All faults of a run.
#[derive(Debug)]
pub struct Faults<'a> {
    all: Vec<Fault<'a>>,
    /// When which queue was emptied by an operator.
    emptied: Vec<(u64, &'a str)>,
    aftermath: u64,
}

/// One of them. Times are in microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug)]
pub struct Fault<'a> {
    pub name: &'a str,
    pub whom: &'a str,
    pub began: u64,
    /// The end of time, if it never was.
    pub healed: u64,
}

impl Fault<'_> {
    /// Whether it harms what that process does: it is done to the process, to its link, to the broker, or to all.
    pub fn hits(&self, process: &str) -> bool {
        let whom = self.whom.strip_prefix("link ").unwrap_or(self.whom);
        self.is_of_all() || whom == process
    }

    /// Whether it harms what every process does.
    fn is_of_all(&self) -> bool {
        self.is_of_broker() || self.whom == "link"
    }

    /// Whether the broker, or a node of it, may have stopped.
    pub fn is_of_broker(&self) -> bool {
        matches!(self.whom, "all" | "broker") || self.whom.starts_with("node")
    }

    /// Whether it is done to a process in that role, or to its link.
    pub fn is_of_role(&self, role: &str) -> bool {
        let whom = self.whom.strip_prefix("link ").unwrap_or(self.whom);
        whom.starts_with(role)
    }

    /// Whether it takes what that queue holds in that lane.
    fn takes(&self, queue: &str, lane: &str) -> bool {
        self.whom.strip_prefix("queue ").is_some_and(|it| is_of(it, queue, lane))
    }
}

impl<'a> Faults<'a> {
    /// `records` in their order.
    pub fn of(records: &[&'a Record], scope: &Scope) -> Self {
        let (mut all, mut emptied) = (Vec::<Fault<'a>>::new(), Vec::new());
        for record in records {
            match &record.what {
                What::Began { fault, whom } => {
                    all.push(Fault { name: fault, whom, began: record.at, healed: u64::MAX });
                }
                What::Healed { fault, whom } => {
                    let is_it =
                        |it: &&mut Fault<'_>| it.healed == u64::MAX && it.name == fault && it.whom == whom;
                    if let Some(fault) = all.iter_mut().find(is_it) {
                        fault.healed = record.at;
                    }
                }
                What::Emptied { queue, .. } => emptied.push((record.at, queue.as_str())),
                _ => {}
            }
        }
        Self { all, emptied, aftermath: micros(scope.aftermath) }
    }

    pub fn all(&self) -> &[Fault<'a>] {
        &self.all
    }

    /// When nothing of it shows any more.
    pub fn is_over(&self, fault: &Fault<'_>) -> u64 {
        fault.healed.saturating_add(self.aftermath)
    }

    /// Whether there is one of that kind at some time of an interval.
    pub fn any(&self, from: u64, to: u64, is_meant: impl Fn(&Fault<'a>) -> bool) -> bool {
        let meets = |it: &Fault<'a>| from <= self.is_over(it) && it.began <= to;
        self.all.iter().any(|it| meets(it) && is_meant(it))
    }

    /// Whether somebody took what was in that lane of that queue at some time of an interval.
    pub fn emptied(&self, (queue, lane): (&str, &str), from: u64, to: u64) -> bool {
        let is_it = |(at, name): &(u64, &str)| (from..=to).contains(at) && is_of(name, queue, lane);
        self.emptied.iter().any(is_it) || self.any(from, to, |it| it.takes(queue, lane))
    }

    /// Whether one harms what that process does, at some time of an interval.
    pub fn hit(&self, process: &str, from: u64, to: u64) -> bool {
        self.any(from, to, |it| it.hits(process))
    }
}

/// Whether that is the queue, or the lane on the broker: `mail`, or `taskhare.mail.normal`.
fn is_of(name: &str, queue: &str, lane: &str) -> bool {
    name == queue || name.ends_with(&format!(".{queue}.{lane}"))
}

/// In whole microseconds.
pub fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Later by `time`.
pub fn later(at: u64, time: Duration) -> u64 {
    at.saturating_add(micros(time))
}
