//! [`Consumer`]: a subscription that outlives its channels.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::Weak;
use std::task::Context;
use std::task::Poll;
use std::task::ready;
use std::time::Duration;

use amqprs::Ack;
use amqprs::BasicProperties;
use amqprs::Cancel;
use amqprs::CloseChannel;
use amqprs::Nack;
use amqprs::Return;
use amqprs::callbacks::ChannelCallback;
use amqprs::channel::BasicCancelArguments;
use amqprs::channel::BasicConsumeArguments;
use amqprs::channel::BasicQosArguments;
use amqprs::channel::Channel;
use amqprs::channel::ConsumerMessage;
use amqprs::error::Error as ClientError;
use async_trait::async_trait;
use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio::time::Sleep;
use tokio_util::sync::CancellationToken;

use crate::error::Error;
use crate::error::Result;
use crate::transport::Delivery;
use crate::transport::Subscribe;
use crate::transport::Subscription;
use crate::transport::amqp::connection::Link;
use crate::transport::amqp::connection::Shared;
use crate::transport::amqp::declare::Closing;
use crate::transport::amqp::declare::declare;
use crate::transport::amqp::properties;
use crate::transport::amqp::refusal;
use crate::transport::amqp::refusal::Closed;
use crate::transport::amqp::session::Failure;
use crate::transport::amqp::session::Session;
use crate::transport::amqp::session::open_channel;
use crate::transport::amqp::settle::Outstanding;
use crate::transport::amqp::settle::Settler;

/// After so many channels that died young in a row, deliveries come one at a time: if one of them kills the connection,
/// because the client library cannot decode it, then only that one uses up its delivery limit. This lasts until as many
/// are settled as came at once before, the killer among them.
const PROBATION_AFTER: u32 = 3;

/// A channel that died before this died young.
const YOUNG: Duration = Duration::from_secs(5);

/// A channel that lived so long is fine, whatever it did.
const PROVEN: Duration = Duration::from_secs(30);

/// Leaves room for what makes a consumer tag unique within AMQP's 255 bytes.
const LONGEST_TAG: usize = 200;

type Messages = UnboundedReceiver<ConsumerMessage>;

/// What to consume, and where.
pub(super) struct Source {
    shared: Arc<Shared>,
    link: Arc<Link>,
    subscribe: Subscribe,
    /// No more channels.
    stop: CancellationToken,
}

/// A consuming channel.
struct Live {
    session: Arc<Session>,
    settler: Arc<Settler>,
    messages: Messages,
    tag: String,
    since: Instant,
    /// On probation, when that ends at the latest.
    probation: Option<Pin<Box<Sleep>>>,
    /// It was on probation and is not any more.
    is_restored: bool,
    /// The same channel with the full prefetch, on its way.
    upgrade: Option<JoinHandle<Option<(String, Messages)>>>,
}

enum Stage {
    Live(Box<Live>),
    Connecting(JoinHandle<Option<Box<Live>>>),
    Ended,
}

/// A subscription.
pub(super) struct Consumer {
    source: Arc<Source>,
    stage: Stage,
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
        let queue = &self.source.subscribe.queue;
        f.debug_struct("Consumer").field("queue", queue).field("stage", &stage).finish_non_exhaustive()
    }
}

enum StartError {
    Lost(String),
    Refused(Closed),
}

impl Consumer {
    pub(super) async fn start(shared: Arc<Shared>, link: Arc<Link>, subscribe: Subscribe) -> Result<Self> {
        let stop = shared.closing.child_token();
        let limit = shared.options.request_timeout;
        let source = Arc::new(Source { shared, link, subscribe, stop });
        let Ok(started) = tokio::time::timeout(limit, source.first()).await else {
            let action = format!("consume queue '{}'", source.subscribe.queue);
            return Err(Error::Timeout { action, waited: limit });
        };
        let stage = Stage::Live(Box::new(started?));
        Ok(Self { source, stage, deaths: 0, runtime: Handle::current() })
    }

    /// The channel has ended by itself; another one takes its place.
    fn replace(&mut self, live: Box<Live>) {
        let before = if live.is_restored { 0 } else { self.deaths };
        self.deaths = deaths(before, live.since.elapsed(), live.settler.settled());
        let (source, deaths, session) = (self.source.clone(), self.deaths, Arc::downgrade(&live.session));
        let stop = source.stop.clone();
        self.stage = Stage::Connecting(self.runtime.spawn(async move {
            retire(live).await;
            stop.run_until_cancelled(source.again(deaths, session)).await.flatten().map(Box::new)
        }));
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
                    match ready!(live.poll_next(&self.source.subscribe, &self.runtime, cx)) {
                        Some(delivery) => return Poll::Ready(Some(delivery)),
                        None if self.source.stop.is_cancelled() && !live.settler.is_stale() => {
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
                    Ok(Some(live)) => self.stage = Stage::Live(live),
                    Ok(None) | Err(_) => self.stage = Stage::Ended,
                },
                Stage::Ended => return Poll::Ready(None),
            }
        }
    }

    async fn cancel(&mut self) {
        self.source.stop.cancel();
        let Stage::Live(live) = &mut self.stage else { return };
        live.finish_upgrade().await;
        let (settler, tag) = (live.settler.clone(), live.tag.clone());
        let work = async move { settler.channel().basic_cancel(BasicCancelArguments::new(&tag)).await };
        // If it fails the channel is gone, which ends deliveries too.
        let _ = live.session.request("cancel a consumer", work).await;
    }

    async fn close(&mut self) {
        if let Some(live) = self.end() {
            // In a task of its own, so that dropping this future leaves nothing half done.
            let _ = tokio::spawn(retire(live)).await;
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        if let Some(live) = self.end() {
            self.runtime.spawn(retire(live));
        }
    }
}

