//! Figures of what became of tasks: from live events and from the history.

use std::time::Duration;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::DeadReason;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::stats::Dimension;
use taskhare::stats::Stats;

use crate::support::Act;
use crate::support::Actor;

const SECOND: Duration = Duration::from_secs(1);

fn stats() -> Stats {
    Stats::builder().window(SECOND).build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn live_events_and_the_history_give_the_same_figures() {
    let broker = Broker::in_process();
    let mut events = broker.events().subscribe().await.unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let consumer = Consumer::builder(&broker).handler(Actor::new()).retry(RetryPolicy::fixed(SECOND));
    let consumer = consumer.start().await.unwrap();
    let acts = [Act::Succeed, Act::FailOnce, Act::Reject, Act::Sleep(2 * SECOND)];
    for act in &acts {
        for delay in [Duration::ZERO, 5 * SECOND] {
            producer.enqueue(act.clone()).delay(delay).await.unwrap();
        }
    }
    producer.enqueue(Act::UntilCancelled).deadline_in(10 * SECOND).await.unwrap();
    let cancelled = producer.enqueue(Act::Succeed).delay(3600 * SECOND).await.unwrap();
    producer.cancel(cancelled.id()).await.unwrap();
    let all = 2 * acts.len() as u64 + 2;

    let mut live = stats();
    while live.total().ended() < all || live.total().accepted < all {
        live.record(&events.next().await.unwrap());
    }
    consumer.shutdown().await;
    let mut past = stats();
    let mut history = broker.events().from_start().until_now().subscribe().await.unwrap();
    while let Some(event) = history.next().await {
        past.record(&event);
    }

    let figures = live.total();
    assert_eq!((figures.accepted, figures.ended()), (all, all));
    assert_eq!((figures.succeeded, figures.cancelled), (6, 1));
    assert_eq!((figures.dead, figures.reason(DeadReason::Rejected)), (2, 2));
    assert_eq!((figures.expired, figures.reason(DeadReason::ExpiredRunning)), (1, 1));
    assert_eq!((figures.failed, figures.retried, figures.repeated), (5, 2, 0));
    assert_eq!((figures.attempts.max, figures.attempts.tasks), (2, all - 1));
    assert_eq!(figures.run.max(), figures.run.quantile(1.0));
    assert_eq!(live.by(Dimension::Queue).map(|(name, _)| name).collect::<Vec<_>>(), ["default"]);
    assert_eq!(live.by(Dimension::Consumer).count(), 1);
    assert_eq!(past.to_json(), live.to_json());
}
