//! Tasks that run for longer than the broker lets a consumer hold them, and kill -9 of who runs them.

use std::collections::BTreeSet;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use taskhare::Broker;
use taskhare::Producer;
use taskhare::testing::Result;
use taskhare::testing::TestBroker;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio::time::timeout;

use crate::account::Account;
use crate::process::Process;
use crate::worker::Count;
use crate::worker::LONG;

/// Seconds, on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);
const TASKS: u32 = 4;

#[tokio::test(flavor = "multi_thread")]
async fn long_tasks_of_a_process_that_is_killed_are_done_by_another() -> Result<()> {
    let url = TestBroker::shared().await?.fresh_vhost().await?;
    let (account, mut changes) = watch::channel(Account::default());
    let first = Process::start("digger", 4, &url, &account);
    let broker = Broker::connect(&url).await.unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    for enqueued in producer.enqueue_all((0..TASKS).map(|number| Count { number })).await {
        enqueued.unwrap();
    }
    let have_started = |count: u32| move |account: &Account| account.attempts.len() >= count as usize;
    timeout(PATIENCE, changes.wait_for(have_started(TASKS))).await.expect("they start").unwrap();
    // Until each has been copied at least twice, and none is done.
    sleep(LONG * 2 / 3).await;
    let second = Process::start("digger", 4, &url, &account);
    sleep(Duration::from_secs(1)).await;
    let killed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    first.kill().await;
    timeout(PATIENCE, changes.wait_for(have_started(2 * TASKS))).await.expect("they come back").unwrap();
    timeout(PATIENCE, changes.wait_for(|account| account.done() == TASKS as usize))
        .await
        .expect("done")
        .unwrap();
    second.shut_down().await;

    let account = account.borrow();
    let after: Vec<_> =
        account.attempts[TASKS as usize..].iter().map(|it| it.at.checked_sub(killed)).collect();
    println!("started again after the kill: {after:?}");
    let again: BTreeSet<u32> = account.attempts[TASKS as usize..].iter().map(|it| it.task).collect();
    assert_eq!((account.attempts.len(), again.len()), (2 * TASKS as usize, TASKS as usize), "each once more");
    assert_eq!((account.repeats(), account.redelivered()), (0, TASKS as usize), "{}", *account);
    assert!(account.attempts.iter().all(|attempt| attempt.number == 1), "a crash is no failure");
    assert_eq!((broker.waiting("default").await.unwrap(), broker.dead("default").await.unwrap()), (0, 0));
    Ok(())
}
