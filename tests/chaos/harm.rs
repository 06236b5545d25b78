//! [`Harm`]: the faults that a run may meet, as a table.

use std::time::Duration;

use taskhare::testing::Fault;

use crate::load::Fate;
use crate::worker::HEARTBEAT;
use crate::worker::Role;
use crate::worker::Role::Consumer;
use crate::worker::Role::Producer;
use crate::worker::Role::Scheduler;

/// Beyond two heartbeats, so that whoever is silent for so long is given up.
pub const LONG: Duration = Duration::from_secs(7);
const _: () = assert!(LONG.as_millis() > 3 * HEARTBEAT.as_millis());
/// Until something that is down is noticed, and others have taken over.
const DOWN: Duration = Duration::from_secs(4);
/// Longer than nodes take to give each other up.
const CUT: Duration = Duration::from_secs(14);
const LANE: &str = "taskhare.mail.normal";
const HISTORY: &str = "taskhare.history";
const SHORT: Duration = Duration::from_secs(2);
/// By how much clocks are set.
pub const STEP: Duration = Duration::from_secs(3);

/// One of the faults.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Harm {
    /// As it is called in the history and in the documentation.
    pub name: &'static str,
    pub deed: Deed,
}

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Deed {
    /// Nothing but what these tasks do.
    Tasks(&'static [Fate]),
    /// `kill -9` of one of those, so many times; another one is started half a second later. Of schedulers it is the active
    /// one, here and below.
    Kill(Role, u32),
    /// SIGSTOP of one of those, and SIGCONT.
    Freeze(Role, Duration),
    /// SIGTERM for one of those, so many times.
    Terminate(Role, u32),
    /// The clock of one of those is set forward or back, and later set right.
    Clock(Role, Step),
    /// The links of all, or of one of those, fail.
    Links(Fault, Duration),
    Link(Role, Fault, Duration),
    /// An operator closes all connections, so many times.
    Close(u32),
    /// An operator empties the lanes of a queue, so many times, or deletes one.
    Purge(u32),
    Delete,
    /// Somebody puts something into the queues that is no task.
    Stray,
    /// The only broker.
    Broker(Outage),
    /// Nodes of a cluster.
    Node(Which, Outage),
    /// Each node is restarted, one after the other.
    Rolling,
    /// Two of three nodes are killed.
    Minority,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Ahead,
    Behind,
}

/// What becomes of a broker or a node, for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// `kill -9`, and a start.
    Killed(Duration),
    /// An orderly end, and a start.
    Stopped(Duration),
    Frozen(Duration),
    /// Cut off from the other nodes.
    Cut(Duration),
    MemoryAlarm(Duration),
    DiskAlarm(Duration),
}

/// Which node of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// That leads this queue or stream.
    Leader(&'static str),
    /// One that does not.
    Follower(&'static str),
    /// That a consumer is connected to.
    Ours,
}

/// What a fault is done to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    Node,
    Cluster,
}

const fn harm(name: &'static str, deed: Deed) -> Harm {
    Harm { name, deed }
}

