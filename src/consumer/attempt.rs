//! [`Limits`] of an attempt, and [`Running`], the attempts under way. Once one waits for something it can be cancelled: its
//! token is cancelled at its deadline, at its timeout or when somebody asks for it; after the grace period its handler is
//! dropped, wherever it waits.
//!
//! A handler that is done at its first poll, where many before it were (`pace`), meets none of this and pays nothing for it.

use std::any::Any;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::registry::Handler;
use super::registry::RunError;
use crate::control::Decisions;
use crate::control::Verdict;
use crate::event::RunningTask;
use crate::handler::CancelReason;
use crate::handler::TaskContext;
use crate::lock::Lock;
use crate::task::TaskId;
use crate::telemetry::Observation;

/// How long an attempt may run, beside its deadline.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) started: Instant,
    pub(super) timeout: Option<Duration>,
    /// The first of all its limits, with the time it has to stop.
    pub(super) longest: Option<Duration>,
}

/// The attempts of a consumer that wait for something, and who may be one.
#[derive(Debug)]
pub(super) struct Running {
    entries: Lock<Entries>,
    decisions: Arc<Decisions>,
    grace: Duration,
}

/// By task and a serial number: after a lost connection a task may run twice for a while.
#[derive(Debug, Default)]
struct Entries {
    attempts: BTreeMap<(TaskId, u64), Attempt>,
    next: u64,
}

#[derive(Debug)]
struct Attempt {
    ctx: TaskContext,
    limits: Limits,
    /// `None`: it was told to stop.
    cancel: Option<oneshot::Sender<CancelReason>>,
}

impl Running {
    /// `grace` is how long an attempt may go on after its token is cancelled.
    pub(super) fn new(grace: Duration, decisions: Arc<Decisions>) -> Self {
        Self { entries: Lock::default(), decisions, grace }
    }

    /// Whether this copy of a task may start.
    pub(super) fn verdict(&self, id: TaskId, revision: u64) -> Verdict {
        self.decisions.verdict(id, revision)
    }

    /// Runs `handler` once, observed and with its panics caught; if it takes more than one poll, with what `keep` returns beside it.
    ///
    /// # Errors
    ///
    /// Whatever ended it without an output.
    pub(super) async fn run<K: Future<Output = Infallible> + Send>(
        &self,
        handler: &dyn Handler,
        payload: &[u8],
        ctx: &TaskContext,
        supervision: Supervision<'_>,
        keep: impl FnOnce() -> K + Send,
    ) -> Result<Vec<u8>, RunError> {
        let Supervision { limits, observation, entered } = supervision;
        let handling = AssertUnwindSafe(observation.around(handler.run(payload, ctx))).catch_unwind();
        let mut handling = pin!(handling.map(|ended| match ended {
            Ok(result) => result,
            Err(panic) => Err(RunError::Panicked(text(&*panic).to_owned())),
        }));
        match std::future::poll_fn(|cx| Poll::Ready(handling.as_mut().poll(cx))).await {
            Poll::Ready(ended) => ended,
            Poll::Pending => {
                let supervised = Box::pin(async {
                    tokio::select! {
                        biased;
                        ended = self.supervise(handling, ctx, limits, entered) => ended,
                        never = keep() => match never {},
                    }
                });
                supervised.await
            }
        }
    }

    /// Cancels the attempts of a task; whether there are any.
    pub(super) fn cancel(&self, id: TaskId, reason: CancelReason) -> bool {
        let mut entries = self.entries.lock();
        let attempts = entries.attempts.range_mut((id, 0)..=(id, u64::MAX));
        let mut is_any = false;
        for cancel in attempts.filter_map(|(_, attempt)| attempt.cancel.take()) {
            is_any = true;
            // It may have ended in this instant.
            let _ = cancel.send(reason);
        }
        is_any
    }

