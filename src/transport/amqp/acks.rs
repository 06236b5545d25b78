//! [`Acks`]: what to acknowledge when, in how few frames. Pure.

use std::collections::VecDeque;

use crate::transport::Settlement;

/// More in a batch gains nothing: the cost is spread over enough already.
const LARGEST_BATCH: usize = 64;

/// A frame to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// All up to this tag.
    AckUpTo(u64),
    Ack(u64),
    Requeue(u64),
    Reject(u64),
}

/// Which deliveries of a channel are out, and which are finished but not yet reported.
///
/// One frame can acknowledge all deliveries up to a tag, so what is finished behind a delivery that is still out waits a
/// while for that one: a frame of its own costs as much as one for many.
///
/// No step looks at all that is out: that may be tens of thousands, for hours, settled in any order. It costs a byte
/// for each delivery since the oldest that is out.
#[derive(Debug)]
pub(super) struct Acks {
    /// From the oldest delivery that is out, by tag.
    window: VecDeque<Slot>,
    /// The tag of the first in the window.
    base: u64,
    /// The last acked one of those before the window, if it is not reported yet.
    prefix: Option<u64>,
    /// How many acked ones before the window are not reported yet.
    before: usize,
    /// How many in the window are.
    behind: usize,
    /// How many are out.
    out: usize,
    /// Their tags, in the order of the acks; and some that lie before the window by now.
    unreported: VecDeque<u64>,
    /// How many of those, the first, were there when the linger ended last.
    aged: usize,
    /// How many may be unsettled.
    prefetch: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    /// Handed out and not settled.
    Out,
    /// Acked, not reported.
    Acked,
    /// Not ours any more.
    Gone,
}

impl Acks {
    pub(super) fn new(prefetch: u16) -> Self {
        Self {
            window: VecDeque::new(),
            base: 0,
            prefix: None,
            before: 0,
            behind: 0,
            out: 0,
            unreported: VecDeque::new(),
            aged: 0,
            prefetch,
        }
    }

    pub(super) fn set_prefetch(&mut self, prefetch: u16) {
        self.prefetch = prefetch;
    }

    /// A quarter, so that the broker never runs out of room to deliver into.
    fn batch(&self) -> usize {
        (usize::from(self.prefetch) / 4).clamp(1, LARGEST_BATCH)
    }

    /// `tag` is handed out. Tags ascend.
    pub(super) fn delivered(&mut self, tag: u64) {
        if self.window.is_empty() {
            self.base = tag;
        }
        while self.base + (self.window.len() as u64) < tag {
            self.window.push_back(Slot::Gone);
        }
        self.window.push_back(Slot::Out);
        self.out += 1;
    }

    /// Whether `tag` was out.
    pub(super) fn settled(&mut self, tag: u64, settlement: Settlement) -> bool {
        let slot =
            tag.checked_sub(self.base).and_then(|index| self.window.get_mut(usize::try_from(index).ok()?));
        let Some(slot @ Slot::Out) = slot else { return false };
        *slot = Slot::Gone;
        self.out -= 1;
        if settlement == Settlement::Ack {
            *slot = Slot::Acked;
            self.behind += 1;
            if tag > self.base {
                self.unreported.push_back(tag);
            }
        }
        while let Some(slot) = self.window.front().filter(|slot| **slot != Slot::Out) {
            if *slot == Slot::Acked {
                self.prefix = Some(self.base);
                self.before += 1;
                self.behind -= 1;
            }
            self.window.pop_front();
            self.base += 1;
        }
        while self.unreported.front().is_some_and(|tag| *tag < self.base) {
            self.forget_first();
        }
        true
    }

    fn forget_first(&mut self) -> Option<u64> {
        self.aged = self.aged.saturating_sub(1);
        self.unreported.pop_front()
    }

    /// How many are acked and not reported.
    pub(super) fn finished(&self) -> usize {
        self.before + self.behind
    }

    /// Whether the broker takes so many for unsettled that it delivers no more.
    pub(super) fn is_full(&self) -> bool {
        self.out + self.finished() >= usize::from(self.prefetch)
    }

