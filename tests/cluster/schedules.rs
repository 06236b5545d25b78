//! Ticks of schedules are neither lost nor doubled while the cluster is partitioned.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tokio::time::timeout;

use crate::account::Account;
use crate::cluster::PATIENCE;
use crate::cluster::whole;
use crate::process::Process;
use crate::ticks::Plan;
use crate::ticks::now;

/// From the start of the processes to the first tick.
const SOON: Duration = Duration::from_secs(6);
/// From the first tick to the cut.
const BEFORE: Duration = Duration::from_secs(3);
/// Longer than a scheduler keeps the channel of a node that is cut off.
const CUT: Duration = Duration::from_secs(14);
/// From the end of the cut to the last tick.
const REST: Duration = Duration::from_secs(10);
/// How long after the last tick one may come twice.
const AFTER: Duration = Duration::from_secs(5);
/// Longer than the cut: every planned tick has to be fired.
const NEVER: Duration = Duration::from_secs(600);

#[tokio::test(flavor = "multi_thread")]
async fn every_planned_tick_is_run_once_though_the_node_of_the_active_scheduler_is_cut_off() {
    let cluster = whole().await;
    let vhost = cluster.fresh_vhost().await.unwrap();
    let account = watch::Sender::new(Account::default());
    let plan = Plan::new(50, SOON, BEFORE + CUT + REST, NEVER);
    let scheduler =
        |node| Process::start_told(&plan.to_string(), "scheduler", 1, &cluster.url(node, &vhost), &account);
    let ticker = Process::start("ticker", 64, &cluster.url(2, &vhost), &account);
    let mut schedulers = vec![scheduler(0)];
    until(&account, "the first is active", |account| !account.active.is_empty()).await;
    schedulers.extend([scheduler(1), scheduler(2)]);

    sleep((plan.starts + BEFORE).saturating_sub(now())).await;
    cluster.cut(0).await.unwrap();
    sleep(CUT).await;
    cluster.heal(0).await.unwrap();
    until(&account, "all ticks were run", |account| plan.is_over(&account.ran)).await;
    sleep(AFTER).await;

    for process in schedulers.into_iter().chain([ticker]) {
        process.shut_down().await;
    }
    let account = account.borrow();
    account.log.iter().for_each(|line| println!("{line}"));
    let verdict = plan.judge(&account.ran);
    println!("{} planned; {verdict}", plan.ticks());
    assert!(!account.panicked());
    assert!(verdict.is_perfect(), "{verdict}");
}

async fn until(account: &watch::Sender<Account>, what: &str, check: impl Fn(&Account) -> bool) {
    let mut account = account.subscribe();
    let is_so = timeout(PATIENCE, account.wait_for(check)).await.is_ok();
    assert!(is_so, "not within {PATIENCE:?}: {what}");
}