    /// The oldest `most` of them, the oldest first.
    pub(super) fn oldest(&self, most: usize) -> Vec<RunningTask> {
        let entries = self.entries.lock();
        let mut all: Vec<&Attempt> = entries.attempts.values().collect();
        if all.len() > most {
            all.select_nth_unstable_by_key(most, |attempt| attempt.limits.started);
            all.truncate(most);
        }
        all.sort_by_key(|attempt| attempt.limits.started);
        all.into_iter().map(Attempt::task).collect()
    }

    /// Sees an attempt through that was not done at its first poll.
    async fn supervise(
        &self,
        mut handling: Pin<&mut (impl Future<Output = Result<Vec<u8>, RunError>> + Send)>,
        ctx: &TaskContext,
        limits: Limits,
        entered: Option<Entered<'_>>,
    ) -> Result<Vec<u8>, RunError> {
        let (_entry, requested) = entered.unwrap_or_else(|| self.enter(ctx, limits));
        if self.verdict(ctx.id(), u64::MAX) == Verdict::Cancelled {
            // In the instant between that question and this entry.
            self.cancel(ctx.id(), CancelReason::Requested);
        }
        let left = limits.timeout.map(|timeout| timeout.saturating_sub(limits.started.elapsed()));
        let limit = first_limit(ctx.remaining(), left);
        let passed = async {
            let Some((left, reason)) = limit else { return std::future::pending().await };
            tokio::time::sleep(left).await;
            reason
        };
        let reason = tokio::select! {
            biased;
            ended = &mut handling => return ended,
            Ok(reason) = requested => reason,
            reason = passed => reason,
        };
        ctx.cancel(reason);
        tokio::time::timeout(self.grace, handling).await.unwrap_or(Err(RunError::Stopped(reason)))
    }

    /// An attempt is known to run, and can be told to stop, until that is dropped.
    pub(super) fn enter(&self, ctx: &TaskContext, limits: Limits) -> Entered<'_> {
        let (cancel, requested) = oneshot::channel();
        let attempt = Attempt { ctx: ctx.clone(), limits, cancel: Some(cancel) };
        let mut entries = self.entries.lock();
        let key = (ctx.id(), entries.next);
        entries.next += 1;
        entries.attempts.insert(key, attempt);
        (Entry { running: self, key }, requested)
    }
}

impl Attempt {
    fn task(&self) -> RunningTask {
        let Self { ctx, limits, cancel: _ } = self;
        RunningTask {
            id: ctx.id(),
            name: ctx.name().to_owned(),
            queue: ctx.queue().to_owned(),
            attempt: ctx.attempt(),
            age: limits.started.elapsed(),
            limit: limits.longest,
        }
    }
}

/// What there is around an attempt.
pub(super) struct Supervision<'a> {
    pub(super) limits: Limits,
    pub(super) observation: &'a Observation,
    /// If it is known to run already.
    pub(super) entered: Option<Entered<'a>>,
}

/// An attempt's place, and who asks it to stop.
pub(super) type Entered<'a> = (Entry<'a>, oneshot::Receiver<CancelReason>);

/// An attempt's place among those that can be cancelled.
pub(super) struct Entry<'a> {
    running: &'a Running,
    key: (TaskId, u64),
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.running.entries.lock().attempts.remove(&self.key);
    }
}

/// Which limit comes first, and in how long. The deadline, if both come at once: there is nothing to retry then.
fn first_limit(deadline: Option<Duration>, timeout: Option<Duration>) -> Option<(Duration, CancelReason)> {
    match (deadline, timeout) {
        (Some(deadline), Some(timeout)) if timeout < deadline => Some((timeout, CancelReason::Timeout)),
        (Some(deadline), _) => Some((deadline, CancelReason::Deadline)),
        (None, timeout) => timeout.map(|timeout| (timeout, CancelReason::Timeout)),
    }
}

/// What a panic said.
fn text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

