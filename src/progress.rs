//! [`Report`]: how far an attempt is, and how often that is told. Pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::failures::excerpt;

/// How far apart what is told of one attempt is, at least.
const PERIOD: Duration = Duration::from_millis(100);
/// How much of a note is told, in bytes.
const LONGEST_NOTE: usize = 256;

/// What the handler has said last, and what of it is to be told.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) done: u64,
    pub(crate) total: Option<u64>,
    pub(crate) note: String,
    is_untold: bool,
    /// When the next one may be told; `None`: at once.
    next: Option<Instant>,
    /// Somebody calls [`pass`](Self::pass) then.
    has_timer: bool,
    is_over: bool,
}

/// What is to be done about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Duty {
    /// It is told.
    Tell,
    /// [`pass`](Report::pass) is called then.
    Wake(Instant),
    /// Somebody else does it, or there is nothing to do.
    Nothing,
}

impl Report {
    /// The handler says how far it is. Whether an attempt has begun must be told before: `is_open`.
    pub(crate) fn say(
        &mut self,
        (done, total, note): (u64, Option<u64>, &str),
        now: Instant,
        is_open: bool,
    ) -> Duty {
        if self.is_over {
            return Duty::Nothing;
        }
        (self.done, self.total, self.is_untold) = (done, total, true);
        if self.note != note {
            self.note.clear();
            self.note.push_str(excerpt(note, LONGEST_NOTE));
        }
        match self.next.filter(|next| *next > now) {
            Some(_) if self.has_timer => Duty::Nothing,
            Some(next) => Duty::Wake(next),
            None if is_open => self.tell(now),
            None if self.has_timer => Duty::Nothing,
            None => Duty::Wake(now + PERIOD),
        }
    }

    /// Somebody will call [`pass`](Self::pass).
    pub(crate) fn set_timer(&mut self) {
        self.has_timer = true;
    }

    /// That time has come.
    pub(crate) fn pass(&mut self, now: Instant, is_open: bool) -> Duty {
        self.has_timer = false;
        match self.next.filter(|next| *next > now) {
            _ if !self.is_untold => Duty::Nothing,
            Some(next) => Duty::Wake(next),
            None if is_open => self.tell(now),
            None => Duty::Wake(now + PERIOD),
        }
    }

    /// The attempt has ended: nothing is said any more. Whether the last one is still to be told.
    pub(crate) fn end(&mut self) -> bool {
        self.is_over = true;
        std::mem::take(&mut self.is_untold)
    }

    fn tell(&mut self, now: Instant) -> Duty {
        (self.is_untold, self.next) = (false, Some(now + PERIOD));
        Duty::Tell
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What somebody does with a report.
    enum Act {
        Say,
        Pass,
        End,
    }

    #[test]
    fn what_is_said_is_told_now_later_or_with_the_end() {
        use Act::{End, Pass, Say};
        let started = Instant::now();
        let at = |ms| started + Duration::from_millis(ms);
        let (tell, nothing) = (Duty::Tell, Duty::Nothing);
        let wake = |ms| Duty::Wake(at(ms));
        // Milliseconds, the act, whether it is told that the attempt has begun, what is to be done.
        type Case = (&'static str, Vec<(u64, Act, bool, Duty)>);
        let cases: Vec<Case> = vec![
            ("at once", vec![(0, Say, true, tell), (100, Say, true, tell)]),
            ("nothing twice", vec![(0, Say, true, tell), (50, End, true, nothing)]),
            (
                "the last of many",
                vec![
                    (0, Say, true, tell),
                    (1, Say, true, wake(100)),
                    (2, Say, true, nothing),
                    (100, Pass, true, tell),
                    (101, Say, true, wake(200)),
                    (200, Pass, true, tell),
                ],
            ),
            ("with the end", vec![(0, Say, true, tell), (1, Say, true, wake(100)), (2, End, true, tell)]),
            (
                "nothing after the end",
                vec![
                    (0, Say, true, tell),
                    (1, Say, true, wake(100)),
                    (2, End, true, tell),
                    (100, Pass, true, nothing),
                    (300, Say, true, nothing),
                ],
            ),
            (
                "told before the timer",
                vec![
                    (0, Say, true, tell),
                    (1, Say, true, wake(100)),
                    (150, Say, true, tell),
                    (151, Pass, true, nothing),
                ],
            ),
            (
                "said and told again before a late timer",
                vec![
                    (0, Say, true, tell),
                    (1, Say, true, wake(100)),
                    (150, Say, true, tell),
                    (151, Say, true, nothing),
                    (152, Pass, true, wake(250)),
                ],
            ),
            (
                "not before it is told that it has begun",
                vec![
                    (0, Say, false, wake(100)),
                    (50, Say, false, nothing),
                    (100, Pass, false, wake(200)),
                    (200, Pass, true, tell),
                ],
            ),
        ];
        for (what, steps) in cases {
            let mut report = Report::default();
            for (step, (ms, act, is_open, expected)) in steps.into_iter().enumerate() {
                let duty = match act {
                    Say => report.say((1, None, ""), at(ms), is_open),
                    Pass => report.pass(at(ms), is_open),
                    End => {
                        if report.end() {
                            Duty::Tell
                        } else {
                            Duty::Nothing
                        }
                    }
                };
                if let Duty::Wake(_) = duty {
                    report.set_timer();
                }
                assert_eq!(duty, expected, "{what}: step {step}");
            }
        }
    }

    #[test]
    fn a_note_has_a_limit() {
        let mut report = Report::default();
        report.say((1, None, &"x".repeat(1_000)), Instant::now(), true);
        assert_eq!(report.note.len(), LONGEST_NOTE);
    }
}
