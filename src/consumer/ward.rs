//! [`Ward`]: where tasks in quarantine are started, one at a time for each consumer, so that the next death of the
//! process tells which of them it is.
//!
//! Only what runs is unacknowledged here. So what the broker counts is starts that never ended, as long as whatever
//! else gives a task back (a shutdown) does not count: that is published anew. A task that takes long is held elsewhere
//! after a while (see [`super::lease`]), and the broker would deliver the next one into the place that is free then; so
//! the ward closes meanwhile.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::executor::Executor;
use super::gate::Gate;
use super::gate::Watch;
use super::quarantine::Quarantine;
use super::receipt::Fate;
use super::receipt::Report;
use super::receipt::ShutdownEntry;
use super::term::Term;
use crate::error::Error;
use crate::lock::Lock;
use crate::transport::Delivery;
use crate::transport::Settlement;
use crate::transport::Subscribe;
use crate::transport::Subscription;

/// How much later than the lanes it opens. A killer in it then leaves the lanes some time between two deaths.
const OPENS_AFTER: Duration = Duration::from_secs(1);
/// The longest pause before the broker is asked again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Runs the tasks in quarantine of one queue.
pub(super) struct Ward {
    pub(super) quarantine: Arc<Quarantine>,
    /// Not that of the lanes: what this one holds goes back another way.
    pub(super) executor: Arc<Executor>,
    pub(super) gate: Option<Arc<dyn Gate>>,
    pub(super) term: Term,
    pub(super) stop: CancellationToken,
    pub(super) grace: Duration,
}

impl Ward {
    /// Runs until told to stop (or the transport ends), and tells what became of what it had.
    pub(super) async fn run(self) -> Vec<ShutdownEntry> {
        let (caught, mut entries) = (Arc::new(Caught::default()), Vec::new());
        let mut subscription = loop {
            let Some(mut subscription) = self.stop.run_until_cancelled(self.open()).await.flatten() else {
                entries.extend(self.executor.take_aborted());
                return entries;
            };
            let mut is_open = true;
            while is_open
                && let Some(mut delivery) = self.stop.run_until_cancelled(subscription.next()).await.flatten()
            {
                delivery.arrived = Some(Instant::now());
                let Some(watch) = self.stop.run_until_cancelled(self.enter(&mut delivery)).await else {
                    entries.push(ShutdownEntry::unstarted(&delivery));
                    caught.keep(delivery);
                    break;
                };
                // It comes again, here or elsewhere.
                if delivery.is_lost() {
                    continue;
                }
                let attempt = self.start(delivery, &caught);
                let mut attempt = Box::pin(attend(attempt, &caught, &mut *subscription, &mut is_open));
                let ended = match self.stop.run_until_cancelled(&mut attempt).await {
                    Some(report) => Some(report),
                    None => tokio::time::timeout(self.grace, attempt).await.ok(),
                };
                caught.let_go();
                let Some(Report { id, name, outcome }) = ended else { continue };
                if let Some(watch) = watch {
                    watch.ended(outcome);
                }
                if self.stop.is_cancelled() {
                    entries.push(ShutdownEntry { id, name, fate: Fate::Finished(outcome) });
                }
            }
            if is_open {
                break subscription;
            }
            subscription.close().await;
        };
        entries.extend(self.executor.take_aborted());
        subscription.cancel().await;
        while let Some(delivery) = subscription.next().await {
            entries.push(ShutdownEntry::unstarted(&delivery));
            caught.keep(delivery);
        }
        // With it goes what its attempts handed back.
        drop(self.executor);
        for delivery in caught.take() {
            self.quarantine.hand_back(delivery).await;
        }
        subscription.close().await;
        entries
    }

    /// Subscribes, however often it takes; `None` once the broker handle is closed.
    async fn open(&self) -> Option<Box<dyn Subscription>> {
        let (broker, queue) = (self.quarantine.broker(), self.quarantine.queue());
        let mut pause = OPENS_AFTER;
        loop {
            tokio::time::sleep(pause).await;
            let tag = format!("{queue} quarantine");
            let mut subscribe = Subscribe::new(broker.names().quarantine(queue), 1, tag);
            subscribe.consumer_timeout = Some(self.term.timeout());
            match broker.transport().subscribe(subscribe).await {
                Ok(subscription) => return Some(subscription),
                Err(Error::Closed) => return None,
                Err(error) => tracing::warn!(%queue, %error, "cannot consume the quarantine"),
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Waits until the limits of its type let a task start.
    async fn enter(&self, delivery: &mut Delivery) -> Option<Box<dyn Watch>> {
        let gate = self.gate.as_ref().filter(|_| !self.quarantine.convicts(delivery))?;
        while !delivery.is_lost() {
            match gate.enter(&mut delivery.message) {
                Ok(watch) => return watch,
                Err(until) => tokio::time::sleep(until.saturating_sub(self.quarantine.now())).await,
            }
        }
        None
    }

    async fn start(&self, mut delivery: Delivery, caught: &Arc<Caught>) -> Report {
        if self.quarantine.convicts(&delivery) {
            return self.quarantine.bury(delivery).await;
        }
        delivery.redelivered = true;
        self.executor.clone().run(None, false, Caught::catching(caught, delivery)).await
    }
}

/// Sees an attempt through. Once it holds something else than what came from `subscription`, that is closed.
async fn attend(
    attempt: impl Future<Output = Report>,
    caught: &Caught,
    subscription: &mut dyn Subscription,
    is_open: &mut bool,
) -> Report {
    let mut attempt = pin!(attempt);
    tokio::select! {
        biased;
        report = &mut attempt => return report,
        () = caught.acked() => {}
    }
    *is_open = false;
    subscription.cancel().await;
    caught.let_go();
    attempt.await
}

/// What would have gone back to the broker, and what is to be acknowledged.
#[derive(Default)]
struct Caught {
    kept: Lock<Vec<Delivery>>,
    done: Lock<Vec<Delivery>>,
    /// Something is done.
    acked: Notify,
}

impl Caught {
    /// The same delivery, except that requeued or dropped it is kept instead, as it came, and acked it waits for
    /// [`let_go`](Self::let_go).
    fn catching(caught: &Arc<Self>, delivery: Delivery) -> Delivery {
        let caught = caught.clone();
        delivery.intercepted(move |delivery, settlement| match settlement {
            Settlement::Ack => {
                caught.done.lock().push(delivery);
                caught.acked.notify_one();
            }
            Settlement::Reject => delivery.reject(),
            Settlement::Requeue => caught.keep(delivery),
        })
    }

    fn keep(&self, delivery: Delivery) {
        self.kept.lock().push(delivery);
    }

    fn take(&self) -> Vec<Delivery> {
        std::mem::take(&mut *self.kept.lock())
    }

    /// Returns when something is done and not let go. A notice may be left over from an attempt that has ended.
    async fn acked(&self) {
        while self.done.lock().is_empty() {
            self.acked.notified().await;
        }
    }

    /// Acknowledges what is done.
    fn let_go(&self) {
        std::mem::take(&mut *self.done.lock()).into_iter().for_each(Delivery::ack);
    }
}