#[cfg(test)]
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::clock::Clock;
    use crate::handler;
    use crate::handler::Cancellation;
    use crate::handler::Surroundings;
    use crate::lane::Priority;

    #[test]
    fn the_first_limit_counts_and_the_deadline_before_the_timeout() {
        use CancelReason::{Deadline, Timeout};
        let s = Duration::from_secs;
        for (deadline, timeout, expected) in [
            (None, None, None),
            (Some(s(2)), None, Some((s(2), Deadline))),
            (None, Some(s(3)), Some((s(3), Timeout))),
            (Some(s(2)), Some(s(3)), Some((s(2), Deadline))),
            (Some(s(4)), Some(s(3)), Some((s(3), Timeout))),
            (Some(s(3)), Some(s(3)), Some((s(3), Deadline))),
            (Some(s(0)), Some(s(3)), Some((s(0), Deadline))),
        ] {
            assert_eq!(first_limit(deadline, timeout), expected, "{deadline:?}, {timeout:?}");
        }
    }

    /// An attempt that starts now enters.
    fn enter(running: &Running, id: TaskId) -> (Entry<'_>, oneshot::Receiver<CancelReason>) {
        let surroundings = Surroundings {
            queue: "mail".into(),
            clock: Clock::tokio(),
            shutdown: CancellationToken::new(),
            tell: None,
        };
        let ctx = TaskContext::new(handler::Attempt {
            id,
            name: "send",
            surroundings: Arc::new(surroundings),
            lane: None,
            priority: Priority::Normal,
            number: 2,
            redelivered: false,
            enqueued_at: Duration::ZERO,
            deadline: None,
            tick: None,
            cancellation: Cancellation::default(),
            progress: handler::Progress::default(),
        });
        let longest = Some(Duration::from_secs(9));
        running.enter(&ctx, Limits { started: Instant::now(), timeout: None, longest })
    }

    #[tokio::test]
    async fn all_attempts_of_a_task_are_cancelled_and_no_other() {
        let running = Running::new(Duration::ZERO, Arc::default());
        let (one, other) = (TaskId::from_u128(1), TaskId::from_u128(2));
        let (_first, mut first) = enter(&running, one);
        let (_second, mut second) = enter(&running, one);
        let (_other, mut others) = enter(&running, other);
        assert!(running.cancel(one, CancelReason::Requested));
        assert_eq!(
            (first.try_recv(), second.try_recv()),
            (Ok(CancelReason::Requested), Ok(CancelReason::Requested))
        );
        assert!(others.try_recv().is_err());
        assert!(!running.cancel(one, CancelReason::Requested), "once is enough");
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_attempts_are_told_first_and_no_more_than_asked_for() {
        let running = Running::new(Duration::ZERO, Arc::default());
        let ids = [7, 3, 5, 1].map(TaskId::from_u128);
        let mut entries = Vec::new();
        for id in ids {
            entries.push(enter(&running, id));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        running.cancel(ids[0], CancelReason::Requested);
        for most in 0..=5 {
            let told: Vec<TaskId> = running.oldest(most).into_iter().map(|task| task.id).collect();
            assert_eq!(told, ids[..most.min(4)], "also one that is to stop runs until it has stopped");
        }
        let expected = RunningTask {
            id: ids[0],
            name: "send".into(),
            queue: "mail".into(),
            attempt: 2,
            age: Duration::from_secs(4),
            limit: Some(Duration::from_secs(9)),
        };
        assert_eq!(running.oldest(1), [expected]);
    }

    #[tokio::test]
    async fn what_has_ended_is_forgotten() {
        let running = Running::new(Duration::ZERO, Arc::default());
        let id = TaskId::from_u128(1);
        let (first, _) = enter(&running, id);
        let (second, _) = enter(&running, id);
        drop(first);
        assert!(running.cancel(id, CancelReason::Requested), "the other still runs");
        drop(second);
        assert!(running.entries.lock().attempts.is_empty());
    }
}
