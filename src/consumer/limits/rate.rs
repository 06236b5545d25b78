//! [`RateLimit`] of a type of task, and the [`Pacer`] that keeps it.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::Quota;
use governor::RateLimiter;
use governor::clock::Clock;
use governor::middleware::NoOpMiddleware;
use governor::state::InMemoryState;
use governor::state::NotKeyed;
use tokio::time::Instant;

/// How many tasks of one type a consumer starts in a time: [`rate_limit`](crate::ConsumerBuilder::rate_limit).
///
/// In any span of time `t` at most `burst + rate × t` attempts start; retries count as well.
///
/// ```
/// use taskhare::RateLimit;
///
/// let steady = RateLimit::per_second(10).burst(2); // 10 a second, evenly, two at once after a pause
/// let hourly = RateLimit::per(100, std::time::Duration::from_secs(3600)); // up to 100 at once, then one in 36 s
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "it is given to `rate_limit`"]
pub struct RateLimit {
    /// Between two starts, when all has been used up.
    period: Duration,
    burst: NonZeroU32,
}

impl RateLimit {
    const LONGEST_PERIOD: Duration = Duration::from_secs(24 * 60 * 60);
    const LARGEST_BURST: u32 = 100_000;

    /// So many tasks a second; 0 is taken as 1.
    pub fn per_second(tasks: u32) -> Self {
        Self::per(tasks, Duration::from_secs(1))
    }

    /// So many tasks a minute; 0 is taken as 1.
    pub fn per_minute(tasks: u32) -> Self {
        Self::per(tasks, Duration::from_secs(60))
    }

    /// So many tasks in `time`; 0 is taken as 1. At least one a day, at most one a nanosecond.
    pub fn per(tasks: u32, time: Duration) -> Self {
        let period = time / tasks.max(1);
        Self { period: period.clamp(Duration::from_nanos(1), Self::LONGEST_PERIOD), burst: NonZeroU32::MIN }
            .burst(tasks)
    }

    /// How many may start at once after a pause. Defaults to as many as are allowed in the time that the rate is given
    /// for (`per_second(10)`: 10); at least 1, at most 100,000. With 1 some of the rate is lost, a millisecond or two
    /// for each task: what starts late is not made up for.
    pub fn burst(mut self, tasks: u32) -> Self {
        self.burst = NonZeroU32::new(tasks.min(Self::LARGEST_BURST)).unwrap_or(NonZeroU32::MIN);
        self
    }
}

/// Tokio's clock, so that a paused test moves it. Counts from when it was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticks(Instant);

impl Ticks {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }
}

impl Clock for Ticks {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.0.elapsed()
    }
}

/// Lets tasks start at a rate, and tells the others when their turn is. Times are by its [`Ticks`].
#[derive(Debug)]
pub(super) struct Pacer {
    limiter: RateLimiter<NotKeyed, InMemoryState, Ticks, NoOpMiddleware<Duration>>,
    line: Line,
    last_start: Duration,
}

impl Pacer {
    pub(super) fn new(limit: RateLimit, ticks: Ticks) -> Self {
        let quota = Quota::with_period(limit.period).expect("it is at least a nanosecond");
        Self {
            limiter: RateLimiter::direct_with_clock(quota.allow_burst(limit.burst), ticks),
            line: Line::new(limit.period),
            last_start: ticks.now(),
        }
    }

    /// Lets one start at `now` that has been promised that `turn`, if any; or promises it another.
    pub(super) fn enter(&mut self, now: Duration, turn: Option<Duration>) -> Result<(), Duration> {
        self.line.forget_if_idle(now, self.last_start);
        if let Some(turn) = self.line.place(now, turn) {
            return Err(turn);
        }
        match self.limiter.check() {
            Ok(()) => {
                self.last_start = now;
                Ok(())
            }
            Err(not_yet) => {
                Err(self.line.join(not_yet.earliest_possible(), turn.is_some_and(|turn| turn <= now)))
            }
        }
    }
}

/// Those that wait, by when their turn is. They are not here: a backlog of any size is two numbers.
///
/// So it cannot know who never comes back (cancelled, expired, started by another consumer): their turns go by unused,
/// and when nobody came for a while it is taken to be empty.
#[derive(Debug)]
struct Line {
    period: Duration,
    /// The first turn that is not promised to anybody.
    end: Duration,
    /// The same among those whose turn has come and who found another in their place: a little late, or here from
    /// another consumer. They do not go back to the end.
    front: Duration,
}

impl Line {
    /// How long nobody may come before it counts as empty, beside two periods. Longer than a task may be late.
    const IDLE: Duration = Duration::from_secs(2);

    fn new(period: Duration) -> Self {
        Self { period, end: Duration::ZERO, front: Duration::ZERO }
    }

    fn forget_if_idle(&mut self, now: Duration, last_start: Duration) {
        if self.end > now && now > last_start + 2 * self.period + Self::IDLE {
            self.end = now;
            self.front = now;
        }
    }

