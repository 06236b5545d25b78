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

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::cadence::Cadence;
    use crate::schedule::Schedule;
    use crate::schedule::definition::tests::defined;
    use crate::schedule::definition::tests::schedule;
    use crate::task::TaskId;

    const MS: Duration = Duration::from_millis(1);
    const SECOND: Duration = Duration::from_secs(1);
    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(86_400);
    /// 1 January 2027, 0:00 UTC, a Friday.
    const START: Duration = Duration::from_secs(1_798_761_600);
    const MISFIRE_AFTER: Duration = Duration::from_secs(5);

    /// A schedule, its only scheduler, and the clock of that.
    struct World {
        definition: Definition,
        times: Times,
        state: State,
        now: Duration,
        /// When each tick was fired, and for when it was planned.
        fired: Vec<(Duration, Duration)>,
        passed_over: Vec<Why>,
    }

    impl World {
        /// Declared at [`START`].
        fn new(schedule: Schedule) -> Self {
            let definition = defined(schedule);
            Self {
                times: Times::of(&definition.cadence).unwrap(),
                state: State::new(TaskId::from_u128(1), &definition, START),
                definition,
                now: START,
                fired: Vec::new(),
                passed_over: Vec::new(),
            }
        }

        fn plan(&self) -> Move {
            plan(&self.definition, &self.times, &self.state, self.now, MISFIRE_AFTER)
        }

        /// Does what is to be done now, and says when to look again.
        fn look(&mut self) -> Option<Duration> {
            let mut passed_over = 0;
            loop {
                match self.plan() {
                    Move::Wait(until) => {
                        assert!(until.is_none_or(|until| until > self.now));
                        return until;
                    }
                    Move::Fire { planned, passed } => {
                        passed_over = 0;
                        assert!(planned <= passed && passed <= self.now);
                        let tick = self.state.fire(&self.definition, planned, passed, self.now);
                        self.fired.push((self.now, tick.planned));
                        assert_eq!(tick.sequence, self.fired.len() as u64);
                    }
                    Move::PassOver { passed, why } => {
                        passed_over += 1;
                        assert!(passed_over <= 2, "it gets nowhere: {why:?}");
                        assert!(passed > self.state.passed || why == Why::ClockSetBack);
                        self.state.pass_over(passed, self.now);
                        self.passed_over.push(why);
                    }
                }
            }
        }

        /// A scheduler runs from now on until that time.
        fn run_until(&mut self, end: Duration) {
            while let Some(next) = self.look().filter(|next| *next <= end) {
                self.now = next;
            }
            self.now = end;
        }

        /// For when the ticks were planned, after [`START`].
        fn planned(&self) -> Vec<Duration> {
            self.fired.iter().map(|(_, planned)| *planned - START).collect()
        }

        /// All that the cadence names after `start` up to `end`.
        fn all(&self, start: Duration, end: Duration) -> Vec<Duration> {
            let after = |time| self.times.after(self.state.anchor, time);
            let all = std::iter::successors(after(start), |time| after(*time));
            all.take_while(|time| *time <= end).collect()
        }

        fn ticks(&self) -> Ticks<'_> {
            Ticks { definition: &self.definition, times: &self.times, anchor: self.state.anchor }
        }
    }

    fn hours(hours: &[u32]) -> Vec<Duration> {
        hours.iter().map(|hours| *hours * HOUR).collect()
    }

    fn at(time: Duration) -> std::time::SystemTime {
        UNIX_EPOCH + time
    }

    #[test]
    fn a_tick_is_fired_when_it_is_due_and_not_before() {
        let mut world = World::new(schedule(HOUR));
        let due = START + HOUR;
        for now in [START, START + MS, due - MS, due - Duration::from_nanos(1)] {
            world.now = now;
            assert_eq!(world.plan(), Move::Wait(Some(due)));
        }
        for now in [due, due + MISFIRE_AFTER, due + MISFIRE_AFTER + Duration::from_nanos(999_999)] {
            world.now = now;
            assert_eq!(world.plan(), Move::Fire { planned: due, passed: due });
        }
    }

    #[test]
    fn what_is_late_is_dealt_with_by_its_policy() {
        let fire = |planned: Duration, passed: Duration| Move::Fire {
            planned: START + planned,
            passed: START + passed,
        };
        let misfired = |passed: Duration| Move::PassOver { passed: START + passed, why: Why::Misfired };
        let late = 3 * HOUR + 30 * MINUTE;
        let just = HOUR + MISFIRE_AFTER + MS;
        let in_time = MISFIRE_AFTER + MS;
        for (policy, now, expected) in [
            (Misfire::Skip, HOUR + MISFIRE_AFTER, fire(HOUR, HOUR)),
            (Misfire::Skip, just, misfired(HOUR)),
            (Misfire::Skip, late, misfired(late - in_time)),
            // The last one is late, but not too late.
            (Misfire::Skip, 3 * HOUR + MISFIRE_AFTER, misfired(3 * HOUR - MS)),
            (Misfire::Skip, 3 * HOUR + in_time, misfired(3 * HOUR)),
            (Misfire::Once, HOUR + MISFIRE_AFTER, fire(HOUR, HOUR)),
            (Misfire::Once, just, fire(HOUR, just)),
            (Misfire::Once, late, fire(HOUR, late)),
            (Misfire::Once, 3 * HOUR, fire(HOUR, 3 * HOUR)),
            (Misfire::CatchUp(DAY), HOUR + MISFIRE_AFTER, fire(HOUR, HOUR)),
            (Misfire::CatchUp(DAY), late, fire(HOUR, HOUR)),
            (Misfire::CatchUp(late - HOUR), late, fire(HOUR, HOUR)),
            (Misfire::CatchUp(late - HOUR - MS), late, misfired(HOUR)),
            (Misfire::CatchUp(HOUR), late, misfired(late - HOUR - MS)),
            // The window is never shorter than what counts as in time.
            (Misfire::CatchUp(Duration::ZERO), HOUR + MISFIRE_AFTER, fire(HOUR, HOUR)),
            (Misfire::CatchUp(Duration::ZERO), just, misfired(HOUR)),
            (Misfire::CatchUp(Duration::ZERO), 3 * HOUR + SECOND, misfired(3 * HOUR - 4 * SECOND - MS)),
            (Misfire::CatchUp(Duration::MAX), late, fire(HOUR, HOUR)),
        ] {
            let mut world = World::new(schedule(HOUR).misfire(policy));
            world.now = START + now;
            assert_eq!(world.plan(), expected, "{policy:?} {now:?}");
        }
    }

    #[test]
    fn after_an_outage_each_policy_fires_what_it_says() {
        for (policy, back, planned) in [
            (Misfire::Skip, 4 * HOUR + MINUTE, vec![1, 5, 6]),
            (Misfire::Skip, 4 * HOUR + SECOND, vec![1, 4, 5, 6]),
            (Misfire::Once, 4 * HOUR + MINUTE, vec![1, 2, 5, 6]),
            (Misfire::Once, 4 * HOUR + SECOND, vec![1, 2, 5, 6]),
            (Misfire::CatchUp(DAY), 4 * HOUR + MINUTE, vec![1, 2, 3, 4, 5, 6]),
            (Misfire::CatchUp(61 * MINUTE), 4 * HOUR + MINUTE, vec![1, 3, 4, 5, 6]),
            (Misfire::CatchUp(60 * MINUTE), 4 * HOUR + MINUTE, vec![1, 4, 5, 6]),
        ] {
            let mut world = World::new(schedule(HOUR).misfire(policy));
            world.run_until(START + HOUR);
            world.now = START + back;
            world.run_until(START + 6 * HOUR);
            assert_eq!(world.planned(), hours(&planned), "{policy:?} {back:?}");
        }
    }

    #[test]
    fn jitter_puts_a_tick_off_but_not_beyond_the_next() {
        for width in [MS, MINUTE, HOUR, DAY] {
            let mut world = World::new(schedule(HOUR).jitter(width));
            world.run_until(START + 100 * HOUR);
            assert!(world.fired.len() >= 99, "{width:?}: {}", world.fired.len());
            assert_eq!(world.passed_over, []);
            for (index, (fired, planned)) in world.fired.iter().enumerate() {
                assert_eq!(*planned, START + (index as u32 + 1) * HOUR);
                assert!(*fired >= *planned && *fired - *planned < width.min(HOUR), "{width:?}");
            }
        }
    }

    #[test]
    fn a_tick_whose_jitter_is_still_to_come_is_not_missed() {
        for policy in [Misfire::Skip, Misfire::Once, Misfire::CatchUp(MINUTE)] {
            let mut world = World::new(schedule(HOUR).jitter(HOUR).misfire(policy));
            let (third, due) = (START + 3 * HOUR, world.ticks().due(START + 3 * HOUR));
            assert!(due > third + MINUTE, "choose another one");
            world.now = due - MS;
            world.run_until(due);
            assert_eq!(world.fired.last(), Some(&(due, third)), "{policy:?}");
            assert_eq!(world.fired.len(), if policy == Misfire::Once { 2 } else { 1 });
        }
    }

    #[test]
    fn a_single_time_is_fired_once_and_if_it_is_past_by_the_policy() {
        for (time, policy, fires) in [
            (START + HOUR, Misfire::Skip, true),
            (START + HOUR, Misfire::Once, true),
            (START + HOUR, Misfire::CatchUp(Duration::ZERO), true),
            (START - SECOND, Misfire::Skip, true),
            (START - DAY, Misfire::Skip, false),
            (START - DAY, Misfire::Once, true),
            (START - DAY, Misfire::CatchUp(DAY), true),
            (START - DAY - MS, Misfire::CatchUp(DAY), false),
        ] {
            let mut world = World::new(schedule(Cadence::at(at(time))).misfire(policy));
            world.run_until(START + 2 * DAY);
            world.now = START;
            world.run_until(START + 2 * DAY);
            let expected = if fires { vec![(time.max(START), time)] } else { vec![] };
            assert_eq!(world.fired, expected, "{policy:?}");
            assert_eq!(world.plan(), Move::Wait(None));
        }
    }

    #[test]
    fn an_interval_counts_from_its_start_and_nothing_is_before_it_or_after_its_end() {
        let minutes = |minutes: u32| at(START + minutes * MINUTE);
        let nine = || schedule(Cadence::cron("0 * * * *"));
        for (schedule, planned) in [
            (schedule(HOUR), &[60, 120, 180][..]),
            (schedule(HOUR).starting_at(minutes(30)), &[30, 90, 150, 210]),
            (schedule(HOUR).starting_at(at(START - 50 * MINUTE)), &[10, 70, 130, 190]),
            (schedule(HOUR).starting_at(minutes(0)), &[60, 120, 180]),
            (schedule(HOUR).starting_at(at(START + MS)).limit(0), &[0]),
            (schedule(HOUR).ending_at(minutes(120)), &[60, 120]),
            (schedule(HOUR).ending_at(at(START + 2 * HOUR - MS)), &[60]),
            (schedule(HOUR).ending_at(minutes(0)), &[]),
            (schedule(HOUR).limit(2), &[60, 120]),
            (schedule(HOUR).starting_at(minutes(30)).ending_at(minutes(30)), &[30]),
            (nine().starting_at(minutes(60)), &[60, 120, 180]),
            (nine().starting_at(at(START + HOUR + MS)), &[120, 180]),
            (nine().starting_at(at(START - HOUR)), &[60, 120, 180]),
        ] {
            let mut world = World::new(schedule);
            world.run_until(START + 3 * HOUR + 30 * MINUTE);
            let fired: Vec<_> = world.planned().iter().map(|time| time.as_secs() / 60).collect();
            assert_eq!(fired, planned, "{:?}", world.definition);
        }
    }

    #[test]
    fn a_paused_one_plans_nothing_and_once_resumed_makes_up_for_nothing() {
        for policy in [Misfire::Skip, Misfire::Once, Misfire::CatchUp(DAY)] {
            let mut world = World::new(schedule(HOUR).misfire(policy));
            world.run_until(START + HOUR);
            world.state.pause();
            assert_eq!(world.plan(), Move::Wait(None));
            world.now = START + 4 * HOUR + MINUTE;
            assert_eq!(world.plan(), Move::Wait(None));
            world.state.resume(world.now);
            world.run_until(START + 6 * HOUR);
            assert_eq!(world.planned(), hours(&[1, 5, 6]));
        }
    }

    #[test]
    fn what_would_overlap_is_left_out_or_waits_whatever_the_misfire_policy() {
        let end = 3 * HOUR + 30 * MINUTE;
        for misfire in [Misfire::Skip, Misfire::Once, Misfire::CatchUp(DAY)] {
            for (overlap, planned) in [
                (Overlap::Allow, [1, 2, 3, 4, 5]),
                (Overlap::Skip, [1, 4, 5, 0, 0]),
                (Overlap::Wait, [1, 2, 4, 5, 0]),
            ] {
                let mut world = World::new(schedule(HOUR).misfire(misfire).overlap(overlap));
                world.run_until(START + HOUR);
                // It looks at it now and then, for other reasons.
                for minutes in (1..150).step_by(7) {
                    world.run_until(START + HOUR + minutes * MINUTE);
                }
                world.run_until(START + end);
                world.state.ended(1, world.now);
                let at_end = world.fired.len();
                world.look();
                if overlap == Overlap::Wait {
                    assert_eq!(world.fired[at_end..], [(START + end, START + 2 * HOUR)]);
                    world.state.ended(world.state.sequence, world.now);
                }
                world.run_until(START + 4 * HOUR);
                world.state.ended(world.state.sequence, world.now);
                world.run_until(START + 5 * HOUR);
                let wanted: Vec<_> = planned.into_iter().filter(|hour| *hour > 0).collect();
                assert_eq!(world.planned(), hours(&wanted), "{misfire:?} {overlap:?}");
            }
        }
    }

    #[test]
    fn what_waits_is_fired_when_the_one_before_is_taken_to_have_ended() {
        for misfire in [Misfire::Skip, Misfire::Once, Misfire::CatchUp(DAY)] {
            let schedule = schedule(HOUR).misfire(misfire).overlap(Overlap::Wait).longest_run(150 * MINUTE);
            let mut world = World::new(schedule);
            world.run_until(START + 3 * HOUR);
            assert_eq!(world.plan(), Move::Wait(Some(START + 3 * HOUR + 30 * MINUTE)));
            world.run_until(START + 5 * HOUR);
            let expected = [(HOUR, HOUR), (3 * HOUR + 30 * MINUTE, 2 * HOUR)];
            assert_eq!(
                world.fired,
                expected.map(|(fired, planned)| (START + fired, START + planned)),
                "{misfire:?}"
            );
        }
    }

    #[test]
    fn what_waited_and_then_could_not_be_fired_has_misfired() {
        for (misfire, count) in [(Misfire::Skip, 1), (Misfire::Once, 2)] {
            let mut world = World::new(schedule(HOUR).misfire(misfire).overlap(Overlap::Wait));
            world.run_until(START + 2 * HOUR);
            world.state.ended(1, world.now + MINUTE);
            world.now += MINUTE + MISFIRE_AFTER + MS;
            world.look();
            assert_eq!(world.fired.len(), count, "{misfire:?}");
        }
    }

    #[test]
    fn a_year_of_outage_is_over_at_once() {
        let schedules = || {
            [
                schedule(10 * MS),
                schedule(10 * MS).jitter(DAY),
                schedule(250 * MS).jitter(10 * MS),
                schedule(Cadence::cron("* * * * * *")).jitter(DAY),
                schedule(Cadence::cron("*/5 9-17 * * MON-FRI").zone("Europe/Berlin")).jitter(HOUR),
            ]
        };
        let policies = [
            (Misfire::Skip, Overlap::Allow),
            (Misfire::Once, Overlap::Allow),
            (Misfire::Once, Overlap::Skip),
        ];
        for (misfire, overlap) in policies {
            for schedule in schedules() {
                let mut world = World::new(schedule.misfire(misfire).overlap(overlap));
                let end = START + 365 * DAY;
                world.now = end;
                world.look();
                // Those of the last seconds are not too late.
                let in_time = world.fired.iter().filter(|(_, planned)| *planned > end - DAY).count();
                assert!(in_time <= 501 && world.fired.len() <= in_time + 1, "{:?}", world.definition);
                assert!(world.passed_over.len() <= 2, "{:?}", world.passed_over);
            }
        }
        // It overlaps with what runs.
        let mut world = World::new(schedule(10 * MS).misfire(Misfire::CatchUp(DAY)).overlap(Overlap::Skip));
        world.now = START + 365 * DAY;
        world.look();
        assert_eq!((world.fired.len(), world.passed_over.len()), (1, 2));
    }

    #[test]
    fn a_year_goes_by() {
        for (schedule, count) in [
            (schedule(Cadence::cron("@hourly")), 8760),
            (schedule(HOUR), 8760),
            (schedule(Cadence::cron("0 9 * * *").zone("America/New_York")), 365),
            (schedule(MINUTE), 525_600),
            (schedule(MINUTE).jitter(MINUTE).ending_at(at(START + 30 * DAY)), 43_200),
        ] {
            let mut world = World::new(schedule);
            world.run_until(START + 365 * DAY + DAY / 2);
            let before: Vec<_> =
                world.fired.iter().filter(|(_, planned)| *planned <= START + 365 * DAY).collect();
            assert_eq!(before.len(), count);
            assert!(before.iter().all(|(fired, planned)| fired >= planned && *fired < *planned + MINUTE));
            assert!(before.is_sorted_by(|one, next| one.1 < next.1));
            assert_eq!(world.passed_over, []);
        }
    }

    /// Times of the clock in Berlin: day, hour, minute.
    fn in_berlin(world: &World, summer: std::ops::Range<Duration>) -> Vec<(u64, u64, u64)> {
        let shown = world.fired.iter().map(|(_, planned)| {
            let offset = if summer.contains(planned) { 2 * HOUR } else { HOUR };
            let minutes = (*planned + offset - START).as_secs() / 60;
            (minutes / 1440, minutes / 60 % 24, minutes % 60)
        });
        shown.collect()
    }

    #[test]
    fn both_changes_of_the_clock_in_berlin_are_as_cadence_says() {
        // 28 March and 31 October 2027, 1:00 UTC: days 86 and 303 of the year.
        let (spring, autumn) = (START + 86 * DAY + HOUR, START + 303 * DAY + HOUR);
        let half_past_two = &[(85, 2, 30), (86, 3, 0), (87, 2, 30), (302, 2, 30), (303, 2, 30), (304, 2, 30)];
        let hourly = [
            [(85, 23, 30), (86, 0, 30), (86, 1, 30), (86, 3, 30), (86, 4, 30), (86, 5, 30)],
            [(303, 0, 30), (303, 1, 30), (303, 2, 30), (303, 2, 30), (303, 3, 30), (303, 4, 30)],
        ]
        .concat();
        let odd = &[(86, 0, 0), (86, 3, 0), (86, 4, 0), (303, 2, 0), (303, 4, 0)];
        let quarters = [
            &[(86, 3, 0)][..],
            &[(87, 2, 0), (87, 2, 15), (87, 2, 30), (87, 2, 45)],
            &[(303, 2, 0), (303, 2, 15), (303, 2, 30), (303, 2, 45)],
            &[(304, 2, 0), (304, 2, 15), (304, 2, 30), (304, 2, 45)],
        ]
        .concat();
        for (expression, from, hours, expected) in [
            ("30 2 * * *", -1, 72, &half_past_two[..]),
            ("30 * * * *", 0, 5, &hourly),
            ("0 */2 * * *", 0, 5, odd),
            ("*/15 2 * * *", 0, 48, &quarters),
        ] {
            let mut world =
                World::new(schedule(Cadence::cron(expression).zone("Europe/Berlin")).misfire(Misfire::Skip));
            for change in [spring, autumn] {
                // From (about) midnight there.
                let first = change - 3 * HOUR + 30 * MINUTE;
                world.now = if from < 0 { first - DAY } else { first };
                world.run_until(world.now + hours * HOUR);
            }
            assert_eq!(in_berlin(&world, spring..autumn), expected, "{expression}");
        }
    }

    /// With the longest time between two of its ticks.
    fn cadences() -> Vec<(Cadence, Duration)> {
        vec![
            (Cadence::every(250 * MS), 250 * MS),
            (Cadence::every(SECOND), SECOND),
            (Cadence::every(HOUR), HOUR),
            (Cadence::cron("*/5 * * * *"), 5 * MINUTE),
            (Cadence::cron("0 9 * * *"), DAY),
            (Cadence::cron("*/15 9 * * *"), DAY),
            (Cadence::cron("0 9 * * MON-FRI"), 3 * DAY),
            (Cadence::cron("0 0 1 1 *"), 365 * DAY),
        ]
    }

    #[test]
    fn a_clock_that_is_set_back_neither_stops_a_schedule_nor_floods() {
        for (cadence, period) in cadences() {
            for back in [5 * MS, SECOND, HOUR, DAY] {
                for after_tick in [MS, period / 3, period - MS] {
                    let mut world = World::new(schedule(cadence.clone()));
                    let first = world.times.after(world.state.anchor, START + 370 * DAY).unwrap();
                    world.state.pass_over(first - MS, first - MS);
                    world.now = first;
                    world.run_until(first + after_tick);
                    let before = world.fired.clone();
                    let step = world.now;
                    world.now = step - back;
                    let span = (4 * period).max(back + 2 * period).min(4 * period + 2 * HOUR);
                    world.run_until(step - back + span);
                    let case = format!("{cadence} {back:?} {after_tick:?}");

                    // In the time that really went by.
                    let real = |fired: Duration| fired + back;
                    let after: Vec<_> = world.fired[before.len()..].to_vec();
                    let last = before.last().map_or(first, |(fired, _)| *fired);
                    let gaps = std::iter::once(last).chain(after.iter().map(|(fired, _)| real(*fired)));
                    let longest = (2 * period).max(period + MISFIRE_AFTER);
                    assert!(
                        gaps.collect::<Vec<_>>().windows(2).all(|pair| pair[1] - pair[0] <= longest),
                        "{case}: {after:?}"
                    );
                    assert!(!after.is_empty(), "{case}");

                    // Only what comes again: each time at most twice, and none if less is set back.
                    let again =
                        after.iter().filter(|(_, planned)| before.iter().any(|(_, old)| old == planned));
                    let several = before.iter().filter(|(fired, _)| *fired > step - back).count() > 1;
                    if back <= MISFIRE_AFTER || !several && period > back {
                        assert_eq!(again.count(), 0, "{case}");
                    }
                    assert!(after.is_sorted_by(|one, next| one.1 < next.1), "{case}");
                    assert!(after.iter().all(|(fired, planned)| fired == planned), "{case}: nothing is late");
                }
            }
        }
    }

    #[test]
    fn past_one_tick_it_is_not_fired_again_and_past_several_they_are() {
        for (back, planned) in
            [(59, vec![1, 2, 3, 4, 5]), (60, vec![1, 2, 3, 4, 5]), (61, vec![1, 2, 3, 2, 3, 4, 5])]
        {
            let mut world = World::new(schedule(HOUR));
            world.run_until(START + 3 * HOUR);
            world.now -= back * MINUTE - MINUTE / 2;
            world.run_until(START + 5 * HOUR);
            assert_eq!(world.planned(), hours(&planned), "{back}");
        }
        // By less than the time after which one is late, not at all: schedulers' clocks differ.
        let mut world = World::new(schedule(250 * MS));
        world.run_until(START + MINUTE);
        world.now -= MISFIRE_AFTER;
        world.run_until(START + MINUTE + 10 * SECOND);
        assert_eq!((world.fired.len(), world.passed_over.len()), (280, 0));
    }

    #[test]
    fn a_clock_that_is_set_forward_floods_no_more_than_the_policy_says_and_back_again_it_goes_on() {
        for (cadence, period) in cadences() {
            for ahead in [HOUR, DAY] {
                for (misfire, window) in [
                    (Misfire::Skip, Duration::ZERO),
                    (Misfire::Once, Duration::ZERO),
                    (Misfire::CatchUp(2 * MINUTE), 2 * MINUTE),
                ] {
                    let case = format!("{cadence} {ahead:?} {misfire:?}");
                    let mut world = World::new(schedule(cadence.clone()).misfire(misfire));
                    let first = world.times.after(world.state.anchor, START + 370 * DAY).unwrap();
                    world.state.pass_over(first - MS, first - MS);
                    world.now = first;
                    world.run_until(first + period.min(3 * HOUR));
                    let (step, before) = (world.now, world.fired.len());
                    world.now = step + ahead;
                    world.look();
                    let burst = world.fired.len() - before;
                    let named = world.all(step, step + ahead);
                    let in_window = |time: &&Duration| **time + window.max(MISFIRE_AFTER) >= step + ahead;
                    let most = named.iter().filter(in_window).count();
                    let most = if misfire == Misfire::Once { most.max(1) } else { most };
                    assert!(burst <= most, "{case}: {burst} of {most}");

                    let span = period.min(3 * HOUR);
                    world.run_until(step + ahead + span);
                    let real_last = world.fired.last().map_or(first, |(fired, _)| *fired - ahead);
                    let before = world.fired.len();
                    let passed_over = world.passed_over.len();
                    world.now = step + span;
                    world.run_until(step + span + 3 * period);
                    let (next, _) = world.fired[before];
                    assert!(
                        next - real_last.min(next) <= (2 * period).max(ahead.min(period) + 2 * period),
                        "{case}"
                    );
                    assert!(world.fired[before..].is_sorted_by(|one, next| one.1 < next.1));
                    assert!(world.passed_over.len() <= passed_over + 1, "{case}");
                    // Nothing that comes then is late.
                    assert!(world.fired[before..].iter().all(|(fired, planned)| fired == planned), "{case}");
                }
            }
        }
    }

    #[test]
    fn a_schedule_that_a_wrong_clock_had_ended_goes_on_when_it_is_right_again() {
        let mut world = World::new(schedule(HOUR).ending_at(at(START + 9 * HOUR)).misfire(Misfire::Skip));
        world.now = START + 365 * DAY;
        assert_eq!(world.look(), None);
        world.now = START;
        world.run_until(START + 365 * DAY);
        assert_eq!(world.planned(), hours(&[1, 2, 3, 4, 5, 6, 7, 8, 9]));
    }

    #[test]
    fn declared_by_a_clock_that_is_ahead_it_does_not_wait_for_that() {
        let mut world = World::new(schedule(MINUTE));
        world.now = START - DAY;
        world.run_until(START - DAY + HOUR);
        assert_eq!((world.fired.len(), world.passed_over.as_slice()), (60, &[Why::ClockSetBack][..]));
    }

    /// What is to be fired, by what the policies say, when no scheduler runs in those times.
    fn expected(world: &World, outages: &[(Duration, Duration)], end: Duration) -> Vec<(Duration, Duration)> {
        let ticks: Vec<_> =
            world.all(START, end).into_iter().map(|planned| (world.ticks().due(planned), planned)).collect();
        let mut expected = Vec::new();
        let is_in = |due: Duration| outages.iter().position(|(from, to)| (*from..=*to).contains(&due));
        let mut index = 0;
        while let Some((due, planned)) = ticks.get(index).copied() {
            index += 1;
            let Some(outage) = is_in(due) else {
                expected.push((due, planned));
                continue;
            };
            let back = outages[outage].1;
            let is_late = back - due > MISFIRE_AFTER;
            match world.definition.misfire {
                Misfire::Once if is_late => {
                    expected.push((back, planned));
                    index += ticks[index..].iter().take_while(|(due, _)| *due <= back).count();
                }
                Misfire::Skip if is_late => {}
                Misfire::CatchUp(within) if is_late && planned + within < back => {}
                _ => expected.push((back, planned)),
            }
        }
        expected.retain(|(fired, _)| *fired <= end);
        expected
    }

    #[test]
    fn whatever_the_schedule_and_the_outages_it_fires_what_its_policy_says() {
        for seed in 0..400 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut choose = |count: usize| random.usize(..count);
            let (cadence, period) = match choose(8) {
                0 => (Cadence::cron("0 * * * *").zone("Australia/Lord_Howe"), HOUR),
                1 => (Cadence::cron("0,1,30 */3 * * *").zone("Europe/Berlin"), HOUR),
                2 => (Cadence::cron("*/10 * * * * *"), 10 * SECOND),
                3 => (Cadence::every(10 * MS), 10 * MS),
                _ => {
                    let period = [37 * MS, SECOND, 7 * SECOND, HOUR, DAY][choose(5)];
                    (Cadence::every(period), period)
                }
            };
            let within = [Duration::ZERO, SECOND, period, 3 * period, 50 * period][choose(5)];
            let misfire = [Misfire::Skip, Misfire::Once, Misfire::CatchUp(within)][choose(3)];
            let width = [Duration::ZERO, MS, period / 3, period, DAY][choose(5)].min(DAY);
            let mut world = World::new(schedule(cadence).misfire(misfire).jitter(width));
            let end = START + 200 * period;
            let mut outages = Vec::new();
            let mut time = START;
            while choose(5) > 0 {
                let mut span = || period.mul_f64(f64::from(choose(3000) as u32) / 100.0) + MS;
                let from = whole(time + span());
                let to = whole(from + span());
                outages.push((from, to));
                time = to + MS;
            }
            outages.retain(|(_, to)| *to < end);
            let expected = expected(&world, &outages, end);
            for (from, to) in &outages {
                world.run_until(*from - MS);
                world.now = *to;
            }
            world.run_until(end);
            assert_eq!(world.fired, expected, "seed {seed}: {:?} {outages:?}", world.definition);
            assert!(world.fired.is_sorted_by(|one, next| one.1 < next.1));
        }
    }

    #[test]
    fn whatever_runs_for_however_long_no_two_overlap() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let overlap = [Overlap::Skip, Overlap::Wait][random.usize(..2)];
            let misfire = [Misfire::Skip, Misfire::Once, Misfire::CatchUp(MINUTE)][random.usize(..3)];
            let mut world = World::new(schedule(SECOND).overlap(overlap).misfire(misfire).jitter(SECOND / 2));
            let mut left = 0;
            for _ in 0..100 {
                let next = world.times.after(world.state.anchor, world.now).unwrap();
                let before = world.fired.len();
                world.run_until(next + SECOND / 2);
                assert!(world.fired.len() <= before + 1, "seed {seed}");
                assert!(world.state.running.len() <= 1, "seed {seed}");
                match left {
                    _ if world.state.running.is_empty() => {}
                    0 => {
                        world.state.ended(world.state.sequence, world.now);
                        let before = world.fired.len();
                        world.look();
                        assert!(world.fired.len() <= before + usize::from(overlap == Overlap::Wait));
                        left = random.usize(..10);
                    }
                    _ => left -= 1,
                }
            }
            assert!(world.fired.len() > 10, "seed {seed}: {:?}", world.definition);
            assert!(world.fired.is_sorted_by(|one, next| one.1 < next.1), "seed {seed}");
        }
    }
}
