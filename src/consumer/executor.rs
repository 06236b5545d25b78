//! [`Executor`]: one attempt from delivery to settlement, as a straight line.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::attempt::Limits;
use super::attempt::Running;
use super::attempt::Supervision;
use super::feedback::Begun;
use super::lease::LeaseQueue;
use super::receipt::Fate;
use super::receipt::Report;
use super::receipt::ShutdownEntry;
use super::registry::Handler;
use super::registry::Registry;
use super::registry::RunError;
use super::renewal::Renewal;
use super::sequel::Sequel;
use super::settle::Facts;
use super::settle::Failure;
use super::settle::Settlement;
use super::settle::settlement;
use crate::broker::Broker;
use crate::control::Control;
use crate::control::Decisions;
use crate::control::Verdict;
use crate::envelope;
use crate::envelope::Envelope;
use crate::error::Result;
use crate::failures::FailedAttempt;
use crate::handler::Attempt;
use crate::handler::CancelReason;
use crate::handler::Cancellation;
use crate::handler::Progress;
use crate::handler::Surroundings;
use crate::handler::TaskContext;
use crate::lane::Lane;
use crate::lock::Lock;
use crate::outcome::DeadReason;
use crate::outcome::Outcome;
use crate::retry::RetryPolicy;
use crate::route::Home;
use crate::task::TaskId;
use crate::telemetry::Observation;
use crate::topology::QueueName;
use crate::transport::Delivery;

/// What a consumer says about its attempts, unless somebody nearer to the task does.
#[derive(Clone, Debug)]
pub(super) struct Defaults {
    pub(super) retry: RetryPolicy,
    pub(super) run_timeout: Option<Duration>,
    /// How long an attempt that was told to stop may go on.
    pub(super) cancel_grace: Duration,
}

impl Default for Defaults {
    fn default() -> Self {
        Self { retry: RetryPolicy::default(), run_timeout: None, cancel_grace: Duration::from_secs(5) }
    }
}

/// What all executors of a consumer share.
#[derive(Clone)]
pub(super) struct Staff {
    registry: Arc<Registry>,
    defaults: Defaults,
    running: Arc<Running>,
    control: Arc<Control>,
    leases: Arc<LeaseQueue>,
}

impl Staff {
    /// Returns when it knows of all tasks that were cancelled before.
    pub(super) async fn gather(
        broker: &Broker,
        registry: Registry,
        defaults: Defaults,
        leases: Arc<LeaseQueue>,
    ) -> Result<Self> {
        let decisions = Arc::<Decisions>::default();
        let running = Arc::new(Running::new(defaults.cancel_grace, decisions.clone()));
        let stopping = running.clone();
        let control = Control::follow(broker.control(), decisions, move |id| {
            stopping.cancel(id, CancelReason::Requested);
        });
        let control = Arc::new(control.await?);
        Ok(Self { registry: Arc::new(registry), defaults, running, control, leases })
    }

    /// The attempts under way.
    pub(super) fn running(&self) -> &Arc<Running> {
        &self.running
    }
}

/// Runs the tasks of one queue.
///
/// What is rare is boxed (all but success without a reply), so that the future of an attempt, which is allocated and
/// moved for each task, stays small.
pub(super) struct Executor {
    registry: Arc<Registry>,
    defaults: Defaults,
    surroundings: Arc<Surroundings>,
    running: Arc<Running>,
    renewal: Renewal,
    /// Keeps what `running` knows up to date.
    _control: Arc<Control>,
    sequel: Arc<Sequel>,
    aborted: Lock<Vec<ShutdownEntry>>,
    /// Unsettled until the subscription is closed, which returns them with the rest, in their order.
    handed_back: Lock<Vec<Delivery>>,
}

impl Executor {
    pub(super) fn new(
        broker: &Broker,
        staff: &Staff,
        queue: &QueueName,
        home: Home,
        sequel: Arc<Sequel>,
        shutdown: CancellationToken,
    ) -> Self {
        let tell = sequel.feedback().tell();
        let surroundings = Surroundings { queue: queue.text(), clock: broker.clock(), shutdown, tell };
        Self {
            registry: staff.registry.clone(),
            running: staff.running.clone(),
            renewal: Renewal::new(broker, queue.clone(), home, staff.leases.clone()),
            _control: staff.control.clone(),
            defaults: staff.defaults.clone(),
            surroundings: Arc::new(surroundings),
            sequel,
            aborted: Lock::default(),
            handed_back: Lock::default(),
        }
    }