impl Harm {
    pub const ALL: [Self; 47] = [
        harm("none", Deed::Tasks(&[])),
        // Processes.
        harm("consumer killed", Deed::Kill(Consumer, 3)),
        harm("producer killed", Deed::Kill(Producer, 3)),
        harm("scheduler killed", Deed::Kill(Scheduler, 3)),
        harm("consumer frozen", Deed::Freeze(Consumer, LONG)),
        harm("producer frozen", Deed::Freeze(Producer, LONG)),
        harm("scheduler frozen", Deed::Freeze(Scheduler, LONG)),
        harm("consumer terminated", Deed::Terminate(Consumer, 3)),
        harm("producer terminated", Deed::Terminate(Producer, 2)),
        harm("scheduler terminated", Deed::Terminate(Scheduler, 3)),
        // Handlers. Some panic in every run.
        harm("task aborts its process", Deed::Tasks(&[Fate::Kills])),
        harm("handler blocks", Deed::Tasks(&[Fate::Blocks, Fate::Blocks, Fate::Blocks, Fate::Blocks])),
        harm("handler ignores cancellation", Deed::Tasks(&[Fate::Overruns(1), Fate::Overruns(3)])),
        // Messages.
        harm("messages that are no tasks", Deed::Stray),
        // The broker.
        harm("broker killed", Deed::Broker(Outage::Killed(Duration::ZERO))),
        harm("broker restarted", Deed::Broker(Outage::Stopped(Duration::ZERO))),
        harm("broker frozen", Deed::Broker(Outage::Frozen(LONG))),
        harm("memory alarm", Deed::Broker(Outage::MemoryAlarm(LONG))),
        harm("disk alarm", Deed::Broker(Outage::DiskAlarm(LONG))),
        // Operators.
        harm("connections closed", Deed::Close(1)),
        harm("connections closed again and again", Deed::Close(6)),
        harm("queue purged", Deed::Purge(4)),
        harm("queue deleted", Deed::Delete),
        // The network.
        harm("link swallows all", Deed::Link(Consumer, Fault::Drop, LONG)),
        harm("link of the scheduler swallows all", Deed::Link(Scheduler, Fault::Drop, LONG)),
        harm("all links swallow all", Deed::Links(Fault::Drop, LONG)),
        harm("all links swallow what is sent", Deed::Links(Fault::DropToBroker, LONG)),
        harm("all links swallow what is received", Deed::Links(Fault::DropToClient, LONG)),
        harm("all links half open", Deed::Links(Fault::HalfOpen, LONG)),
        harm("all links reset", Deed::Links(Fault::Reset, SHORT)),
        harm("all links slow", Deed::Links(Fault::Jitter(Duration::from_millis(150)), LONG)),
        harm("confirms late", Deed::Links(Fault::HoldConfirms, LONG)),
        harm("confirms lost", Deed::Links(Fault::LoseConfirms, LONG)),
        // Clocks.
        harm("clock of a consumer ahead", Deed::Clock(Consumer, Step::Ahead)),
        harm("clock of a consumer behind", Deed::Clock(Consumer, Step::Behind)),
        harm("clock of a producer ahead", Deed::Clock(Producer, Step::Ahead)),
        harm("clock of the scheduler ahead", Deed::Clock(Scheduler, Step::Ahead)),
        harm("clock of the scheduler behind", Deed::Clock(Scheduler, Step::Behind)),
        // A cluster of three nodes.
        harm("leader killed", Deed::Node(Which::Leader(LANE), Outage::Killed(DOWN))),
        harm("follower killed", Deed::Node(Which::Follower(LANE), Outage::Killed(DOWN))),
        harm("node we are connected to killed", Deed::Node(Which::Ours, Outage::Killed(DOWN))),
        harm("leader frozen", Deed::Node(Which::Leader(LANE), Outage::Frozen(CUT))),
        harm("node cut off", Deed::Node(Which::Leader(LANE), Outage::Cut(CUT))),
        harm("leader of the history killed", Deed::Node(Which::Leader(HISTORY), Outage::Killed(DOWN))),
        harm("leader of the history cut off", Deed::Node(Which::Leader(HISTORY), Outage::Cut(CUT))),
        harm("nodes restarted one by one", Deed::Rolling),
        harm("majority lost", Deed::Minority),
    ];

    /// Words may be joined by hyphens.
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|harm| harm.name.replace(' ', "-") == name.replace(' ', "-"))
    }

    pub fn needs(self) -> Needs {
        match self.deed {
            Deed::Node(..) | Deed::Rolling | Deed::Minority => Needs::Cluster,
            _ => Needs::Node,
        }
    }

    /// Whether a broker dies that may have no other copy of what was declared just before: see ARCHITECTURE.md.
    pub fn needs_settled(self) -> bool {
        matches!(self.deed, Deed::Broker(Outage::Killed(_) | Outage::Stopped(_)))
            || self.needs() == Needs::Cluster
    }

    /// Whether processes need clocks that can be set.
    pub fn needs_clocks(self) -> bool {
        matches!(self.deed, Deed::Clock(..))
    }

    /// The tasks that are the fault.
    pub fn fates(self) -> &'static [Fate] {
        match self.deed {
            Deed::Tasks(fates) => fates,
            _ => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_fault_has_a_name_of_its_own_that_is_in_the_documentation() {
        let page = include_str!("../../docs/chaos.md");
        let names: BTreeSet<&str> = Harm::ALL.iter().map(|harm| harm.name).collect();
        assert_eq!(names.len(), Harm::ALL.len());
        let missing: Vec<_> = names.iter().filter(|name| !page.contains(&format!("| {name} |"))).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }
}
