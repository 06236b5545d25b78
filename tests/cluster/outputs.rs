//! A producer's outputs come through a queue on one node.

use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::Standing;
use taskhare::Task;

use crate::cluster::eventually;
use crate::cluster::until_online;
use crate::cluster::whole;

#[derive(Serialize, Deserialize)]
struct Double(u32);

impl Task for Double {
    const NAME: &'static str = "double";
    type Output = u32;
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_done_without_the_node_of_the_outputs_and_outputs_come_again_with_it() {
    let cluster = whole().await;
    let vhost = cluster.fresh_vhost().await.unwrap();
    let broker = Broker::connect(&cluster.urls(&vhost)).await.unwrap();
    let double = |task: Double, _| async move { Ok(task.0 * 2) };
    let consumer = Consumer::builder(&broker).handler_fn(double).start().await.unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    assert_eq!(producer.enqueue(Double(1)).await.unwrap().output().await.unwrap(), 2);
    until_online(&cluster, &vhost, "taskhare.default.normal", 3).await;

    let queues = cluster.management().queues(&vhost).await.unwrap();
    let outputs = queues.iter().find(|queue| queue.name.starts_with("taskhare.outputs.")).unwrap();
    let node = cluster.leader_of(&vhost, &outputs.name).await.unwrap();
    cluster.kill(node).await.unwrap();
    let unheard = producer.enqueue(Double(2)).await.unwrap().id();
    eventually("it is done all the same", async || {
        let state = broker.status(unheard).await.unwrap();
        state.is_some_and(|state| matches!(state.standing, Standing::Done(_)))
    })
    .await;

    cluster.start_again(node).await.unwrap();
    eventually("outputs come again", async || {
        let task = producer.enqueue(Double(3)).await.unwrap();
        task.output_within(Duration::from_secs(2)).await.is_ok_and(|output| output == 6)
    })
    .await;
    consumer.shutdown().await;
    broker.close().await;
}
