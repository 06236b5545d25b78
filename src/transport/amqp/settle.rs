//! [`Settler`]: acks in batches. An ack per message is a packet per message, and on a quorum queue a log entry; one ack
//! for many costs as much as one for one.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::MutexGuard;
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

use crate::transport::Settle;
use crate::transport::Settlement;
use crate::transport::amqp::session::InRuntime;

/// How long a finished delivery waits for others at most.
const LINGER: Duration = Duration::from_millis(5);

/// More in a batch gains nothing: the cost is spread over enough already.
const LARGEST_BATCH: usize = 64;

/// A frame to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Frame {
    /// All up to this tag.
    AckUpTo(u64),
    Ack(u64),
    Requeue(u64),
    Reject(u64),
}

/// Which deliveries of a channel are out, and which are finished but not yet reported. Pure: it says what to send.
#[derive(Debug)]
struct Acks {
    /// Handed out and not settled, ascending.
    out: VecDeque<u64>,
    /// Acked and not yet sent.
    finished: Vec<u64>,
    batch: usize,
    /// Nothing is at hand: the subscriber waits for the next delivery.
    idle: bool,
}

/// A quarter, so that the broker never runs out of room to deliver into.
fn batch(prefetch: u16) -> usize {
    (usize::from(prefetch) / 4).clamp(1, LARGEST_BATCH)
}

impl Acks {
    fn new(prefetch: u16) -> Self {
        let batch = batch(prefetch);
        Self { out: VecDeque::new(), finished: Vec::with_capacity(batch), batch, idle: false }
    }

    fn delivered(&mut self, tag: u64) {
        self.idle = false;
        self.out.push_back(tag);
    }

    /// Whether `tag` was out.
    fn settled(&mut self, tag: u64, settlement: Settlement) -> bool {
        let Ok(index) = self.out.binary_search(&tag) else { return false };
        self.out.remove(index);
        if settlement == Settlement::Ack {
            self.finished.push(tag);
        }
        true
    }

    /// What should be sent now: a full batch, or everything if nothing more can join it.
    fn due(&self) -> Vec<Frame> {
        if self.finished.len() >= self.batch || (self.idle && self.out.is_empty()) {
            self.all()
        } else {
            Vec::new()
        }
    }

    /// What can be sent: what lies before the oldest delivery still out in one frame, the rest singly.
    fn all(&self) -> Vec<Frame> {
        let before = self.out.front().copied().unwrap_or(u64::MAX);
        let up_to = self.finished.iter().copied().filter(|tag| *tag < before).max();
        let singly = self.finished.iter().copied().filter(|tag| *tag > before);
        up_to.map(Frame::AckUpTo).into_iter().chain(singly.map(Frame::Ack)).collect()
    }

    fn sent(&mut self, frame: Frame) {
        match frame {
            Frame::AckUpTo(up_to) => self.finished.retain(|tag| *tag > up_to),
            Frame::Ack(sent) => self.finished.retain(|tag| *tag != sent),
            Frame::Requeue(_) | Frame::Reject(_) => {}
        }
    }
}

/// What the deliveries of a channel and its callback share: who holds the lock may send.
pub(super) struct Outstanding {
    state: Mutex<State>,
    /// Nothing may be sent any more. Written under the lock, read without.
    is_dead: AtomicBool,
    /// What was delivered and not handed out yet comes again elsewhere.
    is_stale: AtomicBool,
}

struct State {
    acks: Acks,
    /// Rejections that found no room in the client's queue.
    unsent: Vec<Frame>,
}

impl Outstanding {
    pub(super) fn new(prefetch: u16) -> Arc<Self> {
        let state = State { acks: Acks::new(prefetch), unsent: Vec::new() };
        Arc::new(Self {
            state: Mutex::new(state),
            is_dead: AtomicBool::new(false),
            is_stale: AtomicBool::new(false),
        })
    }

    /// Nothing is sent from now on: a frame on a closed channel costs the whole connection. Called before the client
    /// answers the broker's close, while holding the lock that every send holds.
    pub(super) fn die(&self) {
        let _state = self.state();
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while holding this lock")
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
        self.outstanding.state().acks.delivered(tag);
    }

    /// Nothing is at hand to be handed out.
    pub(super) fn idle(&self) {
        let mut state = self.outstanding.state();
        if !state.acks.idle {
            state.acks.idle = true;
            let frames = state.acks.due();
            self.send(&mut state, &frames);
        }
    }

    /// Sends everything that can be sent, and nothing afterwards.
    pub(super) fn finish(&self) {
        self.flush();
        self.outstanding.die();
    }

    pub(super) fn is_stale(&self) -> bool {
        self.outstanding.is_stale()
    }

    /// The prefetch is another from now on.
    pub(super) fn set_prefetch(&self, prefetch: u16) {
        self.outstanding.state().acks.batch = batch(prefetch);
    }

    /// How many deliveries were settled.
    pub(super) fn settled(&self) -> usize {
        self.settled.load(Ordering::Relaxed)
    }

    /// Sends everything that can be sent.
    fn flush(&self) {
        let mut state = self.outstanding.state();
        let frames = state.acks.all();
        self.send(&mut state, &frames);
    }

