//! [`Settler`]: acks in batches. An ack per message is a packet per message, and on a quorum queue a log entry; one ack
//! for many costs as much as one for one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use amqprs::channel::BasicAckArguments;
use amqprs::channel::BasicNackArguments;
use amqprs::channel::BasicRejectArguments;
use amqprs::channel::Channel;
use futures_util::FutureExt;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::lock::Lock;
use crate::transport::Settle;
use crate::transport::Settlement;
use crate::transport::amqp::acks::Acks;
use crate::transport::amqp::acks::Frame;
use crate::transport::amqp::session::InRuntime;

/// How long a finished delivery waits for others at most.
const LINGER: Duration = Duration::from_millis(5);
/// How long a pause waits for what is on its way.
const QUIET: Duration = Duration::from_millis(20);

/// What the deliveries of a channel and its callback share: who holds the lock may send.
pub(super) struct Outstanding {
    state: Lock<State>,
    /// Nothing may be sent any more. Written under the lock, read without.
    is_dead: AtomicBool,
    /// What was delivered and not handed out yet comes again elsewhere.
    is_stale: AtomicBool,
}

struct State {
    acks: Acks,
    /// Rejections that found no room in the client's queue.
    unsent: VecDeque<Frame>,
    /// Nothing is acknowledged for now.
    is_paused: bool,
}

impl Outstanding {
    pub(super) fn new(prefetch: u16) -> Arc<Self> {
        let state = State { acks: Acks::new(prefetch), unsent: VecDeque::new(), is_paused: false };
        Arc::new(Self {
            state: Lock::new(state),
            is_dead: AtomicBool::new(false),
            is_stale: AtomicBool::new(false),
        })
    }

    /// Nothing is sent from now on: a frame on a closed channel costs the whole connection. Called before the client
    /// answers the broker's close, while holding the lock that every send holds.
    pub(super) fn die(&self) {
        let _state = self.state.lock();
        self.is_dead.store(true, Ordering::Release);
        self.is_stale.store(true, Ordering::Release);
    }

    /// What is not handed out yet is not handed out any more. What is can still be settled.
    pub(super) fn go_stale(&self) {
        self.is_stale.store(true, Ordering::Release);
    }

    pub(super) fn is_stale(&self) -> bool {
        self.is_stale.load(Ordering::Acquire)
    }

    fn is_dead(&self) -> bool {
        self.is_dead.load(Ordering::Acquire)
    }
}

/// The channel of a subscription, as its deliveries see it.
pub(super) struct Settler {
    channel: InRuntime<Channel>,
    outstanding: Arc<Outstanding>,
    /// Something is finished and not sent; or the settler is gone.
    waiting: Arc<Notify>,
    settled: AtomicUsize,
}

impl Settler {
    /// `ends` stops the task that sends what lingers, after a last time.
    pub(super) fn new(
        channel: InRuntime<Channel>,
        outstanding: Arc<Outstanding>,
        tasks: &TaskTracker,
        ends: CancellationToken,
    ) -> Arc<Self> {
        let settler =
            Arc::new(Self { channel, outstanding, waiting: Arc::default(), settled: AtomicUsize::new(0) });
        tasks.spawn(linger(Arc::downgrade(&settler), settler.waiting.clone(), ends));
        settler
    }

    pub(super) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// `tag` is handed out.
    pub(super) fn delivered(&self, tag: u64) {
        self.outstanding.state.lock().acks.delivered(tag);
    }

    /// Sends everything that can be sent, and nothing afterwards.
    pub(super) fn finish(&self) {
        self.resume();
        self.outstanding.die();
    }

    pub(super) fn is_stale(&self) -> bool {
        self.outstanding.is_stale()
    }

    /// The prefetch is another from now on.
    pub(super) fn set_prefetch(&self, prefetch: u16) {
        self.outstanding.state.lock().acks.set_prefetch(prefetch);
    }

