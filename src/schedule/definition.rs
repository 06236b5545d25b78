//! [`Definition`]: a schedule, checked, as all schedulers know it.

use std::time::Duration;

use super::Misfire;
use super::Options;
use super::Overlap;
use super::Schedule;
use crate::cadence::Cadence;
use crate::cadence::Times;
use crate::error::Error;
use crate::error::Result;
use crate::lane::Priority;
use crate::name::Name;
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
    /// A day.
    const MOST_JITTER: Duration = Duration::from_secs(24 * 60 * 60);

    /// Checks a schedule whose payload may have so many bytes.
    pub(crate) fn check(schedule: Schedule, max_payload: usize) -> Result<Self> {
        let Schedule { name, cadence, task, payload, options } = schedule;
        Name::check("schedule", &name)?;
        Name::check("task", task)?;
        let payload = payload.map_err(|source| Error::Encode { task: task.to_owned(), source })?;
        if payload.len() > max_payload {
            return Err(Error::TooLarge { task: task.to_owned(), size: payload.len(), limit: max_payload });
        }
        Times::of(&cadence)?;
        options.check()?;
        let retry = match &options.retry {
            None => None,
            Some(policy) => Some(policy.to_text().ok_or_else(|| {
                let reason = "a custom policy is a function, which cannot travel".to_owned();
                Error::InvalidSetting { setting: "retry", reason }
            })?),
        };
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