    /// What should be sent now: a full batch, or two in single frames if so much waits that the broker may run out of
    /// room to deliver into. The rest lingers, also while nothing else is under way: on a quorum queue an ack of one message
    /// costs the broker as much as an ack of many.
    pub(super) fn due(&self) -> Vec<Frame> {
        let batch = self.batch();
        if self.finished() >= 2 * batch {
            self.frames(self.unreported.len()).take(2 * batch).collect()
        } else if self.before >= batch {
            self.prefix.map(Frame::AckUpTo).into_iter().collect()
        } else {
            Vec::new()
        }
    }

    /// What should be sent at the end of the linger: what lies before the oldest delivery that is out, and what has
    /// waited behind it since the last time.
    pub(super) fn lingered(&mut self) -> Vec<Frame> {
        let frames = self.frames(self.aged).collect();
        self.aged = self.unreported.len();
        frames
    }

    /// All that can be sent.
    pub(super) fn all(&self) -> Vec<Frame> {
        self.frames(self.unreported.len()).collect()
    }

    /// For what lies before the window, and for the first `count` in it.
    fn frames(&self, count: usize) -> impl Iterator<Item = Frame> {
        let tags = self.unreported.iter().take(count).filter(|tag| **tag >= self.base);
        self.prefix.map(Frame::AckUpTo).into_iter().chain(tags.map(|tag| Frame::Ack(*tag)))
    }

    /// To be told of each frame, in the order they were given.
    pub(super) fn sent(&mut self, frame: Frame) {
        match frame {
            Frame::AckUpTo(_) => {
                self.prefix = None;
                self.before = 0;
            }
            Frame::Ack(tag) => {
                while self.forget_first().is_some_and(|first| first != tag) {}
                let slot = tag.checked_sub(self.base).and_then(|index| usize::try_from(index).ok());
                if let Some(slot @ Slot::Acked) = slot.and_then(|index| self.window.get_mut(index)) {
                    *slot = Slot::Gone;
                    self.behind -= 1;
                }
            }
            Frame::Requeue(_) | Frame::Reject(_) => {}
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
    fn what_is_finished_behind_one_that_is_out_waits_for_it_and_not_for_ever() {
        let mut acks = acks(256, 200, &[], &[]);
        for tag in 2..=127 {
            acks.settled(tag, Settlement::Ack);
            assert_eq!(acks.due(), [], "1 is still out");
        }
        assert_eq!(acks.lingered(), [], "they have waited for less than the linger, perhaps");
        assert_eq!(acks.lingered().len(), 126, "each has waited long enough");
        acks.settled(128, Settlement::Ack);
        assert_eq!(acks.due(), []);
        acks.settled(129, Settlement::Ack);
        assert_eq!(acks.due().len(), 128, "half of the prefetch waits");
        acks.settled(1, Settlement::Ack);
        assert_eq!(acks.due(), [AckUpTo(129)]);
    }

    #[test]
    fn tens_of_thousands_may_be_out_for_long_and_each_ack_is_reported_at_the_price_of_one() {
        let mut acks = acks(65_535, 60_000, &[], &[]);
        let mut random = fastrand::Rng::with_seed(7);
        let (mut out, mut next, mut reported) = ((2..=60_000).collect::<Vec<u64>>(), 60_001, 0);
        // The first stays out all the time.
        for _ in 0..200_000 {
            let tag = std::mem::replace(&mut out[random.usize(..59_999)], next);
            acks.delivered(next);
            next += 1;
            acks.settled(tag, Settlement::Ack);
            let frames = acks.due();
            assert!(frames.len() <= 128, "{}", frames.len());
            reported += frames.len();
            frames.into_iter().for_each(|frame| acks.sent(frame));
            assert!(acks.unreported.len() < 128);
        }
        for _ in 0..2 {
            let frames = acks.lingered();
            reported += frames.len();
            frames.into_iter().for_each(|frame| acks.sent(frame));
        }
        assert_eq!(reported, 200_000);
        assert_eq!((acks.finished(), acks.unreported.len()), (0, 0));
        assert_eq!(size_of_val(&acks.window[0]), 1);
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
                let frames = match random.u8(..) {
                    0..10 => acks.all(),
                    10..30 => acks.lingered(),
                    _ => acks.due(),
                };
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
