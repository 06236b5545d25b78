//! What all processes agree on survives the loss of any one node: the history, the cancellations, the unique keys.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Error;
use taskhare::Outcome;
use taskhare::Producer;
use taskhare::Standing;

use crate::cluster::eventually;
use crate::cluster::until_online;
use crate::cluster::whole;
use crate::worker::Count;

const LATER: Duration = Duration::from_secs(3600);
const CANCELLED: u32 = 1000;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_done_cancelled_and_claimed_is_known_whichever_node_is_lost() {
    let cluster = whole().await;
    let vhost = cluster.fresh_vhost().await.unwrap();
    let urls = cluster.urls(&vhost);
    let broker = Broker::connect(&urls).await.unwrap();
    let consumer =
        Consumer::builder(&broker).handler_fn(|_: Count, _| async { Ok(()) }).start().await.unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let done = producer.enqueue(Count { number: 0 }).await.unwrap().id();
    let is_done = async |broker: &Broker| {
        let state = broker.status(done).await.unwrap();
        state.is_some_and(|state| matches!(state.standing, Standing::Done(Outcome::Succeeded)))
    };
    eventually("it is done", async || is_done(&broker).await).await;
    producer.enqueue(Count { number: 1 }).unique("key").unique_for(2 * LATER).delay(LATER).await.unwrap();
    consumer.shutdown().await;
    for node in 0..cluster.size() {
        let queue = format!("q{node}");
        let cancelled = producer.enqueue(Count { number: CANCELLED }).queue(&queue).await.unwrap();
        producer.cancel(cancelled.id()).await.unwrap();
    }
    broker.close().await;

    for node in 0..cluster.size() {
        for stream in ["history", "control", "unique"] {
            until_online(&cluster, &vhost, &format!("taskhare.{stream}"), 3).await;
        }
        cluster.kill(node).await.unwrap();
        // Another process: all it has is what is on the broker.
        let broker = Broker::connect(&urls).await.unwrap();
        let producer = Producer::builder(&broker).build().await.unwrap();
        let (queue, ran) = (format!("q{node}"), Arc::new(Mutex::new(Vec::new())));
        let run = ran.clone();
        let consumer = Consumer::builder(&broker)
            .handler_fn(move |task: Count, _| {
                run.lock().unwrap().push(task.number);
                async { Ok(()) }
            })
            .queue(&queue)
            .start()
            .await
            .unwrap();
        producer.enqueue(Count { number: 2 }).queue(&queue).await.unwrap();
        eventually("the wanted one is run", async || !ran.lock().unwrap().is_empty()).await;
        eventually("no task is left", async || broker.waiting(&queue).await.unwrap() == 0).await;
        assert_eq!(*ran.lock().unwrap(), [2], "node {node} is lost, and with it that a task is cancelled");
        assert!(is_done(&broker).await, "node {node} is lost, and with it the history");
        let again = producer.enqueue(Count { number: 3 }).unique("key").await;
        assert!(
            matches!(again, Err(Error::Duplicate { .. })),
            "node {node} is lost, and with it the key: {again:?}"
        );
        consumer.shutdown().await;
        broker.close().await;
        cluster.start_again(node).await.unwrap();
    }
}
