//! Schedules that somebody declares, changes, asks about and removes.

use std::time::Duration;
use std::time::SystemTime;

use taskhare::Broker;
use taskhare::Cadence;
use taskhare::Consumer;
use taskhare::DeadReason;
use taskhare::Error;
use taskhare::Overlap;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Schedule;
use taskhare::ScheduleStatus;
use taskhare::Scheduler;
use taskhare::Task;
use taskhare::transport::Headers;
use taskhare::transport::Message;
use taskhare::transport::Name;
use taskhare::transport::Publish;
use taskhare::transport::Value;

use crate::support::Act;
use crate::support::Actor;
use crate::support::Seen;
use crate::support::eventually;
use crate::support::soon_after;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// A payload that nobody can write.
#[derive(serde::Deserialize)]
struct Unwritable;

impl serde::Serialize for Unwritable {
    fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("cannot be written"))
    }
}

impl Task for Unwritable {
    const NAME: &'static str = "unwritable";
    type Output = ();
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Large(String);

impl Task for Large {
    const NAME: &'static str = "large";
    type Output = ();
}

struct Setup {
    broker: Broker,
    actor: Actor,
    scheduler: Scheduler,
    _consumer: Consumer,
}

/// A scheduler with the schedule `sweep`, every ten seconds.
async fn setup() -> Setup {
    let (broker, actor) = (Broker::in_process(), Actor::new());
    let consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    let scheduler = start(&broker, sweep()).await;
    Setup { broker, actor, scheduler, _consumer: consumer }
}

fn sweep() -> Schedule {
    Schedule::new("sweep", 10 * SECOND, Act::Succeed)
}

async fn start(broker: &Broker, schedule: Schedule) -> Scheduler {
    Scheduler::builder(broker).schedule(schedule).start().await.unwrap()
}

async fn status(broker: &Broker) -> ScheduleStatus {
    broker.schedules().get("sweep").await.unwrap().unwrap()
}

fn after(earlier: SystemTime, later: SystemTime) -> Duration {
    later.duration_since(earlier).unwrap()
}

/// How far apart the ticks were planned.
fn gaps(seen: &[Seen]) -> Vec<Duration> {
    seen.windows(2).map(|pair| after(pair[0].tick().planned_at(), pair[1].tick().planned_at())).collect()
}

fn sequences(seen: &[Seen]) -> Vec<u64> {
    seen.iter().map(|seen| seen.tick().sequence()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_paused_schedule_stands_still_and_nothing_of_it_is_made_up_for() {
    let Setup { broker, actor, scheduler, _consumer } = setup().await;
    actor.wait_for(1).await;
    let schedules = broker.schedules();
    schedules.pause("sweep").await.unwrap();
    schedules.pause("sweep").await.unwrap();
    assert!(status(&broker).await.is_paused());
    assert_eq!(status(&broker).await.next_tick(), None);
    tokio::time::sleep(10 * MINUTE).await;
    scheduler.shutdown().await;
    // Whoever takes over leaves it paused, and so does whoever declares it.
    let _next = start(&broker, sweep()).await;
    tokio::time::sleep(10 * MINUTE).await;
    assert_eq!(actor.seen().len(), 1);
    schedules.resume("sweep").await.unwrap();
    schedules.resume("sweep").await.unwrap();
    assert!(!status(&broker).await.is_paused());
    let seen = actor.wait_for(3).await;
    assert_eq!(sequences(&seen), [1, 2, 3]);
    assert!(gaps(&seen)[0] >= 20 * MINUTE && gaps(&seen)[1] == 10 * SECOND, "{seen:?}");
    assert!(gaps(&seen)[0].as_millis().is_multiple_of(10_000), "still on its grid: {seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_triggered_tick_counts_and_moves_no_other() {
    let setup = setup().await;
    let Setup { broker, actor, .. } = &setup;
    actor.wait_for(1).await;
    tokio::time::sleep(4 * SECOND).await;
    broker.schedules().trigger("sweep").await.unwrap();
    let seen = actor.wait_for(3).await;
    assert_eq!(sequences(&seen), [1, 2, 3]);
    let triggered: Vec<_> = seen.iter().map(|seen| seen.tick().is_triggered()).collect();
    assert_eq!(triggered, [false, true, false]);
    assert!(soon_after(seen[1].at - seen[0].at, 4 * SECOND), "at once: {seen:?}");
    let moment = after(seen[0].tick().planned_at(), seen[1].tick().planned_at());
    assert!(soon_after(moment, 4 * SECOND), "planned when it was asked for: {moment:?}");
    assert_eq!(after(seen[0].tick().planned_at(), seen[2].tick().planned_at()), 10 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_paused_schedule_can_be_triggered_and_stays_paused() {
    let setup = setup().await;
    let Setup { broker, actor, .. } = &setup;
    let schedules = broker.schedules();
    schedules.pause("sweep").await.unwrap();
    schedules.trigger("sweep").await.unwrap();
    schedules.trigger("sweep").await.unwrap();
    assert_eq!(sequences(&actor.wait_for(2).await), [1, 2]);
    tokio::time::sleep(MINUTE).await;
    assert_eq!(actor.seen().len(), 2);
    let status = status(broker).await;
    assert_eq!((status.is_paused(), status.ticks()), (true, 2));
}

#[tokio::test(start_paused = true)]
async fn a_removed_schedule_that_is_declared_again_is_another() {
    let setup = setup().await;
    let Setup { broker, actor, .. } = &setup;
    let schedules = broker.schedules();
    actor.wait_for(2).await;
    schedules.remove("sweep").await.unwrap();
    assert!(schedules.get("sweep").await.unwrap().is_none());
    assert!(schedules.list().await.unwrap().is_empty());
    tokio::time::sleep(MINUTE).await;
    assert_eq!(actor.seen().len(), 2);
    let _other = start(broker, sweep()).await;
    let seen = actor.wait_for(4).await;
    assert_eq!(sequences(&seen), [1, 2, 1, 2]);
    let mut ids: Vec<_> = seen.iter().map(|seen| seen.id).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4, "no task of the one is one of the other");
}

#[tokio::test(start_paused = true)]
async fn a_removed_schedule_is_gone_for_the_next_scheduler_too() {
    let Setup { broker, actor, scheduler, _consumer } = setup().await;
    actor.wait_for(1).await;
    broker.schedules().remove("sweep").await.unwrap();
    scheduler.shutdown().await;
    let _next = Scheduler::builder(&broker).start().await.unwrap();
    assert!(broker.schedules().list().await.unwrap().is_empty());
    tokio::time::sleep(MINUTE).await;
    assert_eq!(actor.seen().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn schedules_are_listed_by_name_with_their_next_tick_and_their_last() {
    let setup = setup().await;
    let Setup { broker, actor, .. } = &setup;
    let producer = Producer::builder(broker).build().await.unwrap();
    let yearly = Cadence::cron("@yearly").zone("Asia/Tokyo");
    producer.schedule("yearly", yearly.clone(), Act::Fail).queue("reports").await.unwrap();
    producer.schedule("a", 3 * MINUTE, Act::Succeed).overlap(Overlap::Skip).await.unwrap();
    actor.wait_for(1).await;
    let all = broker.schedules().list().await.unwrap();
    assert_eq!(all.iter().map(ScheduleStatus::name).collect::<Vec<_>>(), ["a", "sweep", "yearly"]);
    let [a, sweep, yearly_status] = &all[..] else { panic!("{all:?}") };
    assert_eq!((sweep.task(), sweep.queue(), sweep.ticks()), ("act", "default", 1));
    let last = sweep.last_tick().unwrap();
    let planned = actor.seen()[0].tick().planned_at();
    assert_eq!(last.planned_at(), planned);
    assert!(after(last.planned_at(), last.fired_at()) < SECOND);
    assert_eq!(sweep.next_tick(), Some(planned + 10 * SECOND));
    assert_eq!((a.ticks(), a.last_tick().is_none(), a.running()), (0, true, 0));
    assert_eq!((yearly_status.queue(), yearly_status.cadence()), ("reports", &yearly));
    let expected = yearly.after(planned).unwrap().next();
    assert_eq!(yearly_status.next_tick(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_nobody_knows_is_said_to_be_unknown() {
    let setup = setup().await;
    let Setup { broker, .. } = &setup;
    let schedules = broker.schedules();
    let results = [
        schedules.pause("nobody").await,
        schedules.resume("nobody").await,
        schedules.trigger("nobody").await,
        schedules.remove("nobody").await,
    ];
    for result in results {
        assert!(matches!(&result, Err(Error::NoSchedule { name }) if name == "nobody"), "{result:?}");
    }
    assert!(schedules.get("nobody").await.unwrap().is_none());
    for name in [String::new(), "x".repeat(256)] {
        let error = schedules.pause(&name).await.unwrap_err();
        assert!(matches!(&error, Error::InvalidName { what: "schedule", .. }), "{error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_that_no_scheduler_answers_is_made_once_one_runs() {
    let Setup { broker, actor, scheduler, _consumer } = setup().await;
    actor.wait_for(1).await;
    scheduler.shutdown().await;
    let schedules = broker.schedules().within(5 * SECOND);
    for error in [
        schedules.list().await.unwrap_err(),
        schedules.get("sweep").await.unwrap_err(),
        schedules.pause("sweep").await.unwrap_err(),
    ] {
        assert!(matches!(error, Error::NoScheduler { waited } if waited == 5 * SECOND), "{error:?}");
        assert!(error.is_transient());
    }
    let _next = Scheduler::builder(&broker).start().await.unwrap();
    assert!(status(&broker).await.is_paused());
    // What it missed before it was paused is not lost on it: it was late already.
    let before = actor.seen().len();
    tokio::time::sleep(MINUTE).await;
    assert_eq!(actor.seen().len(), before);
}

#[tokio::test(start_paused = true)]
async fn to_declare_the_same_again_changes_nothing() {
    let setup = setup().await;
    let Setup { broker, actor, .. } = &setup;
    let producer = Producer::builder(broker).build().await.unwrap();
    for count in 1..10 {
        actor.wait_for(count).await;
        tokio::time::sleep(5 * SECOND).await;
        producer.schedule("sweep", 10 * SECOND, Act::Succeed).await.unwrap();
        // What differs by less than can travel is the same.
        producer.schedule("sweep", 10 * SECOND, Act::Succeed).jitter(Duration::from_nanos(1)).await.unwrap();
    }
    let seen = actor.wait_for(10).await;
    assert_eq!(sequences(&seen), (1..=10).collect::<Vec<_>>());
    assert!(gaps(&seen).iter().all(|gap| *gap == 10 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn an_edit_of_what_is_enqueued_keeps_the_grid_and_the_count() {
    let setup = setup().await;
    let Setup { broker, actor, .. } = &setup;
    let producer = Producer::builder(broker).build().await.unwrap();
    actor.wait_for(2).await;
    tokio::time::sleep(7 * SECOND).await;
    let policy = RetryPolicy::fixed(SECOND);
    producer.schedule("sweep", 10 * SECOND, Act::FailOnce).retry(policy).await.unwrap();
    let seen = actor.wait_for(4).await;
    assert_eq!(sequences(&seen), [1, 2, 3, 3], "the new payload fails once");
    assert_eq!(gaps(&seen)[..2], [10 * SECOND, 10 * SECOND]);
}

#[tokio::test(start_paused = true)]
async fn an_edit_of_the_cadence_counts_from_then() {
    let setup = setup().await;
    let Setup { broker, actor, .. } = &setup;
    let producer = Producer::builder(broker).build().await.unwrap();
    let before = actor.wait_for(2).await;
    tokio::time::sleep(7 * SECOND).await;
    let edited = actor.clone();
    producer.schedule("sweep", MINUTE, Act::Succeed).await.unwrap();
    let seen = edited.wait_for(4).await;
    assert_eq!(sequences(&seen), [1, 2, 3, 4]);
    assert!(soon_after(seen[2].at - before[1].at, 67 * SECOND), "{seen:?}");
    assert_eq!(gaps(&seen)[2], MINUTE);
}

/// What was not planned, because there were enough, nobody missed.
#[tokio::test(start_paused = true)]
async fn a_limit_that_is_lifted_counts_from_then() {
    let setup = setup().await;
    let Setup { broker, actor, .. } = &setup;
    let producer = Producer::builder(broker).build().await.unwrap();
    let declare = async |limit| {
        producer.schedule("sweep", 10 * SECOND, Act::Succeed).limit(limit).await.unwrap();
    };
    declare(2).await;
    tokio::time::sleep(10 * MINUTE + 3 * SECOND).await;
    assert_eq!(sequences(&actor.seen()), [1, 2]);
    declare(4).await;
    let seen = actor.wait_for(4).await;
    assert_eq!(gaps(&seen)[1..], [10 * MINUTE - 10 * SECOND, 10 * SECOND]);
}

#[tokio::test(start_paused = true)]
async fn of_two_definitions_the_last_wins() {
    let setup = setup().await;
    let Setup { broker, actor, .. } = &setup;
    let producer = Producer::builder(broker).build().await.unwrap();
    for seconds in [7, 3, 9, 5] {
        producer.schedule("sweep", seconds * SECOND, Act::Succeed).await.unwrap();
    }
    let seen = actor.wait_for(4).await;
    assert_eq!(sequences(&seen), [1, 2, 3, 4]);
    assert!(gaps(&seen).iter().all(|gap| *gap == 5 * SECOND), "{seen:?}");
    assert_eq!(status(broker).await.cadence(), &Cadence::every(5 * SECOND));
}

async fn publish(broker: &Broker, message: Message) {
    let name = |name| Name::new("name", name).unwrap();
    let (exchange, key) = (name("taskhare.tasks"), name("schedules"));
    let publish = Publish { exchange, key, mandatory: true, message };
    broker.transport().publish(&publish, SECOND).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_nothing_of_a_schedulers_is_set_aside_and_disturbs_nothing() {
    let setup = setup().await;
    let Setup { broker, actor, .. } = &setup;
    actor.wait_for(1).await;
    let of_kind = |kind: &'static str| Message { kind: Some(kind.into()), ..Message::default() };
    let id = Some("00000000-0000-7000-8000-000000000000".to_owned());
    let garbled: Headers =
        [("taskhare-schedule", Value::Table([("name", Value::Int(7))].into_iter().collect()))]
            .into_iter()
            .collect();
    let strange = [
        Message { body: b"{}".to_vec(), ..Message::default() },
        of_kind("taskhare.schedule.pause"),
        Message { id: id.clone(), ..of_kind("act") },
        Message { id, content_type: Some("application/msgpack".into()), headers: garbled, ..of_kind("act") },
    ];
    let count = strange.len();
    for message in strange {
        publish(broker, message).await;
    }
    let letters = async || broker.undeliverable().list(100).await.unwrap();
    eventually("they are set aside", async || letters().await.len() == count).await;
    assert!(letters().await.iter().all(|letter| letter.reason() == DeadReason::Undeliverable));
    let seen = actor.wait_for(4).await;
    assert_eq!(sequences(&seen), [1, 2, 3, 4]);
    assert!(gaps(&seen).iter().all(|gap| *gap == 10 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_schedule_is_named() {
    let broker = Broker::builder().max_payload(1000).in_process().unwrap();
    let start = async |schedule| Scheduler::builder(&broker).schedule(schedule).start().await.unwrap_err();
    let now = SystemTime::now();
    let every = |cadence: &Cadence| Schedule::new("sweep", cadence.clone(), Act::Succeed);
    for name in [String::new(), "x".repeat(256)] {
        let error = start(Schedule::new(&name, SECOND, Act::Succeed)).await;
        assert!(matches!(&error, Error::InvalidName { what: "schedule", .. }), "{error:?}");
    }
    let error = start(sweep().queue("a b")).await;
    assert!(matches!(&error, Error::InvalidName { what: "queue", name, .. } if name == "a b"), "{error:?}");
    for (cadence, part) in [
        (Cadence::every(Duration::ZERO), "every 0s"),
        (Cadence::every(Duration::from_millis(9)), "9ms"),
        (Cadence::every(Duration::from_micros(1_000_500)), "every"),
        (Cadence::every(4000 * 24 * 60 * MINUTE), "4000d"),
        (Cadence::cron("61 * * * *"), "61 * * * *"),
        (Cadence::cron("whenever"), "whenever"),
        (Cadence::cron("0 0 30 2 *"), "0 0 30 2 *"),
        (Cadence::cron("0 9 * * *").zone("Europe/Atlantis"), "Europe/Atlantis"),
        (Cadence::every(SECOND).zone("Europe/Berlin"), "Europe/Berlin"),
    ] {
        let error = start(every(&cadence)).await;
        let is_named = matches!(&error, Error::InvalidCadence { cadence, .. } if cadence.contains(part));
        assert!(is_named, "{cadence}: {error:?}");
    }
    for (schedule, expected) in [
        (sweep().jitter(25 * 60 * MINUTE), "jitter"),
        (sweep().deadline_in(Duration::ZERO), "deadline_in"),
        (sweep().starting_at(now + MINUTE).ending_at(now), "ending_at"),
        (sweep().retry(RetryPolicy::custom(|_| None)), "retry"),
    ] {
        let error = start(schedule).await;
        assert!(
            matches!(&error, Error::InvalidSetting { setting, .. } if *setting == expected),
            "{expected}: {error:?}"
        );
    }
    let error = start(Schedule::new("sweep", SECOND, Large("x".repeat(1001)))).await;
    assert!(matches!(&error, Error::TooLarge { task, limit: 1000, .. } if task == "large"), "{error:?}");
    let error = start(Schedule::new("sweep", SECOND, Unwritable)).await;
    assert!(matches!(&error, Error::Encode { task, .. } if task == "unwritable"), "{error:?}");
    let _scheduler = Scheduler::builder(&broker).start().await.unwrap();
    let trigger = broker.schedules().trigger("sweep").await;
    assert!(matches!(trigger, Err(Error::NoSchedule { .. })), "none of them was declared");
}
