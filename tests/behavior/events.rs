//! What is told of tasks: live, and to who reads it later.

use std::time::Duration;

use taskhare::Broker;
use taskhare::BrokerBuilder;
use taskhare::Consumer;
use taskhare::DeadReason;
use taskhare::Error;
use taskhare::Event;
use taskhare::EventStream;
use taskhare::Kind;
use taskhare::Lane;
use taskhare::Priority;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Schedule;
use taskhare::Scheduler;
use taskhare::TaskChange;
use taskhare::TaskEvent;
use taskhare::TaskId;

use crate::support::Act;
use crate::support::Actor;

const SECOND: Duration = Duration::from_secs(1);

struct Setup {
    broker: Broker,
    producer: Producer,
    _consumer: Consumer,
}

async fn setup() -> Setup {
    setup_with(|broker| broker).await
}

async fn setup_with(settings: impl FnOnce(BrokerBuilder) -> BrokerBuilder) -> Setup {
    let broker = settings(Broker::builder()).in_process().unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let consumer = Consumer::builder(&broker).handler(Actor::new()).retry(RetryPolicy::fixed(SECOND));
    let consumer = consumer.start().await.unwrap();
    Setup { broker, producer, _consumer: consumer }
}

/// The events of tasks up to and with the end of `id`.
async fn life(events: &mut EventStream, id: TaskId) -> Vec<TaskEvent> {
    let mut life = Vec::new();
    loop {
        let next = tokio::time::timeout(Duration::from_secs(600), events.next());
        let Some(Event::Task(event)) = next.await.expect("it ends") else { continue };
        let is_last = event.id == id && event.change.kind().is_end();
        life.push(event);
        if is_last {
            return life;
        }
    }
}

fn kinds(life: &[TaskEvent]) -> Vec<Kind> {
    life.iter().map(|event| event.change.kind()).collect()
}

