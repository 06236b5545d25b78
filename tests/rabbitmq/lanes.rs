//! Lanes on a real broker: what is urgent overtakes, and what is not still moves.

use std::sync::Mutex;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Priority;
use taskhare::Producer;
use taskhare::Task;

use crate::*;

#[derive(serde::Serialize, serde::Deserialize)]
struct Numbered(usize);

impl Task for Numbered {
    const NAME: &'static str = "numbered";
    type Output = ();
}

/// Longer than the broker takes to bring the next tasks: a lane that runs dry has no work.
const WORK: Duration = Duration::from_millis(50);

/// The defaults, in other words.
const SLOTS: usize = 16;
const WEIGHTS: [usize; 3] = [16, 4, 1];

/// The priorities of the tasks in the order in which they started.
type Log = Arc<Mutex<Vec<Priority>>>;

async fn broker() -> Broker {
    let url = fresh_vhost().await;
    Broker::connect(&url).await.unwrap()
}

async fn consumer(broker: &Broker, log: &Log, prefetch: usize) -> Consumer {
    let log = log.clone();
    let prefetch = u16::try_from(prefetch).unwrap();
    let builder = Consumer::builder(broker).concurrency(SLOTS).prefetch(prefetch).handler_fn(
        move |_: Numbered, ctx| {
            log.lock().unwrap().push(ctx.priority());
            async {
                tokio::time::sleep(WORK).await;
                Ok(())
            }
        },
    );
    builder.start().await.unwrap()
}

async fn enqueue(producer: &Producer, count: usize, priority: Priority) {
    for task in producer.enqueue_all((0..count).map(Numbered)).priority(priority).await {
        task.unwrap();
    }
}

fn count(log: &[Priority], priority: Priority) -> usize {
    log.iter().filter(|other| **other == priority).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_urgent_tasks_overtake_ten_thousand_low_ones() {
    let (broker, log) = (broker().await, Log::default());
    let producer = Producer::builder(&broker).build().await.unwrap();
    enqueue(&producer, 10_000, Priority::Low).await;
    let consumer = consumer(&broker, &log, 2 * SLOTS).await;
    eventually("low ones start", async || log.lock().unwrap().len() > 100).await;
    enqueue(&producer, 100, Priority::Urgent).await;
    let confirmed = log.lock().unwrap().len();
    eventually("urgent ones start", async || count(&log.lock().unwrap(), Priority::Urgent) == 100).await;
    let log = log.lock().unwrap().clone();
    let last = log.iter().rposition(|priority| *priority == Priority::Urgent).unwrap();
    // From when all of them were on the broker on, low ones get their share, and the few that start while the urgent
    // ones arrive.
    let low = count(&log[confirmed.min(last)..last], Priority::Low);
    let share = 100 * WEIGHTS[2] / WEIGHTS[0] + 1;
    assert!(low <= share + 2 * SLOTS, "{low} low ones before the last urgent one");
    assert!(log.len() < 10_100, "low ones are left");
    consumer.shutdown().await;
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_urgent_tasks_that_come_first_to_the_broker_start_first_but_for_the_share_of_low_ones() {
    let (broker, log) = (broker().await, Log::default());
    let producer = Producer::builder(&broker).build().await.unwrap();
    enqueue(&producer, 10_000, Priority::Low).await;
    enqueue(&producer, 100, Priority::Urgent).await;
    let consumer = consumer(&broker, &log, 2 * SLOTS).await;
    eventually("urgent ones start", async || count(&log.lock().unwrap(), Priority::Urgent) == 100).await;
    let log = log.lock().unwrap().clone();
    let last = log.iter().rposition(|priority| *priority == Priority::Urgent).unwrap();
    let low = count(&log[..last], Priority::Low);
    assert!(
        low <= 100 * WEIGHTS[2] / WEIGHTS[0] + 1 + 2 * SLOTS,
        "{low} low ones before the last urgent one"
    );
    consumer.shutdown().await;
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn low_tasks_move_while_urgent_ones_arrive_all_the_time() {
    let (broker, log) = (broker().await, Log::default());
    let producer = Producer::builder(&broker).build().await.unwrap();
    enqueue(&producer, 200, Priority::Low).await;
    enqueue(&producer, 2000, Priority::Urgent).await;
    let steady = async {
        loop {
            // There is always a backlog of urgent ones.
            enqueue(&producer, 500, Priority::Urgent).await;
            eventually("urgent ones go", async || broker.waiting("default").await.unwrap() < 1500).await;
        }
    };
    // So many that the urgent lane never runs dry here while there is more of it on the broker.
    let consumer = consumer(&broker, &log, 20 * SLOTS).await;
    let moved = eventually("low ones start", async || count(&log.lock().unwrap(), Priority::Low) >= 50);
    tokio::select! {
        () = steady => {}
        () = moved => {}
    }
    let log = log.lock().unwrap().clone();
    let until = log.iter().enumerate().filter(|(_, priority)| **priority == Priority::Low).nth(49).unwrap().0;
    let share = WEIGHTS[2] as f64 / (WEIGHTS[0] + WEIGHTS[2]) as f64;
    assert!(until as f64 <= 50.0 / share * 1.2, "the fiftieth low one started after {until} others");
    assert!(count(&log[..until], Priority::Urgent) > 500, "urgent ones dominate");
    consumer.shutdown().await;
    broker.close().await;
}
