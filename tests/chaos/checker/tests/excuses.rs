//! What a fault accounts for, and that it does so only when it was at that time.

use super::Story;
use super::at;
use super::is_end;
use super::is_start;
use super::is_told;
use super::ms;
use super::sound;
use super::task::*;
use crate::checker::Cause;
use crate::checker::Verdict;
use crate::checker::Wrong;
use crate::history::Act;
use crate::history::End;
use crate::history::What;

const C1: &str = "consumer 1";
const C2: &str = "consumer 2";
const BROKER: (&str, &str) = ("killed", "broker");

/// What is added to a sound history, once while a fault accounts for it, and once when that was long before.
struct Excuse {
    name: &'static str,
    fault: (&'static str, &'static str),
    /// When that begins and is over.
    lasts: (u64, u64),
    happens: fn(&mut Story),
    /// What is found without it.
    wrong: Wrong,
    /// What is counted with it.
    counted: fn(&Verdict) -> bool,
}

#[test]
fn what_a_fault_accounts_for_is_counted_and_the_same_without_it_is_found() {
    fn repeated(verdict: &Verdict, cause: Cause) -> bool {
        verdict.repeated.get(&cause) == Some(&if cause == Cause::Redelivered { 6 } else { 1 })
    }
    let unexplained = |task, attempt| Wrong::Unexplained { task, copy: 0, attempt };
    let again: fn(&mut Story) = |it| {
        it.told(PLAIN, "started", 1, 4000).add(
            4000,
            C2,
            What::Started { task: PLAIN, copy: 0, attempt: 1, again: true },
        );
        it.finish(4010, C2, PLAIN, 0, 1, End::Succeeded);
    };
    let cases = [
        Excuse {
            name: "its consumer died before the acknowledgement",
            fault: ("killed", C1),
            lasts: (2400, 2500),
            happens: again,
            wrong: unexplained(PLAIN, 1),
            counted: |it| repeated(it, Cause::Redelivered),
        },
        Excuse {
            name: "its consumer was cut off",
            fault: ("cut", "link consumer 1"),
            lasts: (15, 16),
            happens: again,
            wrong: unexplained(PLAIN, 1),
            counted: |it| repeated(it, Cause::Redelivered),
        },
        Excuse {
            name: "all were cut off, and noticed it late",
            fault: ("cut", "link"),
            lasts: (0, 9),
            happens: again,
            wrong: unexplained(PLAIN, 1),
            counted: |it| repeated(it, Cause::Redelivered),
        },
        Excuse {
            name: "it was frozen with the task in its hands, and did not notice that it was taken from it",
            fault: ("frozen", C2),
            lasts: (5, 300),
            happens: |it| {
                for record in &mut it.0 {
                    if let What::Started { task: PLAIN, again, .. } = &mut record.what {
                        *again = true;
                    }
                }
                it.run(310, C2, PLAIN, 1, End::Succeeded);
            },
            wrong: unexplained(PLAIN, 1),
            counted: |it| repeated(it, Cause::Redelivered),
        },
        Excuse {
            name: "its producer was cut off, and published it again",
            fault: ("cut", "link producer 1"),
            lasts: (1, 3),
            happens: |it| {
                it.run(400, C2, IN_TIME, 1, End::Succeeded);
            },
            wrong: unexplained(IN_TIME, 1),
            counted: |it| repeated(it, Cause::PublishedAgain),
        },
        Excuse {
            name: "the retry was published again",
            fault: ("cut", "link consumer 1"),
            lasts: (21, 30),
            happens: |it| {
                it.run(330, C2, FAILS, 2, End::Succeeded);
            },
            wrong: unexplained(FAILS, 2),
            counted: |it| repeated(it, Cause::PublishedAgain),
        },
        Excuse {
            name: "the broker died while it was delayed",
            fault: BROKER,
            lasts: (900, 950),
            happens: |it| {
                it.run(1500, C2, DELAYED, 1, End::Succeeded);
            },
            wrong: unexplained(DELAYED, 1),
            counted: |it| repeated(it, Cause::DeadLetteredAgain),
        },
        Excuse {
            name: "the broker died while it was delayed, and both came too late",
            fault: BROKER,
            lasts: (20, 60),
            happens: |it| {
                it.drop(|it| matches!(it, What::Dead { task: EXPIRED, .. }));
                it.letter(EXPIRED, "expired-unstarted", 0, 3000).letter(
                    EXPIRED,
                    "expired-unstarted",
                    0,
                    3001,
                );
            },
            wrong: Wrong::Contradicted { task: EXPIRED, ends: vec!["expired", "expired"] },
            counted: |it| it.ended_again.get(&Cause::DeadLetteredAgain) == Some(&1),
        },
        Excuse {
            name: "the consumer did not know of the success, and the deadline passed",
            fault: ("killed", C1),
            lasts: (455, 500),
            happens: |it| {
                it.letter(IN_TIME, "expired-unstarted", 0, 600).told(IN_TIME, "expired", 1, 600);
            },
            wrong: Wrong::Contradicted { task: IN_TIME, ends: vec!["succeeded", "expired"] },
            counted: |it| it.ended_again.get(&Cause::Redelivered) == Some(&1),
        },
        Excuse {
            name: "the dead letter was published, and its consumer died",
            fault: ("killed", C1),
            lasts: (42, 60),
            happens: |it| {
                it.letter(REJECTED, "rejected", 1, 45);
            },
            wrong: Wrong::Contradicted { task: REJECTED, ends: vec!["dead", "dead"] },
            counted: |it| it.ended_again.len() == 1,
        },
        Excuse {
            name: "it was enqueued again, not knowing",
            fault: ("frozen", "consumer 9"),
            lasts: (1, 2),
            happens: |it| {
                it.run(1500, C2, UNKNOWN, 1, End::Succeeded).run(1600, C2, UNKNOWN, 1, End::Succeeded);
                if it.0.iter().any(|it| matches!(&it.what, What::Began { whom, .. } if whom == "consumer 9"))
                {
                    it.act(1000, UNKNOWN, Act::Enqueue);
                }
            },
            wrong: unexplained(UNKNOWN, 1),
            counted: |it| repeated(it, Cause::PublishedAgain),
        },
        Excuse {
            name: "somebody deleted its queue",
            fault: ("deleted", "queue mail"),
            lasts: (5, 100),
            happens: |it| {
                it.drop(|it| is_start(it, PLAIN, 1) || is_end(it, PLAIN, 1));
                it.drop(|it| is_told(it, PLAIN, &["started", "succeeded"]));
            },
            wrong: Wrong::Lost { task: PLAIN },
            counted: |it| it.taken == 1,
        },
        Excuse {
            name: "somebody deleted its lane while it waited for its next attempt",
            fault: ("deleted", "queue taskhare.mail.normal"),
            lasts: (350, 400),
            happens: |it| {
                it.drop(|it| is_start(it, FAILS, 2) || is_end(it, FAILS, 2));
                it.0.retain(|it| !matches!(&it.what, What::Told { task: FAILS, attempt: 2, .. }));
            },
            wrong: Wrong::Lost { task: FAILS },
            counted: |it| it.taken == 1,
        },
        Excuse {
            name: "its consumer did not hear of the cancellation",
            fault: ("cut", "link consumer 2"),
            lasts: (400, 3000),
            happens: |it| {
                it.drop(|it| is_told(it, CANCELLED, &["cancelled"]));
                it.run(3001, C2, CANCELLED, 1, End::Succeeded);
            },
            wrong: Wrong::Cancelled { task: CANCELLED },
            counted: |it| it.cancelled == 0,
        },
        Excuse {
            name: "its consumer did not hear of the other copy",
            fault: ("cut", "link consumer 2"),
            lasts: (400, 3000),
            happens: |it| {
                it.run(3001, C2, RESCHEDULED, 1, End::Succeeded);
            },
            wrong: Wrong::Superseded { task: RESCHEDULED },
            counted: |it| repeated(it, Cause::Rescheduled),
        },
        Excuse {
            name: "its consumer was frozen at the deadline",
            fault: ("frozen", C1),
            lasts: (500, 790),
            happens: |it| {
                it.shift(800, |it| is_start(it, IN_TIME, 1)).shift(810, |it| is_end(it, IN_TIME, 1));
            },
            wrong: Wrong::Late { task: IN_TIME, by: ms(300) },
            counted: |it| it.succeeded == 7,
        },
        Excuse {
            name: "its consumer died before it told of the success",
            fault: ("killed", C1),
            lasts: (1011, 1100),
            happens: |it| {
                it.drop(|it| is_told(it, DELAYED, &["succeeded"]));
            },
            wrong: Wrong::Untold { task: DELAYED, event: "it is succeeded".into() },
            counted: |it| it.untold == 1,
        },
        Excuse {
            name: "a consumer died between the library's start and the handler's",
            fault: ("killed", C2),
            lasts: (450, 480),
            happens: |it| {
                it.told(EXPIRED, "started", 1, 449);
            },
            wrong: Wrong::Unfounded { task: EXPIRED, event: "started (attempt 1)".into() },
            counted: |it| it.untold == 0,
        },
        Excuse {
            name: "the consumer of the tick died",
            fault: ("killed", C2),
            lasts: (5510, 5600),
            happens: |it| {
                it.tick(5700, C1, 2);
            },
            wrong: Wrong::TickRepeated { schedule: "often".into(), sequence: 2 },
            counted: |it| it.ticks_repeated == 1,
        },
        Excuse {
            name: "the tick was in doubt",
            fault: BROKER,
            lasts: (5400, 5450),
            happens: |it| {
                it.tick(5700, C1, 2);
            },
            wrong: Wrong::TickRepeated { schedule: "often".into(), sequence: 2 },
            counted: |it| it.ticks_repeated == 1,
        },
        Excuse {
            name: "the queue of the ticks was deleted",
            fault: ("deleted", "queue mail"),
            lasts: (5400, 5900),
            happens: |it| {
                it.drop(|it| matches!(it, What::Ran { sequence: 2, .. }));
            },
            wrong: Wrong::TickMissing { schedule: "often".into(), planned: at(5500) },
            counted: |it| it.ticks_taken == 1,
        },
    ];
    for Excuse { name, fault: (fault, whom), lasts, happens, wrong, counted } in cases {
        let mut story = sound();
        happens(story.fault(fault, whom, lasts));
        let verdict = story.verdict();
        assert!(verdict.is_clean(), "{name}\n{verdict}");
        assert!(counted(&verdict), "{name}\n{verdict}");
        // The same without it: it comes when all is over.
        let mut story = sound();
        happens(&mut story);
        story.fault(fault, whom, (40_000, 40_100));
        let verdict = story.verdict();
        let found: Vec<&Wrong> = verdict.violations.iter().map(|it| &it.wrong).collect();
        assert_eq!(found, [&wrong], "{name}\n{verdict}");
    }
}
