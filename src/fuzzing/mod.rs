//! Everything that reads what came from the broker, in one function, for fuzzing. No part of the API.
//!
//! Whoever may publish to a namespace may publish anything. None of it may panic, take long, or take memory that it does
//! not come with; and what is read as one of ours must be the same when it is written and read again.

mod wire;

use std::collections::HashMap;
use std::fmt::Debug;
use std::time::Duration;
use std::time::UNIX_EPOCH;

use serde::Deserialize;
use serde::Serialize;
use serde::de::IgnoredAny;
use tokio::time::Instant;

use crate::cadence::Cadence;
use crate::cadence::Times;
use crate::control;
use crate::dead::DeadLetter;
use crate::envelope;
use crate::envelope::Death;
use crate::envelope::Envelope;
use crate::event::Batch;
use crate::event::Event;
use crate::event::TaskState;
use crate::events;
use crate::message::Message;
use crate::name::Name;
use crate::reply::Reply;
use crate::retry::RetryPolicy;
use crate::route::Home;
use crate::route::Route;
use crate::schedule;
use crate::schedule::Answer;
use crate::schedule::Entry;
use crate::schedule::Move;
use crate::topology::Names;
use crate::topology::Namespace;
use crate::topology::QueueName;
use crate::unique;
use crate::watch::Now;
use crate::watch::Table;
use crate::watch::Thresholds;

pub use wire::from_bytes;
pub use wire::to_bytes;

/// The clock of whoever reads.
const NOW: Duration = Duration::from_secs(1_800_000_000);
const LATE: Duration = Duration::from_secs(5);

type Reader = fn(&Message) -> bool;

/// What reads messages; whether it took one for one of its own.
const READERS: [(&str, Reader); 10] = [
    ("task", task),
    ("dead letter", dead_letter),
    ("event", event),
    ("fact", fact),
    ("claim", claim),
    ("reply", reply),
    ("schedule", record),
    ("answer", answer),
    ("payload", payload),
    ("text", text),
];

/// The names of all that reads messages.
pub fn readers() -> impl Iterator<Item = &'static str> {
    READERS.iter().map(|(name, _)| *name)
}

/// A payload that can nest in itself, has all kinds of fields, and some that nobody knows.
#[derive(Debug, Serialize, Deserialize)]
enum Payload {
    Leaf,
    Node(Vec<Self>),
    Named { text: String, numbers: Vec<u64>, map: HashMap<String, i8>, other: Option<Box<Self>> },
}

/// Reads `input`, which stands for a message ([`to_bytes`]), by all that reads messages. Which of them took it for one of
/// theirs.
///
/// # Panics
///
/// If something is wrong with one of them.
pub fn read(input: &[u8]) -> Vec<&'static str> {
    let message = from_bytes(input);
    READERS.iter().filter(|(_, reader)| reader(&message)).map(|(name, _)| *name).collect()
}

fn same<T: Debug>(one: &T, other: &T) {
    // Not by `==`: no NaN is like another.
    assert_eq!(format!("{one:?}"), format!("{other:?}"), "it is not the same when it is written and read");
}

fn names() -> (Names, QueueName, Route) {
    let names = Names::new(Namespace::new("ns").expect("a namespace"));
    let queue = QueueName::new("mail").expect("a queue");
    let route = Route::new(&names, queue.clone(), Duration::from_secs(10));
    (names, queue, route)
}

fn task(message: &Message) -> bool {
    let _ = (envelope::due(message), envelope::deadline(message), envelope::lease(message));
    let _ = envelope::returned(message);
    let Ok(task) = Envelope::open(message.clone()) else { return false };
    same(&task, &Envelope::open(task.clone().seal()).expect("a task"));
    let (names, _, route) = names();
    if let Some(policy) = task.policy() {
        let _ = policy.after(task.attempt, 0.5);
    }
    let mut deferred = task.clone();
    deferred.defer(NOW);
    let holder = Name::new("holder", "c0ffee").expect("a name");
    route.publish(task.clone(), NOW);
    route.publish(task.clone().retry(NOW + task.startable().min(NOW), "failed"), NOW);
    route.publish(task.clone().revive(NOW), NOW);
    route.publish(deferred, NOW);
    route.quarantine(task.clone(), NOW);
    route.tick(task.clone(), NOW, &names.schedules());
    route.lease(task, NOW, &holder, Home::Lane);
    true
}

fn dead_letter(message: &Message) -> bool {
    let (names, queue, _) = names();
    let death = Death::read(&message.headers);
    let shown = |letter: &DeadLetter| {
        format!(
            "{:?} {:?} {:?} {:?}",
            letter.enqueued_at(),
            letter.dead_at(),
            letter.failures(),
            letter.change()
        )
    };
    let letter = DeadLetter::read(message.clone(), &queue);
    let is_task = letter.is_task();
    shown(&letter);
    shown(&DeadLetter::read_undeliverable(message.clone()));
    for exchange in [None, Some("ns.dead")] {
        if let Some(event) = events::letter(message.clone(), exchange, NOW, &names) {
            told(&[Event::Task(event)]);
        }
    }
    is_task && death.at.is_some()
}

