//! Delays and backoff on a real broker.

use std::sync::Mutex;
use std::time::SystemTime;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::ConsumerBuilder;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Task;
use taskhare::TaskError;
use taskhare::testing::Management;
use taskhare::transport::Value;

use crate::*;

/// A task that knows when it is due, and fails so often before it succeeds.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Note {
    due: SystemTime,
    failures: u32,
}

impl Task for Note {
    const NAME: &'static str = "note";
    type Output = ();
}

impl Note {
    fn due_in(delay: Duration) -> Self {
        Self { due: SystemTime::now() + delay, failures: 0 }
    }
}

/// What started, and how late.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(u32, SystemTime)>>>);

impl Seen {
    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// A consumer that notes what it starts, and panics if that is early.
    fn consumer(&self, broker: &Broker) -> ConsumerBuilder {
        let seen = self.clone();
        Consumer::builder(broker).handler_fn(move |note: Note, ctx| {
            let now = SystemTime::now();
            assert!(now >= note.due, "{:?} early", note.due.duration_since(now));
            seen.0.lock().unwrap().push((ctx.attempt(), now));
            async move {
                if ctx.attempt() <= note.failures { Err(TaskError::retry("not yet")) } else { Ok(()) }
            }
        })
    }
}

/// A namespace of its own on the shared broker.
struct Setting {
    broker: Broker,
    producer: Producer,
    management: &'static Management,
    vhost: String,
    url: String,
}

async fn setting() -> Setting {
    let lab = TestBroker::shared().await.unwrap();
    let url = fresh_vhost().await;
    let broker = Broker::connect(&url).await.unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    Setting { producer, broker, management: lab.management(), vhost: vhost_of(&url).unwrap(), url }
}

#[tokio::test(flavor = "multi_thread")]
async fn delayed_tasks_are_never_early_and_none_is_lost() {
    let Setting { broker, producer, .. } = setting().await;
    let seen = Seen::default();
    let consumer = seen.consumer(&broker).retry(RetryPolicy::never()).start().await.unwrap();
    for _ in 0..300 {
        let delay = Duration::from_millis(fastrand::u64(0..4000));
        producer.enqueue(Note::due_in(delay)).delay(delay).await.unwrap();
        let note = Note::due_in(delay);
        producer.enqueue(note.clone()).at(note.due).await.unwrap();
    }
    eventually("all are done", async || seen.count() == 600).await;
    consumer.shutdown().await;
    let left = (broker.delayed().await.unwrap(), broker.dead("default").await.unwrap());
    assert_eq!(left, (0, 0), "in the wheel, and dead because they were early");
}

/// Two at a time, each held for an eighth of a second at least, would take two minutes.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_consumer_holds_does_not_count_against_its_prefetch() {
    let Setting { broker, producer, .. } = setting().await;
    let seen = Seen::default();
    let builder = seen.consumer(&broker).retry(RetryPolicy::never());
    let consumer = builder.concurrency(1).prefetch(2).start().await.unwrap();
    for number in 0..2000 {
        let delay = Duration::from_millis(1000 + 2 * number);
        producer.enqueue(Note::due_in(delay)).delay(delay).await.unwrap();
    }
    eventually("all are done", async || seen.count() == 2000).await;
    consumer.shutdown().await;
    assert_eq!(broker.dead("default").await.unwrap(), 0, "dead because they were early");
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_for_a_queue_that_is_gone_hold_up_no_others_and_are_found() {
    let Setting { broker, producer, management, vhost, url } = setting().await;
    let delay = Duration::from_secs(2);
    // From a process that is gone as well: it would declare its queue again with its next connection.
    let other = Broker::connect(&url).await.unwrap();
    let enqueue = Producer::builder(&other).build().await.unwrap();
    for task in enqueue.enqueue_all(vec![Note::due_in(delay); 40]).queue("gone").delay(delay).await {
        task.unwrap();
    }
    other.close().await;
    for lane in ["urgent", "normal", "low"] {
        management.delete_queue(&vhost, &format!("taskhare.gone.{lane}")).await.unwrap();
    }
    let seen = Seen::default();
    let consumer = seen.consumer(&broker).start().await.unwrap();
    for task in producer.enqueue_all(vec![Note::due_in(delay); 1000]).delay(delay).await {
        task.unwrap();
    }
    // A level that was held up would try again after three minutes.
    eventually("those of the other queue are done", async || seen.count() == 1000).await;
    let depth = async || broker.transport().depth(&name("taskhare.undeliverable")).await.unwrap().unwrap();
    eventually("the others are found", async || depth().await == 40).await;
    let mut undeliverable =
        broker.transport().subscribe(subscribe("taskhare.undeliverable", 1)).await.unwrap();
    let found = next(&mut undeliverable).await;
    assert_eq!(found.message.headers.get("taskhare-queue"), Some(&Value::from("gone")));
    assert_eq!(found.message.kind.as_deref(), Some("note"));
    let Some(Value::List(deaths)) = found.message.headers.get("x-death") else { panic!("{found:?}") };
    let time = deaths.iter().find_map(|death| match death {
        Value::Table(death) => death.get("time"),
        _ => None,
    });
    assert!(matches!(time, Some(Value::Timestamp(_))), "by which clocks are compared: {found:?}");
    consumer.shutdown().await;
    broker.close().await;
}

