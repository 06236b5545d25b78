//! Nodes end, one after the other or two at once, under a load: nothing that was confirmed is lost, and whoever has a
//! majority works on.

use std::time::Duration;

use taskhare::Broker;
use taskhare::Error;
use taskhare::Producer;
use taskhare::Replication;
use taskhare::testing::TestCluster;
use tokio::time::sleep;

use crate::cluster::eventually;
use crate::cluster::node_of;
use crate::cluster::until_online;
use crate::cluster::whole;
use crate::process::Process;
use crate::run::Pace;
use crate::run::Run;
use crate::worker::Count;

/// Some 80 tasks a second.
pub const STEADY: Pace = Pace { enqueued: 4, running: 16 };
/// How many tasks show that work goes on.
pub const SOME: usize = 60;
/// The lane of [`Count`].
pub const LANE: &str = "taskhare.default.normal";

/// A cluster at work.
pub struct Load<'a> {
    pub run: Run<'a, TestCluster>,
    producer: Process,
    consumer: Process,
}

impl<'a> Load<'a> {
    pub async fn start(cluster: &'a TestCluster) -> Self {
        let load = Self::begin(Run::new(cluster, STEADY).await).await;
        until_online(cluster, &load.run.vhost, LANE, 3).await;
        load
    }

    /// One whose lanes are classic queues.
    pub async fn start_classic(cluster: &'a TestCluster) -> Self {
        let mut run = Run::new(cluster, STEADY).await;
        run.replication = Replication::Classic;
        Self::begin(run).await
    }

    async fn begin(run: Run<'a, TestCluster>) -> Self {
        let (consumer, producer) = (run.consumer(), run.steady_producer());
        run.until_more(SOME).await;
        Self { run, producer, consumer }
    }

    pub async fn goes_on(&self, after: &str) {
        self.run.note(after);
        self.run.until_more(SOME).await;
        self.run.note("it goes on");
    }

    /// Nothing is lost, and what ran twice is no more than what was under way at each loss of a connection.
    pub async fn ends_well(self, losses: usize) {
        let account = self.run.wind_up(self.producer, self.consumer).await;
        println!("at the end: {account}");
        assert!(account.lost().is_empty());
        let most = losses * (STEADY.held() + 2 * SOME);
        assert!(account.repeats() <= most, "{account}; at most {most} repeats");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_that_leads_a_lane_is_killed() {
    let cluster = whole().await;
    let load = Load::start(&cluster).await;
    let leader = cluster.leader_of(&load.run.vhost, LANE).await.unwrap();
    cluster.kill(leader).await.unwrap();
    load.goes_on("the leader is killed").await;
    cluster.start_again(leader).await.unwrap();
    until_online(&cluster, &load.run.vhost, LANE, 3).await;
    load.ends_well(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_follows_is_killed() {
    let cluster = whole().await;
    let load = Load::start(&cluster).await;
    let leader = cluster.leader_of(&load.run.vhost, LANE).await.unwrap();
    let follower = (leader + 1) % 3;
    cluster.kill(follower).await.unwrap();
    load.goes_on("a follower is killed").await;
    cluster.start_again(follower).await.unwrap();
    load.ends_well(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_nodes_that_producer_and_consumer_are_connected_to_are_killed() {
    let cluster = whole().await;
    let load = Load::start(&cluster).await;
    for role in ["publish", "consume"] {
        let node = node_of(&cluster, &load.run.vhost, role).await;
        cluster.kill(node).await.unwrap();
        load.goes_on(&format!("the node of the connection to {role} is killed")).await;
        cluster.start_again(node).await.unwrap();
        until_online(&cluster, &load.run.vhost, LANE, 3).await;
    }
    load.ends_well(2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_nodes_are_restarted_one_after_the_other() {
    let cluster = whole().await;
    let load = Load::start(&cluster).await;
    for node in 0..cluster.size() {
        cluster.stop(node).await.unwrap();
        load.run.note("a node has stopped");
        cluster.start_again(node).await.unwrap();
        // As an operator has to: the next one may only go once this one has caught up.
        until_online(&cluster, &load.run.vhost, LANE, 3).await;
        load.goes_on("a node was restarted").await;
    }
    load.ends_well(3).await;
}

/// Of two of three nodes, which is what a majority is.
#[tokio::test(flavor = "multi_thread")]
async fn a_majority_is_lost_and_regained() {
    let cluster = whole().await;
    let load = Load::start(&cluster).await;
    let broker = Broker::connect(&load.run.url).await.unwrap();
    let producer = Producer::builder(&broker).timeout(Duration::from_secs(3)).build().await.unwrap();
    // Its first one declares the queue.
    producer.enqueue(Count { number: 19_998 }).await.unwrap();
    let leader = cluster.leader_of(&load.run.vhost, LANE).await.unwrap();
    for node in [leader, (leader + 1) % 3] {
        cluster.kill(node).await.unwrap();
    }
    load.run.note("a majority is killed");
    let confirmed = load.run.confirmed();
    let error = producer.enqueue(Count { number: 19_999 }).await.unwrap_err();
    // Which of them depends on what was on its way when it was lost.
    let is_told =
        matches!(error, Error::Unconfirmed { .. } | Error::Unavailable { .. } | Error::Rejected { .. });
    assert!(is_told && error.is_transient(), "{error:?}");
    sleep(Duration::from_secs(1)).await;
    // What was on its way to us at the kill may have been read since.
    assert!(load.run.confirmed() <= confirmed + SOME, "nothing is confirmed without a majority");

    cluster.start_all_again().await.unwrap();
    eventually("it is enqueued", async || producer.enqueue(Count { number: 19_999 }).await.is_ok()).await;
    load.goes_on("all nodes are back").await;
    broker.close().await;
    load.ends_well(3).await;
}

/// It accepts connections, and answers nothing.
#[tokio::test(flavor = "multi_thread")]
async fn the_node_that_producer_and_consumer_are_connected_to_hangs() {
    let cluster = whole().await;
    let mut run = Run::new(&*cluster, STEADY).await;
    // A heartbeat of 2 s, to be done in time.
    run.url = run.url.split(',').map(|url| format!("{url}?heartbeat=2")).collect::<Vec<_>>().join(",");
    let load = Load::begin(run).await;
    until_online(&cluster, &load.run.vhost, LANE, 3).await;
    let node = node_of(&cluster, &load.run.vhost, "consume").await;
    cluster.freeze(node).await.unwrap();
    load.goes_on("the node hangs").await;
    cluster.kill(node).await.unwrap();
    cluster.start_again(node).await.unwrap();
    load.ends_well(2).await;
}