    /// The turn of one that has to wait because there is a line. One that asks before its turn gets a better one if
    /// there is any: the line may be shorter than where it was promised.
    fn place(&mut self, now: Duration, turn: Option<Duration>) -> Option<Duration> {
        match turn {
            _ if self.end <= now => None,
            None => Some(self.join(now, false)),
            Some(turn) if turn <= now => None,
            Some(turn) if turn <= self.end => Some(turn),
            Some(_) => Some(self.join(now, false)),
        }
    }

    /// The first turn from `earliest` on, at the end or at the front.
    fn join(&mut self, earliest: Duration, at_front: bool) -> Duration {
        let place = if at_front { &mut self.front } else { &mut self.end };
        let turn = earliest.max(*place);
        *place = turn + self.period;
        self.end = self.end.max(self.front);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn rate_and_burst_have_defaults_and_limits() {
        let limit = |period, burst| RateLimit { period, burst: NonZeroU32::new(burst).unwrap() };
        for (actual, expected) in [
            (RateLimit::per_second(10), limit(ms(100), 10)),
            (RateLimit::per_second(10).burst(20), limit(ms(100), 20)),
            (RateLimit::per_second(0).burst(0), limit(ms(1000), 1)),
            (RateLimit::per_minute(6), limit(ms(10_000), 6)),
            (RateLimit::per(100, ms(3_600_000)), limit(ms(36_000), 100)),
            (RateLimit::per(1, ms(u64::MAX)), limit(ms(86_400_000), 1)),
            (RateLimit::per(u32::MAX, Duration::ZERO), limit(Duration::from_nanos(1), 100_000)),
        ] {
            assert_eq!(actual, expected);
        }
    }

    #[test]
    fn the_largest_limits_are_within_what_the_library_counts() {
        let limit = RateLimit::per(1, Duration::MAX).burst(u32::MAX);
        let mut pacer = Pacer::new(limit, Ticks(Instant::from_std(std::time::Instant::now())));
        for _ in 0..RateLimit::LARGEST_BURST {
            assert_eq!(pacer.enter(ms(0), None), Ok(()));
        }
        assert!(pacer.enter(ms(0), None).is_err());
    }

    /// In ms: what they ask, in order (when, with what promise), and what they are told; `None`: start.
    type Course = &'static [(u64, Option<u64>, Option<u64>)];

    #[tokio::test(start_paused = true)]
    async fn each_is_told_its_turn() {
        let table: [(&str, Course); 5] = [
            (
                "at once, then in turn",
                &[(0, None, None), (0, None, None), (0, None, Some(100)), (0, None, Some(200))],
            ),
            (
                "whose turn has come starts, and who comes new waits behind the line",
                &[
                    (0, None, None),
                    (0, None, None),
                    (0, None, Some(100)),
                    (0, None, Some(200)),
                    (100, None, Some(300)),
                    (100, Some(100), None),
                    (200, Some(200), None),
                    (300, Some(300), None),
                    (500, None, None),
                ],
            ),
            (
                "who asks early keeps its turn, or gets a better one",
                &[
                    (0, None, None),
                    (0, None, None),
                    (0, None, Some(100)),
                    (50, Some(100), Some(100)),
                    (50, Some(9000), Some(200)),
                    (50, Some(250), Some(250)),
                ],
            ),
            ("who was promised elsewhere starts if there is no line", &[(0, Some(9000), None)]),
            (
                "who finds its turn taken is the first of the line",
                &[
                    (0, None, None),
                    (0, None, None),
                    (0, None, Some(100)),
                    (0, None, Some(200)),
                    (0, None, Some(300)),
                    (100, Some(100), None),
                    (100, Some(100), Some(200)),
                    (100, Some(100), Some(300)),
                    (200, Some(200), None),
                    (200, Some(200), Some(400)),
                    (300, Some(300), None),
                ],
            ),
        ];
        for (why, course) in table {
            let ticks = Ticks::start();
            let mut pacer = Pacer::new(RateLimit::per_second(10).burst(2), ticks);
            for (at, turn, expected) in course {
                tokio::time::sleep_until(ticks.0 + ms(*at)).await;
                let told = pacer.enter(ms(*at), turn.map(ms));
                assert_eq!(told, expected.map_or(Ok(()), |turn| Err(ms(turn))), "{why}: {turn:?} at {at}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_line_whose_tasks_never_come_is_forgotten() {
        let ticks = Ticks::start();
        let mut pacer = Pacer::new(RateLimit::per_second(10).burst(1), ticks);
        assert_eq!(pacer.enter(ms(0), None), Ok(()));
        for turn in 1..=100 {
            assert_eq!(pacer.enter(ms(0), None), Err(ms(100 * turn)));
        }
        for (at, expected) in [(2200, Err(ms(10_100))), (2201, Ok(())), (2202, Err(ms(2301)))] {
            tokio::time::sleep_until(ticks.0 + ms(at)).await;
            assert_eq!(pacer.enter(ms(at), None), expected, "at {at}");
        }
    }
}
