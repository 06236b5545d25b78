//! Where queues are.

use serde_json::Value;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::Replication;
use taskhare::Scheduler;
use taskhare::testing::TestCluster;

use crate::cluster::Whole;
use crate::cluster::eventually;
use crate::cluster::until_online;
use crate::cluster::whole;
use crate::worker::Count;

const LANE: &str = "taskhare.default.normal";

/// A virtual host with all that an application with default settings has.
async fn settled(cluster: &Whole, replication: Replication) -> (String, Broker, Producer, Consumer) {
    let vhost = cluster.fresh_vhost().await.unwrap();
    let broker = Broker::builder().url(&cluster.urls(&vhost)).replication(replication);
    let broker = broker.connect().await.unwrap();
    let consumer =
        Consumer::builder(&broker).handler_fn(|_: Count, _| async { Ok(()) }).start().await.unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    (vhost, broker, producer, consumer)
}

/// Its replicated queues, as the management API describes them.
async fn replicated(cluster: &TestCluster, vhost: &str) -> Vec<Value> {
    let path = format!("/queues/{}", vhost.replace('/', "%2F"));
    let all = cluster.management().get(&path).await.unwrap();
    let rows = all.as_array().unwrap().iter().filter(|row| row["type"] != "classic");
    rows.cloned().collect()
}

fn copies(row: &Value) -> usize {
    row["members"].as_array().map_or(0, Vec::len)
}

#[tokio::test(flavor = "multi_thread")]
async fn each_queue_is_on_three_nodes_and_they_lead_as_many_each() {
    let cluster = whole().await;
    let (vhost, broker, producer, consumer) = settled(&cluster, Replication::default()).await;
    let scheduler = Scheduler::builder(&broker).start().await.unwrap();
    producer.enqueue(Count { number: 0 }).delay(std::time::Duration::from_millis(1)).await.unwrap();
    eventually("all queues are on three nodes", async || {
        let queues = replicated(&cluster, &vhost).await;
        // Four and the dead letters of the queue, 48 of the wheel, and what there is once.
        queues.len() > 55 && queues.iter().all(|row| copies(row) == 3)
    })
    .await;
    let queues = replicated(&cluster, &vhost).await;
    for node in 0..cluster.size() {
        let leads = queues.iter().filter(|row| row["leader"] == cluster.name(node)).count();
        assert!(leads >= queues.len() / 5, "node {node} leads {leads} of {}", queues.len());
    }
    scheduler.shutdown().await;
    consumer.shutdown().await;
    broker.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_larger_than_the_cluster_is_on_all_nodes_that_there_are() {
    let cluster = whole().await;
    let (vhost, broker, producer, consumer) = settled(&cluster, Replication::Quorum { group_size: 5 }).await;
    producer.enqueue(Count { number: 0 }).await.unwrap();
    until_online(&cluster, &vhost, LANE, 3).await;
    consumer.shutdown().await;
    broker.close().await;
}

/// So an application that began on a single node moves to a cluster.
#[tokio::test(flavor = "multi_thread")]
async fn copies_are_added_later_by_an_operator() {
    let cluster = whole().await;
    let (vhost, broker, producer, consumer) = settled(&cluster, Replication::Quorum { group_size: 1 }).await;
    until_online(&cluster, &vhost, LANE, 1).await;
    for node in 0..cluster.size() {
        // What `rabbitmq-queues grow NODE all` does.
        let grow =
            format!("rabbit_quorum_queue:grow('{}', <<\".*\">>, <<\".*\">>, all).", cluster.name(node));
        cluster.rabbitmqctl(node, ["eval", &grow]).await.unwrap();
    }
    until_online(&cluster, &vhost, LANE, 3).await;
    let leader = cluster.leader_of(&vhost, LANE).await.unwrap();
    cluster.kill(leader).await.unwrap();
    eventually("another one leads", async || {
        cluster.leader_of(&vhost, LANE).await.is_ok_and(|node| node != leader)
    })
    .await;
    producer.enqueue(Count { number: 1 }).await.unwrap();
    consumer.shutdown().await;
    broker.close().await;
    cluster.start_again(leader).await.unwrap();
}

/// As it is after a single node became a cluster: what every process reads is on that node alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_with_one_copy_is_found_by_whoever_connects_to_another_node() {
    let cluster = whole().await;
    let (vhost, broker, _producer, consumer) = settled(&cluster, Replication::default()).await;
    let stream = "taskhare.control";
    until_online(&cluster, &vhost, stream, 3).await;
    let leader = cluster.leader_of(&vhost, stream).await.unwrap();
    for node in (0..cluster.size()).filter(|node| *node != leader) {
        // What `rabbitmq-streams delete_replica` does.
        let (other, queue) = (cluster.name(node), format!("<<\"{vhost}\">>, <<\"{stream}\">>"));
        let delete = format!("rabbit_stream_queue:delete_replica({queue}, '{other}').");
        cluster.rabbitmqctl(leader, ["eval", &delete]).await.unwrap();
    }
    until_online(&cluster, &vhost, stream, 1).await;
    // All of them by chance at that node is one in 81.
    for _ in 0..4 {
        let broker = Broker::connect(&cluster.urls(&vhost)).await.unwrap();
        let consumer = Consumer::builder(&broker).handler_fn(|_: Count, _| async { Ok(()) });
        consumer.start().await.unwrap().shutdown().await;
        broker.close().await;
    }
    consumer.shutdown().await;
    broker.close().await;
}
