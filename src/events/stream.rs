//! [`EventStream`]: a reader of the history.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use futures_util::Stream;

use super::filter::Filter;
use super::letter;
use super::sequences::Place;
use super::sequences::Sequences;
use crate::broker::Broker;
use crate::error::Result;
use crate::event::Batch;
use crate::event::Event;
use crate::log::MARKER;
use crate::log::marker;
use crate::task::TaskId;
use crate::topology::Names;
use crate::transport::Delivery;
use crate::transport::Subscription;

/// How long it may take to write a marker.
const MARKER_TIMEOUT: Duration = Duration::from_secs(30);

/// Events, one after the other: see [`Broker::events`]. Dropped, it stops to read.
///
/// It goes on by itself when the connection is lost and back; it ends when the broker handle is closed or, with
/// [`until_now`](crate::Events::until_now), with what had happened then.
#[must_use = "nothing is read until `next`"]
pub struct EventStream {
    subscription: Box<dyn Subscription>,
    names: Names,
    filter: Filter,
    sequences: Sequences,
    /// Where it ends, if it does: at the message with this correlation id.
    end: Option<String>,
    ready: VecDeque<Event>,
    offset: u64,
    /// When the last thing that was read of happened, since the Unix epoch.
    latest: Duration,
    messages: u64,
    /// It has come to the end.
    is_over: bool,
}

impl EventStream {
    pub(super) async fn new(
        broker: &Broker,
        subscription: Box<dyn Subscription>,
        filter: Filter,
        until_now: bool,
    ) -> Result<Self> {
        let end = if until_now { Some(mark(broker).await?) } else { None };
        Ok(Self {
            subscription,
            names: broker.names().clone(),
            filter,
            sequences: Sequences::default(),
            end,
            ready: VecDeque::new(),
            offset: 0,
            latest: Duration::ZERO,
            messages: 0,
            is_over: false,
        })
    }

    /// The next event; `None` at the end. Cancel-safe.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| self.poll_event(cx)).await
    }

    /// The message of the history that the last event came from. A reader that begins there
    /// ([`from_offset`](crate::Events::from_offset)) gets all events of that message again, and all after them.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many messages it has read.
    pub(super) fn messages(&self) -> u64 {
        self.messages
    }

    /// Whether it has come to the end that it was to have, and not been closed before.
    pub(super) fn has_reached_end(&self) -> bool {
        self.is_over
    }

    /// Goes on behind the end; false if it has not come there.
    pub(super) fn read_on(&mut self) -> bool {
        self.end = None;
        std::mem::take(&mut self.is_over)
    }

    /// The next event or marker. Cancel-safe.
    pub(crate) async fn read(&mut self) -> Option<Read> {
        std::future::poll_fn(|cx| self.poll_read(cx)).await
    }

    pub(super) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        loop {
            match std::task::ready!(self.poll_read(cx)) {
                Some(Read::Event(event)) => return Poll::Ready(Some(event)),
                Some(Read::Marker(_)) => {}
                None => return Poll::Ready(None),
            }
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Option<Read>> {
        while !self.is_over {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(Read::Event(event)));
            }
            let Some(delivery) = std::task::ready!(self.subscription.poll_next(cx)) else {
                return Poll::Ready(None);
            };
            let id = delivery.message.correlation_id.clone();
            if self.end.is_some() && id == self.end {
                self.is_over = true;
                delivery.ack();
                continue;
            }
            self.messages += 1;
            if let Some(id) = id.filter(|_| delivery.message.kind.as_deref() == Some(MARKER)) {
                self.offset = delivery.offset.unwrap_or_default();
                delivery.ack();
                return Poll::Ready(Some(Read::Marker(id)));
            }
            self.take(delivery);
        }
        Poll::Ready(None)
    }

    fn take(&mut self, mut delivery: Delivery) {
        self.offset = delivery.offset.unwrap_or_default();
        let exchange = delivery.exchange.take();
        let message = std::mem::take(&mut delivery.message);
        delivery.ack();
        let filter = &self.filter;
        let mut tell = |event: Event| {
            if filter.lets(&event) {
                self.ready.push_back(event);
            }
        };
        match Batch::open(&message) {
            Some(batch) => match self.sequences.place(&batch.stamp) {
                Place::Known => {}
                Place::Next(missing) => {
                    if missing > 0 {
                        tell(Event::Missed(missing));
                    }
                    if let Some(Event::Task(last)) = batch.events.last() {
                        self.latest = self.latest.max(last.at.duration_since(UNIX_EPOCH).unwrap_or_default());
                    }
                    batch.events.into_iter().for_each(tell);
                }
            },
            None => {
                let event = letter::event(message, exchange.as_deref(), self.latest, &self.names);
                event.map(Event::Task).into_iter().for_each(tell);
            }
        }
    }
}

/// What a reader finds.
pub(crate) enum Read {
    Event(Event),
    /// A message that says nothing, with its correlation id: all that was told before it has been read.
    Marker(String),
}

/// Writes into the history a message that says nothing, after all that this process has to tell so far; its correlation
/// id.
async fn mark(broker: &Broker) -> Result<String> {
    if let Some(journal) = broker.journal() {
        journal.flush().await;
    }
    let id = TaskId::new().to_string();
    broker.history().append(marker(id.clone()), MARKER_TIMEOUT).await?;
    Ok(id)
}

impl Stream for EventStream {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        self.get_mut().poll_event(cx)
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream")
            .field("filter", &self.filter)
            .field("offset", &self.offset)
            .finish_non_exhaustive()
    }
}