    /// Runs one attempt and settles it. `lane` is where it comes from; `None`: from quarantine. What `is_quick`, as far as
    /// one can tell, is told and known to run only once it waits for something: it is likely to be done before. Anything
    /// else from its beginning, because it may never return from its first poll.
    #[allow(clippy::manual_async_fn, reason = "the future of an `async fn` would hold its arguments twice")]
    pub(super) fn run(
        self: Arc<Self>,
        lane: Option<Lane>,
        is_quick: bool,
        mut delivery: Delivery,
    ) -> impl Future<Output = Report> + Send {
        async move {
            delivery.redelivered |= envelope::lease(&delivery.message).is_some();
            let mut envelope = match Envelope::open(std::mem::take(&mut delivery.message)) {
                Ok(envelope) => envelope,
                Err(foreign) => return Box::pin(self.sequel.turn_away(delivery, *foreign)).await,
            };
            let verdict = self.running.verdict(envelope.id, envelope.revision);
            if verdict != Verdict::Go {
                return Box::pin(self.sequel.drop_unwanted(delivery, envelope, verdict)).await;
            }
            let Some((name, handler)) = self.registry.get(&envelope.name) else {
                return Box::pin(self.sequel.bury_unknown(delivery, envelope)).await;
            };
            // What is told of it has this name, and need not copy it.
            envelope.name = name.into();
            let unfinished = Unfinished { id: envelope.id, name, aborted: &self.aborted };
            let redelivered = delivery.redelivered || envelope.returned > 0;
            let ctx = self.context(&envelope, name, lane, redelivered);
            if ctx.remaining().is_some_and(|left| left.is_zero()) {
                return unfinished.finish(Box::pin(self.expire(delivery, envelope)).await);
            }
            let timeout = envelope.run_timeout.or_else(|| handler.timeout()).or(self.defaults.run_timeout);
            let longest = self.longest(&envelope, timeout);
            let limits = Limits { started: Instant::now(), timeout, longest };
            let Surroundings { queue, clock, .. } = &*self.surroundings;
            let observation = Observation::begin(queue, name, &envelope, *clock);
            let feedback = self.sequel.feedback();
            let mut begun = feedback.begin(lane, redelivered, longest);
            let entered = (!is_quick).then(|| {
                feedback.started(&envelope, &mut begun);
                self.running.enter(&ctx, limits)
            });
            let supervision = Supervision { limits, observation: &observation, entered };
            let attempt = self.running.run(handler, &envelope.payload, &ctx, supervision, || {
                feedback.started(&envelope, &mut begun);
                ctx.open_progress();
                self.renewal.keep(&mut delivery, &envelope)
            });
            let ended = attempt.await;
            observation.ran();
            ctx.end_progress(|| feedback.started(&envelope, &mut begun));
            let outcome = match ended {
                Ok(output) => {
                    if envelope.is_awaited() {
                        Box::pin(self.tell(&envelope, output)).await;
                    }
                    feedback.succeeded(delivery, &envelope, begun, limits.started.elapsed()).await;
                    Outcome::Succeeded
                }
                Err(error) => {
                    let failed = Failed { handler, ctx, limits, begun, error };
                    observation.begin_trace(&mut envelope.rest);
                    observation.around(Box::pin(self.settle(delivery, envelope, failed))).await
                }
            };
            observation.end(outcome);
            unfinished.finish(outcome)
        }
    }

    /// Whose tasks it runs.
    pub(super) fn queue(&self) -> &str {
        &self.surroundings.queue
    }

    /// Returns when all that has ended is told, and acknowledged.
    pub(super) async fn flush(&self) {
        self.sequel.feedback().flush().await;
    }

    /// The attempts that were stopped midway, since last asked.
    pub(super) fn take_aborted(&self) -> Vec<ShutdownEntry> {
        std::mem::take(&mut *self.aborted.lock())
    }

    fn context(
        &self,
        envelope: &Envelope,
        name: &'static str,
        lane: Option<Lane>,
        redelivered: bool,
    ) -> TaskContext {
        TaskContext::new(Attempt {
            id: envelope.id,
            name,
            surroundings: self.surroundings.clone(),
            lane,
            priority: envelope.priority,
            number: envelope.attempt,
            redelivered,
            enqueued_at: envelope.enqueued_at,
            deadline: envelope.deadline,
            tick: envelope.tick.clone(),
            cancellation: Cancellation::default(),
            progress: Progress::default(),
        })
    }

