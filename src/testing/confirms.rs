//! [`Confirms`]: what a broker sends, without its confirms of publishes for a while.

/// `basic.ack`: since it goes to a client, the broker's confirm of a publish.
const ACK: [u8; 4] = [0, 60, 0, 80];
/// `basic.nack`, likewise.
const NACK: [u8; 4] = [0, 60, 0, 120];
/// `channel.close` and its answer, after which the number stands for another channel.
const CHANNEL_END: [[u8; 4]; 2] = [[0, 20, 0, 40], [0, 20, 0, 41]];

const METHOD_FRAME: u8 = 1;
/// Methods, headers, bodies and heartbeats.
const FRAMES: [u8; 4] = [METHOD_FRAME, 2, 3, 8];
/// The type of a frame, its channel and the size of its payload.
const HEAD: usize = 7;
/// What follows the payload.
const FRAME_END: usize = 1;

/// What becomes of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Pass,
    /// Until the next [`Pass`](Self::Pass), or for ever if the channel is closed before.
    Wait,
    Vanish,
}

/// All that comes from one broker's end of a connection goes through it, so that it knows where frames begin. What is
/// no AMQP, such as TLS, it passes on.
#[derive(Debug, Default)]
pub(super) struct Confirms {
    /// The beginning of a frame of which too little is here to tell what it is.
    head: Vec<u8>,
    /// How much of a frame is yet to come, and what becomes of it.
    rest: usize,
    fate: Option<Fate>,
    /// Whole frames, save that the last one may be coming, each with its channel.
    waiting: Vec<(u16, Vec<u8>)>,
    is_foreign: bool,
}

impl Confirms {
    /// What of `bytes`, and of those before, goes on to the client now that confirms meet `fate`.
    pub(super) fn pass(&mut self, fate: Fate, mut bytes: &[u8]) -> Vec<u8> {
        let mut passed = Vec::with_capacity(bytes.len());
        loop {
            if self.rest > 0 {
                let (now, later) = bytes.split_at(bytes.len().min(self.rest));
                self.rest -= now.len();
                self.deal(now, &mut passed);
                bytes = later;
            }
            let is_between_frames = self.rest == 0 && self.head.is_empty();
            if is_between_frames && fate != Fate::Wait {
                let waited = self.waiting.drain(..).flat_map(|(_, frame)| frame);
                passed.extend(waited.filter(|_| fate == Fate::Pass));
            }
            if self.is_foreign || bytes.is_empty() {
                passed.extend_from_slice(bytes);
                return passed;
            }
            let (first, later) = bytes.split_at(1);
            self.head.extend_from_slice(first);
            bytes = later;
            self.begin(fate, &mut passed);
        }
    }

    /// Decides on the frame whose beginning is here, if enough of it is.
    fn begin(&mut self, confirms: Fate, passed: &mut Vec<u8>) {
        if !FRAMES.contains(&self.head[0]) {
            self.is_foreign = true;
            passed.append(&mut self.head);
            return;
        }
        let [kind, c0, c1, s0, s1, s2, s3, method @ ..] = &self.head[..] else { return };
        let size = u32::from_be_bytes([*s0, *s1, *s2, *s3]) as usize;
        let is_method = *kind == METHOD_FRAME && size >= ACK.len();
        if is_method && method.len() < ACK.len() {
            return;
        }
        let channel = u16::from_be_bytes([*c0, *c1]);
        let is = |methods: &[[u8; 4]]| is_method && methods.iter().any(|wanted| wanted == method);
        if is(&CHANNEL_END) {
            self.waiting.retain(|(its, _)| *its != channel);
        }
        let fate = if is(&[ACK, NACK]) { confirms } else { Fate::Pass };
        if fate == Fate::Wait {
            self.waiting.push((channel, Vec::new()));
        }
        self.fate = Some(fate);
        self.rest = HEAD + size + FRAME_END - self.head.len();
        let head = std::mem::take(&mut self.head);
        self.deal(&head, passed);
    }

