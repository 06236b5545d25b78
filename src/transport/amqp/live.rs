//! [`Live`]: a consuming channel, from its first delivery to its end.

use std::pin::Pin;
use std::sync::Arc;
use std::task::Context;
use std::task::Poll;
use std::task::ready;

use amqprs::channel::BasicCancelArguments;
use amqprs::channel::BasicConsumeArguments;
use amqprs::channel::BasicQosArguments;
use amqprs::channel::ConfirmSelectArguments;
use amqprs::channel::ConsumerMessage;
use tokio::runtime::Handle;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio::time::Sleep;
use tokio::time::timeout;

use crate::error::Error;
use crate::error::Result;
use crate::message::Headers;
use crate::message::Value;
use crate::transport::Delivery;
use crate::transport::Subscribe;
use crate::transport::amqp::callback::Callback;
use crate::transport::amqp::confirms::Confirms;
use crate::transport::amqp::confirms::Unconfirmed;
use crate::transport::amqp::connection::Link;
use crate::transport::amqp::connection::Shared;
use crate::transport::amqp::declare::Closing;
use crate::transport::amqp::properties;
use crate::transport::amqp::refusal;
use crate::transport::amqp::refusal::Closed;
use crate::transport::amqp::session::Failure;
use crate::transport::amqp::session::Session;
use crate::transport::amqp::session::open_channel;
use crate::transport::amqp::settle::Outstanding;
use crate::transport::amqp::settle::Settler;

/// Leaves room for what makes a consumer tag unique within AMQP's 255 bytes.
const LONGEST_TAG: usize = 200;

/// Where a delivery of a stream lies in it: in [`Delivery::offset`] instead of the headers, as it was not published.
const STREAM_OFFSET: &str = "x-stream-offset";

type Messages = UnboundedReceiver<ConsumerMessage>;

/// Why there is no consuming channel.
pub(super) enum StartError {
    Lost(String),
    Refused(Closed),
}

/// How a consuming channel starts.
#[derive(Default)]
pub(super) struct Terms {
    /// Where in a stream.
    pub(super) offset: Option<Value>,
    /// With a prefetch of one, until this is over or as many as asked for are settled.
    pub(super) probation: Option<Pin<Box<Sleep>>>,
    /// In confirm mode, because it publishes as well.
    pub(super) publishes: bool,
}

/// A consuming channel.
pub(super) struct Live {
    session: Arc<Session>,
    closing: Closing,
    /// If it publishes as well.
    confirms: Option<Confirms>,
    settler: Arc<Settler>,
    messages: Messages,
    tag: String,
    since: Instant,
    subscribe: Subscribe,
    /// While deliveries come one at a time, when that ends at the latest.
    probation: Option<Pin<Box<Sleep>>>,
    /// It was on probation and is not any more.
    is_restored: bool,
    /// The prefetch is not the one asked for any more.
    is_outdated: bool,
    /// The same channel with the prefetch asked for, on its way.
    resize: Option<JoinHandle<Option<(String, Messages)>>>,
}

impl Live {
    pub(super) async fn start(
        shared: &Shared,
        session: Arc<Session>,
        subscribe: Subscribe,
        terms: Terms,
    ) -> Result<Self, StartError> {
        let Terms { offset, probation, publishes } = terms;
        let prefetch = if probation.is_some() { 1 } else { subscribe.prefetch.max(1) };
        let outstanding = Outstanding::new(prefetch);
        let closing = Closing::new(session.health().clone());
        let unconfirmed = publishes.then(Unconfirmed::new);
        let callback = Callback {
            closing: closing.clone(),
            deliveries: Some(outstanding.clone()),
            publishes: unconfirmed.clone(),
        };
        let (client, arguments) = (session.client(), consume_arguments(&subscribe, offset));
        let work = async move {
            let channel = open_channel(&client, callback).await?;
            if publishes {
                channel.confirm_select(ConfirmSelectArguments::default()).await?;
            }
            channel.basic_qos(BasicQosArguments::new(0, prefetch, false)).await?;
            let (tag, messages) = channel.basic_consume_rx(arguments).await?;
            Ok((channel, tag, messages))
        };
        let (channel, tag, messages) = match session.request("consume", work).await {
            Ok(started) => started,
            Err(Failure::Lost(why)) => return Err(StartError::Lost(why)),
            Err(Failure::Refused(why)) => {
                return Err(closing.reason().map_or(StartError::Lost(why), StartError::Refused));
            }
        };
        let confirms = unconfirmed.map(|unconfirmed| Confirms::over(channel.clone(), unconfirmed));
        let settler = Settler::new(channel, outstanding, &shared.settling, shared.closing.clone());
        Ok(Self {
            session,
            closing,
            confirms,
            settler,
            messages,
            tag,
            since: Instant::now(),
            subscribe,
            probation,
            is_restored: false,
            is_outdated: false,
            resize: None,
        })
    }

