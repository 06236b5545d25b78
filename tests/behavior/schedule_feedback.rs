//! What producers and consumers tell the scheduler, and what it answers: with a ledger that is read and written by hand.

use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use taskhare::Broker;
use taskhare::Cadence;
use taskhare::Consumer;
use taskhare::DeadReason;
use taskhare::Error;
use taskhare::Overlap;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Task;
use taskhare::TaskContext;
use taskhare::TaskError;
use taskhare::TaskId;
use taskhare::transport::Delivery;
use taskhare::transport::Headers;
use taskhare::transport::Message;
use taskhare::transport::Name;
use taskhare::transport::Publish;
use taskhare::transport::Subscribe;
use taskhare::transport::Subscription;
use taskhare::transport::Value;
use tokio::task::JoinHandle;

use crate::support::Act;
use crate::support::Actor;
use crate::support::dead_letters;
use crate::support::eventually;

const MINUTE: Duration = Duration::from_secs(60);
const NOON: i64 = 1_700_000_000_000;

/// Not what ticks are.
#[derive(serde::Serialize, serde::Deserialize)]
struct Other;

impl Task for Other {
    const NAME: &'static str = "other";
    type Output = ();
}

/// A broker with a schedule, and whoever reads the queue of the schedules, beginning with the declaration.
async fn ledger() -> (Broker, Producer, Box<dyn Subscription>) {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    producer.schedule("report", MINUTE, Act::Succeed).overlap(Overlap::Skip).await.unwrap();
    let subscribe = Subscribe::new(name("taskhare.schedules"), 100, "test");
    let ledger = broker.transport().subscribe(subscribe).await.unwrap();
    (broker, producer, ledger)
}

fn name(name: &str) -> Name {
    Name::new("name", name).unwrap()
}

async fn next(ledger: &mut Box<dyn Subscription>) -> Message {
    let mut delivery: Delivery =
        tokio::time::timeout(Duration::from_secs(3600), ledger.next()).await.unwrap().unwrap();
    let message = std::mem::take(&mut delivery.message);
    delivery.ack();
    message
}

async fn nothing(ledger: &mut Box<dyn Subscription>) {
    let delivery = tokio::time::timeout(MINUTE, ledger.next()).await;
    assert!(delivery.is_err(), "{delivery:?}");
}

fn table(message: &Message) -> &Headers {
    match message.headers.get("taskhare-schedule") {
        Some(Value::Table(table)) => table,
        other => panic!("{other:?} is no table"),
    }
}

/// What a command is and which schedule it is about.
fn command(message: &Message) -> (&str, Option<&str>) {
    (message.kind.as_deref().unwrap(), table(message).get("name").and_then(Value::as_text))
}

fn is_end_of(message: &Message, sequence: i64) {
    assert_eq!(command(message), ("taskhare.schedule.ended", Some("report")));
    assert_eq!(table(message).get("sequence"), Some(&Value::Int(sequence)));
}

async fn publish(broker: &Broker, exchange: &str, key: &str, message: Message) {
    let publish = Publish { exchange: name(exchange), key: name(key), mandatory: true, message };
    broker.transport().publish(&publish, MINUTE).await.unwrap();
}

/// Fires a tick, as a scheduler would, without its entry.
async fn fire(broker: &Broker, sequence: i64, act: &Act, reports: bool) -> TaskId {
    let id = TaskId::new();
    let mut tick: Headers =
        [("schedule", Value::from("report")), ("sequence", sequence.into()), ("planned", NOON.into())]
            .into_iter()
            .collect();
    if reports {
        tick.insert("reports", true);
    }
    let message = Message {
        id: Some(id.to_string()),
        kind: Some("act".into()),
        content_type: Some("application/vnd.taskhare.v1+msgpack".into()),
        headers: [("taskhare-tick", Value::Table(tick))].into_iter().collect(),
        body: rmp_serde::to_vec_named(act).unwrap(),
        ..Message::default()
    };
    publish(broker, "taskhare.tasks", "default.normal", message).await;
    id
}

