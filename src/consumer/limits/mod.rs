//! [`Limits`]: when tasks of one type may start, by a rate and by a circuit breaker. A [`Gate`] for a consumer.

mod breaker;
mod rate;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use governor::clock::Clock as _;

use self::breaker::Breaker;
use self::breaker::Change;
use self::breaker::Evidence;
use self::breaker::Period;
use self::rate::Pacer;
use self::rate::Ticks;
use super::gate::Gate;
use super::gate::Watch;
use super::registry::Registry;
use crate::clock::Clock;
use crate::envelope;
use crate::error::Error;
use crate::error::Result;
use crate::lock::Lock;
use crate::message::Message;
use crate::message::whole_milliseconds;
use crate::outcome::Outcome;

pub use breaker::CircuitBreaker;
pub use rate::RateLimit;

/// For how long a task waits on the broker without being seen in between. Of what is longer, half.
const UNSEEN: Duration = Duration::from_secs(60);

/// The limits that were set, by the names of tasks.
#[derive(Default)]
pub(super) struct Limits(HashMap<&'static str, (Option<RateLimit>, Option<CircuitBreaker>)>);

impl Limits {
    pub(super) fn set_rate(&mut self, task: &'static str, limit: RateLimit) {
        self.0.entry(task).or_default().0 = Some(limit);
    }

    pub(super) fn set_breaker(&mut self, task: &'static str, breaker: CircuitBreaker) {
        self.0.entry(task).or_default().1 = Some(breaker);
    }

    /// `None` if there is no limit.
    pub(super) fn gate(&self, registry: &Registry, clock: Clock) -> Result<Option<Arc<dyn Gate>>> {
        if let Some((name, (rate, _))) = self.0.iter().find(|(name, _)| registry.get(name).is_none()) {
            let setting = if rate.is_some() { "rate_limit" } else { "circuit_breaker" };
            let reason = format!("there is no handler for tasks named {name:?}");
            return Err(Error::InvalidSetting { setting, reason });
        }
        let ticks = Ticks::start();
        let types = self.0.iter().map(|(name, (rate, breaker))| {
            let state = State {
                pacer: rate.map(|limit| Pacer::new(limit, ticks)),
                breaker: breaker.map(Breaker::new),
            };
            (*name, Arc::new(Limited { name, ticks, state: Lock::new(state) }))
        });
        let gate = Limiting { types: types.collect(), ticks, clock };
        Ok((!gate.types.is_empty()).then(|| Arc::new(gate) as Arc<dyn Gate>))
    }
}

struct Limiting {
    types: HashMap<&'static str, Arc<Limited>>,
    ticks: Ticks,
    clock: Clock,
}

impl Gate for Limiting {
    fn enter(&self, message: &mut Message) -> Result<Option<Box<dyn Watch>>, Duration> {
        let limited = message.kind.as_deref().and_then(|name| self.types.get(name));
        let Some(limited) = limited else { return Ok(None) };
        let (now, tick) = (self.clock.now(), self.ticks.now());
        let deadline = envelope::deadline(message);
        if deadline.is_some_and(|deadline| deadline <= now) {
            // It is not started anyway.
            return Ok(None);
        }
        let turn = envelope::turn(message).map(|turn| tick + turn.saturating_sub(now));
        let refused = match limited.state.lock().enter(tick, turn) {
            Ok(begun) => return Ok(begun.map(|begun| limited.watch(begun))),
            Err(refused) => refused,
        };
        let (wait, why) = match refused {
            Refused::Open(until) => (until.saturating_sub(tick), "circuit breaker"),
            Refused::TooFast(turn) => {
                let wait = turn.saturating_sub(tick);
                envelope::set_turn(message, whole_milliseconds(now + wait));
                (wait, "rate limit")
            }
        };
        let until = ask_again(now, wait, deadline);
        let id = message.id.as_deref();
        tracing::debug!(
            task.id = id,
            task.name = limited.name,
            ?wait,
            reason = why,
            "task may not start yet"
        );
        Err(until)
    }
}

/// When a task asks again that is to wait so long, in whole milliseconds since the Unix epoch: not after its deadline,
/// for then it expires.
fn ask_again(now: Duration, wait: Duration, deadline: Option<Duration>) -> Duration {
    let unseen = if wait > UNSEEN { UNSEEN.max(wait / 2) } else { wait };
    let until = whole_milliseconds(now + unseen);
    deadline.map_or(until, |deadline| until.min(deadline))
}

/// The tasks of one type.
struct Limited {
    name: &'static str,
    ticks: Ticks,
    state: Lock<State>,
}

struct State {
    pacer: Option<Pacer>,
    breaker: Option<Breaker>,
}

/// Why a task may not start, and until when.
enum Refused {
    Open(Duration),
    TooFast(Duration),
}

impl State {
    /// The breaker first, which costs no turn; but only what starts is a probe.
    fn enter(&mut self, now: Duration, turn: Option<Duration>) -> Result<Option<Period>, Refused> {
        if let Some(until) = self.breaker.as_mut().and_then(|breaker| breaker.turn_away(now)) {
            return Err(Refused::Open(until));
        }
        if let Some(pacer) = &mut self.pacer {
            pacer.enter(now, turn).map_err(Refused::TooFast)?;
        }
        Ok(self.breaker.as_mut().map(|breaker| breaker.start(now)))
    }
}

impl Limited {
    fn watch(self: &Arc<Self>, begun: Period) -> Box<dyn Watch> {
        Box::new(Watching { limited: self.clone(), begun: Some(begun) })
    }

    fn ended(&self, begun: Period, evidence: Evidence) {
        let mut state = self.state.lock();
        let change =
            state.breaker.as_mut().and_then(|breaker| breaker.end(begun, evidence, self.ticks.now()));
        drop(state);
        let name = self.name;
        match change {
            Some(Change::Opened { failures, open_for }) => {
                tracing::warn!(
                    task.name = name,
                    breaker = "open",
                    failures,
                    wait = ?open_for,
                    "circuit breaker opened"
                );
            }
            Some(Change::Closed) => {
                tracing::info!(task.name = name, breaker = "closed", "circuit breaker closed");
            }
            None => {}
        }
    }
}

/// An attempt under way that a breaker wants to hear of.
struct Watching {
    limited: Arc<Limited>,
    begun: Option<Period>,
}

impl Watch for Watching {
    fn ended(mut self: Box<Self>, outcome: Outcome) {
        if let Some(begun) = self.begun.take() {
            self.limited.ended(begun, Evidence::of(outcome));
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(begun) = self.begun.take() {
            self.limited.ended(begun, Evidence::Neither);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_asks_again_in_its_turn_or_halfway_and_never_after_its_deadline() {
        // Now, how long, its deadline; all in ms.
        for (now, wait, deadline, expected) in [
            (1000, 0, None, 1000),
            (1000, 300, None, 1300),
            (1000, 60_000, None, 61_000),
            (1000, 60_001, None, 61_000),
            (1000, 120_000, None, 61_000),
            (1000, 200_000, None, 101_000),
            (1000, 300, Some(1300), 1300),
            (1000, 300, Some(1200), 1200),
            (1000, 200_000, Some(2000), 2000),
        ] {
            let ms = Duration::from_millis;
            assert_eq!(ask_again(ms(now), ms(wait), deadline.map(ms)), ms(expected), "{wait} {deadline:?}");
        }
        let nanosecond = Duration::from_nanos(1);
        assert_eq!(ask_again(nanosecond, nanosecond, None), Duration::from_millis(1), "not early");
    }
}