    pub(super) fn session(&self) -> &Arc<Session> {
        &self.session
    }

    pub(super) fn closing(&self) -> &Closing {
        &self.closing
    }

    /// Over which it publishes, if it does.
    pub(super) fn confirms(&self) -> Option<&Confirms> {
        self.confirms.as_ref()
    }

    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// How many deliveries were settled.
    pub(super) fn settled(&self) -> usize {
        self.settler.settled()
    }

    pub(super) fn is_restored(&self) -> bool {
        self.is_restored
    }

    /// What is not handed out yet is not handed out any more.
    pub(super) fn is_stale(&self) -> bool {
        self.settler.is_stale()
    }

    /// Takes effect with the next poll, or when the probation is over.
    pub(super) fn set_prefetch(&mut self, prefetch: u16) {
        self.subscribe.prefetch = prefetch;
        self.is_outdated = true;
    }

    pub(super) fn prefetch(&self) -> u16 {
        self.subscribe.prefetch
    }

    pub(super) fn poll_next(&mut self, runtime: &Handle, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        self.poll_probation(cx);
        if self.is_outdated && self.probation.is_none() && self.resize.is_none() && !self.is_stale() {
            self.start_resize(runtime);
        }
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
                    let Some(resize) = &mut self.resize else { return Poll::Ready(None) };
                    let resized = ready!(Pin::new(resize).poll(cx));
                    self.resize = None;
                    let Ok(Some((tag, messages))) = resized else { return Poll::Ready(None) };
                    (self.tag, self.messages) = (tag, messages);
                    // The broker cancelled the old consumer meanwhile: what comes on this channel would be passed over.
                    if self.is_stale() {
                        return Poll::Ready(None);
                    }
                    if self.is_outdated {
                        self.start_resize(runtime);
                    }
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
        let (mut message, returned) = properties::decode(&properties, content.unwrap_or_default());
        let is_stream = self.subscribe.start.is_some();
        let offset = is_stream.then(|| message.headers.remove(STREAM_OFFSET)).flatten();
        self.settler.delivered(deliver.delivery_tag());
        let mut delivery = Delivery::new(message, deliver.delivery_tag(), self.settler.clone());
        delivery.redelivered = deliver.redelivered();
        delivery.returned = returned;
        delivery.offset = offset.and_then(|offset| offset.as_unsigned());
        delivery.exchange = is_stream.then(|| deliver.exchange().as_str().into());
        Some(delivery)
    }

    fn poll_probation(&mut self, cx: &mut Context<'_>) {
        let Some(end) = &mut self.probation else { return };
        let is_through = self.settler.settled() >= usize::from(self.subscribe.prefetch);
        if is_through || end.as_mut().poll(cx).is_ready() {
            self.probation = None;
            self.is_restored = true;
            self.is_outdated = true;
        }
    }

