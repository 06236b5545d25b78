//! [`Limits`] of an attempt, and [`Running`], those that can be cancelled: its token is cancelled at its deadline, at
//! its timeout or when somebody asks for it; after the grace period its handler is dropped, wherever it waits.
//!
//! A handler that is done at its first poll meets none of this and pays nothing for it.

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
    attempts: BTreeMap<(TaskId, u64), oneshot::Sender<CancelReason>>,
    next: u64,
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
        limits: Limits,
        observation: &Observation,
        keep: impl FnOnce() -> K + Send,
    ) -> Result<Vec<u8>, RunError> {
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
                        ended = self.supervise(handling, ctx, limits) => ended,
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
        let keys: Vec<_> = entries.attempts.range((id, 0)..=(id, u64::MAX)).map(|(key, _)| *key).collect();
        for key in &keys {
            if let Some(attempt) = entries.attempts.remove(key) {
                // It may have ended in this instant.
                let _ = attempt.send(reason);
            }
        }
        !keys.is_empty()
    }

    /// Sees an attempt through that was not done at its first poll.
    async fn supervise(
        &self,
        mut handling: Pin<&mut (impl Future<Output = Result<Vec<u8>, RunError>> + Send)>,
        ctx: &TaskContext,
        limits: Limits,
    ) -> Result<Vec<u8>, RunError> {
        let (_entry, requested) = self.enter(ctx.id());
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

    fn enter(&self, id: TaskId) -> (Entry<'_>, oneshot::Receiver<CancelReason>) {
        let (cancel, requested) = oneshot::channel();
        let mut entries = self.entries.lock();
        let key = (id, entries.next);
        entries.next += 1;
        entries.attempts.insert(key, cancel);
        (Entry { running: self, key }, requested)
    }
}

/// An attempt's place among those that can be cancelled.
struct Entry<'a> {
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
    use super::*;

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

    #[test]
    fn all_attempts_of_a_task_are_cancelled_and_no_other() {
        let running = Running::new(Duration::ZERO, Arc::default());
        let (one, other) = (TaskId::from_u128(1), TaskId::from_u128(2));
        let (_first, mut first) = running.enter(one);
        let (_second, mut second) = running.enter(one);
        let (_other, mut others) = running.enter(other);
        assert!(running.cancel(one, CancelReason::Requested));
        assert_eq!(
            (first.try_recv(), second.try_recv()),
            (Ok(CancelReason::Requested), Ok(CancelReason::Requested))
        );
        assert!(others.try_recv().is_err());
        assert!(!running.cancel(one, CancelReason::Requested), "once is enough");
    }

    #[test]
    fn what_has_ended_is_forgotten() {
        let running = Running::new(Duration::ZERO, Arc::default());
        let id = TaskId::from_u128(1);
        let (first, _) = running.enter(id);
        let (second, _) = running.enter(id);
        drop(first);
        assert!(running.cancel(id, CancelReason::Requested), "the other still runs");
        drop(second);
        assert!(running.entries.lock().attempts.is_empty());
    }
}