    fn send(&self, state: &mut State, frames: &[Frame]) {
        if self.outstanding.is_dead() {
            return;
        }
        while let Some(frame) = state.unsent.first().copied() {
            if !self.try_send(frame) {
                return;
            }
            state.unsent.remove(0);
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
        let mut state = self.outstanding.state();
        if self.outstanding.is_dead() || !state.acks.settled(tag, settlement) {
            return;
        }
        self.settled.fetch_add(1, Ordering::Relaxed);
        let frame = match settlement {
            Settlement::Ack => {
                let frames = state.acks.due();
                self.send(&mut state, &frames);
                if state.acks.finished.len() == 1 {
                    self.waiting.notify_one();
                }
                return;
            }
            Settlement::Requeue => Frame::Requeue(tag),
            Settlement::Reject => Frame::Reject(tag),
        };
        state.unsent.push(frame);
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
        settler.flush();
        if settler.outstanding.is_dead() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use Frame::Ack;
    use Frame::AckUpTo;

    fn acks(prefetch: u16, delivered: u64, acked: &[u64], gone: &[u64]) -> Acks {
        let mut acks = Acks::new(prefetch);
        (1..=delivered).for_each(|tag| acks.delivered(tag));
        gone.iter().for_each(|tag| assert!(acks.settled(*tag, Settlement::Requeue)));
        acked.iter().for_each(|tag| assert!(acks.settled(*tag, Settlement::Ack)));
        acks
    }

    #[test]
    fn what_lies_before_the_oldest_delivery_out_goes_in_one_frame() {
        type Row = (u64, &'static [u64], &'static [u64], Vec<Frame>);
        let table: [Row; 9] = [
            (3, &[], &[], vec![]),
            (3, &[1], &[], vec![AckUpTo(1)]),
            (3, &[2, 1], &[], vec![AckUpTo(2)]),
            (3, &[3, 1, 2], &[], vec![AckUpTo(3)]),
            (3, &[2], &[], vec![Ack(2)]),
            (3, &[3, 1], &[], vec![AckUpTo(1), Ack(3)]),
            // What was requeued is not ours any more; the frame must name a tag that is.
            (3, &[1], &[2], vec![AckUpTo(1)]),
            (3, &[2], &[1], vec![AckUpTo(2)]),
            (3, &[1, 2], &[3], vec![AckUpTo(2)]),
        ];
        for (delivered, acked, gone, expected) in table {
            let mut acks = acks(16, delivered, acked, gone);
            let frames = acks.all();
            assert_eq!(frames, expected, "{delivered} {acked:?} {gone:?}");
            frames.into_iter().for_each(|frame| acks.sent(frame));
            assert_eq!(acks.all(), []);
        }
    }

    #[test]
    fn a_batch_is_a_quarter_of_the_prefetch_within_limits() {
        for (prefetch, batch) in [(1, 1), (4, 1), (8, 2), (100, 25), (256, 64), (65_535, 64)] {
            let mut acks = Acks::new(prefetch);
            for tag in 1..=1000 {
                acks.delivered(tag);
            }
            for tag in 1..batch {
                acks.settled(tag, Settlement::Ack);
                assert_eq!(acks.due(), [], "{prefetch}");
            }
            acks.settled(batch, Settlement::Ack);
            assert_eq!(acks.due(), [AckUpTo(batch)], "{prefetch}");
        }
    }

    #[test]
    fn nothing_lingers_when_nothing_can_join_it() {
        let mut acks = acks(256, 2, &[1], &[]);
        acks.idle = true;
        assert_eq!(acks.due(), [], "2 is still out");
        acks.settled(2, Settlement::Ack);
        assert_eq!(acks.due(), [AckUpTo(2)]);
        acks.delivered(3);
        assert!(!acks.idle);
    }

    #[test]
    fn a_tag_is_settled_once_and_only_if_it_is_out() {
        let mut acks = acks(256, 2, &[], &[]);
        assert!(!acks.settled(3, Settlement::Ack));
        assert!(acks.settled(1, Settlement::Reject));
        assert!(!acks.settled(1, Settlement::Ack));
        assert_eq!(acks.all(), []);
    }

    #[test]
    fn random_settling_acks_each_tag_exactly_once() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let (mut acks, mut next, mut out) = (Acks::new(32), 1_u64, Vec::new());
            // What the broker holds unacked.
            let mut broker = std::collections::BTreeSet::new();
            let mut expected = std::collections::BTreeSet::new();
            for _ in 0..500 {
                if out.len() < 32 && random.bool() {
                    acks.delivered(next);
                    broker.insert(next);
                    out.push(next);
                    next += 1;
                } else if !out.is_empty() {
                    let tag = out.swap_remove(random.usize(..out.len()));
                    let kept = random.u8(..) < 200;
                    acks.settled(tag, if kept { Settlement::Ack } else { Settlement::Requeue });
                    if kept {
                        expected.insert(tag);
                    } else {
                        broker.remove(&tag);
                    }
                }
                let frames = if random.u8(..) < 20 { acks.all() } else { acks.due() };
                for frame in frames {
                    let (Ack(tag) | AckUpTo(tag)) = frame else { panic!("{frame:?}") };
                    assert!(broker.contains(&tag), "seed {seed}: {tag} is not the channel's any more");
                    let acked: Vec<u64> = match frame {
                        AckUpTo(up_to) => broker.range(..=up_to).copied().collect(),
                        _ => vec![tag],
                    };
                    for tag in acked {
                        assert!(expected.remove(&tag), "seed {seed}: {tag} was never acked");
                        broker.remove(&tag);
                    }
                    acks.sent(frame);
                }
            }
        }
    }
}
