//! [`plan`]: what to do next about a schedule. Pure: everything that can be wrong about misfires, overlaps and clocks is
//! here.

use std::time::Duration;

use super::Definition;
use super::Misfire;
use super::Overlap;
use super::State;
use crate::cadence::Times;
use crate::cadence::jitter;

const MILLISECOND: Duration = Duration::from_millis(1);

/// What to do next. Times are since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Move {
    /// Nothing before that time; `None`: before something is said about it.
    Wait(Option<Duration>),
    /// The tick that was planned for then, and with it all that was planned up to `passed` is dealt with.
    Fire { planned: Duration, passed: Duration },
    /// What was planned up to `passed` is not fired. Then ask again.
    PassOver { passed: Duration, why: Why },
}

/// Why ticks are not fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// Nobody could fire them in time.
    Misfired,
    /// The one before them has not ended.
    Overlapping,
    /// They were fired before the clock was set back; those to come are planned from its new time on.
    ClockSetBack,
}

/// Decides. A tick that is later than `misfire_after` is one that nobody could fire in time.
pub(crate) fn plan(
    definition: &Definition,
    times: &Times,
    state: &State,
    now: Duration,
    misfire_after: Duration,
) -> Move {
    if state.is_paused {
        return Move::Wait(None);
    }
    let Some(planned) = next(definition, times, state) else {
        return Move::Wait(None);
    };
    if is_set_back(definition, times, state, planned, now) {
        return Move::PassOver { passed: now, why: Why::ClockSetBack };
    }
    let due = planned + jitter(&definition.name, planned, definition.jitter);
    if now < due {
        return Move::Wait(Some(due));
    }
    let has_waited = definition.overlap == Overlap::Wait && due <= state.free_since;
    let fire = if has_waited {
        Move::Fire { planned, passed: now }
    } else if now - due > misfire_after {
        misfire(definition, planned, now, misfire_after)
    } else {
        Move::Fire { planned, passed: planned }
    };
    match (fire, state.busy_until(definition, now)) {
        (Move::Fire { .. }, Some(end)) if definition.overlap == Overlap::Wait => Move::Wait(Some(end)),
        (Move::Fire { passed, .. }, Some(_)) if definition.overlap == Overlap::Skip => {
            Move::PassOver { passed, why: Why::Overlapping }
        }
        (fire, _) => fire,
    }
}

/// When the next tick is planned, be it in the past; `None`: there is none any more.
pub(crate) fn next(definition: &Definition, times: &Times, state: &State) -> Option<Duration> {
    if definition.limit.is_some_and(|limit| state.sequence >= limit) {
        return None;
    }
    let planned = times.after(state.anchor, from(definition, state.passed))?;
    definition.ends.is_none_or(|ends| planned <= ends).then_some(planned)
}

/// Ticks are planned strictly after this.
fn from(definition: &Definition, time: Duration) -> Duration {
    definition.starts.map_or(time, |starts| time.max(starts.saturating_sub(MILLISECOND)))
}

/// What to do about ticks of which nobody could fire the first in time.
fn misfire(definition: &Definition, planned: Duration, now: Duration, misfire_after: Duration) -> Move {
    let pass_over = |passed: Duration| Move::PassOver { passed: passed.max(planned), why: Why::Misfired };
    match definition.misfire {
        Misfire::Skip => pass_over(now.saturating_sub(misfire_after).saturating_sub(definition.jitter)),
        Misfire::Once => Move::Fire { planned, passed: now },
        Misfire::CatchUp(within) => {
            let first = now.saturating_sub(within);
            if planned < first {
                return pass_over(first.saturating_sub(MILLISECOND));
            }
            Move::Fire { planned, passed: planned }
        }
    }
}

/// Whether the clock was set back so far that the schedule would stand still: the next tick is further away than two of
/// its periods, although there are times before it that the cadence names. They were fired already, at what the clock
/// said then. Within two periods they are not fired again.
fn is_set_back(
    definition: &Definition,
    times: &Times,
    state: &State,
    planned: Duration,
    now: Duration,
) -> bool {
    if state.passed <= now {
        return false;
    }
    let first = times.after(state.anchor, from(definition, now));
    if first.is_none_or(|first| first >= planned) {
        return false;
    }
    let following = times.after(state.anchor, planned);
    following.is_some_and(|following| planned - now > 2 * (following - planned))
}