    /// To the prefetch asked for, on the same channel: what is handed out stays ours. Deliveries of the old consumer
    /// end before those of the new one begin. One that is on its way while the old one is cancelled comes back, and counts
    /// as returned: so that there is none, nothing is acknowledged before. Not for a stream, which would have to be told
    /// where to go on.
    fn start_resize(&mut self, runtime: &Handle) {
        self.is_outdated = false;
        let (session, settler, old) = (self.session.clone(), self.settler.clone(), self.tag.clone());
        let (arguments, prefetch) =
            (consume_arguments(&self.subscribe, None), self.subscribe.prefetch.max(1));
        self.resize = Some(runtime.spawn(async move {
            settler.pause().await;
            settler.set_prefetch(prefetch);
            let channel = settler.clone();
            let work = async move {
                let channel = channel.channel();
                channel.basic_cancel(BasicCancelArguments::new(&old)).await?;
                channel.basic_qos(BasicQosArguments::new(0, prefetch, false)).await?;
                channel.basic_consume_rx(arguments).await
            };
            let resized = session.request("consume", work).await;
            settler.resume();
            resized.ok()
        }));
    }

    /// Only one request at a time may be under way on a channel. Deliveries that the resize brings are given back.
    async fn finish_resize(&mut self) {
        self.probation = None;
        self.is_outdated = false;
        if let Some(resize) = &mut self.resize {
            let resized = resize.await;
            self.resize = None;
            if let Ok(Some((tag, messages))) = resized {
                (self.tag, self.messages) = (tag, messages);
            }
        }
    }

    /// No new deliveries.
    pub(super) async fn cancel(&mut self) {
        self.finish_resize().await;
        let (settler, tag) = (self.settler.clone(), self.tag.clone());
        let work = async move { settler.channel().basic_cancel(BasicCancelArguments::new(&tag)).await };
        // If it fails the channel is gone, which ends deliveries too.
        let _ = self.session.request("cancel a consumer", work).await;
    }

    /// Sends what was settled, and gives back the rest by closing the channel. The answer to the close proves that the
    /// acks were applied.
    pub(super) async fn retire(mut self: Box<Self>) {
        self.finish_resize().await;
        if let Some(confirms) = &self.confirms {
            confirms.abandon();
        }
        self.settler.finish();
        if !self.session.health().is_lost() {
            let settler = self.settler.clone();
            let work = async move { settler.channel().clone().close().await };
            let _ = self.session.request("close a channel", work).await;
        }
    }
}

fn consume_arguments(subscribe: &Subscribe, offset: Option<Value>) -> BasicConsumeArguments {
    let is_too_long = subscribe.tag.len() > LONGEST_TAG;
    let own = if is_too_long { "taskhare" } else { &subscribe.tag };
    let tag = format!("{own}-{:08x}", fastrand::u32(..));
    let mut table = Headers::new();
    if let Some(offset) = offset {
        table.insert(STREAM_OFFSET, offset);
    }
    if let Some(timeout) = subscribe.consumer_timeout {
        table.insert("x-consumer-timeout", timeout);
    }
    let mut arguments = BasicConsumeArguments::new(subscribe.queue.as_str(), &tag);
    arguments.arguments(properties::table(&table));
    arguments
}

/// The first channel of a consumer, within the request timeout; what the broker refuses is the caller's to know.
pub(super) async fn first(
    shared: &Shared,
    link: &Arc<Link>,
    subscribe: &Subscribe,
    terms: impl Fn() -> Terms,
) -> Result<Live> {
    let mut why = String::new();
    let attempts = async {
        loop {
            let session = link.session().await.ok_or(Error::Closed)?;
            match Live::start(shared, session.clone(), subscribe.clone(), terms()).await {
                Ok(live) => return Ok(live),
                Err(StartError::Refused(closed)) if !refusal::is_transient(&closed) => {
                    return Err(refusal::consume(subscribe.queue.as_str(), &closed));
                }
                Err(StartError::Refused(closed)) => {
                    if refusal::has_no_copy_here(&closed) {
                        shared.go_elsewhere(&session);
                    }
                    why = closed.text;
                }
                Err(StartError::Lost(lost)) => why = lost,
            }
            tokio::time::sleep(shared.options.backoff(0, fastrand::f64())).await;
        }
    };
    let limit = shared.options.request_timeout;
    timeout(limit, attempts).await.unwrap_or_else(|_| {
        let action = format!("consume queue '{}' ({why})", subscribe.queue);
        Err(Error::Timeout { action, waited: limit })
    })
}
