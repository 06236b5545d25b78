//! Rate limits and circuit breakers on a real broker: what may not start yet goes through its delay wheel.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use taskhare::Broker;
use taskhare::CircuitBreaker;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::RateLimit;
use taskhare::RetryPolicy;
use taskhare::Task;
use taskhare::TaskError;

use crate::*;

#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Call;

impl Task for Call {
    const NAME: &'static str = "call";
    type Output = ();
}

#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Free;

impl Task for Free {
    const NAME: &'static str = "free";
    type Output = bool;
}

async fn setting(calls: usize) -> (Broker, Producer) {
    let url = fresh_vhost().await;
    let broker = Broker::connect(&url).await.unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    for task in producer.enqueue_all(vec![Call; calls]).await {
        task.unwrap();
    }
    (broker, producer)
}

#[tokio::test(flavor = "multi_thread")]
async fn limited_tasks_keep_their_rate_and_no_others_away() {
    let (broker, producer) = setting(100).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = calls.clone();
    let started = Instant::now();
    let consumer = Consumer::builder(&broker)
        .concurrency(1)
        .retry(RetryPolicy::never())
        .rate_limit::<Call>(RateLimit::per_second(10).burst(2))
        .handler_fn(move |_: Call, ctx| {
            counted.fetch_add(1, Relaxed);
            async move { if ctx.attempt() == 1 { Ok(()) } else { Err(TaskError::reject("counted")) } }
        })
        .handler_fn(|_: Free, _| async { Ok(true) })
        .start()
        .await
        .unwrap();
    for _ in 0..20 {
        producer.enqueue(Free).await.unwrap().output().await.unwrap();
    }
    let done = calls.load(Relaxed);
    assert!(done < 90, "{done} limited ones were done before the others");
    eventually("all are done", async || calls.load(Relaxed) == 100).await;
    assert!(started.elapsed() >= Duration::from_millis(9800), "too soon: {:?}", started.elapsed());
    consumer.shutdown().await;
    let left = [broker.waiting("default").await, broker.delayed().await, broker.dead("default").await];
    assert_eq!(left.map(Result::unwrap), [0; 3], "waiting, in the wheel, dead");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_opens_and_what_it_deferred_is_done_once_it_closes() {
    let (broker, _) = setting(100).await;
    let starts = Arc::new(AtomicUsize::new(0));
    let counted = starts.clone();
    let begun = Instant::now();
    let consumer = Consumer::builder(&broker)
        .concurrency(1)
        .retry(RetryPolicy::fixed(Duration::from_secs(1)).max_attempts(2))
        .circuit_breaker::<Call>(CircuitBreaker::after(3).open_for(Duration::from_secs(3)))
        .handler_fn(move |_: Call, _| {
            let start = counted.fetch_add(1, Relaxed);
            // Three that open it, and the first probe.
            async move { if start < 4 { Err(TaskError::retry("the service is down")) } else { Ok(()) } }
        })
        .start()
        .await
        .unwrap();
    eventually("all are done", async || starts.load(Relaxed) == 104).await;
    assert!(begun.elapsed() >= Duration::from_secs(6), "it was open twice: {:?}", begun.elapsed());
    consumer.shutdown().await;
    let left = [broker.waiting("default").await, broker.delayed().await, broker.dead("default").await];
    assert_eq!(left.map(Result::unwrap), [0; 3], "waiting, in the wheel, dead");
}
