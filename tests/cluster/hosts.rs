//! To which of several nodes a process connects.

use std::collections::BTreeMap;

use taskhare::Broker;

use crate::cluster::whole;

#[tokio::test(flavor = "multi_thread")]
async fn many_processes_spread_over_the_nodes() {
    let cluster = whole().await;
    let vhost = cluster.fresh_vhost().await.unwrap();
    let mut brokers = Vec::new();
    for _ in 0..30 {
        brokers.push(Broker::connect(&cluster.urls(&vhost)).await.unwrap());
    }
    let path = format!("/vhosts/{}/connections", vhost.replace('/', "%2F"));
    let mut nodes = BTreeMap::<String, usize>::new();
    crate::cluster::eventually("all connections are listed", async || {
        let all = cluster.management().get(&path).await.unwrap();
        nodes.clear();
        for row in all.as_array().unwrap() {
            *nodes.entry(row["node"].as_str().unwrap_or_default().to_owned()).or_default() += 1;
        }
        nodes.values().sum::<usize>() >= 30
    })
    .await;
    // That one of them got none of 30 happens once in 60,000 times.
    assert_eq!(nodes.len(), 3, "{nodes:?}");
    for broker in brokers {
        broker.close().await;
    }
}
