//! [`whole`]: the cluster of this process, for one test at a time.

use std::ops::Deref;
use std::time::Duration;

use taskhare::testing::TestCluster;
use tokio::sync::Mutex;
use tokio::sync::MutexGuard;
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tokio::time::sleep;

/// How long anything may take; seconds, on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

static SHARED: OnceCell<TestCluster> = OnceCell::const_new();
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

/// A cluster that nobody else uses.
pub struct Whole {
    cluster: &'static TestCluster,
    _alone: MutexGuard<'static, ()>,
}

impl Deref for Whole {
    type Target = TestCluster;

    fn deref(&self) -> &TestCluster {
        self.cluster
    }
}

/// The shared cluster, once all its nodes run and it holds nothing, whatever the test before has left behind.
pub async fn whole() -> Whole {
    let alone = ONE_AT_A_TIME.lock().await;
    let cluster = SHARED.get_or_init(async || TestCluster::start().await.unwrap()).await;
    if cluster.start_all_again().await.is_err() {
        // It was left in pieces by a test that failed.
        for node in 0..cluster.size() {
            cluster.kill(node).await.unwrap();
        }
        cluster.start_all_again().await.unwrap();
    }
    let vhosts = cluster.management().get("/vhosts?columns=name").await.unwrap();
    let names = vhosts.as_array().unwrap().iter().filter_map(|row| row["name"].as_str());
    for name in names.filter(|name| name.starts_with("test/")) {
        // 4.3 may take longer than the request; then it goes on by itself.
        let _ = cluster.management().delete(&format!("/vhosts/{}", name.replace('/', "%2F"))).await;
    }
    Whole { cluster, _alone: alone }
}

/// Waits until `check` holds.
pub async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !check().await {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// The node to which the connection of `role` (`publish`, `consume`) of some process is.
pub async fn node_of(cluster: &TestCluster, vhost: &str, role: &str) -> usize {
    let path = format!("/vhosts/{}/connections", vhost.replace('/', "%2F"));
    let mut found = None;
    eventually("a connection is listed", async || {
        let all = cluster.management().get(&path).await.unwrap_or_default();
        let rows = all.as_array().into_iter().flatten();
        let mut rows = rows.filter(|row| {
            row["user_provided_name"].as_str().is_some_and(|name| name.contains(&format!(" {role} ")))
        });
        found = rows.next().and_then(|row| row["port"].as_u64());
        found.is_some()
    })
    .await;
    let found = format!(":{}/", found.unwrap());
    (0..cluster.size()).find(|node| cluster.url(*node, vhost).contains(&found)).unwrap()
}

/// Waits until a queue has so many copies that are up.
pub async fn until_online(cluster: &TestCluster, vhost: &str, queue: &str, copies: usize) {
    let started = Instant::now();
    loop {
        let online = cluster.online_of(vhost, queue).await;
        if online.as_ref().is_ok_and(|online| online.len() == copies) {
            return;
        }
        let is_time = started.elapsed() < PATIENCE;
        assert!(is_time, "not within {PATIENCE:?}: {copies} copies of {queue} are up; {online:?} are");
        sleep(Duration::from_millis(50)).await;
    }
}
