//! Each way to spoil a sound history, and what is found then.

use super::KILL;
use super::Story;
use super::at;
use super::is_end;
use super::is_letter;
use super::is_start;
use super::is_told;
use super::ms;
use super::sound;
use super::task::*;
use crate::checker::Wrong;
use crate::history::End;
use crate::history::Record;
use crate::history::What;

const C2: &str = "consumer 2";

/// What spoils the history, and what is to be found then.
type Case = (&'static str, fn(&mut Story), Wrong);

#[test]
fn each_violation_is_found_and_nothing_else() {
    let cases: Vec<Case> = vec![
        (
            "the load is not done",
            |it| {
                it.drop(|it| matches!(it, What::Invoked { task: UNKNOWN, .. } | What::Unknown { .. }));
            },
            Wrong::Unproven { why: "1 tasks were never tried to be enqueued".into() },
        ),
        (
            "nobody looked",
            |it| {
                it.drop(|it| matches!(it, What::Left { .. }));
            },
            Wrong::Unproven { why: "nobody has looked at the queues at its end".into() },
        ),
        (
            "a task never ends",
            |it| {
                it.drop(|it| is_end(it, PLAIN, 1)).drop(|it| is_told(it, PLAIN, &["succeeded"]));
            },
            Wrong::Lost { task: PLAIN },
        ),
        (
            "a task is gone",
            |it| {
                it.drop(|it| is_letter(it, EXPIRED)).drop(|it| is_told(it, EXPIRED, &["expired"]));
            },
            Wrong::Lost { task: EXPIRED },
        ),
        (
            "a task is gone, though only other lanes were emptied",
            |it| {
                it.drop(|it| is_start(it, PLAIN, 1) || is_end(it, PLAIN, 1));
                it.drop(|it| is_told(it, PLAIN, &["started", "succeeded"]));
                for (queue, messages) in
                    [("taskhare.mail.low", 3), ("taskhare.report.normal", 3), ("report", 3)]
                {
                    it.add(50, "run", What::Emptied { queue: queue.to_owned(), messages });
                }
            },
            Wrong::Lost { task: PLAIN },
        ),
        (
            "a task is gone, whose lane was emptied before it was enqueued",
            |it| {
                it.drop(|it| is_start(it, FAILS, 2) || is_end(it, FAILS, 2));
                it.0.retain(|it| !matches!(&it.what, What::Told { task: FAILS, attempt: 2, .. }));
                let queue = "taskhare.mail.normal".to_owned();
                it.0.insert(
                    0,
                    Record { at: at(0) - 1, who: "run".into(), what: What::Emptied { queue, messages: 3 } },
                );
            },
            Wrong::Lost { task: FAILS },
        ),
        (
            "a retry never comes",
            |it| {
                it.drop(|it| is_start(it, FAILS, 2) || is_end(it, FAILS, 2));
                it.0.retain(|it| !matches!(&it.what, What::Told { task: FAILS, attempt: 2, .. }));
            },
            Wrong::Lost { task: FAILS },
        ),
        (
            "of an unknown task there is a start, and no end",
            |it| {
                it.start(1000, C2, UNKNOWN, 0, 1);
            },
            Wrong::Lost { task: UNKNOWN },
        ),
        (
            "done and dead",
            |it| {
                it.letter(IN_TIME, "expired-in-queue", 0, 501);
            },
            Wrong::Contradicted { task: IN_TIME, ends: vec!["succeeded", "expired"] },
        ),
        (
            "dead twice",
            |it| {
                it.letter(REJECTED, "rejected", 1, 45);
            },
            Wrong::Contradicted { task: REJECTED, ends: vec!["dead", "dead"] },
        ),
        (
            "refused, and run",
            |it| {
                it.run(1000, C2, REFUSED, 1, End::Succeeded);
            },
            Wrong::Invented { task: REFUSED },
        ),
        (
            "never enqueued",
            |it| {
                it.run(1000, C2, COUNT + 3, 1, End::Succeeded);
            },
            Wrong::Invented { task: COUNT + 3 },
        ),
        (
            "a copy that nobody made",
            |it| {
                it.start(1000, C2, PLAIN, 1, 1);
            },
            Wrong::Invented { task: PLAIN },
        ),
        (
            "dead for nothing",
            |it| {
                it.drop(|it| is_end(it, PLAIN, 1)).drop(|it| is_told(it, PLAIN, &["succeeded"]));
                it.letter(PLAIN, "rejected", 1, 30).told(PLAIN, "dead", 1, 30);
            },
            Wrong::Misjudged { task: PLAIN, reason: "rejected".into(), why: "no handler rejected it" },
        ),
        (
            "dead too soon",
            |it| {
                it.drop(|it| is_letter(it, HOPELESS)).letter(HOPELESS, "attempts-exhausted", 3, 1620);
            },
            Wrong::Misjudged {
                task: HOPELESS,
                reason: "attempts-exhausted".into(),
                why: "it has attempts left",
            },
        ),
        (
            "crashed without a crash",
            |it| {
                it.drop(|it| is_letter(it, REJECTED)).letter(REJECTED, "crashed", 1, 41);
            },
            Wrong::Misjudged { task: REJECTED, reason: "crashed".into(), why: "it was not started so often" },
        ),
        (
            "expired before its deadline",
            |it| {
                it.drop(|it| is_letter(it, EXPIRED)).letter(EXPIRED, "expired-unstarted", 0, 498);
            },
            Wrong::Misjudged {
                task: EXPIRED,
                reason: "expired-unstarted".into(),
                why: "its deadline had not passed",
            },
        ),
        (
            "what kills its process is dead for something else",
            |it| {
                it.drop(|it| is_letter(it, FATAL)).letter(FATAL, "attempts-exhausted", 4, 32_000);
            },
            Wrong::Misjudged {
                task: FATAL,
                reason: "attempts-exhausted".into(),
                why: "it has attempts left",
            },
        ),
        (
            "what kills its process is started once more",
            |it| {
                it.start(31_500, C2, FATAL, 0, 1).fault("abort", C2, (31_550, 31_560));
            },
            Wrong::Condemned { task: FATAL, starts: 6 },
        ),
        (
            "what is no task is not found",
            |it| {
                it.drop(|it| is_letter(it, STRAY));
            },
            Wrong::Lost { task: STRAY },
        ),
        (
            "what is no task is dead for something else",
            |it| {
                it.drop(|it| is_letter(it, STRAY)).letter(STRAY, "foreign", 0, 700);
            },
            Wrong::Misjudged {
                task: STRAY,
                reason: "foreign".into(),
                why: "that is not what is wrong with it",
            },
        ),
        (
            "an attempt that goes on is tried again too soon",
            |it| {
                it.shift(1650, |it| is_start(it, STUBBORN, 2));
            },
            Wrong::Early { what: format!("attempt 2 of task {STUBBORN}"), by: ms(48) },
        ),
        (
            "started twice, without a cause",
            |it| {
                it.run(40, C2, PLAIN, 1, End::Succeeded);
            },
            Wrong::Unexplained { task: PLAIN, copy: 0, attempt: 1 },
        ),
        (
            "a retry started twice, without a cause",
            |it| {
                it.run(340, C2, FAILS, 2, End::Succeeded);
            },
            Wrong::Unexplained { task: FAILS, copy: 0, attempt: 2 },
        ),
        (
            "started a third time, though only one run was interrupted",
            |it| {
                it.run(KILL.0 + 4000, C2, INTERRUPTED, 1, End::Succeeded);
            },
            Wrong::Unexplained { task: INTERRUPTED, copy: 0, attempt: 1 },
        ),
        (
            "an attempt is left out",
            |it| {
                it.drop(|it| is_start(it, HOPELESS, 2) || is_end(it, HOPELESS, 2));
                it.0.retain(|it| !matches!(&it.what, What::Told { task: HOPELESS, attempt: 2, .. }));
            },
            Wrong::Skipped { task: HOPELESS, attempt: 3 },
        ),
        (
            "tried again after a success",
            |it| {
                it.run(1000, C2, PLAIN, 2, End::Succeeded);
            },
            Wrong::Skipped { task: PLAIN, attempt: 2 },
        ),
        (
            "tried once too often",
            |it| {
                it.run(2000, C2, HOPELESS, 5, End::Failed);
            },
            Wrong::Beyond { task: HOPELESS, attempt: 5 },
        ),
        (
            "started before it is due",
            |it| {
                it.shift(997, |it| is_start(it, DELAYED, 1));
            },
            Wrong::Early { what: format!("attempt 1 of task {DELAYED}"), by: ms(2) },
        ),
        (
            "tried again too soon",
            |it| {
                it.shift(315, |it| is_start(it, FAILS, 2));
            },
            Wrong::Early { what: format!("attempt 2 of task {FAILS}"), by: ms(4) },
        ),
        (
            "the new copy is too early",
            |it| {
                it.shift(1400, |it| is_start(it, RESCHEDULED, 1));
            },
            Wrong::Early { what: format!("attempt 1 of task {RESCHEDULED}"), by: ms(99) },
        ),
        (
            "started after its deadline",
            |it| {
                it.shift(800, |it| is_start(it, IN_TIME, 1)).shift(810, |it| is_end(it, IN_TIME, 1));
            },
            Wrong::Late { task: IN_TIME, by: ms(300) },
        ),
        (
            "cancelled, and started",
            |it| {
                it.drop(|it| is_told(it, CANCELLED, &["cancelled"]));
                it.run(3001, C2, CANCELLED, 1, End::Succeeded);
            },
            Wrong::Cancelled { task: CANCELLED },
        ),
        (
            "the old copy is started",
            |it| {
                it.run(3001, C2, RESCHEDULED, 1, End::Succeeded);
            },
            Wrong::Superseded { task: RESCHEDULED },
        ),
        (
            "no event of a start",
            |it| {
                it.drop(|it| is_told(it, PLAIN, &["started"]));
            },
            Wrong::Untold { task: PLAIN, event: "attempt 1 has started".into() },
        ),
        (
            "no event of a success",
            |it| {
                it.drop(|it| is_told(it, PLAIN, &["succeeded"]));
            },
            Wrong::Untold { task: PLAIN, event: "it is succeeded".into() },
        ),
        (
            "no event of a death",
            |it| {
                it.drop(|it| is_told(it, REJECTED, &["dead"]));
            },
            Wrong::Untold { task: REJECTED, event: "it is dead".into() },
        ),
        (
            "no event of a cancellation",
            |it| {
                it.drop(|it| is_told(it, CANCELLED, &["cancelled"]));
            },
            Wrong::Untold { task: CANCELLED, event: "it is cancelled".into() },
        ),
        (
            "an event of a success that never was",
            |it| {
                it.told(REJECTED, "succeeded", 1, 42);
            },
            Wrong::Unfounded { task: REJECTED, event: "succeeded (attempt 1)".into() },
        ),
        (
            "an event of a start that never was",
            |it| {
                it.told(EXPIRED, "started", 1, 100);
            },
            Wrong::Unfounded { task: EXPIRED, event: "started (attempt 1)".into() },
        ),
        (
            "an event of a cancellation that nobody wished",
            |it| {
                it.told(PLAIN, "cancelled", 1, 100);
            },
            Wrong::Unfounded { task: PLAIN, event: "cancelled (attempt 1)".into() },
        ),
        (
            "a tick is missing",
            |it| {
                it.drop(|it| matches!(it, What::Ran { sequence: 2, .. }));
            },
            Wrong::TickMissing { schedule: "often".into(), planned: at(5500) },
        ),
        (
            "the last tick is missing",
            |it| {
                it.drop(|it| matches!(it, What::Ran { sequence: 3, .. }));
            },
            Wrong::TickMissing { schedule: "often".into(), planned: at(6000) },
        ),
        (
            "a tick is run twice",
            |it| {
                it.tick(5600, C2, 2);
            },
            Wrong::TickRepeated { schedule: "often".into(), sequence: 2 },
        ),
        (
            "two tasks are one tick",
            |it| {
                it.tick(5600, C2, 2);
                let What::Ran { id, .. } = &mut it.0.last_mut().unwrap().what else { panic!("a tick") };
                *id = "another".to_owned();
            },
            Wrong::TickDoubled { schedule: "often".into(), sequence: 2 },
        ),
        (
            "a tick after the last one",
            |it| {
                it.tick(6501, C2, 4);
            },
            Wrong::TickUnplanned { schedule: "often".into(), planned: at(6500) },
        ),
        (
            "a tick before its time",
            |it| {
                it.shift(5490, |it| matches!(it, What::Ran { sequence: 2, .. }));
            },
            Wrong::Early { what: "tick 2 of often".into(), by: ms(10) },
        ),
        (
            "a number is left out",
            |it| {
                for record in &mut it.0 {
                    if let What::Ran { sequence: sequence @ 3, .. } = &mut record.what {
                        *sequence = 4;
                    }
                }
            },
            Wrong::TickMiscounted { schedule: "often".into(), sequence: 3 },
        ),
        (
            "a queue is not empty",
            |it| {
                it.left(3);
            },
            Wrong::Left { queue: "mail.normal".into(), messages: 3, nominal: 0 },
        ),
        (
            "a channel is left",
            |it| {
                let counted =
                    What::Counted { before: false, connections: 5, channels: 10, consumers: 6, queues: 70 };
                it.add(57_500, "run", counted);
            },
            Wrong::Counted { what: "channels", before: 9, after: 10 },
        ),
        (
            "a process has grown",
            |it| {
                it.add(57_500, C2, What::Held { before: false, memory: 12_000, tasks: 90, files: 10 });
            },
            Wrong::Held { who: C2.into(), what: "tasks", before: 10, after: 90 },
        ),
    ];
    for (name, spoil, expected) in cases {
        let mut story = sound();
        spoil(&mut story);
        let verdict = story.verdict();
        let found: Vec<&Wrong> = verdict.violations.iter().map(|it| &it.wrong).collect();
        assert_eq!(found, [&expected], "{name}\n{verdict}");
        assert!(verdict.violations.iter().all(|it| !it.proof.is_empty()), "{name}: nothing proves it");
        let is_loss = matches!(expected, Wrong::Lost { .. });
        assert_eq!(verdict.lost, usize::from(is_loss), "{name}");
    }
}
