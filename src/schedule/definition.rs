//! [`Definition`]: a schedule, checked, as all schedulers know it.

use std::time::Duration;

use super::Misfire;
use super::Options;
use super::Overlap;
use super::Schedule;
use crate::cadence::Cadence;
use crate::cadence::Times;
use crate::envelope;
use crate::error::Error;
use crate::error::Result;
use crate::lane::Priority;
use crate::name::Name;
use crate::retry::RetryPolicy;
use crate::tick::Tick;
use crate::topology::QueueName;

/// What an application has said about a schedule. Two that are equal are the same schedule.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Definition {
    pub(crate) name: String,
    pub(crate) cadence: Cadence,
    /// The task's name.
    pub(crate) task: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) queue: QueueName,
    pub(crate) priority: Priority,
    pub(crate) deadline_in: Option<Duration>,
    pub(crate) run_timeout: Option<Duration>,
    pub(crate) retry: Option<String>,
    pub(crate) max_attempts: Option<u32>,
    pub(crate) starts: Option<Duration>,
    pub(crate) ends: Option<Duration>,
    pub(crate) limit: Option<u64>,
    pub(crate) jitter: Duration,
    pub(crate) misfire: Misfire,
    pub(crate) overlap: Overlap,
    pub(crate) longest_run: Duration,
}

impl Definition {
    /// When it is too late to start the task of a tick that is fired at `now`, both since the Unix epoch.
    pub(crate) fn deadline(&self, tick: &Tick, now: Duration) -> Option<Duration> {
        let time = self.deadline_in?;
        let planned = tick.planned.saturating_add(time);
        Some(if planned > now { planned } else { now.saturating_add(time) })
    }

    /// A day.
    const MOST_JITTER: Duration = Duration::from_secs(24 * 60 * 60);

    /// Checks a schedule whose payload may have so many bytes.
    pub(crate) fn check(schedule: Schedule, max_payload: usize) -> Result<Self> {
        let Schedule { name, cadence, task, payload, options } = schedule;
        Name::check("schedule", &name)?;
        let payload = envelope::checked(task, payload, max_payload)?;
        Times::of(&cadence)?;
        options.check()?;
        let retry = options.retry.as_ref().map(RetryPolicy::checked_text).transpose()?;
        let Options { priority, max_attempts, limit, misfire, overlap, .. } = options;
        Ok(Self {
            name,
            cadence,
            task: task.to_owned(),
            payload,
            queue: QueueName::new(&options.queue)?,
            priority,
            deadline_in: options.deadline_in.map(whole),
            run_timeout: options.run_timeout.map(whole),
            retry,
            max_attempts,
            starts: options.starts.map(whole),
            ends: options.ends.map(whole),
            // As headers count.
            limit: limit.map(|limit| limit.min(i64::MAX as u64)),
            jitter: whole(options.jitter),
            misfire: match misfire {
                Misfire::CatchUp(within) => Misfire::CatchUp(whole(within)),
                other => other,
            },
            overlap,
            longest_run: whole(options.longest_run),
        })
    }

    /// Whether its ticks are planned as those of `other` are.
    pub(crate) fn keeps_time_of(&self, other: &Self) -> bool {
        (&self.cadence, self.starts) == (&other.cadence, other.starts)
    }

    /// Whether it matters when its ticks end.
    pub(crate) fn wants_reports(&self) -> bool {
        self.overlap != Overlap::Allow
    }
}

impl Options {
    fn check(&self) -> Result<()> {
        let invalid = |setting, reason: String| Err(Error::InvalidSetting { setting, reason });
        if self.jitter > Definition::MOST_JITTER {
            return invalid("jitter", format!("{:?}; the most is a day", self.jitter));
        }
        if self.deadline_in.is_some_and(|time| time.as_millis() == 0) {
            return invalid("deadline_in", "its tasks could never start".to_owned());
        }
        if self.run_timeout.is_some_and(|time| time.as_millis() == 0) {
            return invalid("run_timeout", "no attempt could ever succeed".to_owned());
        }
        if self.longest_run.as_millis() == 0 {
            return invalid("longest_run", "a tick cannot have ended before it was fired".to_owned());
        }
        if self.starts.zip(self.ends).is_some_and(|(starts, ends)| ends < starts) {
            return invalid("ending_at", "it ends before it starts".to_owned());
        }
        Ok(())
    }
}