    async fn expire(&self, delivery: Delivery, envelope: Envelope) -> Outcome {
        let error = "its deadline had passed when its turn came";
        self.sequel.bury(delivery, envelope, DeadReason::ExpiredUnstarted, error).await
    }

    /// Tells who waits for the end of a task.
    async fn tell(&self, envelope: &Envelope, output: Vec<u8>) {
        self.sequel.reply_output(envelope, output).await;
        self.sequel.release(envelope).await;
    }

    /// How long an attempt may run that begins now, with the time it has to stop.
    fn longest(&self, envelope: &Envelope, timeout: Option<Duration>) -> Option<Duration> {
        let left = envelope.deadline.map(|deadline| deadline.saturating_sub(self.surroundings.clock.now()));
        let limit = [left, timeout].into_iter().flatten().min()?;
        Some(limit.saturating_add(self.defaults.cancel_grace))
    }

    /// Decides what becomes of a task that did not succeed, and does it.
    async fn settle(&self, delivery: Delivery, mut envelope: Envelope, failed: Failed<'_>) -> Outcome {
        let (now, took) = (self.surroundings.clock.now(), failed.limits.started.elapsed());
        let facts = Facts {
            attempt: envelope.attempt,
            policy: self.policy(&envelope, failed.handler),
            cancelled: failed.ctx.cancel_reason(),
            now,
            first_due: envelope.first_due(),
            deadline: envelope.deadline,
            random: fastrand::f64(),
        };
        let error = failed.text();
        let settlement = settlement(failed.failure(), &facts);
        if matches!(settlement, Settlement::Retry(_) | Settlement::DeadLetter(_)) {
            let started = now.saturating_sub(took);
            let due = match settlement {
                Settlement::Retry(wait) => Some(now.saturating_add(wait)),
                _ => None,
            };
            self.sequel.feedback().failed(&envelope, failed.begun, took, &error, due).await;
            envelope.remember(&FailedAttempt::new(envelope.attempt, started, took, &error));
        }
        match settlement {
            Settlement::Retry(wait) => self.sequel.retry(delivery, envelope, wait, &error).await,
            Settlement::DeadLetter(reason) => self.sequel.bury(delivery, envelope, reason, &error).await,
            Settlement::Cancel => self.sequel.cancel(delivery, &envelope, &error).await,
            Settlement::HandBack => {
                // Not requeued one by one: this very consumer, which is stopping, could get it again.
                self.sequel.feedback().handed_back(&envelope, failed.begun);
                self.handed_back.lock().push(delivery);
                Outcome::HandedBack
            }
        }
    }

    /// The policy of whoever is nearest to the task.
    fn policy(&self, envelope: &Envelope, handler: &dyn Handler) -> RetryPolicy {
        let policy = envelope.policy().or_else(|| handler.retry());
        policy.unwrap_or_else(|| self.defaults.retry.clone()).with_max_attempts(envelope.max_attempts)
    }
}

/// An attempt that did not succeed.
struct Failed<'a> {
    handler: &'a dyn Handler,
    ctx: TaskContext,
    limits: Limits,
    begun: Begun,
    error: RunError,
}

impl Failed<'_> {
    fn failure(&self) -> Failure {
        match &self.error {
            RunError::Failed(error) => Failure::Failed(error.intent),
            RunError::Panicked(_) => Failure::Panicked,
            RunError::Undecodable(_) => Failure::Undecodable,
            RunError::Stopped(reason) => Failure::Stopped(*reason),
        }
    }

    /// Its error, after why it was told to stop.
    fn text(&self) -> String {
        let (reason, error) = match &self.error {
            RunError::Failed(error) => (self.ctx.cancel_reason(), error.to_string()),
            RunError::Panicked(text) => (self.ctx.cancel_reason(), format!("panicked: {text}")),
            RunError::Undecodable(error) => (None, error.to_string()),
            RunError::Stopped(reason) => (Some(*reason), "it did not stop, and was dropped".to_owned()),
        };
        match (reason, self.limits.timeout) {
            (Some(CancelReason::Timeout), Some(timeout)) => format!("timed out after {timeout:?}: {error}"),
            (Some(CancelReason::Deadline), _) => format!("its deadline passed while it ran: {error}"),
            _ => error,
        }
    }
}