#[tokio::test(start_paused = true)]
async fn a_declared_schedule_is_for_the_scheduler_to_find() {
    let (broker, producer, mut ledger) = ledger().await;
    let declared = next(&mut ledger).await;
    assert_eq!(command(&declared), ("act", Some("report")));
    assert_eq!(table(&declared).get("cadence"), Some(&Value::from("every 1m")));
    assert_eq!(table(&declared).get("overlap"), Some(&Value::from("skip")));
    assert_eq!(broker.waiting("default").await.unwrap(), 0);
    producer.schedule("report", MINUTE, Act::Succeed).queue("elsewhere").await.unwrap();
    assert_eq!(table(&next(&mut ledger).await).get("queue"), Some(&Value::from("elsewhere")));
    producer.enqueue(Act::Succeed).queue("elsewhere").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_with_a_schedule_is_told_when_it_is_declared() {
    let (_broker, producer, mut ledger) = ledger().await;
    next(&mut ledger).await;
    let nameless = producer.schedule("", MINUTE, Act::Succeed).await;
    assert!(matches!(nameless, Err(Error::InvalidName { what: "schedule", .. })), "{nameless:?}");
    let never = producer.schedule("never", Cadence::cron("0 0 30 2 *"), Act::Succeed).await;
    assert!(matches!(never, Err(Error::InvalidCadence { .. })), "{never:?}");
    let late = producer.schedule("late", MINUTE, Act::Succeed).jitter(3000 * MINUTE).await;
    assert!(matches!(late, Err(Error::InvalidSetting { setting: "jitter", .. })), "{late:?}");
    nothing(&mut ledger).await;
}

#[tokio::test(start_paused = true)]
async fn a_producer_that_declares_nothing_needs_the_queue_of_the_schedules() {
    let broker = Broker::builder().without_declaring().in_process().unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let declared = producer.schedule("report", MINUTE, Act::Succeed).await;
    let Err(Error::Schedule { action, .. }) = declared else { panic!("{declared:?}") };
    assert_eq!(action, "declare schedule \"report\"");
    broker.declare_queues(&[]).await.unwrap();
    producer.schedule("report", MINUTE, Act::Succeed).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_queue_of_the_schedules_that_was_deleted_is_declared_again() {
    let (broker, producer, mut ledger) = ledger().await;
    ledger.close().await;
    broker.transport().delete(&name("taskhare.schedules")).await.unwrap();
    producer.schedule("report", MINUTE, Act::Succeed).await.unwrap();
    let depth = broker.transport().depth(&name("taskhare.schedules")).await.unwrap();
    assert_eq!(depth, Some(1));
}

#[tokio::test(start_paused = true)]
async fn a_handler_learns_its_tick() {
    let (broker, _producer, _ledger) = ledger().await;
    let (sender, mut ticks) = tokio::sync::mpsc::unbounded_channel();
    let consumer = Consumer::builder(&broker)
        .handler_fn(move |_: Act, ctx: TaskContext| {
            sender.send(ctx.tick().cloned()).unwrap();
            async { Ok(()) }
        })
        .start()
        .await
        .unwrap();
    fire(&broker, 7, &Act::Succeed, false).await;
    let tick = ticks.recv().await.unwrap().unwrap();
    assert_eq!((tick.schedule(), tick.sequence(), tick.is_triggered()), ("report", 7, false));
    assert_eq!(tick.planned_at(), UNIX_EPOCH + Duration::from_millis(1_700_000_000_000));
    consumer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_tick_is_reported_in_whatever_way_it_ends() {
    let (broker, producer, mut ledger) = ledger().await;
    next(&mut ledger).await;
    let (actor, retry) = (Actor::new(), RetryPolicy::fixed(MINUTE).max_attempts(2));
    let consumer = Consumer::builder(&broker).handler(actor.clone()).retry(retry).start().await.unwrap();
    for (sequence, act) in (1..).zip([Act::Succeed, Act::Reject, Act::Panic, Act::Fail]) {
        fire(&broker, sequence, &act, true).await;
        is_end_of(&next(&mut ledger).await, sequence);
    }
    dead_letters(&broker, "default", 3).await;
    let cancelled = fire(&broker, 5, &Act::UntilCancelled, true).await;
    eventually("it runs", async || actor.seen().iter().any(|seen| seen.id == cancelled)).await;
    producer.cancel(cancelled).await.unwrap();
    is_end_of(&next(&mut ledger).await, 5);
    nothing(&mut ledger).await;
    consumer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_tick_that_has_no_handler_has_ended() {
    let (broker, _producer, mut ledger) = ledger().await;
    next(&mut ledger).await;
    let consumer =
        Consumer::builder(&broker).handler_fn(|_: Other, _| async { Ok(()) }).start().await.unwrap();
    fire(&broker, 1, &Act::Succeed, true).await;
    is_end_of(&next(&mut ledger).await, 1);
    consumer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_tick_that_is_tried_again_has_not_ended() {
    let (broker, _producer, mut ledger) = ledger().await;
    next(&mut ledger).await;
    let actor = Actor::new();
    let retry = RetryPolicy::fixed(10 * MINUTE);
    let consumer = Consumer::builder(&broker).handler(actor.clone()).retry(retry).start().await.unwrap();
    fire(&broker, 1, &Act::FailOnce, true).await;
    actor.wait_for(1).await;
    nothing(&mut ledger).await;
    is_end_of(&next(&mut ledger).await, 1);
    assert_eq!(actor.seen().len(), 2);
    consumer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_tick_that_a_shutdown_hands_back_has_not_ended() {
    let (broker, _producer, mut ledger) = ledger().await;
    next(&mut ledger).await;
    let (first, second) = (Actor::new(), Actor::new());
    let consumer = Consumer::builder(&broker).handler(first.clone()).start().await.unwrap();
    fire(&broker, 1, &Act::UntilCancelled, true).await;
    first.wait_for(1).await;
    consumer.shutdown().await;
    nothing(&mut ledger).await;
    let consumer = Consumer::builder(&broker).handler(second.clone()).start().await.unwrap();
    second.wait_for(1).await;
    consumer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_tick_that_nobody_asked_about_is_not_reported() {
    let (broker, _producer, mut ledger) = ledger().await;
    next(&mut ledger).await;
    let actor = Actor::new();
    let consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    fire(&broker, 1, &Act::Succeed, false).await;
    fire(&broker, 2, &Act::Reject, false).await;
    dead_letters(&broker, "default", 1).await;
    actor.wait_for(2).await;
    nothing(&mut ledger).await;
    consumer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_tick_that_was_dead_and_runs_again_is_the_same_tick_and_its_end_is_not_reported_twice() {
    let (broker, _producer, mut ledger) = ledger().await;
    next(&mut ledger).await;
    let (sender, mut ticks) = tokio::sync::mpsc::unbounded_channel();
    let consumer = Consumer::builder(&broker)
        .handler_fn(move |_: Act, ctx: TaskContext| {
            sender.send(ctx.tick().cloned().unwrap().sequence()).unwrap();
            async { Err::<(), _>(TaskError::reject("as told")) }
        })
        .start()
        .await
        .unwrap();
    let id = fire(&broker, 1, &Act::Succeed, true).await;
    is_end_of(&next(&mut ledger).await, 1);
    dead_letters(&broker, "default", 1).await;
    broker.dead_letters("default").unwrap().requeue(id).await.unwrap();
    assert_eq!((ticks.recv().await, ticks.recv().await), (Some(1), Some(1)));
    nothing(&mut ledger).await;
    let letter = broker.dead_letters("default").unwrap().find(id).await.unwrap().unwrap();
    assert_eq!(letter.reason(), DeadReason::Rejected);
    consumer.shutdown().await;
}

#[tokio::test(start_paused = true)]
async fn a_change_is_kept_when_no_scheduler_answers() {
    let (broker, _producer, mut ledger) = ledger().await;
    next(&mut ledger).await;
    let schedules = broker.schedules();
    let asked = tokio::time::Instant::now();
    let paused = schedules.pause("report").await;
    let Err(Error::NoScheduler { waited }) = paused else { panic!("{paused:?}") };
    assert_eq!((waited, asked.elapsed()), (Duration::from_secs(10), waited));
    assert_eq!(command(&next(&mut ledger).await), ("taskhare.schedule.pause", Some("report")));
    let second = Duration::from_secs(1);
    let listed = schedules.clone().within(second).list().await;
    assert!(matches!(listed, Err(Error::NoScheduler { waited }) if waited == second), "{listed:?}");
    let invalid = schedules.remove("").await;
    assert!(matches!(invalid, Err(Error::InvalidName { what: "schedule", .. })), "{invalid:?}");
}

/// Answers like a scheduler that knows the schedule `report` alone, and does not like to trigger it.
fn answer(broker: &Broker, mut ledger: Box<dyn Subscription>) -> JoinHandle<()> {
    let broker = broker.clone();
    tokio::spawn(async move {
        let mut entry = next(&mut ledger).await;
        let Some(Value::Table(mut table)) = entry.headers.remove("taskhare-schedule") else { panic!() };
        for (name, value) in [
            ("version", 3),
            ("anchor", NOON),
            ("passed", NOON + 60_000),
            ("sequence", 5),
            ("planned", NOON + 60_000),
            ("fired", NOON + 60_007),
        ] {
            table.insert(name, value);
        }
        table.insert("origin", entry.id.clone().unwrap());
        table.insert("recent", Value::List(Vec::new()));
        table.insert("running", Value::List(vec![5.into(), NOON.into()]));
        entry.headers.insert("taskhare-schedule", Value::Table(table));
        loop {
            let asked = next(&mut ledger).await;
            let key = asked.reply_to.clone().unwrap();
            let reply = async |mut message: Message| {
                message.correlation_id.clone_from(&asked.id);
                publish(&broker, "taskhare.outputs", &key, message).await;
            };
            let end = |kind: &'static str| Message { kind: Some(kind.into()), ..Message::default() };
            match command(&asked) {
                (_, Some(name)) if name != "report" => reply(end("taskhare.schedule.missing")).await,
                ("taskhare.schedule.trigger", _) => {
                    let headers = [("taskhare-error", "it is tired")].into_iter().collect();
                    reply(Message { headers, ..end("taskhare.schedule.done") }).await;
                }
                (kind, _) => {
                    if kind == "taskhare.schedule.list" {
                        reply(entry.clone()).await;
                    }
                    reply(end("taskhare.schedule.done")).await;
                }
            }
        }
    })
}

#[tokio::test(start_paused = true)]
async fn what_the_scheduler_answers_is_what_one_gets() {
    let (broker, _producer, ledger) = ledger().await;
    let scheduler = answer(&broker, ledger);
    let schedules = broker.schedules();
    let listed = schedules.list().await.unwrap();
    let got = schedules.get("report").await.unwrap();
    let at = |time: i64| -> SystemTime { UNIX_EPOCH + Duration::from_millis(time.unsigned_abs()) };
    for schedule in listed.iter().chain(&got) {
        assert_eq!((schedule.name(), schedule.task(), schedule.queue()), ("report", "act", "default"));
        assert_eq!(schedule.cadence(), &Cadence::every(MINUTE));
        assert_eq!((schedule.ticks(), schedule.running(), schedule.is_paused()), (5, 1, false));
        let last = schedule.last_tick().unwrap();
        assert_eq!((last.planned_at(), last.fired_at()), (at(NOON + 60_000), at(NOON + 60_007)));
        assert_eq!(schedule.next_tick(), Some(at(NOON + 120_000)));
    }
    assert_eq!((listed.len(), got.is_some()), (1, true));
    assert!(schedules.get("other").await.unwrap().is_none());

    schedules.pause("report").await.unwrap();
    schedules.clone().resume("report").await.unwrap();
    schedules.remove("report").await.unwrap();
    let missing = schedules.pause("other").await;
    assert!(matches!(&missing, Err(Error::NoSchedule { name }) if name == "other"), "{missing:?}");
    let refused = schedules.trigger("report").await;
    let Err(Error::Refused { action, reason }) = refused else { panic!("{refused:?}") };
    assert_eq!((action.as_str(), reason.as_str()), ("trigger schedule \"report\"", "it is tired"));
    scheduler.abort();
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_an_answer_hears_that_the_broker_handle_is_closed() {
    let (broker, _producer, _ledger) = ledger().await;
    let schedules = broker.schedules();
    let asked = tokio::spawn(async move { schedules.within(60 * MINUTE).list().await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    broker.close().await;
    let listed = tokio::time::timeout(Duration::from_secs(1), asked).await.unwrap().unwrap();
    assert!(matches!(listed, Err(Error::Closed)), "{listed:?}");
}
