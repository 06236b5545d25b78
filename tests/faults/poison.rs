//! Tasks that kill their process, which somebody starts again each time.

use std::collections::BTreeSet;
use std::time::Duration;

use taskhare::Broker;
use taskhare::Producer;
use taskhare::Replication;
use taskhare::testing::Result;
use taskhare::testing::TestBroker;
use taskhare::testing::vhost_of;
use taskhare::transport::Name;
use taskhare::transport::Subscribe;
use taskhare::transport::Value;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::account::Account;
use crate::process::Process;
use crate::worker::Count;
use crate::worker::POISON;

const GOOD: u32 = 100;
/// The default.
const CRASH_LIMIT: usize = 5;
/// How long all of it may take; a dozen seconds, on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_aborts_its_process_is_dead_at_the_limit_and_those_beside_it_are_done() -> Result<()> {
    let starts = kill_and_restart("victim", Replication::default(), 1, 1).await?;
    assert_eq!(starts, [CRASH_LIMIT]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_on_classic_queues_which_count_nothing() -> Result<()> {
    let starts = kill_and_restart("classic victim", Replication::Classic, 1, 1).await?;
    assert_eq!(starts, [CRASH_LIMIT]);
    Ok(())
}

/// A killer that another one takes with it, not yet started, is under suspicion with a start less. One that is on its
/// way to quarantine at that moment may get there twice.
#[tokio::test(flavor = "multi_thread")]
async fn several_killers_in_several_processes_are_all_found() -> Result<()> {
    let starts = kill_and_restart("victim", Replication::default(), 4, 2).await?;
    assert!(starts.iter().all(|starts| (CRASH_LIMIT - 2..=2 * CRASH_LIMIT).contains(starts)), "{starts:?}");
    Ok(())
}

/// Enqueues good tasks with killers among them, and keeps processes alive until the good ones are done and the killers
/// dead. Returns how often each killer was started.
async fn kill_and_restart(
    role: &'static str,
    replication: Replication,
    killers: u32,
    processes: usize,
) -> Result<Vec<usize>> {
    let lab = TestBroker::shared().await?;
    let url = lab.fresh_vhost().await?;
    let broker = Broker::builder().url(&url).replication(replication).connect().await.unwrap();
    let killers: Vec<u32> = (0..killers).map(|killer| POISON + killer).collect();
    enqueue(&broker, &killers).await;

    let account = watch::Sender::new(Account::default());
    let start = || Process::start(role, 16, &url, &account);
    let mut victims: Vec<Process> = (0..processes).map(|_| start()).collect();
    let is_over = async || account.borrow().done() == GOOD as usize && left(lab, &url).await == 0;
    let supervised = async {
        while !is_over().await {
            for victim in &mut victims {
                if victim.is_gone() {
                    *victim = start();
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ended = timeout(PATIENCE, supervised).await;
    let starts = killers.iter().map(|killer| account.borrow().starts(*killer)).collect();
    println!("the killers were started {starts:?} times; {}", *account.borrow());
    if ended.is_err() {
        account.borrow().log.iter().for_each(|line| println!("          {line}"));
        panic!("not over after {PATIENCE:?}");
    }
    for victim in victims {
        victim.shut_down().await;
    }
    assert_eq!(dead(&broker).await.len(), killers.len());
    broker.close().await;
    Ok(starts)
}

/// The killers evenly among the good ones.
async fn enqueue(broker: &Broker, killers: &[u32]) {
    let producer = Producer::builder(broker).build().await.unwrap();
    let good: Vec<u32> = (0..GOOD).collect();
    for (killer, good) in killers.iter().zip(good.chunks(GOOD as usize / killers.len())) {
        let (before, after) = good.split_at(good.len() / 2);
        for number in [before, &[*killer], after].concat() {
            producer.enqueue(Count { number }).await.unwrap();
        }
    }
}

/// The ids of the dead letters, which all must have crashed.
async fn dead(broker: &Broker) -> BTreeSet<String> {
    let letters = broker.dead("default").await.unwrap();
    let queue = Name::new("queue", "taskhare.default.dead").unwrap();
    let subscribe = Subscribe::new(queue, 100, "test");
    let mut dead = broker.transport().subscribe(subscribe).await.unwrap();
    let mut ids = BTreeSet::new();
    for _ in 0..letters {
        let letter = timeout(PATIENCE, dead.next()).await.unwrap().unwrap();
        let reason = letter.message.headers.get("taskhare-reason").and_then(Value::as_text);
        assert_eq!(reason, Some("crashed"), "{letter:?}");
        ids.insert(letter.message.id.clone().unwrap());
    }
    ids
}

/// How many messages all queues hold but that of the dead letters.
async fn left(lab: &TestBroker, url: &str) -> u64 {
    let queues = lab.management().queues(&vhost_of(url).unwrap()).await.unwrap();
    let alive = queues.iter().filter(|queue| queue.name != "taskhare.default.dead");
    alive.map(|queue| queue.totals.messages).sum()
}