    /// Acknowledges nothing until told to [`resume`](Self::resume), and returns when as many are unsettled as may
    /// be, so that no more can be on their way, or after 20 ms, when none should be.
    pub(super) async fn pause(&self) {
        self.outstanding.state.lock().is_paused = true;
        let is_full = async {
            while !self.outstanding.state.lock().acks.is_full() {
                tokio::time::sleep(QUIET / 20).await;
            }
        };
        // An error: it is quiet instead.
        let _ = tokio::time::timeout(QUIET, is_full).await;
    }

    /// Acknowledges what has waited for it.
    pub(super) fn resume(&self) {
        self.outstanding.state.lock().is_paused = false;
        self.flush();
    }

    /// How many deliveries were settled.
    pub(super) fn settled(&self) -> usize {
        self.settled.load(Ordering::Relaxed)
    }

    /// Sends everything that can be sent.
    fn flush(&self) {
        let mut state = self.outstanding.state.lock();
        let frames = state.acks.all();
        self.send(&mut state, &frames);
    }

    /// Sends what has lingered long enough, and comes back for the rest.
    fn lingered(&self) {
        let mut state = self.outstanding.state.lock();
        let frames = state.acks.lingered();
        self.send(&mut state, &frames);
        if state.acks.finished() > 0 || !state.unsent.is_empty() {
            self.waiting.notify_one();
        }
    }

    fn send(&self, state: &mut State, frames: &[Frame]) {
        if self.outstanding.is_dead() {
            return;
        }
        while let Some(frame) = state.unsent.front().copied() {
            if !self.try_send(frame) {
                return;
            }
            state.unsent.pop_front();
        }
        if state.is_paused {
            return;
        }
        for frame in frames {
            if !self.try_send(*frame) {
                return;
            }
            state.acks.sent(*frame);
        }
    }

    /// Polls once: the client's queue of 8192 frames has room unless the socket is stuck.
    fn try_send(&self, frame: Frame) -> bool {
        let channel = &self.channel;
        let sent = match frame {
            Frame::AckUpTo(tag) => once(channel.basic_ack(BasicAckArguments::new(tag, true))),
            Frame::Ack(tag) => once(channel.basic_ack(BasicAckArguments::new(tag, false))),
            Frame::Requeue(tag) => once(channel.basic_nack(BasicNackArguments::new(tag, false, true))),
            Frame::Reject(tag) => once(channel.basic_reject(BasicRejectArguments::new(tag, false))),
        };
        // An error says that the connection is gone, and the broker has taken everything back.
        sent.is_some()
    }
}

fn once<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::task::unconstrained(future).now_or_never()
}

impl Settle for Settler {
    fn is_lost(&self) -> bool {
        self.outstanding.is_dead()
    }

    fn settle(&self, tag: u64, settlement: Settlement) {
        let mut state = self.outstanding.state.lock();
        if self.outstanding.is_dead() || !state.acks.settled(tag, settlement) {
            return;
        }
        self.settled.fetch_add(1, Ordering::Relaxed);
        let frame = match settlement {
            Settlement::Ack => {
                let frames = state.acks.due();
                self.send(&mut state, &frames);
                if state.acks.finished() == 1 {
                    self.waiting.notify_one();
                }
                return;
            }
            Settlement::Requeue => Frame::Requeue(tag),
            Settlement::Reject => Frame::Reject(tag),
        };
        state.unsent.push_back(frame);
        let frames = state.acks.all();
        self.send(&mut state, &frames);
        if !state.unsent.is_empty() {
            self.waiting.notify_one();
        }
    }
}

impl Drop for Settler {
    fn drop(&mut self) {
        self.waiting.notify_one();
    }
}

/// Sends what no batch took along in time. Holds the settler only while it sends, not while it waits.
async fn linger(settler: Weak<Settler>, waiting: Arc<Notify>, ends: CancellationToken) {
    loop {
        let last = tokio::select! {
            () = waiting.notified() => ends.run_until_cancelled(tokio::time::sleep(LINGER)).await.is_none(),
            () = ends.cancelled() => true,
        };
        let Some(settler) = settler.upgrade() else { return };
        if last {
            return settler.finish();
        }
        settler.lingered();
        if settler.outstanding.is_dead() {
            return;
        }
    }
}
