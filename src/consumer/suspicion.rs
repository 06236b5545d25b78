//! From how often a task came back without an end to where it may be started. Pure.
//!
//! A process that dies gives back all that it held: the task that killed it, those that ran beside it, and those that
//! had not started. Brokers count that differently: quorum queues count returns (3.10 to 4.2 all, 4.3 only those by a
//! rejection or a closed channel, which the death of a process is), classic queues say only whether there was one. So
//! who came back twice is under suspicion, and is started apart from all others. There each return is a start that
//! never ended, whatever the broker.

/// The least number of starts: two among others, and one alone.
pub(super) const LEAST_CRASH_LIMIT: u32 = 3;

/// How often a task comes back from a lane before it is under suspicion.
pub(super) const RETURNS_FROM_LANES: u32 = 2;

/// What to do with a task when its turn in its lane has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// Start it.
    None,
    /// Publish it to its lane again, with a note that it came back: the broker would not know of a second time.
    Noted,
    /// Publish it to quarantine.
    Strong,
}

/// How often a task came back without an end. `counts`: whether its queue counts returns, as a quarantine always does;
/// `redelivered` and `returned` are the broker's, `noted` is ours.
pub(super) fn came_back(counts: bool, redelivered: bool, returned: u32, noted: u32) -> u32 {
    noted.saturating_add(if counts { returned } else { redelivered.into() })
}

/// Decides, of the same.
pub(super) fn suspicion(counts: bool, redelivered: bool, returned: u32, noted: u32) -> Suspicion {
    match came_back(counts, redelivered, returned, noted) {
        RETURNS_FROM_LANES.. => Suspicion::Strong,
        _ if redelivered && !counts => Suspicion::Noted,
        _ => Suspicion::None,
    }
}

/// Whether a task in quarantine has been started often enough: each time it [came back](came_back) it had been.
pub(super) fn is_convicted(starts: u32, crash_limit: u32) -> bool {
    starts >= crash_limit.max(LEAST_CRASH_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_back_twice_is_under_suspicion_on_whatever_queue() {
        const QUORUM: bool = true;
        const CLASSIC: bool = false;
        for (counts, redelivered, returned, noted, expected) in [
            (QUORUM, false, 0, 0, Suspicion::None),
            // The loss of a broker's node, since 4.3: not the task's doing.
            (QUORUM, true, 0, 0, Suspicion::None),
            (QUORUM, true, 1, 0, Suspicion::None),
            (QUORUM, true, 2, 0, Suspicion::Strong),
            (QUORUM, true, 99, 0, Suspicion::Strong),
            // Once by a classic lane, before the application changed to quorum queues.
            (QUORUM, false, 0, 1, Suspicion::None),
            (QUORUM, true, 1, 1, Suspicion::Strong),
            // Its process died twice while it held a lease.
            (QUORUM, false, 0, 2, Suspicion::Strong),
            (CLASSIC, false, 0, 2, Suspicion::Strong),
            (CLASSIC, false, 0, 0, Suspicion::None),
            (CLASSIC, true, 0, 0, Suspicion::Noted),
            (CLASSIC, false, 0, 1, Suspicion::None),
            (CLASSIC, true, 0, 1, Suspicion::Strong),
            (CLASSIC, true, 0, u32::MAX, Suspicion::Strong),
        ] {
            let found = suspicion(counts, redelivered, returned, noted);
            assert_eq!(found, expected, "{counts} {redelivered} {returned} {noted}");
        }
    }

    #[test]
    fn who_was_started_as_often_as_the_limit_says_is_convicted() {
        for (returned, noted, limit, expected) in [
            (0, 2, 5, false),
            (2, 2, 5, false),
            (3, 2, 5, true),
            // Handed back by a shutdown in between, after one start in quarantine.
            (1, 3, 5, false),
            (2, 3, 5, true),
            (0, 2, 0, false),
            (1, 2, 3, true),
            (u32::MAX, 2, u32::MAX, true),
        ] {
            let starts = came_back(true, true, returned, noted);
            assert_eq!(is_convicted(starts, limit), expected, "{returned} {noted} {limit}");
        }
    }
}
