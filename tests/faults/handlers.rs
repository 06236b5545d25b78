//! Handlers that do what they must not.

use std::time::Duration;

use taskhare::Broker;
use taskhare::Producer;
use taskhare::testing::Result;
use taskhare::testing::TestBroker;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::account::Account;
use crate::process::Process;
use crate::worker::BLOCKED;
use crate::worker::Count;
use crate::worker::PREFETCH;

/// Seconds, on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);
/// How many tasks there are with the first process, and after it has come back.
const EACH: u32 = 300;

/// As it cannot say anything, the broker gives it up. What it had runs elsewhere; and it is back by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_process_whose_handlers_block_all_threads_loses_its_tasks_and_comes_back() -> Result<()> {
    let url = format!("{}?heartbeat=2", TestBroker::shared().await?.fresh_vhost().await?);
    let account = watch::Sender::new(Account::default());
    let until = async |what: &str, check: &dyn Fn(&Account) -> bool| {
        if timeout(PATIENCE, account.subscribe().wait_for(check)).await.is_err() {
            account.borrow().log.iter().for_each(|line| println!("          {line}"));
            panic!("not within {PATIENCE:?}: {what}; {}", *account.borrow());
        }
    };
    let name = format!("taskhare-unblock-{}-{:08x}", std::process::id(), fastrand::u32(..));
    let unblock = std::env::temp_dir().join(name);
    let blocker = Process::start_told(&unblock.to_string_lossy(), "blocker", 4, &url, &account);
    let broker = Broker::connect(&url).await.unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let enqueue = async |from: u32| {
        for task in producer.enqueue_all((from..from + EACH).map(|number| Count { number })).await {
            task.unwrap();
        }
    };
    enqueue(0).await;
    until("all threads are blocked", &|account| account.starts(BLOCKED) > 0).await;
    let other = Process::start("consumer", 4, &url, &account);
    until("all are done", &|account| account.done() == EACH as usize).await;
    assert!(account.borrow().redelivered() > 0, "the broker has given it up");
    other.shut_down().await;
    std::fs::write(&unblock, "").unwrap();
    enqueue(EACH).await;
    until("it is back", &|account| account.done() == 2 * EACH as usize).await;
    blocker.shut_down().await;
    let account = &*account.borrow();
    assert!(!account.panicked(), "{:?}", account.log);
    std::fs::remove_file(&unblock).unwrap();
    assert!(account.repeats() <= PREFETCH as usize, "{account}");
    assert_eq!((broker.waiting("default").await.unwrap(), broker.dead("default").await.unwrap()), (0, 0));
    broker.close().await;
    Ok(())
}
