//! The harness itself: what it promises to the tests that stand on it.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

#[path = "support/raw.rs"]
mod raw;

use std::io::BufRead;
use std::io::BufReader;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;
use std::time::SystemTime;

use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;

use raw::RawClient;
use raw::long;
use raw::table;
use taskhare::testing::Fault;
use taskhare::testing::Management;
use taskhare::testing::Proxy;
use taskhare::testing::Result;
use taskhare::testing::TestBroker;
use taskhare::testing::TestCluster;
use taskhare::testing::WallClock;
use taskhare::testing::vhost_of;

/// Long enough for any answer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Long enough for an answer that must not come.
const SILENCE: Duration = Duration::from_millis(300);

async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !check().await {
        assert!(started.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn segment(name: &str) -> String {
    name.replace('/', "%2F")
}

async fn declare(management: &Management, vhost: &str, queue: &str, kind: &str) -> Result<()> {
    let queue = format!("/queues/{}/{queue}", segment(vhost));
    let arguments = json!({ "durable": true, "arguments": { "x-queue-type": kind } });
    management.put(&queue, &arguments).await.map(drop)
}

#[tokio::test]
async fn a_fresh_vhost_shares_nothing_with_another() -> Result<()> {
    let broker = TestBroker::shared().await?;
    let [one, other] = [vhost_of(&broker.fresh_vhost().await?)?, vhost_of(&broker.fresh_vhost().await?)?];
    declare(broker.management(), &one, "q", "classic").await?;
    let [ours] = &broker.management().queues(&one).await?[..] else { panic!("one queue was declared") };
    assert_eq!((ours.name.as_str(), ours.kind.as_str()), ("q", "classic"));
    assert_eq!(ours.arguments["x-queue-type"], "classic");
    assert_eq!(broker.management().queues(&other).await?, []);
    Ok(())
}

#[tokio::test]
async fn a_removed_vhost_is_gone() -> Result<()> {
    let broker = TestBroker::shared().await?;
    let url = broker.fresh_vhost().await?;
    broker.remove_vhost(&url).await?;
    assert!(RawClient::connect(&url).await.is_err());
    Ok(())
}

#[tokio::test]
async fn what_raw_bytes_say_arrives_as_sent() -> Result<()> {
    let broker = TestBroker::shared().await?;
    let url = broker.fresh_vhost().await?;
    let vhost = vhost_of(&url)?;
    declare(broker.management(), &vhost, "odd", "quorum").await?;

    let mut client = RawClient::connect(&url).await.unwrap();
    let headers = table(&[
        (b"latin", b'S', &long(b"caf\xE9")),
        (b"decimal", b'D', &[2, 0, 0, 1, 58]),
        (b"void", b'V', &[]),
        (b"float", b'f', &1.5f32.to_be_bytes()),
    ]);
    let body = vec![b'x'; 300_000];
    client.publish("", "odd", &headers, &body).await.unwrap();
    client.publish("", "odd", &table(&[]), b"").await.unwrap();
    client.close().await.unwrap();

    let get = json!({ "count": 2, "ackmode": "ack_requeue_false", "encoding": "auto" });
    let got = broker.management().post(&format!("/queues/{}/odd/get", segment(&vhost)), &get).await?;
    assert_eq!(got[0]["payload_bytes"], 300_000);
    assert_eq!(got[0]["properties"]["headers"]["float"], 1.5);
    // The management API writes what is not UTF-8 in a way of its own; that it came is what counts.
    for header in ["latin", "decimal", "void"] {
        assert!(got[0]["properties"]["headers"].get(header).is_some(), "{header}: {got}");
    }
    assert_eq!(got[1]["payload"], "");
    Ok(())
}

#[tokio::test]
async fn a_user_may_do_what_the_expressions_allow() -> Result<()> {
    let broker = TestBroker::shared().await?;
    let vhost = vhost_of(&broker.fresh_vhost().await?)?;
    let url = broker.add_user("reader@work", "p:ss/word", "^$", "^$", ".*", &vhost).await?;
    let mut client = RawClient::connect(&url).await.unwrap();
    client.publish("amq.direct", "k", &table(&[]), b"").await.unwrap();
    let refusal = client.close().await.unwrap_err().to_string();
    assert!(refusal.contains("ACCESS_REFUSED"), "{refusal}");
    Ok(())
}

#[tokio::test]
async fn an_operator_sees_connections_and_closes_them() -> Result<()> {
    let broker = TestBroker::shared().await?;
    let (url, management) = (broker.fresh_vhost().await?, broker.management());
    let vhost = vhost_of(&url)?;
    let client = RawClient::connect(&url).await.unwrap();
    eventually("the connection is seen", async || management.connections(&vhost).await.unwrap().len() == 1)
        .await;
    assert_eq!(management.close_connections(&vhost).await?, 1);
    assert!(client.close().await.unwrap_err().to_string().contains("CONNECTION_FORCED"));
    eventually("it is seen no more", async || management.connections(&vhost).await.unwrap().is_empty()).await;
    Ok(())
}

#[tokio::test]
async fn an_operator_sees_messages_and_purges_and_deletes() -> Result<()> {
    let broker = TestBroker::shared().await?;
    let (url, management) = (broker.fresh_vhost().await?, broker.management());
    let vhost = vhost_of(&url)?;
    let ready = async |expected: u64| {
        let queues = management.queues(&vhost).await.unwrap();
        queues.iter().all(|queue| queue.totals.ready == expected && queue.totals.messages == expected)
    };
    let mut client = RawClient::connect(&url).await.unwrap();
    for kind in ["classic", "quorum"] {
        declare(management, &vhost, kind, kind).await?;
        client.publish("", kind, &table(&[]), b"one").await.unwrap();
    }
    client.close().await.unwrap();
    eventually("one message in each queue", async || ready(1).await).await;
    for kind in ["classic", "quorum"] {
        management.purge(&vhost, kind).await?;
    }
    eventually("no message in any queue", async || ready(0).await).await;
    for kind in ["classic", "quorum"] {
        management.delete_queue(&vhost, kind).await?;
    }
    assert_eq!(management.queues(&vhost).await?, []);
    assert!(management.delete_queue(&vhost, "quorum").await.unwrap_err().to_string().contains("404"));
    Ok(())
}

#[tokio::test]
async fn a_node_can_be_killed_stopped_frozen_and_alarmed() -> Result<()> {
    let broker = TestBroker::start().await?;
    let url = broker.fresh_vhost().await?;
    let vhost = vhost_of(&url)?;
    declare(broker.management(), &vhost, "kept", "quorum").await?;

    broker.kill().await?;
    assert!(RawClient::connect(&url).await.is_err());
    broker.start_again().await?;
    assert_eq!(broker.management().queues(&vhost).await?.len(), 1);

    broker.stop().await?;
    assert!(RawClient::connect(&url).await.is_err());
    broker.start_again().await?;
    let client = RawClient::connect(&url).await.unwrap();

    broker.freeze().await?;
    assert!(timeout(SILENCE, RawClient::connect(&url)).await.is_err());
    broker.thaw().await?;
    client.close().await.unwrap();

    let alarms = async || broker.rabbitmqctl(["-q", "eval", "rabbit_alarm:get_alarms()."]).await;
    for on in [true, false] {
        broker.set_memory_alarm(on).await?;
        assert_eq!(alarms().await?.contains("memory"), on);
    }
    for on in [true, false] {
        broker.set_disk_alarm(on).await?;
        assert_eq!(alarms().await?.contains("disk"), on);
    }
    assert!(broker.rabbitmqctl(["no_such_command"]).await.is_err());
    Ok(())
}

#[tokio::test]
async fn nodes_of_a_cluster_can_be_killed_stopped_frozen_and_cut_off() -> Result<()> {
    let cluster = TestCluster::start().await?;
    let vhost = cluster.fresh_vhost().await?;
    declare(cluster.management(), &vhost, "q", "quorum").await?;
    let online = async |nodes: &[usize]| {
        let is_so = async || cluster.online_of(&vhost, "q").await.is_ok_and(|online| online == nodes);
        eventually(&format!("{nodes:?} have it"), is_so).await;
    };
    online(&[0, 1, 2]).await;
    assert_eq!(cluster.urls(&vhost).split(',').count(), cluster.size());

    let leader = cluster.leader_of(&vhost, "q").await?;
    let others: Vec<usize> = (0..3).filter(|node| *node != leader).collect();
    cluster.kill(leader).await?;
    assert!(RawClient::connect(&cluster.url(leader, &vhost)).await.is_err());
    online(&others).await;
    let is_led = async || cluster.leader_of(&vhost, "q").await.is_ok_and(|node| node != leader);
    eventually("another one leads", is_led).await;
    cluster.start_again(leader).await?;
    online(&[0, 1, 2]).await;

    cluster.stop(1).await?;
    online(&[0, 2]).await;
    cluster.start_again(1).await?;
    online(&[0, 1, 2]).await;

    cluster.cut(2).await?;
    online(&[0, 1]).await;
    cluster.heal(2).await?;
    online(&[0, 1, 2]).await;
    RawClient::connect(&cluster.url(2, &vhost)).await.unwrap();

    cluster.freeze(0).await?;
    online(&[1, 2]).await;
    cluster.thaw(0).await?;
    online(&[0, 1, 2]).await;

    for node in [0, 1, 2] {
        cluster.kill(node).await?;
    }
    cluster.start_all_again().await?;
    online(&[0, 1, 2]).await;
    Ok(())
}

#[tokio::test]
async fn a_node_that_does_not_start_says_why() {
    let error = TestBroker::start_with("listeners.tcp.default = nonsense").await.unwrap_err();
    assert!(error.to_string().contains("start"), "{error}");
}

#[tokio::test]
async fn a_node_does_not_outlive_a_process_that_is_killed() {
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "holds_a_node_until_it_is_killed", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let url = lines.find_map(|line| line.unwrap().strip_prefix("url ").map(str::to_owned)).unwrap();
    RawClient::connect(&url).await.unwrap();

    holder.kill().unwrap(); // SIGKILL
    holder.wait().unwrap();

    eventually("the port is closed", async || RawClient::connect(&url).await.is_err()).await;
    let own = format!("taskhare-{}-", holder.id());
    eventually("all processes have ended", async || processes_of(&own).is_empty()).await;
    eventually("the directory is removed", async || {
        let mut all = std::fs::read_dir(std::env::temp_dir()).unwrap();
        !all.any(|entry| entry.unwrap().file_name().to_string_lossy().starts_with(&own))
    })
    .await;
}

/// Those whose environment names `directory`: the node, its epmd and their watchdog. None where there is no `/proc`.
fn processes_of(directory: &str) -> Vec<PathBuf> {
    let all = std::fs::read_dir("/proc").into_iter().flatten().map(|entry| entry.unwrap().path());
    let environment = |process: &PathBuf| std::fs::read(process.join("environ")).unwrap_or_default();
    all.filter(|it| String::from_utf8_lossy(&environment(it)).contains(directory)).collect()
}

#[ignore = "run by a_node_does_not_outlive_a_process_that_is_killed"]
#[tokio::test]
async fn holds_a_node_until_it_is_killed() -> Result<()> {
    let broker = TestBroker::start().await?;
    println!("\nurl {}", broker.url());
    std::future::pending().await
}

/// A client through a proxy, both quiet.
async fn proxied() -> Result<(Proxy, String, RawClient)> {
    let proxy_and_url = async |url: String| -> Result<(Proxy, String)> {
        let proxy = Proxy::start(&url).await?;
        let url = proxy.url(&url)?;
        Ok((proxy, url))
    };
    let (proxy, url) = proxy_and_url(TestBroker::shared().await?.fresh_vhost().await?).await?;
    let client = RawClient::connect(&url).await.unwrap();
    assert_eq!(proxy.connections(), 1);
    Ok((proxy, url, client))
}

#[tokio::test]
async fn a_proxy_without_fault_is_not_noticed() -> Result<()> {
    let (proxy, _, client) = proxied().await?;
    client.close().await.unwrap();
    eventually("the connection is not counted any more", async || proxy.connections() == 0).await;
    Ok(())
}

#[tokio::test]
async fn reset_ends_connections_old_and_new_by_rst() -> Result<()> {
    let (proxy, url, client) = proxied().await?;
    proxy.set(Fault::Reset);
    eventually("the connection is not counted any more", async || proxy.connections() == 0).await;
    assert_eq!(client.close().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert!(RawClient::connect(&url).await.is_err());
    proxy.set(Fault::None);
    RawClient::connect(&url).await.unwrap().close().await.unwrap();
    Ok(())
}

#[tokio::test]
async fn close_ends_connections_old_and_new_by_fin() -> Result<()> {
    let (proxy, url, _client) = proxied().await?;
    let mut idle = TcpStream::connect(url.rsplit(['@', '/']).nth(1).unwrap()).await.unwrap();
    eventually("both are counted", async || proxy.connections() == 2).await;
    proxy.set(Fault::Close);
    assert_eq!(idle.read(&mut [0]).await.unwrap(), 0);
    assert!(RawClient::connect(&url).await.is_err());
    Ok(())
}

#[tokio::test]
async fn drop_swallows_and_keeps_the_connection() -> Result<()> {
    let (proxy, url, client) = proxied().await?;
    proxy.set(Fault::Drop);
    assert!(timeout(SILENCE, client.close()).await.is_err());
    proxy.set(Fault::None);
    RawClient::connect(&url).await.unwrap().close().await.unwrap();
    Ok(())
}

#[tokio::test]
async fn stall_holds_everything_back_and_loses_nothing() -> Result<()> {
    let (proxy, _, client) = proxied().await?;
    proxy.set(Fault::Stall);
    let closing = tokio::spawn(client.close());
    tokio::time::sleep(SILENCE).await;
    assert!(!closing.is_finished());
    proxy.set(Fault::None);
    closing.await.unwrap().unwrap();
    Ok(())
}

#[tokio::test]
async fn delay_is_at_least_what_was_asked_each_way() -> Result<()> {
    let (proxy, _, client) = proxied().await?;
    proxy.set(Fault::Delay(SILENCE));
    let started = Instant::now();
    client.close().await.unwrap();
    assert!(started.elapsed() >= SILENCE * 2);
    Ok(())
}

#[tokio::test]
async fn what_goes_to_the_broker_is_dropped_and_what_comes_from_it_is_heard() -> Result<()> {
    let (proxy, url, client) = proxied().await?;
    proxy.set(Fault::DropToBroker);
    let closing = tokio::spawn(client.close());
    tokio::time::sleep(SILENCE).await;
    assert!(!closing.is_finished());
    let (management, vhost) = (TestBroker::shared().await?.management(), vhost_of(&url)?);
    eventually("it is closed by the operator", async || {
        management.close_connections(&vhost).await.unwrap() == 1
    })
    .await;
    assert!(closing.await.unwrap().unwrap_err().to_string().contains("CONNECTION_FORCED"));
    Ok(())
}

#[tokio::test]
async fn what_comes_from_the_broker_is_dropped_and_what_goes_to_it_arrives() -> Result<()> {
    let (proxy, url, mut client) = proxied().await?;
    let (management, vhost) = (TestBroker::shared().await?.management(), vhost_of(&url)?);
    declare(management, &vhost, "q", "classic").await?;
    proxy.set(Fault::DropToClient);
    client.publish("", "q", &table(&[]), b"").await.unwrap();
    let has_it = async || management.queues(&vhost).await.unwrap()[0].totals.messages == 1;
    eventually("the broker has it", has_it).await;
    assert!(timeout(SILENCE, client.ping()).await.is_err());
    Ok(())
}

#[tokio::test]
async fn a_half_open_connection_is_closed_at_the_broker_and_its_client_is_told_at_the_end() -> Result<()> {
    let (proxy, url, client) = proxied().await?;
    let (management, vhost) = (TestBroker::shared().await?.management(), vhost_of(&url)?);
    let count = async || management.connections(&vhost).await.unwrap().len();
    eventually("the broker has it", async || count().await == 1).await;
    proxy.set(Fault::HalfOpen);
    eventually("the broker has it no more", async || count().await == 0).await;
    let closing = tokio::spawn(client.close());
    assert!(timeout(SILENCE, RawClient::connect(&url)).await.is_err());
    assert!(!closing.is_finished());
    proxy.set(Fault::None);
    assert_eq!(closing.await.unwrap().unwrap_err().kind(), ErrorKind::ConnectionReset);
    RawClient::connect(&url).await.unwrap().close().await.unwrap();
    Ok(())
}

#[tokio::test]
async fn confirms_come_late_and_all_else_flows() -> Result<()> {
    let (proxy, _, mut client) = proxied().await?;
    client.confirm_select().await.unwrap();
    proxy.set(Fault::HoldConfirms);
    client.publish("amq.direct", "k", &table(&[]), b"").await.unwrap();
    client.ping().await.unwrap();
    assert!(timeout(SILENCE, client.confirm()).await.is_err());
    proxy.set(Fault::None);
    assert_eq!(client.confirm().await.unwrap(), 1);
    client.close().await.unwrap();
    Ok(())
}

#[tokio::test]
async fn confirms_that_are_lost_do_not_come_and_later_ones_do() -> Result<()> {
    let (proxy, _, mut client) = proxied().await?;
    client.confirm_select().await.unwrap();
    proxy.set(Fault::LoseConfirms);
    client.publish("amq.direct", "k", &table(&[]), b"").await.unwrap();
    client.ping().await.unwrap();
    assert!(timeout(SILENCE, client.confirm()).await.is_err());
    proxy.set(Fault::None);
    client.publish("amq.direct", "k", &table(&[]), b"").await.unwrap();
    assert_eq!(client.confirm().await.unwrap(), 2);
    Ok(())
}

#[tokio::test]
async fn jitter_and_narrow_bandwidth_take_their_time_and_lose_nothing() -> Result<()> {
    let (proxy, _, mut client) = proxied().await?;
    client.confirm_select().await.unwrap();
    proxy.set(Fault::Jitter(Duration::from_millis(20)));
    for tag in 1..=20 {
        client.publish("amq.direct", "k", &table(&[]), b"").await.unwrap();
        assert_eq!(client.confirm().await.unwrap(), tag);
    }
    proxy.set(Fault::Bandwidth(100_000));
    let started = Instant::now();
    client.publish("amq.direct", "k", &table(&[]), &[0; 30_000]).await.unwrap();
    client.confirm().await.unwrap();
    assert!(started.elapsed() >= SILENCE, "{:?}", started.elapsed());
    Ok(())
}

#[tokio::test]
async fn injected_bytes_reach_every_client() -> Result<()> {
    let (proxy, url, _client) = proxied().await?;
    // It says nothing, so the broker says nothing either.
    let mut idle = TcpStream::connect(url.rsplit(['@', '/']).nth(1).unwrap()).await.unwrap();
    eventually("both are counted", async || proxy.connections() == 2).await;
    proxy.inject(b"odd");
    let mut got = [0; 3];
    idle.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"odd");
    Ok(())
}

#[tokio::test]
async fn a_dropped_proxy_takes_its_connections_along() -> Result<()> {
    let (proxy, url, client) = proxied().await?;
    drop(proxy);
    assert!(client.close().await.is_err());
    eventually("the port is closed", async || RawClient::connect(&url).await.is_err()).await;
    Ok(())
}

#[test]
fn a_wall_clock_jumps_under_a_process_that_runs() {
    let clock = WallClock::new().unwrap();
    let mut teller = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tells_the_time", "--ignored", "--nocapture"])
        .envs(clock.environment())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(teller.stdout.take().unwrap()).lines();
    let mut next = || {
        let said = lines.find_map(|line| line.unwrap().strip_prefix("time ").map(str::to_owned)).unwrap();
        let (wall, steady) = said.split_once(' ').unwrap();
        let [wall, steady]: [i64; 2] = [wall.parse().unwrap(), steady.parse().unwrap()];
        wall - steady
    };
    let true_time = next();
    for by in [3_600_000_i64, -3_600_000, 1_500] {
        let step = Duration::from_millis(by.unsigned_abs());
        if by < 0 {
            clock.behind(step).unwrap();
        } else {
            clock.ahead(step).unwrap();
        }
        let expected = true_time + by;
        // In milliseconds, and the two clocks are read one after the other.
        while (next() - expected).abs() > 1_000 {}
    }
    teller.kill().unwrap();
    teller.wait().unwrap();
}

#[ignore = "run by a_wall_clock_jumps_under_a_process_that_runs"]
#[test]
fn tells_the_time() {
    let started = Instant::now();
    println!();
    loop {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_millis();
        println!("time {wall} {}", started.elapsed().as_millis());
        std::thread::sleep(Duration::from_millis(20));
    }
}
