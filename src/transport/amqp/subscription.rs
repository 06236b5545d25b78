//! [`Consumer`]: a subscription that outlives its channels.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Weak;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio::time::Sleep;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::error::Result;
use crate::name::Name;
use crate::topology::REDECLARE_AFTER;
use crate::transport::Delivery;
use crate::transport::Subscribe;
use crate::transport::Subscription;
use crate::transport::amqp::connection::Link;
use crate::transport::amqp::connection::Shared;
use crate::transport::amqp::declare::declare;
use crate::transport::amqp::declare::depth;
use crate::transport::amqp::live::Live;
use crate::transport::amqp::live::StartError;
use crate::transport::amqp::live::Terms;
use crate::transport::amqp::live::first;
use crate::transport::amqp::position::Position;
use crate::transport::amqp::position::Reading;
use crate::transport::amqp::refusal;
use crate::transport::amqp::session::Session;

/// After so many channels that died young in a row, deliveries come one at a time: if one of them kills the connection,
/// because the client library cannot decode it, then only that one uses up its delivery limit. This lasts until as many
/// are settled as came at once before, the killer among them.
const PROBATION_AFTER: u32 = 3;

/// A channel that died before this died young.
const YOUNG: Duration = Duration::from_secs(5);

/// A channel that lived so long is fine, whatever it did.
const PROVEN: Duration = Duration::from_secs(30);

/// A stream that does not show within this time what was read last does not hold it any more, if the broker answers
/// otherwise: it is another one. If it was only so slow, it is read again from its start.
const PROOF: Duration = Duration::from_secs(10);

/// A stream that says nothing for so long is asked again, over another channel, from where it was read to: when its leader
/// changes because the old one's node is cut off or hangs, RabbitMQ 3.10 leaves those who read it on other nodes without
/// another word.
const SILENCE: Duration = Duration::from_secs(5);

/// Longer than what has arrived takes to be at hand.
const ARRIVAL: Duration = Duration::from_millis(100);

/// Where channels come from.
pub(super) struct Source {
    shared: Arc<Shared>,
    link: Arc<Link>,
    /// No more channels.
    stop: CancellationToken,
}

enum Stage {
    Live(Box<Live>),
    Connecting(JoinHandle<Option<Box<Live>>>),
    Ended,
}

/// A subscription.
pub(super) struct Consumer {
    source: Arc<Source>,
    subscribe: Subscribe,
    stage: Stage,
    /// Of a stream, how far it was read.
    position: Option<Box<Position>>,
    /// Ends when a stream has to have shown what was read last.
    proof: Option<AbortOnDropHandle<()>>,
    /// Of a stream, ends when it has said nothing for too long.
    silence: Option<Pin<Box<Sleep>>>,
    /// How many channels in a row died young, or without having settled anything.
    deaths: u32,
    runtime: Handle,
}

impl fmt::Debug for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            Stage::Live(_) => "live",
            Stage::Connecting(_) => "connecting",
            Stage::Ended => "ended",
        };
        let queue = &self.subscribe.queue;
        f.debug_struct("Consumer").field("queue", queue).field("stage", &stage).finish_non_exhaustive()
    }
}

impl Consumer {
    pub(super) async fn start(shared: Arc<Shared>, link: Arc<Link>, subscribe: Subscribe) -> Result<Self> {
        let stop = shared.closing.child_token();
        let source = Arc::new(Source { shared, link, stop });
        let mut position = subscribe.start.map(|start| Box::new(Position::new(start)));
        let now = Instant::now();
        let terms = || {
            let offset = position.as_ref().map(|position| position.argument(Instant::now()));
            Terms { offset, ..Terms::default() }
        };
        let started = first(&source.shared, &source.link, &subscribe, terms).await?;
        let stage = Stage::Live(Box::new(started));
        if let Some(position) = &mut position {
            position.begin(now);
        }
        let silence = position.is_some().then(|| Box::pin(sleep(SILENCE)));
        let (proof, runtime) = (None, Handle::current());
        Ok(Self { source, subscribe, stage, position, proof, silence, deaths: 0, runtime })
    }

    /// The channel has ended by itself; another one takes its place.
    fn replace(&mut self, live: Box<Live>) {
        let before = if live.is_restored() { 0 } else { self.deaths };
        self.deaths = deaths(before, live.since().elapsed(), live.settled());
        self.go_on_with_another(live);
    }