fn event(message: &Message) -> bool {
    let Some(batch) = Batch::open(message) else { return false };
    told(&batch.events);
    for event in &batch.events {
        if let Event::Task(task) = event {
            let again = Batch::open(&Batch::seal(&batch.stamp, std::slice::from_ref(task), 0));
            same(&again.expect("an event").events[0], event);
        }
    }
    true
}

/// What everybody does who hears of it.
fn told(events: &[Event]) {
    let now = Now { instant: Instant::now(), time: UNIX_EPOCH + NOW };
    let mut table = Table::new(Thresholds::default());
    let mut state: Option<TaskState> = None;
    #[cfg(feature = "stats")]
    let mut stats = crate::stats::Stats::builder().build().expect("the defaults are valid");
    for event in events {
        table.apply(event, now);
        #[cfg(feature = "stats")]
        stats.record(event);
        if let Event::Task(event) = event {
            TaskState::follow(&mut state, event);
        }
    }
    table.tick(now);
    let _ = (table.rest(now.time), table.next(), table.tasks().len(), table.consumers(now.instant).len());
    table.silence(now);
    let _ = state.map(|state| format!("{state:?}"));
}

fn fact(message: &Message) -> bool {
    let Some(fact) = control::Fact::open(message) else { return false };
    same(&fact, &control::Fact::open(&fact.seal()).expect("a fact"));
    true
}

fn claim(message: &Message) -> bool {
    let Some(record) = unique::Record::open(message) else { return false };
    same(&record, &unique::Record::open(&record.clone().seal()).expect("a record"));
    true
}

fn reply(message: &Message) -> bool {
    let Some((id, reply)) = Reply::open(message.clone()) else { return false };
    same(&(id, reply.clone()), &Reply::open(reply.seal(id)).expect("a reply"));
    true
}

fn answer(message: &Message) -> bool {
    let Some((id, answer)) = Answer::open(message.clone()) else { return false };
    assert!(Answer::open(answer.seal(id, NOW)).is_some(), "an answer");
    true
}

fn record(message: &Message) -> bool {
    let _ = schedule::Record::may_be_newer(message);
    match schedule::Record::read(message.clone()) {
        Ok(schedule::Record::Entry(entry)) => {
            let again = schedule::Record::read(entry.envelope(None, NOW).seal());
            same(&schedule::Record::Entry(entry.clone()), &again.expect("an entry"));
            planned(&entry);
        }
        Ok(schedule::Record::Command(command)) => {
            let _ = (command.what.to_string(), command.is_stale(NOW));
            assert!(schedule::Record::read(command.seal()).is_ok(), "a command");
        }
        Ok(schedule::Record::Marker(_)) => {}
        Err(_) => return false,
    }
    true
}

/// What a scheduler does with it.
fn planned(entry: &Entry) {
    let Entry { definition, mut state } = entry.clone();
    let Ok(times) = Times::of(&definition.cadence) else { return };
    for _ in 0..4 {
        match schedule::plan(&definition, &times, &state, NOW, LATE) {
            Move::Wait(_) => break,
            Move::PassOver { passed, .. } => state.pass_over(passed, NOW),
            Move::Fire { planned, passed } => {
                let tick = state.fire(&definition, planned, passed, NOW);
                Entry { definition: definition.clone(), state: state.clone() }
                    .envelope(Some(tick), NOW)
                    .seal();
            }
        }
    }
    state.trigger(&definition, NOW);
    state.fired_by(7);
    state.ended(state.sequence, NOW);
    state.pause();
    state.resume(NOW);
    state.edit(&definition, &definition, NOW);
    let _ = (schedule::next(&definition, &times, &state), entry.is_newer_than(entry));
}

fn payload(message: &Message) -> bool {
    let body = message.body.as_slice();
    let _ = envelope::decode::<IgnoredAny>(body);
    let _ = envelope::decode::<HashMap<String, String>>(body);
    let _ = envelope::decode::<Vec<u64>>(body);
    let _ = envelope::decode::<(String, u32)>(body);
    let Ok(payload) = envelope::decode::<Payload>(body) else { return false };
    // It may be nested as deep as can be read, and one that is must not be too deep to be written.
    assert!(envelope::encode(&payload).is_ok(), "a payload");
    true
}

fn text(message: &Message) -> bool {
    let Ok(text) = std::str::from_utf8(&message.body) else { return false };
    let policy = RetryPolicy::parse(text);
    if let Some(policy) = &policy {
        let _ = (policy.after(u32::MAX, 1.0), policy.to_text());
    }
    let cadence = text.parse::<Cadence>().ok();
    if let Some(times) = cadence.as_ref().and_then(|cadence| Times::of(cadence).ok()) {
        let _ = times.after(Duration::ZERO, NOW);
    }
    policy.is_some() || cadence.is_some()
}
