//! [`CircuitBreaker`] of a type of task, and [`Breaker`], its state. Pure.

use std::time::Duration;

use crate::outcome::DeadReason;
use crate::outcome::Outcome;

/// When a consumer stops to start tasks of one type because what they depend on is down:
/// [`circuit_breaker`](crate::ConsumerBuilder::circuit_breaker).
///
/// After so many attempts in a row have failed it opens: for a while none is started, and none uses up its attempts.
/// Then one is, as a probe. If that succeeds the breaker closes and all may start; if it fails, it is open for as long
/// again.
///
/// Errors (also with [`retry_after`](crate::TaskError::retry_after)), panics, timeouts and deadlines that pass while a
/// task runs are failures. What says something about the task only is neither failure nor success: a
/// [`reject`](crate::TaskError::reject), a payload that cannot be decoded, a cancellation, a shutdown.
///
/// ```
/// use std::time::Duration;
/// use taskhare::CircuitBreaker;
///
/// let breaker = CircuitBreaker::after(5).open_for(Duration::from_secs(60));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it is given to `circuit_breaker`"]
pub struct CircuitBreaker {
    failures: u32,
    open_for: Duration,
}

impl Default for CircuitBreaker {
    /// After 5 failures, for 30 s.
    fn default() -> Self {
        Self::after(5)
    }
}

impl CircuitBreaker {
    const SHORTEST: Duration = Duration::from_millis(100);
    const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

    /// Opens after so many failed attempts in a row; 0 is taken as 1.
    pub fn after(failures: u32) -> Self {
        Self { failures: failures.max(1), open_for: Duration::from_secs(30) }
    }

    /// How long it is open before a probe. Defaults to 30 s; at least 100 ms, at most a day.
    pub fn open_for(mut self, time: Duration) -> Self {
        self.open_for = time.clamp(Self::SHORTEST, Self::LONGEST);
        self
    }
}

/// What an end tells about what the task depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Evidence {
    Works,
    Fails,
    Neither,
}

impl Evidence {
    pub(super) fn of(outcome: Outcome) -> Self {
        use DeadReason::{AttemptsExhausted, ExpiredRetrying, ExpiredRunning, TimeExhausted};
        match outcome {
            Outcome::Succeeded => Self::Works,
            Outcome::Retried
            | Outcome::DeadLettered(AttemptsExhausted | TimeExhausted)
            | Outcome::Expired(ExpiredRunning | ExpiredRetrying) => Self::Fails,
            _ => Self::Neither,
        }
    }
}

/// A change worth telling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    Opened { failures: u32, open_for: Duration },
    Closed,
}

/// Which period of one state an attempt began in. What an attempt of an earlier one tells is old news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Period(u64);

/// The state of a circuit breaker. Times are since any one moment.
#[derive(Debug)]
pub(super) struct Breaker {
    settings: CircuitBreaker,
    state: State,
    period: u64,
    /// How many were turned away since it opened.
    turned_away: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Closed { failures: u32 },
    Open { until: Duration },
    Probing { since: Duration },
}

impl Breaker {
    /// Between two of those that were turned away, when they come back: none of them is to be late for long, and not
    /// all are to come at once, for but one is a probe.
    const SPREAD: Duration = Duration::from_millis(10);
    /// How soon, and how late, those ask again that come while a probe runs.
    const ASK_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

    pub(super) fn new(settings: CircuitBreaker) -> Self {
        Self { settings, state: State::Closed { failures: 0 }, period: 0, turned_away: 0 }
    }

    /// Turns one away, until when; `None`: it may [start](Self::start).
    pub(super) fn turn_away(&mut self, now: Duration) -> Option<Duration> {
        let until = match self.state {
            State::Open { until } if until > now => until,
            State::Closed { .. } | State::Open { .. } => return None,
            // The longer the probe takes, the longer it may still take.
            State::Probing { since } => {
                now + now.saturating_sub(since).clamp(Self::ASK_AGAIN.0, Self::ASK_AGAIN.1)
            }
        };
        let spread = Self::SPREAD * self.turned_away;
        self.turned_away = if spread < self.settings.open_for { self.turned_away + 1 } else { 0 };
        Some(until + spread)
    }