/// Brokers before 4.0 take a message that dies in the same queue again for one that goes in circles.
#[tokio::test(flavor = "multi_thread")]
async fn retries_that_take_several_hops_each_are_not_taken_for_a_cycle() {
    let Setting { broker, producer, .. } = setting().await;
    let seen = Seen::default();
    // 21 units: 111 in base 4.
    let wait = Duration::from_millis(1500);
    let consumer = seen.consumer(&broker).retry(RetryPolicy::fixed(wait)).start().await.unwrap();
    producer.enqueue(Note { due: SystemTime::UNIX_EPOCH, failures: 3 }).await.unwrap();
    eventually("the last attempt", async || seen.count() == 4).await;
    consumer.shutdown().await;
    let attempts = seen.0.lock().unwrap().clone();
    for (before, after) in attempts.iter().zip(&attempts[1..]) {
        assert_eq!(before.0 + 1, after.0);
        assert!(after.1.duration_since(before.1).unwrap() >= wait, "{attempts:?}");
    }
    assert_eq!(broker.delayed().await.unwrap(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_again_while_it_is_held_still_waits_for_its_time() {
    let Setting { broker, producer, management, vhost, .. } = setting().await;
    let seen = Seen::default();
    let consumer = seen.consumer(&broker).retry(RetryPolicy::never()).prefetch(64).start().await.unwrap();
    for round in 0..5 {
        let delay = Duration::from_millis(1000);
        for task in producer.enqueue_all(vec![Note::due_in(delay); 64]).delay(delay).await {
            task.unwrap();
        }
        // By now they are on their way from the wheel, or held.
        tokio::time::sleep(Duration::from_millis(780 + 40 * round)).await;
        management.close_connections(&vhost).await.unwrap();
    }
    eventually("all are done", async || seen.count() >= 320).await;
    consumer.shutdown().await;
    assert_eq!(broker.dead("default").await.unwrap(), 0, "dead because they were early");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wheel_that_somebody_deleted_is_declared_again() {
    let Setting { broker, producer, management, vhost, .. } = setting().await;
    let seen = Seen::default();
    let retry = RetryPolicy::fixed(Duration::from_secs(2));
    let consumer = seen.consumer(&broker).retry(retry).start().await.unwrap();
    let vhost = vhost.replace('/', "%2F");
    // Where 2 s begin: 29 units are 131 in base 4.
    let delete = async || {
        management.delete(&format!("/exchanges/{vhost}/taskhare.delay.02")).await.unwrap();
        management.delete(&format!("/queues/{vhost}/taskhare.delay.02.1")).await.unwrap();
    };
    let delay = Duration::from_secs(2);
    delete().await;
    producer.enqueue(Note::due_in(delay)).delay(delay).await.unwrap();
    eventually("it is done", async || seen.count() == 1).await;
    delete().await;
    producer.enqueue(Note { due: SystemTime::UNIX_EPOCH, failures: 1 }).await.unwrap();
    eventually("it is tried again", async || seen.count() == 3).await;
    consumer.shutdown().await;
    assert_eq!(broker.dead("default").await.unwrap(), 0);
}