#[tokio::test(start_paused = true)]
async fn a_life_is_told_from_its_beginning_to_its_end() {
    use Kind::{Accepted, Dead, Expired, Failed, Retrying, Started, Succeeded};
    for (act, expected) in [
        (Act::Succeed, vec![Accepted, Started, Succeeded]),
        (Act::Sleep(5 * SECOND), vec![Accepted, Started, Succeeded]),
        (Act::FailOnce, vec![Accepted, Started, Failed, Retrying, Started, Succeeded]),
        (Act::Reject, vec![Accepted, Started, Failed, Dead]),
        (Act::UntilCancelled, vec![Accepted, Started, Failed, Expired]),
    ] {
        let Setup { broker, producer, _consumer } = setup().await;
        let mut events = broker.events().subscribe().await.unwrap();
        let enqueued = producer.enqueue(act.clone()).deadline_in(60 * SECOND).await.unwrap();
        let mut life = life(&mut events, enqueued.id()).await;
        // Its enqueuer tells on its own.
        life.sort_by_key(|event| event.change.kind() != Accepted);
        assert_eq!(kinds(&life), expected, "{act:?}");
        assert!(life.iter().all(|event| event.id == enqueued.id() && &*event.queue == "default"));
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_says_who_when_and_how_long() {
    let Setup { broker, producer, _consumer } = setup().await;
    let mut events = broker.events().subscribe().await.unwrap();
    let enqueue = producer.enqueue(Act::Sleep(5 * SECOND)).priority(Priority::Urgent).delay(10 * SECOND);
    let life = life(&mut events, enqueue.await.unwrap().id()).await;
    let [accepted, started, succeeded] = &life[..] else { panic!("{life:?}") };
    assert_eq!((&*started.name, started.lane, started.attempt), ("act", Some(Lane::Urgent), 1));
    assert_eq!(started.by, succeeded.by);
    assert_eq!(*started.by, *format!("{}/1", accepted.by), "the first consumer of that process");
    let TaskChange::Accepted { due: Some(due), priority, .. } = accepted.change else {
        panic!("{accepted:?}")
    };
    assert_eq!((priority, due), (Priority::Urgent, accepted.at + 10 * SECOND));
    let TaskChange::Started { waited, delayed, .. } = started.change else { panic!("{started:?}") };
    assert!(delayed && waited < SECOND / 10, "{waited:?}");
    let TaskChange::Succeeded { ran, total } = succeeded.change else { panic!("{succeeded:?}") };
    assert!(ran >= 5 * SECOND && total >= ran && total < 6 * SECOND, "{ran:?} {total:?}");
}

#[tokio::test(start_paused = true)]
async fn what_the_broker_takes_out_by_itself_is_told_too() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let mut events = broker.events().kind(Kind::Expired).subscribe().await.unwrap();
    let enqueued = producer.enqueue(Act::Succeed).deadline_in(5 * SECOND).await.unwrap();
    let Some(Event::Task(event)) = events.next().await else { panic!("it expires") };
    assert_eq!((event.id, &*event.queue, &*event.by), (enqueued.id(), "default", ""));
    let TaskChange::Expired { reason, .. } = event.change else { panic!("{event:?}") };
    assert_eq!(reason, DeadReason::ExpiredInQueue);
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_task_has_an_end() {
    let Setup { broker, producer, _consumer } = setup().await;
    let mut events = broker.events().subscribe().await.unwrap();
    let enqueued = producer.enqueue(Act::UntilCancelled).await.unwrap();
    tokio::time::sleep(SECOND).await;
    producer.cancel(enqueued.id()).await.unwrap();
    let life = life(&mut events, enqueued.id()).await;
    assert_eq!(kinds(&life), [Kind::Accepted, Kind::Started, Kind::Cancelled]);
}

#[tokio::test(start_paused = true)]
async fn who_comes_later_reads_the_same() {
    let Setup { broker, producer, _consumer } = setup().await;
    let mut live = broker.events().subscribe().await.unwrap();
    let mut told = Vec::new();
    for act in [Act::Succeed, Act::FailOnce, Act::Reject] {
        let enqueued = producer.enqueue(act).await.unwrap();
        told.extend(life(&mut live, enqueued.id()).await);
    }
    let mut history = broker.events().from_start().until_now().subscribe().await.unwrap();
    let mut read = Vec::new();
    while let Some(event) = history.next().await {
        if let Event::Task(event) = event {
            read.push(event);
        }
    }
    assert_eq!(read, told);
    let mut last = broker.events().from_offset(history.offset()).until_now().subscribe().await.unwrap();
    let Some(Event::Task(event)) = last.next().await else { panic!("the last message is read again") };
    assert_eq!(Some(&event), told.last());
    assert_eq!(last.next().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_reader_gets_what_it_asks_for() {
    let Setup { broker, producer, _consumer } = setup().await;
    let mut events = broker.events().queue("default").kind(Kind::Succeeded).subscribe().await.unwrap();
    let other = producer.enqueue(Act::Succeed).queue("other").await.unwrap();
    let enqueued = producer.enqueue(Act::Succeed).await.unwrap();
    let life = life(&mut events, enqueued.id()).await;
    assert_eq!(kinds(&life), [Kind::Succeeded]);
    assert!(life.iter().all(|event| event.id != other.id()));
}

#[tokio::test(start_paused = true)]
async fn without_events_there_is_nothing_to_read_and_tasks_run() {
    let Setup { broker, producer, _consumer } = setup_with(BrokerBuilder::without_events).await;
    producer.enqueue(Act::Succeed).await.unwrap();
    assert!(matches!(broker.events().subscribe().await, Err(Error::NoHistory)));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_leaves_nothing_untold() {
    let Setup { broker, producer, _consumer: consumer } = setup().await;
    let enqueued: Vec<_> = producer.enqueue_all((0..100).map(|_| Act::Succeed)).await;
    crate::support::eventually("all start", async || broker.waiting("default").await.unwrap() == 0).await;
    consumer.shutdown().await;
    let mut history = broker.events().from_start().until_now().subscribe().await.unwrap();
    let mut ended = 0;
    while let Some(event) = history.next().await {
        ended += usize::from(matches!(&event, Event::Task(event) if event.change.kind().is_end()));
    }
    assert_eq!(ended + usize::try_from(broker.waiting("default").await.unwrap()).unwrap(), enqueued.len());
}

#[tokio::test(start_paused = true)]
async fn a_tick_is_told_to_be_accepted_as_one_of_its_schedule() {
    let Setup { broker, _consumer, .. } = setup().await;
    let mut events = broker.events().kind(Kind::Accepted).kind(Kind::Succeeded).subscribe().await.unwrap();
    let schedule = Schedule::new("hourly", 3600 * SECOND, Act::Succeed).priority(Priority::Low);
    let scheduler = Scheduler::builder(&broker).schedule(schedule.deadline_in(60 * SECOND));
    let _scheduler = scheduler.start().await.unwrap();
    for _ in 0..2 {
        let (mut accepted, mut succeeded) = (None, None);
        while accepted.is_none() || succeeded.is_none() {
            let Some(Event::Task(event)) = events.next().await else { continue };
            match event.change.kind() {
                Kind::Accepted => accepted = Some(event),
                _ => succeeded = Some(event),
            }
        }
        let (accepted, succeeded) = (accepted.unwrap(), succeeded.unwrap());
        assert_eq!((accepted.id, &accepted.name), (succeeded.id, &succeeded.name));
        let TaskChange::Accepted { priority, deadline, schedule, again, .. } = accepted.change else {
            panic!("{accepted:?}")
        };
        assert_eq!((priority, schedule.as_deref(), again), (Priority::Low, Some("hourly"), false));
        let left = deadline.unwrap().duration_since(accepted.at).unwrap();
        assert!(left <= 60 * SECOND && left > 59 * SECOND, "{left:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_blocks_its_thread_is_told_to_have_started() {
    let broker = Broker::in_process();
    let mut events = broker.events().kind(Kind::Started).subscribe().await.unwrap();
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let blocks = move |_: Act, _| {
        // Until the test has seen that it runs.
        wait.lock().unwrap().recv().unwrap();
        async { Ok(()) }
    };
    let consumer = Consumer::builder(&broker).handler_fn(blocks).start().await.unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let enqueued = producer.enqueue(Act::Succeed).await.unwrap();
    let Some(Event::Task(event)) = events.next().await else { panic!("it has started") };
    assert_eq!(event.id, enqueued.id());
    go.send(()).unwrap();
    consumer.shutdown().await;
}
