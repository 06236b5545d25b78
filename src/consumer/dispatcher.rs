//! [`Dispatcher`]: one loop per queue. Waits for a slot, takes the next delivery, starts an attempt, unless it is under
//! suspicion or a limit of its type keeps it waiting; and the drain at the end.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::executor::Executor;
use super::gate::Gate;
use super::gate::Watch;
use super::intake::Intake;
use super::pace::Pace;
use super::pace::Paced;
use super::quarantine::Quarantine;
use super::receipt::Fate;
use super::receipt::Report;
use super::receipt::ShutdownEntry;
use super::tally::Tally;
use crate::lane::Lane;
use crate::telemetry::Raised;

/// Starts the tasks of one queue while slots are free.
pub(super) struct Dispatcher {
    pub(super) intake: Intake,
    pub(super) executor: Arc<Executor>,
    pub(super) quarantine: Arc<Quarantine>,
    pub(super) gate: Option<Arc<dyn Gate>>,
    pub(super) tally: Arc<Tally>,
    pub(super) stop: CancellationToken,
    pub(super) grace: Duration,
}

impl Dispatcher {
    /// Runs until told to stop (or the transport ends), drains, and tells what became of what it had.
    pub(super) async fn run(mut self) -> Vec<ShutdownEntry> {
        let _slots = Raised::slots(self.executor.queue(), self.tally.concurrency());
        let mut running = JoinSet::new();
        let slots = self.tally.slots().clone();
        let (stop, pace) = (self.stop.clone(), Arc::new(Pace::default()));
        let work = async {
            let mut free = None;
            loop {
                let slot = match free.take() {
                    Some(slot) => slot,
                    None => {
                        let slot = self.intake.meanwhile(slots.clone().acquire_owned()).await;
                        slot.expect("the semaphore is never closed")
                    }
                };
                let Some((lane, mut delivery)) = self.intake.next().await else {
                    return;
                };
                if self.quarantine.suspects(&delivery) {
                    let (quarantine, stop) = (self.quarantine.clone(), stop.clone());
                    running.spawn(async move {
                        let report = quarantine.move_on(delivery).await;
                        drop(slot);
                        stop.is_cancelled().then_some(report)
                    });
                    continue;
                }
                let mut watch = None;
                if let Some(gate) = &self.gate {
                    match gate.enter(&mut delivery.message) {
                        Ok(watching) => watch = watching,
                        Err(until) => {
                            self.intake.defer(lane, delivery, until);
                            free = Some(slot);
                            continue;
                        }
                    }
                }
                let (lane, is_quick) = (Some(Lane::ALL[lane]), pace.is_quick());
                let mut attempt = Paced::new(self.executor.clone().run(lane, is_quick, delivery), &pace);
                if is_quick && let Some(report) = (&mut attempt).now_or_never() {
                    tell(watch, &report);
                    free = Some(slot);
                    continue;
                }
                while running.try_join_next().is_some() {}
                let stop = stop.clone();
                running.spawn(async move {
                    let report = attempt.await;
                    drop(slot);
                    tell(watch, &report);
                    // What ended before is nothing that the shutdown found.
                    stop.is_cancelled().then_some(report)
                });
            }
        };
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = work => {}
        }
        self.drain(running).await
    }

    async fn drain(mut self, running: JoinSet<Option<Report>>) -> Vec<ShutdownEntry> {
        let unstarted = self.intake.cancel().await;
        let mut entries: Vec<ShutdownEntry> = unstarted.iter().map(ShutdownEntry::unstarted).collect();
        entries.extend(finish(running, &self.executor, self.grace).await);
        // What is closed cannot be acknowledged any more.
        self.executor.flush().await;
        self.intake.close().await;
        // Only now, as with what was handed back: the closed channel has returned all of it in its order, and to settle
        // it means nothing any more.
        drop(unstarted);
        entries
    }
}

/// Tells whoever wants to know how an attempt ended.
fn tell(watch: Option<Box<dyn Watch>>, report: &Report) {
    if let Some(watch) = watch {
        watch.ended(report.outcome);
    }
}

/// Waits for the attempts under way, then stops the rest.
async fn finish(
    mut running: JoinSet<Option<Report>>,
    executor: &Executor,
    grace: Duration,
) -> Vec<ShutdownEntry> {
    let mut entries = Vec::new();
    let finishing = async {
        while let Some(ended) = running.join_next().await {
            if let Ok(Some(Report { id, name, outcome })) = ended {
                entries.push(ShutdownEntry { id, name, fate: Fate::Finished(outcome) });
            }
        }
    };
    if tokio::time::timeout(grace, finishing).await.is_err() {
        running.shutdown().await;
        entries.extend(executor.take_aborted());
    }
    entries
}