/// Sends what was settled, and gives back the rest by closing the channel. The answer to the close proves that the acks
/// were applied.
async fn retire(mut live: Box<Live>) {
    live.finish_upgrade().await;
    live.settler.finish();
    if !live.session.health().is_lost() {
        let settler = live.settler.clone();
        let work = async move { settler.channel().clone().close().await };
        let _ = live.session.request("close a channel", work).await;
    }
}

impl Live {
    fn poll_next(
        &mut self,
        subscribe: &Subscribe,
        runtime: &Handle,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Delivery>> {
        self.poll_probation(subscribe, runtime, cx);
        loop {
            match self.messages.poll_recv(cx) {
                // The broker has taken back, or will, what was not handed out: settling it would do nothing.
                Poll::Ready(Some(_)) if self.settler.is_stale() => {}
                Poll::Ready(Some(message)) => {
                    if let Some(delivery) = self.delivery(message) {
                        return Poll::Ready(Some(delivery));
                    }
                }
                Poll::Ready(None) => {
                    let Some(upgrade) = &mut self.upgrade else { return Poll::Ready(None) };
                    let upgraded = ready!(Pin::new(upgrade).poll(cx));
                    self.upgrade = None;
                    let Ok(Some((tag, messages))) = upgraded else { return Poll::Ready(None) };
                    (self.tag, self.messages) = (tag, messages);
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn delivery(&self, message: ConsumerMessage) -> Option<Delivery> {
        let ConsumerMessage { deliver: Some(deliver), basic_properties: Some(properties), content, .. } =
            message
        else {
            return None;
        };
        let (message, returned) = properties::decode(&properties, content.unwrap_or_default());
        self.settler.delivered(deliver.delivery_tag());
        let mut delivery = Delivery::new(message, deliver.delivery_tag(), self.settler.clone());
        delivery.redelivered = deliver.redelivered();
        delivery.returned = returned;
        Some(delivery)
    }

    /// Back to the full prefetch, on the same channel: what is handed out stays ours.
    fn poll_probation(&mut self, subscribe: &Subscribe, runtime: &Handle, cx: &mut Context<'_>) {
        let Some(end) = &mut self.probation else { return };
        let is_through = self.settler.settled() >= usize::from(subscribe.prefetch);
        if !is_through && end.as_mut().poll(cx).is_pending() {
            return;
        }
        self.probation = None;
        self.is_restored = true;
        let (session, settler, old) = (self.session.clone(), self.settler.clone(), self.tag.clone());
        let (subscribe, prefetch) = (subscribe.clone(), subscribe.prefetch.max(1));
        self.upgrade = Some(runtime.spawn(async move {
            settler.set_prefetch(prefetch);
            let work = async move {
                let channel = settler.channel();
                channel.basic_cancel(BasicCancelArguments::new(&old)).await?;
                channel.basic_qos(BasicQosArguments::new(0, prefetch, false)).await?;
                channel.basic_consume_rx(consume_arguments(&subscribe)).await
            };
            session.request("consume", work).await.ok()
        }));
    }

    /// Only one request at a time may be under way on a channel. Deliveries that the upgrade brings are given back.
    async fn finish_upgrade(&mut self) {
        if let Some(upgrade) = &mut self.upgrade {
            let upgraded = upgrade.await;
            self.upgrade = None;
            if let Ok(Some((tag, messages))) = upgraded {
                (self.tag, self.messages) = (tag, messages);
            }
        }
    }
}

/// How many channels in a row have died early, now that another has.
fn deaths(before: u32, age: Duration, settled: usize) -> u32 {
    let was_useful = age > PROVEN || (age > YOUNG && settled > 0);
    if was_useful { 0 } else { before.saturating_add(1) }
}

fn consume_arguments(subscribe: &Subscribe) -> BasicConsumeArguments {
    let is_too_long = subscribe.tag.len() > LONGEST_TAG;
    let own = if is_too_long { "taskhare" } else { &subscribe.tag };
    let tag = format!("{own}-{:08x}", fastrand::u32(..));
    BasicConsumeArguments::new(subscribe.queue.as_str(), &tag)
}

impl Source {
    /// The first channel: what the broker refuses is the caller's to know.
    async fn first(self: &Arc<Self>) -> Result<Live> {
        loop {
            let session = self.link.session().await.ok_or(Error::Closed)?;
            match self.start(session, self.subscribe.prefetch.max(1)).await {
                Ok(live) => return Ok(live),
                Err(StartError::Refused(closed)) if !refusal::is_transient(&closed) => {
                    return Err(refusal::consume(self.subscribe.queue.as_str(), &closed));
                }
                Err(StartError::Refused(_) | StartError::Lost(_)) => self.pause(0).await,
            }
        }
    }

    /// Another channel, however long it takes; `None` once the transport is closed. `failed` is the session that the
    /// last one was lost on.
    async fn again(&self, mut deaths: u32, mut failed: Weak<Session>) -> Option<Live> {
        loop {
            if deaths > 1 {
                self.pause(deaths - 2).await;
            }
            let session = self.link.session().await?;
            let full = self.subscribe.prefetch.max(1);
            let is_suspect = deaths >= PROBATION_AFTER;
            // A connection comes with everything declared. On one that lives on, the queue may have been deleted.
            let declared = match failed.as_ptr() == Arc::as_ptr(&session) {
                true => declare(&session, &self.shared.topology()).await,
                false => Ok(()),
            };
            failed = Arc::downgrade(&session);
            let why = match declared {
                Ok(()) => match self.start(session, if is_suspect { 1 } else { full }).await {
                    Ok(mut live) => {
                        live.probation = is_suspect.then(|| Box::pin(tokio::time::sleep(PROVEN)));
                        return Some(live);
                    }
                    Err(StartError::Lost(why)) => why,
                    Err(StartError::Refused(closed)) => closed.text,
                },
                Err(error) => format!("{error:?}"),
            };
            tracing::warn!(queue = %self.subscribe.queue, reason = why, "cannot consume");
            deaths = deaths.saturating_add(1);
        }
    }

    async fn pause(&self, attempt: u32) {
        tokio::time::sleep(self.shared.options.backoff(attempt, fastrand::f64())).await;
    }

    async fn start(&self, session: Arc<Session>, prefetch: u16) -> Result<Live, StartError> {
        let outstanding = Outstanding::new(prefetch);
        let closing = Closing::new(session.health().clone());
        let callback = OnChannel { closing: closing.clone(), outstanding: outstanding.clone() };
        let (client, arguments) = (session.client(), consume_arguments(&self.subscribe));
        let work = async move {
            let channel = open_channel(&client, callback).await?;
            channel.basic_qos(BasicQosArguments::new(0, prefetch, false)).await?;
            let (tag, messages) = channel.basic_consume_rx(arguments).await?;
            Ok((channel, tag, messages))
        };
        match session.request("consume", work).await {
            Ok((channel, tag, messages)) => {
                let settler =
                    Settler::new(channel, outstanding, &self.shared.settling, self.shared.closing.clone());
                let since = Instant::now();
                Ok(Live {
                    session,
                    settler,
                    messages,
                    tag,
                    since,
                    probation: None,
                    is_restored: false,
                    upgrade: None,
                })
            }
            Err(Failure::Lost(why)) => Err(StartError::Lost(why)),
            Err(Failure::Refused(why)) => {
                Err(closing.reason().map_or(StartError::Lost(why), StartError::Refused))
            }
        }
    }
}

/// Awaits nothing: it runs in the task that also hands out the deliveries.
struct OnChannel {
    closing: Closing,
    outstanding: Arc<Outstanding>,
}

#[async_trait]
impl ChannelCallback for OnChannel {
    async fn close(&mut self, _: &Channel, close: CloseChannel) -> Result<(), ClientError> {
        self.outstanding.die();
        let closed = self.closing.note(&close);
        tracing::warn!(code = closed.code, reason = closed.text, "the broker closed a consuming channel");
        Ok(())
    }

    /// The queue is gone, or (4.3) a delivery took too long: then the consumer stays registered without deliveries
    /// until its channel is closed.
    async fn cancel(&mut self, _: &Channel, cancel: Cancel) -> Result<(), ClientError> {
        self.outstanding.go_stale();
        tracing::warn!(consumer = cancel.consumer_tag(), "the broker cancelled a consumer");
        Ok(())
    }

    async fn flow(&mut self, _: &Channel, active: bool) -> Result<bool, ClientError> {
        Ok(active)
    }

    async fn publish_ack(&mut self, _: &Channel, _: Ack) {}

    async fn publish_nack(&mut self, _: &Channel, _: Nack) {}

    async fn publish_return(&mut self, _: &Channel, _: Return, _: BasicProperties, _: Vec<u8>) {}
}

impl Drop for OnChannel {
    fn drop(&mut self) {
        self.outstanding.die();
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