    /// One starts.
    pub(super) fn start(&mut self, now: Duration) -> Period {
        if let State::Open { .. } = self.state {
            self.enter(State::Probing { since: now });
        }
        Period(self.period)
    }

    /// One ends that had started in that period.
    pub(super) fn end(&mut self, begun: Period, evidence: Evidence, now: Duration) -> Option<Change> {
        if begun.0 != self.period {
            return None;
        }
        match (self.state, evidence) {
            (State::Closed { failures }, Evidence::Fails) if failures + 1 < self.settings.failures => {
                self.state = State::Closed { failures: failures + 1 };
                None
            }
            (State::Closed { .. }, Evidence::Fails) => Some(self.open(self.settings.failures, now)),
            (State::Closed { .. }, Evidence::Works) => {
                self.state = State::Closed { failures: 0 };
                None
            }
            (State::Probing { .. }, Evidence::Fails) => Some(self.open(1, now)),
            (State::Probing { .. }, Evidence::Works) => {
                self.enter(State::Closed { failures: 0 });
                Some(Change::Closed)
            }
            // The next one is the probe.
            (State::Probing { .. }, Evidence::Neither) => {
                self.enter(State::Open { until: now });
                None
            }
            (State::Closed { .. }, Evidence::Neither) | (State::Open { .. }, _) => None,
        }
    }