    /// `bytes` meet the fate of their frame.
    fn deal(&mut self, bytes: &[u8], passed: &mut Vec<u8>) {
        match (self.fate, self.waiting.last_mut()) {
            (Some(Fate::Wait), Some((_, frame))) => frame.extend_from_slice(bytes),
            (Some(Fate::Vanish), _) => {}
            _ => passed.extend_from_slice(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::ACK;
    use super::CHANNEL_END;
    use super::Confirms;
    use super::Fate;
    use super::NACK;

    fn frame(kind: u8, channel: u16, payload: &[u8]) -> Vec<u8> {
        let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&[kind][..], &channel.to_be_bytes(), &size, payload, &[0xCE]].concat()
    }

    fn confirm(method: [u8; 4], channel: u16, tag: u8) -> Vec<u8> {
        frame(1, channel, &[&method[..], &[0, 0, 0, 0, 0, 0, 0, tag, 0]].concat())
    }

    /// What a client gets of `sent`, which comes in reads of `size`, and of the end of the fault after it.
    fn passed(fate: Fate, sent: &[u8], size: usize) -> (Vec<u8>, Vec<u8>) {
        let mut confirms = Confirms::default();
        let first = sent.chunks(size).flat_map(|read| confirms.pass(fate, read)).collect();
        (first, confirms.pass(Fate::Pass, &[]))
    }

    #[test]
    fn confirms_meet_their_fate_and_all_else_passes_however_it_is_read() {
        let deliver = frame(1, 1, &[0, 60, 0, 60, 1, 2, 3]);
        // It looks like a confirm to whoever looks for one anywhere.
        let body = frame(3, 1, &confirm(ACK, 1, 9));
        let (heartbeat, odd) = (frame(8, 0, &[]), frame(1, 1, &[0, 60]));
        let (ack, nack, other) = (confirm(ACK, 1, 1), confirm(NACK, 1, 2), confirm(ACK, 2, 1));
        let closed = CHANNEL_END.map(|method| frame(1, 1, &method));
        let all = [&deliver, &ack, &body, &nack, &heartbeat, &other, &odd].map(Vec::as_slice).concat();
        let rest = [&deliver, &body, &heartbeat, &odd].map(Vec::as_slice).concat();
        let confirms = [&ack, &nack, &other].map(Vec::as_slice).concat();
        let [end, end_ok] = closed.map(|frame| [ack.clone(), other.clone(), frame].concat());
        let tls = [&[0x16, 3, 3, 0, 1][..], &ack].concat();
        // What is sent under which fault, and what of it comes then and when it is over.
        type Case<'a> = (&'a str, Fate, &'a [u8], &'a [u8], &'a [u8]);
        let cases: &[Case<'_>] = &[
            ("no fault", Fate::Pass, &all, &all, &[]),
            ("late", Fate::Wait, &all, &rest, &confirms),
            ("never", Fate::Vanish, &all, &rest, &[]),
            ("a channel is closed", Fate::Wait, &end, &end[ack.len() + other.len()..], &other),
            ("or says so", Fate::Wait, &end_ok, &end_ok[ack.len() + other.len()..], &other),
            ("TLS", Fate::Vanish, &tls, &tls, &[]),
            ("a refusal to speak", Fate::Wait, b"AMQP\x00\x00\x09\x01", b"AMQP\x00\x00\x09\x01", &[]),
        ];
        for (name, fate, sent, now, later) in cases {
            for size in [1, 2, 7, 11, 13, sent.len()] {
                let expected = (now.to_vec(), later.to_vec());
                assert_eq!(passed(*fate, sent, size), expected, "{name}, {size} at a time");
            }
        }
    }

    #[test]
    fn confirms_that_waited_come_between_two_frames_and_before_later_ones() {
        let (early, late) = (confirm(ACK, 1, 1), confirm(ACK, 1, 2));
        let body = frame(3, 1, b"body");
        let mut confirms = Confirms::default();
        assert_eq!(confirms.pass(Fate::Wait, &[&early, &body[..9]].concat()), body[..9]);
        assert_eq!(confirms.pass(Fate::Pass, &[]), [0; 0]);
        let rest = [&body[9..], &late].concat();
        assert_eq!(confirms.pass(Fate::Pass, &rest), [&body[9..], &early, &late].concat());
    }

    #[test]
    fn confirms_that_waited_are_lost_when_confirms_are() {
        let mut confirms = Confirms::default();
        assert_eq!(confirms.pass(Fate::Wait, &confirm(ACK, 1, 1)), [0; 0]);
        assert_eq!(confirms.pass(Fate::Vanish, &[]), [0; 0]);
        assert_eq!(confirms.pass(Fate::Pass, &[]), [0; 0]);
    }
}
