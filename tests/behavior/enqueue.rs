//! What can be said when a task is enqueued, and what comes back.

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Error;
use taskhare::Producer;
use taskhare::TaskId;

use crate::support::Act;
use crate::support::Actor;

#[tokio::test(start_paused = true)]
async fn a_task_enqueued_before_any_consumer_waits_for_one() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let id = producer.enqueue(Act::Succeed).await.unwrap().id();
    assert_eq!(broker.waiting("default").await.unwrap(), 1);
    let actor = Actor::new();
    let consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    assert_eq!(actor.wait_for(1).await[0].id, id);
    consumer.shutdown().await;
    assert_eq!(broker.waiting("default").await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn an_id_of_ones_own_is_kept() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let id = TaskId::from_u128(42);
    assert_eq!(producer.enqueue(Act::Succeed).id(id).await.unwrap().id(), id);
}

#[tokio::test(start_paused = true)]
async fn a_batch_gives_one_result_each_in_order() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let results = producer.enqueue_all(vec![Act::Succeed; 1000]).queue("bulk").await;
    let ids: Vec<TaskId> = results.into_iter().map(|result| result.unwrap().id()).collect();
    assert_eq!(broker.waiting("bulk").await.unwrap(), 1000);
    let actor = Actor::new();
    let builder = Consumer::builder(&broker).handler(actor.clone()).queue("bulk").concurrency(1);
    let _consumer = builder.start().await.unwrap();
    let seen: Vec<TaskId> = actor.wait_for(1000).await.into_iter().map(|seen| seen.id).collect();
    assert_eq!(seen, ids);
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_nobody_declared_is_unroutable_for_a_producer_that_may_not() {
    let broker = Broker::builder().without_declaring().in_process().unwrap();
    broker.declare_queues(&["known"]).await.unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    producer.enqueue(Act::Succeed).queue("known").await.unwrap();
    let error = producer.enqueue(Act::Succeed).queue("unknown").await.unwrap_err();
    assert!(matches!(&error, Error::Unroutable { queue, .. } if queue == "unknown"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn enqueuing_on_a_closed_broker_is_an_error() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).queue("default").build().await.unwrap();
    broker.close().await;
    assert!(matches!(producer.enqueue(Act::Succeed).await, Err(Error::Closed)));
}

#[tokio::test(start_paused = true)]
async fn a_dropped_enqueue_harms_nobody() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    drop(producer.enqueue(Act::Succeed));
    let pending = std::future::IntoFuture::into_future(producer.enqueue(Act::Succeed));
    drop(pending);
    producer.enqueue(Act::Succeed).await.unwrap();
    assert_eq!(broker.waiting("default").await.unwrap(), 1);
}
