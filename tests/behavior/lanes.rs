//! In which order tasks are started.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::ConsumerBuilder;
use taskhare::Priority;
use taskhare::Producer;
use taskhare::Task;

use crate::support::eventually;

#[derive(serde::Serialize, serde::Deserialize)]
struct Numbered(u64);

impl Task for Numbered {
    const NAME: &'static str = "numbered";
    type Output = ();
}

type Started = Arc<Mutex<Vec<(Priority, u64)>>>;

/// One slot, and room for all tasks of a test.
async fn consumer(
    broker: &Broker,
    started: &Started,
    with: impl FnOnce(ConsumerBuilder) -> ConsumerBuilder,
) -> Consumer {
    let started = started.clone();
    let builder =
        Consumer::builder(broker).concurrency(1).prefetch(100).handler_fn(move |Numbered(number), ctx| {
            started.lock().unwrap().push((ctx.priority(), number));
            async {
                tokio::time::sleep(Duration::from_millis(10)).await;
                Ok(())
            }
        });
    with(builder).start().await.unwrap()
}

/// Where a near deadline does not choose the urgent lane.
fn one_lane() -> Broker {
    Broker::builder().urgent_within(Duration::ZERO).in_process().unwrap()
}

/// 60 of each priority, the lowest first.
async fn fill(broker: &Broker) {
    let producer = Producer::builder(broker).build().await.unwrap();
    for priority in [Priority::Low, Priority::Normal, Priority::Urgent] {
        for task in producer.enqueue_all((0..60).map(Numbered)).priority(priority).await {
            task.unwrap();
        }
    }
}

async fn order(started: &Started, count: usize) -> Vec<(Priority, u64)> {
    eventually("all have started", async || started.lock().unwrap().len() == count).await;
    started.lock().unwrap().clone()
}

fn count(started: &[(Priority, u64)]) -> [usize; 3] {
    [Priority::Urgent, Priority::Normal, Priority::Low]
        .map(|priority| started.iter().filter(|task| task.0 == priority).count())
}

#[tokio::test(start_paused = true)]
async fn weights_are_the_shares_of_the_lanes() {
    for (weights, expected) in [((16, 4, 1), [32, 8, 2]), ((1, 1, 1), [14, 14, 14]), ((0, 1, 5), [6, 6, 30])]
    {
        let (broker, started) = (Broker::in_process(), Started::default());
        fill(&broker).await;
        let (urgent, normal, low) = weights;
        let _consumer =
            consumer(&broker, &started, |builder| builder.lane_weights(urgent, normal, low)).await;
        let order = order(&started, 180).await;
        let found = count(&order[..42]);
        let is_close = found.iter().zip(expected).all(|(found, expected)| found.abs_diff(expected) <= 1);
        assert!(is_close, "{weights:?}: {found:?} of the first 42");
    }
}

#[tokio::test(start_paused = true)]
async fn strict_lanes_are_emptied_in_order() {
    let (broker, started) = (Broker::in_process(), Started::default());
    fill(&broker).await;
    let _consumer = consumer(&broker, &started, ConsumerBuilder::strict_lanes).await;
    let order = order(&started, 180).await;
    let expected = [Priority::Urgent, Priority::Normal, Priority::Low].map(|priority| [priority; 60]);
    let found: Vec<Priority> = order.iter().map(|task| task.0).collect();
    assert_eq!(found, expected.concat());
}

#[tokio::test(start_paused = true)]
async fn in_a_lane_the_earliest_deadline_starts_first_and_one_without_is_not_left_behind() {
    let (broker, started) = (one_lane(), Started::default());
    let producer = Producer::builder(&broker).build().await.unwrap();
    // 0 for none.
    for deadline in [0, 50, 0, 30, 40, 3600, 0] {
        let enqueue = producer.enqueue(Numbered(deadline));
        match deadline {
            0 => enqueue.await.unwrap(),
            _ => enqueue.deadline_in(Duration::from_secs(deadline)).await.unwrap(),
        };
    }
    let _consumer = consumer(&broker, &started, |builder| builder).await;
    let numbers: Vec<u64> = order(&started, 7).await.into_iter().map(|task| task.1).collect();
    assert_eq!(numbers, [30, 40, 50, 0, 0, 3600, 0]);
}

#[tokio::test(start_paused = true)]
async fn a_task_without_a_deadline_starts_under_a_steady_stream_of_pressing_ones() {
    let (broker, started) = (one_lane(), Started::default());
    let producer = Producer::builder(&broker).build().await.unwrap();
    let _consumer = consumer(&broker, &started, |builder| builder).await;
    let begun = tokio::time::Instant::now();
    // From the fiftieth on as many as the one slot can do, so that there are always some.
    for turn in 1..=20_000 {
        producer.enqueue(Numbered(1)).deadline_in(Duration::from_secs(3)).await.unwrap();
        if turn == 50 {
            producer.enqueue(Numbered(0)).await.unwrap();
        }
        if turn >= 50 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if started.lock().unwrap().iter().any(|task| task.1 == 0) {
            assert!(begun.elapsed() > Duration::from_secs(50), "it is not pressing");
            return;
        }
    }
    panic!("not within 200 s");
}