    /// Another channel takes this one's place.
    fn go_on_with_another(&mut self, live: Box<Live>) {
        let (source, deaths, session) = (self.source.clone(), self.deaths, Arc::downgrade(live.session()));
        let (stop, subscribe) = (source.stop.clone(), self.subscribe.clone());
        if let Some(position) = &mut self.position {
            position.resume();
        }
        let position = self.position.clone();
        self.proof = None;
        self.stage = Stage::Connecting(self.runtime.spawn(async move {
            live.retire().await;
            let again = source.again(subscribe, position, deaths, session);
            stop.run_until_cancelled(again).await.flatten().map(Box::new)
        }));
    }

    /// The other channel is there.
    fn adopt(&mut self, mut live: Box<Live>) {
        // Changed while it was on its way.
        if live.prefetch() != self.subscribe.prefetch {
            live.set_prefetch(self.subscribe.prefetch);
        }
        if self.position.as_ref().is_some_and(|position| position.is_resuming()) {
            let proof = prove(live.session().clone(), self.subscribe.queue.clone());
            self.proof = Some(AbortOnDropHandle::new(self.runtime.spawn(proof)));
        }
        if let Some(silence) = &mut self.silence {
            silence.as_mut().reset(Instant::now() + SILENCE);
        }
        self.stage = Stage::Live(live);
    }

    /// What is to be handed out of a stream.
    fn read(&mut self, delivery: Delivery) -> Option<Delivery> {
        let (Some(position), Some(offset)) = (&mut self.position, delivery.offset) else {
            return Some(delivery);
        };
        let reading = position.read(offset, &delivery.message);
        if reading == Reading::Foreign {
            self.restart();
        } else {
            self.proof = None;
        }
        (reading == Reading::New).then_some(delivery)
    }

    /// The stream is not the one that was read, so all that is in it is new.
    fn restart(&mut self) {
        let (Some(position), Stage::Live(_)) = (&mut self.position, &self.stage) else { return };
        tracing::warn!(broker.queue = %self.subscribe.queue, "it was made anew, and is read from its start");
        position.restart();
        if let Stage::Live(live) = std::mem::replace(&mut self.stage, Stage::Ended) {
            self.replace(live);
        }
    }

    /// Whether the stream has said nothing for too long, now that it does or does not.
    fn is_silent(&mut self, says_nothing: bool, cx: &mut Context<'_>) -> bool {
        // One that is being proven has a limit of its own.
        let may_be = self.proof.is_none() && !self.source.stop.is_cancelled();
        let Some(silence) = self.silence.as_mut().filter(|_| may_be) else { return false };
        let is_over = says_nothing && silence.as_mut().poll(cx).is_ready();
        if is_over || !says_nothing {
            silence.as_mut().reset(Instant::now() + SILENCE);
        }
        is_over
    }

    /// Ends it, and returns what is to be closed.
    fn end(&mut self) -> Option<Box<Live>> {
        self.source.stop.cancel();
        match std::mem::replace(&mut self.stage, Stage::Ended) {
            Stage::Live(live) => Some(live),
            Stage::Connecting(_) | Stage::Ended => None,
        }
    }
}

#[async_trait]
impl Subscription for Consumer {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        loop {
            match &mut self.stage {
                Stage::Live(live) => {
                    // Looked at first: what it waited for is at hand by now, if it has come at all.
                    let is_overdue =
                        self.proof.as_mut().is_some_and(|proof| Pin::new(proof).poll(cx).is_ready());
                    let next = live.poll_next(&self.runtime, cx);
                    if is_overdue {
                        self.proof = None;
                        if next.is_pending() {
                            self.restart();
                            continue;
                        }
                    }
                    if self.is_silent(next.is_pending(), cx)
                        && let Stage::Live(live) = std::mem::replace(&mut self.stage, Stage::Ended)
                    {
                        // It has not died, so that is no death.
                        self.go_on_with_another(live);
                        continue;
                    }
                    let Stage::Live(live) = &mut self.stage else { continue };
                    match ready!(next) {
                        Some(delivery) if self.position.is_none() => return Poll::Ready(Some(delivery)),
                        Some(delivery) => match self.read(delivery) {
                            None => {}
                            new => return Poll::Ready(new),
                        },
                        None if self.source.stop.is_cancelled() && !live.is_stale() => {
                            // Cancelled: what was handed out can still be settled, so the channel stays.
                            return Poll::Ready(None);
                        }
                        None => match std::mem::replace(&mut self.stage, Stage::Ended) {
                            Stage::Live(live) => self.replace(live),
                            other => self.stage = other,
                        },
                    }
                }
                Stage::Connecting(next) => match ready!(Pin::new(next).poll(cx)) {
                    // It was there before the cancel, which could not know of it.
                    Ok(Some(live)) if self.source.stop.is_cancelled() => {
                        self.stage = Stage::Ended;
                        self.runtime.spawn(live.retire());
                    }
                    Ok(Some(live)) => self.adopt(live),
                    Ok(None) | Err(_) => self.stage = Stage::Ended,
                },
                Stage::Ended => return Poll::Ready(None),
            }
        }
    }

    fn set_prefetch(&mut self, prefetch: u16) {
        if self.source.stop.is_cancelled() || self.position.is_some() {
            return;
        }
        self.subscribe.prefetch = prefetch;
        if let Stage::Live(live) = &mut self.stage {
            live.set_prefetch(prefetch);
        }
    }

    async fn cancel(&mut self) {
        self.source.stop.cancel();
        if let Stage::Live(live) = &mut self.stage {
            live.cancel().await;
        }
    }

    async fn close(&mut self) {
        if let Some(live) = self.end() {
            // In a task of its own, so that dropping this future leaves nothing half done.
            let _ = tokio::spawn(live.retire()).await;
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        if let Some(live) = self.end() {
            self.runtime.spawn(live.retire());
        }
    }
}

