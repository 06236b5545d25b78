//! kill -9 of a consumer, as the scheduler sees it.

use std::collections::BTreeSet;
use std::time::Duration;

use taskhare::Alert;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::Scheduler;
use taskhare::TaskId;
use taskhare::testing::Result;
use taskhare::testing::TestBroker;
use tokio::sync::mpsc;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio::time::timeout;

use crate::account::Account;
use crate::process::Process;
use crate::worker::BEAT;
use crate::worker::Count;

/// Seconds, on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);
const TASKS: u32 = 4;

/// The next alert that `pick` wants.
async fn next<T>(alerts: &mut mpsc::UnboundedReceiver<Alert>, pick: impl Fn(Alert) -> Option<T>) -> T {
    let next = async {
        loop {
            if let Some(wanted) = pick(alerts.recv().await.expect("the scheduler is there")) {
                return wanted;
            }
        }
    };
    timeout(PATIENCE, next).await.expect("it is told")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_consumer_is_known_within_two_heartbeats_and_its_tasks_are_traced_to_where_they_run()
-> Result<()> {
    let url = TestBroker::shared().await?.fresh_vhost().await?;
    let broker = Broker::connect(&url).await.unwrap();
    let (tell, mut alerts) = mpsc::unbounded_channel();
    let on_alert = move |alert: &Alert| {
        let _ = tell.send(alert.clone());
    };
    let scheduler = Scheduler::builder(&broker).on_alert(on_alert).start().await.unwrap();
    let (account, _) = watch::channel(Account::default());
    let doomed = Process::start("dozer", TASKS as usize, &url, &account);
    let producer = Producer::builder(&broker).build().await.unwrap();
    let mut ids = BTreeSet::new();
    for number in 0..TASKS {
        ids.insert(producer.enqueue(Count { number }).await.unwrap().id());
    }
    let all_run = async {
        while scheduler.tasks().len() < TASKS as usize || scheduler.consumers().is_empty() {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(PATIENCE, all_run).await.expect("they run");
    let name = scheduler.consumers()[0].consumer.clone();
    doomed.kill().await;

    let (silent, heard) = next(&mut alerts, |alert| match alert {
        Alert::ConsumerSilent { consumer, heard } => Some((consumer, heard)),
        _ => None,
    })
    .await;
    assert_eq!(silent, name);
    assert!(heard < 2 * BEAT, "it was known {heard:?} after its last heartbeat");
    let mut lost = BTreeSet::<TaskId>::new();
    while lost.len() < TASKS as usize {
        lost.insert(
            next(&mut alerts, |alert| match alert {
                Alert::TaskLost { task, consumer } => (consumer == silent).then_some(task.id),
                _ => None,
            })
            .await,
        );
    }
    assert_eq!(lost, ids);

    let handler = |_: Count, _: taskhare::TaskContext| async {
        sleep(Duration::from_secs(1)).await;
        Ok(())
    };
    let heir = Consumer::builder(&broker).handler_fn(handler).start().await.unwrap();
    let mut found = BTreeSet::<TaskId>::new();
    while found.len() < TASKS as usize {
        found.insert(
            next(&mut alerts, |alert| match alert {
                Alert::TaskRedelivered { task, from, .. } => (from == silent).then_some(task.id),
                _ => None,
            })
            .await,
        );
    }
    assert_eq!(found, ids);
    heir.shutdown().await;
    scheduler.shutdown().await;
    Ok(())
}