/// An attempt under way. Dropped before it finished, it is noted as aborted.
struct Unfinished<'a> {
    id: TaskId,
    name: &'static str,
    aborted: &'a Lock<Vec<ShutdownEntry>>,
}

impl Unfinished<'_> {
    fn finish(self, outcome: Outcome) -> Report {
        let report = Report { id: Some(self.id), name: self.name.into(), outcome };
        std::mem::forget(self);
        report
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        let entry = ShutdownEntry { id: Some(self.id), name: self.name.into(), fate: Fate::Aborted };
        self.aborted.lock().push(entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Part;
    use crate::consumer::feedback::Feedback;
    use crate::consumer::registry::FnHandler;
    use crate::consumer::tally::Tally;
    use crate::consumer::term::Term;
    use crate::handler::TaskError;
    use crate::lane::Priority;
    use crate::producer::Producer;
    use crate::task::Task;
    use crate::transport::Subscribe;

    const SECOND: Duration = Duration::from_secs(1);

    /// What to do.
    #[derive(Clone, serde::Serialize, serde::Deserialize)]
    enum Act {
        Succeed,
        Fail,
        Wait,
    }

    impl Task for Act {
        const NAME: &'static str = "act";
        type Output = ();
    }

    /// What becomes of a task with a deadline in 5 seconds when it is started after a while.
    async fn outcome(act: &Act, after: Duration, request: Option<CancelReason>) -> Outcome {
        let broker = Broker::in_process();
        let queue = QueueName::new("default").unwrap();
        let producer = Producer::builder(&broker).build().await.unwrap();
        let enqueue = producer.enqueue(act.clone()).priority(Priority::Urgent).deadline_in(5 * SECOND);
        let id = enqueue.await.unwrap().id();
        let mut registry = Registry::default();
        registry.add(FnHandler::new(|act: Act, ctx: TaskContext| async move {
            match act {
                Act::Succeed => return Ok(()),
                Act::Fail => {}
                Act::Wait => ctx.cancelled().await,
            }
            Err(TaskError::retry("as told"))
        }));
        let defaults = Defaults { retry: RetryPolicy::fixed(4 * SECOND), ..Defaults::default() };
        let stop = CancellationToken::new();
        broker.declare(Part::Control).await.unwrap();
        let leases = Arc::new(LeaseQueue::new(&broker, Term::default()).unwrap());
        let staff = Staff::gather(&broker, registry, defaults, leases).await.unwrap();
        let feedback = Feedback::new(&broker, None, "test".into(), &queue, Arc::new(Tally::new(1, 1)));
        let sequel = Arc::new(Sequel::new(&broker, queue.clone(), feedback, None));
        let executor = Arc::new(Executor::new(&broker, &staff, &queue, Home::Lane, sequel, stop));
        let lane = broker.names().lane(&queue, Lane::Urgent);
        let subscribe = Subscribe::new(lane, 1, "test");
        let mut subscription = broker.transport().subscribe(subscribe).await.unwrap();
        let delivery = subscription.next().await.unwrap();
        tokio::time::sleep(after).await;
        let attempt = tokio::spawn(executor.clone().run(Some(Lane::Urgent), false, delivery));
        if let Some(reason) = request {
            tokio::time::sleep(SECOND / 10).await;
            assert!(executor.running.cancel(id, reason));
        }
        attempt.await.unwrap().outcome
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_ends_in_an_outcome() {
        let expired = Outcome::Expired;
        for (act, after, expected) in [
            (Act::Succeed, 0, Outcome::Succeeded),
            (Act::Fail, 0, Outcome::Retried),
            (Act::Fail, 2, expired(DeadReason::ExpiredRetrying)),
            (Act::Wait, 0, expired(DeadReason::ExpiredRunning)),
            (Act::Succeed, 5, expired(DeadReason::ExpiredUnstarted)),
        ] {
            assert_eq!(outcome(&act, after * SECOND, None).await, expected, "after {after} s");
        }
        let requested = outcome(&Act::Wait, Duration::ZERO, Some(CancelReason::Requested)).await;
        assert_eq!(requested, Outcome::Cancelled);
    }
}