/// Ends when the stream has had the time to show what was read last, and the broker has answered after that: a network
/// that is silent proves nothing.
async fn prove(session: Arc<Session>, stream: Name) {
    sleep(PROOF).await;
    match depth(&session, &stream).await {
        Ok(_) => sleep(ARRIVAL).await,
        // The channel is lost too, and another one takes its place.
        Err(_) => std::future::pending().await,
    }
}

/// How many channels in a row have died early, now that another has.
fn deaths(before: u32, age: Duration, settled: usize) -> u32 {
    let was_useful = age > PROVEN || (age > YOUNG && settled > 0);
    if was_useful { 0 } else { before.saturating_add(1) }
}

impl Source {
    /// Another channel, however long it takes; `None` once the transport is closed. `failed` is the session that the
    /// last one was lost on.
    async fn again(
        &self,
        subscribe: Subscribe,
        position: Option<Box<Position>>,
        mut deaths: u32,
        mut failed: Weak<Session>,
    ) -> Option<Live> {
        loop {
            if deaths > 1 {
                self.pause(deaths - 2).await;
            }
            let session = self.link.session().await?;
            // A stream counts no deliveries, so that nothing there can be used up.
            let is_suspect = deaths >= PROBATION_AFTER && position.is_none();
            let probation = is_suspect.then(|| Box::pin(sleep(PROVEN)));
            // A connection comes with everything declared. On one that lives on, the queue may have been deleted.
            let declared = match failed.as_ptr() == Arc::as_ptr(&session) {
                true => {
                    if let Ok(None) = depth(&session, &subscribe.queue).await {
                        tokio::time::sleep(REDECLARE_AFTER).await;
                    }
                    declare(&session, &self.shared.topology()).await
                }
                false => Ok(()),
            };
            failed = Arc::downgrade(&session);
            let offset = position.as_ref().map(|position| position.argument(Instant::now()));
            let why = match declared {
                Ok(()) => {
                    let terms = Terms { offset, probation, publishes: false };
                    match Live::start(&self.shared, session.clone(), subscribe.clone(), terms).await {
                        Ok(live) => return Some(live),
                        Err(StartError::Lost(why)) => why,
                        Err(StartError::Refused(closed)) => {
                            if refusal::has_no_copy_here(&closed) {
                                self.shared.go_elsewhere(&session);
                            }
                            closed.text
                        }
                    }
                }
                Err(error) => format!("{error:?}"),
            };
            tracing::warn!(broker.queue = %subscribe.queue, reason = why, "cannot consume");
            deaths = deaths.saturating_add(1);
        }
    }

    async fn pause(&self, attempt: u32) {
        sleep(self.shared.options.backoff(attempt, fastrand::f64())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_that_die_young_are_counted() {
        let table = [
            (0, 0, 0, 1),
            (2, 1, 0, 3),
            (2, 1, 9, 3),
            (2, 6, 0, 3),
            (2, 6, 1, 0),
            (2, 31, 0, 0),
            (u32::MAX, 0, 0, u32::MAX),
        ];
        for (before, seconds, settled, expected) in table {
            let found = deaths(before, Duration::from_secs(seconds), settled);
            assert_eq!(found, expected, "{before} {seconds} {settled}");
        }
    }
}
