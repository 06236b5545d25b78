//! [`plan`]: what to do next about a schedule. Pure: everything that can be wrong about misfires, overlaps and clocks is
//! here.

use std::time::Duration;

use super::Definition;
use super::Misfire;
use super::Overlap;
use super::State;
use super::definition::whole;
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
///
/// To look again at once after each `PassOver` takes two of them at most before there is something else to do, however
/// much was planned meanwhile.
pub(crate) fn plan(
    definition: &Definition,
    times: &Times,
    state: &State,
    now: Duration,
    misfire_after: Duration,
) -> Move {
    let now = whole(now);
    if state.is_paused || state.is_spent(definition) {
        return Move::Wait(None);
    }
    if is_set_back(definition, times, state, now, misfire_after) {
        return Move::PassOver { passed: now, why: Why::ClockSetBack };
    }
    let Some(planned) = next(definition, times, state) else {
        return Move::Wait(None);
    };
    let ticks = Ticks { definition, times, anchor: state.anchor };
    let due = ticks.due(planned);
    if now < due {
        return Move::Wait(Some(due));
    }
    match (definition.overlap, state.busy_until(definition, now)) {
        (Overlap::Wait, Some(end)) => return Move::Wait(Some(end)),
        (Overlap::Skip, Some(_)) => {
            return Move::PassOver { passed: ticks.settled(planned, now), why: Why::Overlapping };
        }
        _ => {}
    }
    // It could not be fired before.
    let free = if definition.overlap == Overlap::Wait {
        state.free_since(definition).min(now)
    } else {
        Duration::ZERO
    };
    if now - due.max(free) > misfire_after {
        ticks.misfire(planned, now, misfire_after)
    } else if due <= free {
        Move::Fire { planned, passed: ticks.settled(planned, now) }
    } else {
        Move::Fire { planned, passed: planned }
    }
}

/// When the next tick is planned, be it in the past; `None`: there is none any more.
pub(crate) fn next(definition: &Definition, times: &Times, state: &State) -> Option<Duration> {
    if state.is_spent(definition) {
        return None;
    }
    let planned = times.after(state.anchor, from(definition, state.passed))?;
    definition.ends.is_none_or(|ends| planned <= ends).then_some(planned)
}

/// Ticks are planned strictly after this.
fn from(definition: &Definition, time: Duration) -> Duration {
    definition.starts.map_or(time, |starts| time.max(starts.saturating_sub(MILLISECOND)))
}

/// Whether the clock was set back past several ticks, and by more than `misfire_after`: to wait until it shows the old
/// time again would leave out as many. They are fired again as their times come again. Less is waited out, so that no
/// tick is fired twice because the clocks of two schedulers differ by a little, or one is being adjusted.
fn is_set_back(
    definition: &Definition,
    times: &Times,
    state: &State,
    now: Duration,
    misfire_after: Duration,
) -> bool {
    let last = definition.ends.map_or(state.passed, |ends| ends.min(state.passed));
    if last.saturating_sub(now) <= misfire_after {
        return false;
    }
    let first = times.after(state.anchor, from(definition, now));
    let second = first.and_then(|first| times.after(state.anchor, first));
    second.is_some_and(|second| second <= last)
}

/// The ticks of a schedule as they are planned, whatever has become of them.
struct Ticks<'a> {
    definition: &'a Definition,
    times: &'a Times,
    anchor: Duration,
}

impl Ticks<'_> {
    /// When a tick is due. Jitter does not put it off beyond the time that the next one is planned for: the order of
    /// ticks stays, and one that is on time does not look late.
    fn due(&self, planned: Duration) -> Duration {
        let width = self.definition.jitter;
        if width.is_zero() {
            return planned;
        }
        let following = self.times.after(self.anchor, planned);
        let width = following.map_or(width, |following| width.min(following - planned));
        planned + jitter(&self.definition.name, planned, width)
    }

    /// Up to when all that is planned was due by `until`: `until` itself, or less if the last one of them has its
    /// jitter before it. `planned` is the first of them, and is settled anyway.
    fn settled(&self, planned: Duration, until: Duration) -> Duration {
        if self.definition.jitter.is_zero() {
            return until.max(planned);
        }
        let last = self.latest(planned, until);
        if last > planned && self.due(last) > until { last - MILLISECOND } else { until.max(planned) }
    }

    /// The last planned time that is not after `until`, or `planned`, which is one.
    fn latest(&self, planned: Duration, until: Duration) -> Duration {
        // Nothing is planned between `end` and `until`.
        let (mut last, mut end) = (planned, until);
        while last < end {
            let middle = last + (end - last) / 2;
            match self.times.after(self.anchor, middle) {
                Some(later) if later <= end => last = later,
                _ => end = whole(middle),
            }
        }
        last
    }

    /// What to do about ticks of which nobody could fire the first in time.
    fn misfire(&self, planned: Duration, now: Duration, misfire_after: Duration) -> Move {
        // What was due then is too late, and what was due later is not.
        let late = now.saturating_sub(misfire_after).saturating_sub(MILLISECOND);
        let pass_over = |until| Move::PassOver { passed: self.settled(planned, until), why: Why::Misfired };
        match self.definition.misfire {
            Misfire::Skip => pass_over(late),
            Misfire::Once => Move::Fire { planned, passed: self.settled(planned, now) },
            Misfire::CatchUp(within) => {
                let first = now.saturating_sub(within);
                if planned < first {
                    pass_over(late.min(first.saturating_sub(MILLISECOND)))
                } else {
                    Move::Fire { planned, passed: planned }
                }
            }
        }
    }
}