/// As headers count: whole milliseconds, and no more than they can say.
pub(super) fn whole(time: Duration) -> Duration {
    const MOST: Duration = Duration::from_millis(i64::MAX as u64);
    time.saturating_sub(Duration::from_nanos((time.subsec_nanos() % 1_000_000).into())).min(MOST)
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::task::Task;

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Report {
        region: String,
    }

    impl Task for Report {
        const NAME: &'static str = "report";
        type Output = ();
    }

    /// With all defaults.
    pub(in crate::schedule) fn schedule(cadence: impl Into<Cadence>) -> Schedule {
        Schedule::new("morning", cadence, Report { region: "eu".to_owned() })
    }

    pub(in crate::schedule) fn defined(schedule: Schedule) -> Definition {
        Definition::check(schedule, 1000).unwrap()
    }

    /// Each with something that is hard to carry, or a bound.
    pub(in crate::schedule) fn samples() -> Vec<Definition> {
        let hourly = || schedule(Duration::from_secs(3600));
        let odd = Duration::from_nanos(1_234_567_890);
        let at = UNIX_EPOCH + Duration::from_secs(1_800_000_000) + odd;
        let schedules = [
            hourly(),
            schedule(Duration::from_millis(10)),
            schedule(Duration::from_millis(90_001)),
            schedule(Cadence::cron("0 9 * * *")),
            schedule(Cadence::cron(" 0  9 * *   mon-FRI ").zone("Europe/Berlin")),
            schedule(Cadence::cron("@daily").zone("UTC")),
            schedule(Cadence::at(at)),
            hourly().starting_at(at).ending_at(at + odd).longest_run(odd).jitter(odd),
            hourly()
                .starting_at(UNIX_EPOCH - odd)
                .deadline_in(odd)
                .run_timeout(odd)
                .misfire(Misfire::CatchUp(odd)),
            hourly().deadline_in(Duration::MAX).run_timeout(Duration::MAX).longest_run(Duration::MAX),
            hourly().misfire(Misfire::CatchUp(Duration::MAX)).limit(u64::MAX).max_attempts(u32::MAX),
            hourly().misfire(Misfire::CatchUp(Duration::ZERO)).limit(0).max_attempts(0),
            hourly().misfire(Misfire::Skip).overlap(Overlap::Wait).jitter(Duration::from_nanos(1)),
            hourly().queue("reports").priority(Priority::Low).overlap(Overlap::Skip),
            hourly().retry(RetryPolicy::fixed(odd).max_attempts(3)),
            hourly().retry(RetryPolicy::exponential(odd).cap(Duration::MAX).within(odd)),
        ];
        schedules.into_iter().map(defined).collect()
    }

    #[test]
    fn what_is_wrong_with_a_schedule_is_named() {
        let hourly = || schedule(Duration::from_secs(3600));
        let named = |name: &str| Schedule { name: name.to_owned(), ..hourly() };
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let nanosecond = Duration::from_nanos(1);
        for (wrong, what) in [
            (named(""), "schedule"),
            (named(&"x".repeat(256)), "schedule"),
            (named("two\nlines"), "schedule"),
            (Schedule { task: "", ..hourly() }, "task"),
            (hourly().queue(""), "queue"),
            (hourly().queue("a b"), "queue"),
            (schedule(Duration::ZERO), "interval"),
            (schedule(Duration::from_nanos(10_000_001)), "interval"),
            (schedule(Cadence::cron("0 9 * *")), "0 9 * *"),
            (schedule(Cadence::cron("0 9 * * *").zone("Europe/Bärlin")), "Europe/Bärlin"),
            (schedule(Cadence::every(Duration::from_secs(1)).zone("Europe/Berlin")), "zone"),
            (hourly().jitter(Definition::MOST_JITTER + nanosecond), "jitter"),
            (hourly().deadline_in(Duration::from_micros(999)), "deadline_in"),
            (hourly().run_timeout(Duration::ZERO), "run_timeout"),
            (hourly().longest_run(nanosecond), "longest_run"),
            (hourly().starting_at(at(2)).ending_at(at(1)), "ending_at"),
            (hourly().retry(RetryPolicy::custom(|_| None)), "retry"),
        ] {
            let error = Definition::check(wrong, 1000).unwrap_err();
            assert!(error.to_string().contains(what), "{what}: {error}");
        }
        let failed = Schedule { payload: Err("no".into()), ..hourly() };
        assert!(matches!(Definition::check(failed, 1000), Err(Error::Encode { .. })));
        let size = hourly().payload.unwrap().len();
        assert!(Definition::check(hourly(), size).is_ok());
        assert!(matches!(Definition::check(hourly(), size - 1), Err(Error::TooLarge { .. })));
    }

    #[test]
    fn what_may_just_be_is_accepted() {
        let at = UNIX_EPOCH + Duration::from_secs(1);
        for schedule in [
            Schedule { name: "ä b/c*#".to_owned(), ..schedule(Duration::from_secs(1)) },
            schedule(Duration::from_secs(1)).jitter(Definition::MOST_JITTER),
            schedule(Duration::from_secs(1)).starting_at(at).ending_at(at),
            schedule(Duration::from_secs(1)).deadline_in(Duration::from_millis(1)),
        ] {
            defined(schedule);
        }
    }

    #[test]
    fn two_checks_of_one_schedule_are_equal_and_a_change_of_anything_is_one() {
        assert_eq!(samples(), samples());
        for (position, definition) in samples().iter().enumerate() {
            assert!(!samples()[position + 1..].contains(definition), "{definition:?}");
        }
    }
}