    fn open(&mut self, failures: u32, now: Duration) -> Change {
        let open_for = self.settings.open_for;
        self.enter(State::Open { until: now + open_for });
        self.turned_away = 0;
        Change::Opened { failures, open_for }
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.period += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::Evidence::Fails;
    use super::Evidence::Neither;
    use super::Evidence::Works;
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    const OPENED: Option<Change> = Some(Change::Opened { failures: 3, open_for: s(30) });
    const OPENED_AGAIN: Option<Change> = Some(Change::Opened { failures: 1, open_for: s(30) });
    const CLOSED: Option<Change> = Some(Change::Closed);

    fn breaker() -> Breaker {
        Breaker::new(CircuitBreaker::after(3).open_for(s(30)))
    }

    #[test]
    fn settings_have_defaults_and_limits() {
        for (actual, failures, open_for) in [
            (CircuitBreaker::default(), 5, s(30)),
            (CircuitBreaker::after(0).open_for(s(0)), 1, Duration::from_millis(100)),
            (CircuitBreaker::after(7).open_for(Duration::MAX), 7, s(86_400)),
        ] {
            assert_eq!(actual, CircuitBreaker { failures, open_for });
        }
    }

    #[test]
    fn outcomes_tell_whether_the_dependency_works() {
        for (outcome, expected) in [
            (Outcome::Succeeded, Works),
            (Outcome::Retried, Fails),
            (Outcome::DeadLettered(DeadReason::AttemptsExhausted), Fails),
            (Outcome::DeadLettered(DeadReason::TimeExhausted), Fails),
            (Outcome::Expired(DeadReason::ExpiredRunning), Fails),
            (Outcome::Expired(DeadReason::ExpiredRetrying), Fails),
            (Outcome::Expired(DeadReason::ExpiredUnstarted), Neither),
            (Outcome::DeadLettered(DeadReason::Rejected), Neither),
            (Outcome::DeadLettered(DeadReason::Undecodable), Neither),
            (Outcome::DeadLettered(DeadReason::Foreign), Neither),
            (Outcome::Cancelled, Neither),
            (Outcome::HandedBack, Neither),
            (Outcome::Deferred, Neither),
        ] {
            assert_eq!(Evidence::of(outcome), expected, "{outcome:?}");
        }
    }

    #[test]
    fn failures_in_a_row_open_it_and_one_probe_decides() {
        // One after the other: when each wants to start, until when it is turned away, or else how it ends.
        type Course = &'static [(u64, Result<(Evidence, Option<Change>), u64>)];
        let table: [(&str, Course); 6] = [
            (
                "in a row",
                &[(0, Ok((Fails, None))), (0, Ok((Fails, None))), (0, Ok((Fails, OPENED))), (1, Err(30))],
            ),
            (
                "a success begins the row anew",
                &[
                    (0, Ok((Fails, None))),
                    (0, Ok((Fails, None))),
                    (0, Ok((Works, None))),
                    (0, Ok((Fails, None))),
                    (0, Ok((Fails, None))),
                    (0, Ok((Fails, OPENED))),
                ],
            ),
            (
                "what tells nothing does not",
                &[
                    (0, Ok((Fails, None))),
                    (0, Ok((Neither, None))),
                    (0, Ok((Fails, None))),
                    (0, Ok((Neither, None))),
                    (0, Ok((Fails, OPENED))),
                ],
            ),
            (
                "a probe that succeeds",
                &[
                    (0, Ok((Fails, None))),
                    (0, Ok((Fails, None))),
                    (0, Ok((Fails, OPENED))),
                    (29, Err(30)),
                    (30, Ok((Works, CLOSED))),
                    (30, Ok((Fails, None))),
                ],
            ),
            (
                "a probe that fails",
                &[
                    (0, Ok((Fails, None))),
                    (0, Ok((Fails, None))),
                    (0, Ok((Fails, OPENED))),
                    (31, Ok((Fails, OPENED_AGAIN))),
                    (60, Err(61)),
                    (61, Ok((Works, CLOSED))),
                ],
            ),
            (
                "a probe that tells nothing",
                &[
                    (0, Ok((Fails, None))),
                    (0, Ok((Fails, None))),
                    (0, Ok((Fails, OPENED))),
                    (30, Ok((Neither, None))),
                    (30, Ok((Neither, None))),
                    (30, Ok((Works, CLOSED))),
                ],
            ),
        ];
        for (why, course) in table {
            let mut breaker = breaker();
            for (at, expected) in course {
                let told = match breaker.turn_away(s(*at)) {
                    Some(until) => Err(until.as_secs()),
                    None => {
                        let begun = breaker.start(s(*at));
                        let evidence = expected.expect("it may start").0;
                        Ok((evidence, breaker.end(begun, evidence, s(*at))))
                    }
                };
                assert_eq!(told, *expected, "{why}, at {at}");
            }
        }
    }

    #[test]
    fn there_is_one_probe_and_the_others_ask_again() {
        let mut breaker = Breaker::new(CircuitBreaker::after(1).open_for(s(30)));
        let begun = breaker.start(s(0));
        breaker.end(begun, Fails, s(0)).unwrap();
        assert_eq!(breaker.turn_away(s(30)), None);
        let probe = breaker.start(s(30));
        let ms = Duration::from_millis;
        for (at, until) in [(30, s(31)), (31, s(32) + ms(10)), (50, s(70) + ms(20)), (300, s(360) + ms(30))] {
            assert_eq!(breaker.turn_away(s(at)), Some(until), "at {at}");
        }
        assert_eq!(breaker.end(probe, Works, s(300)), CLOSED);
        assert_eq!(breaker.turn_away(s(300)), None);
    }

    #[test]
    fn what_began_before_it_opened_says_nothing_about_now() {
        for evidence in [Works, Fails, Neither] {
            let mut breaker = Breaker::new(CircuitBreaker::after(1).open_for(s(30)));
            let (old, begun) = (breaker.start(s(0)), breaker.start(s(0)));
            breaker.end(begun, Fails, s(0)).unwrap();
            assert_eq!(breaker.end(old, evidence, s(10)), None, "while it is open");
            let probe = breaker.start(s(30));
            assert_eq!(breaker.end(old, evidence, s(31)), None, "while a probe runs");
            assert!(breaker.turn_away(s(31)).is_some());
            breaker.end(probe, Works, s(32)).unwrap();
            assert_eq!(breaker.end(old, evidence, s(33)), None, "when it is closed again");
            assert_eq!(breaker.turn_away(s(33)), None);
        }
    }

    #[test]
    fn those_turned_away_come_back_one_after_the_other_and_within_twice_the_time() {
        let mut breaker = Breaker::new(CircuitBreaker::after(1).open_for(s(1)));
        let begun = breaker.start(s(0));
        breaker.end(begun, Fails, s(0)).unwrap();
        let back: Vec<Duration> = (0..1000).map(|_| breaker.turn_away(s(0)).unwrap()).collect();
        let mut first: Vec<Duration> = back[..100].to_vec();
        first.dedup();
        assert_eq!((first.len(), back[0]), (100, s(1)));
        assert!(back.iter().all(|back| *back <= s(2)));
    }
}
