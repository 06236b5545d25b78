//! Ticks of schedules are neither lost nor doubled while a cluster of three nodes is partitioned.
//!
//! Whoever runs it brings the cluster, and says how to cut its first node off from the two others and how to heal that.
//! Its virtual host must be empty:
//!
//! ```text
//! TASKHARE_CLUSTER_URLS="amqp://first/tests amqp://second/tests amqp://third/tests" \
//! TASKHARE_CLUSTER_CUT="…" TASKHARE_CLUSTER_HEAL="…" \
//!     cargo test --features testing --test faults -- --ignored --nocapture schedules_cluster
//! ```
//!
//! The commands are run by `sh -c`. Between nodes on one machine this cuts at once, and leaves clients connected; to heal
//! it is the same with `erlang:get_cookie()` for `cut`, and `net_kernel:connect_node` for `erlang:disconnect_node`:
//!
//! ```text
//! rabbitmqctl -n a@localhost eval '[begin erlang:set_cookie(N, cut), erlang:disconnect_node(N) end
//!                                   || N <- [b@localhost, c@localhost]].'
//! ```

use std::time::Duration;

use tokio::process::Command;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio::time::timeout;

use crate::account::Account;
use crate::process::Process;
use crate::ticks::Plan;
use crate::ticks::now;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(90);
/// From the start of the processes to the first tick.
const SOON: Duration = Duration::from_secs(12);
/// From the first tick to the cut.
const BEFORE: Duration = Duration::from_secs(5);
/// Longer than a scheduler keeps the channel of a node that is cut off.
const CUT: Duration = Duration::from_secs(20);
/// How long after the last tick one may come twice.
const AFTER: Duration = Duration::from_secs(10);
/// Longer than the cut: every planned tick has to be fired.
const NEVER: Duration = Duration::from_secs(600);

#[ignore = "needs a cluster, and who cuts it: see above"]
#[tokio::test(flavor = "multi_thread")]
async fn every_planned_tick_is_run_once_though_the_node_of_the_active_scheduler_is_cut_off() {
    let variable = |name: &str| std::env::var(format!("TASKHARE_CLUSTER_{name}"));
    let (Ok(urls), Ok(cut), Ok(heal)) = (variable("URLS"), variable("CUT"), variable("HEAL")) else { return };
    let urls: Vec<&str> = urls.split_whitespace().collect();
    let [first, second, third] = urls[..] else { panic!("three URLs are needed: {urls:?}") };

    let account = watch::Sender::new(Account::default());
    let plan = Plan::new(50, SOON, BEFORE + CUT + Duration::from_secs(15), NEVER);
    let scheduler = |url| Process::start_told(&plan.to_string(), "scheduler", 1, url, &account);
    let ticker = Process::start("ticker", 64, third, &account);
    let mut schedulers = vec![scheduler(first)];
    until(&account, "the first is active", |account| !account.active.is_empty()).await;
    schedulers.extend([scheduler(second), scheduler(third)]);

    sleep((plan.starts + BEFORE).saturating_sub(now())).await;
    run(&cut).await;
    sleep(CUT).await;
    run(&heal).await;
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

async fn run(command: &str) {
    let ended = Command::new("sh").args(["-c", command]).status().await.unwrap();
    assert!(ended.success(), "{command} ended with {ended}");
}
