//! Tasks that fail three times and then succeed, with two processes to run them.

use std::collections::BTreeSet;
use std::time::Duration;

use taskhare::Broker;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::testing::Result;
use taskhare::testing::TestBroker;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::account::Account;
use crate::account::Attempt;
use crate::process::Process;
use crate::worker::Flaky;

/// How many tasks of each policy.
const EACH: u32 = 100;
/// Seconds, on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn a_task_that_fails_three_times_has_four_attempts_and_waits_as_its_policy_says() -> Result<()> {
    let url = TestBroker::shared().await?.fresh_vhost().await?;
    let (account, mut changes) = watch::channel(Account::default());
    let retriers = [1, 2].map(|_| Process::start("retrier", 8, &url, &account));
    let broker = Broker::connect(&url).await.unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let (fixed, base) = (Duration::from_millis(700), Duration::from_millis(300));
    let policies = [RetryPolicy::fixed(fixed), RetryPolicy::exponential(base)];
    for (policy, first) in policies.into_iter().zip([0, EACH]) {
        let tasks = (first..first + EACH).map(|number| Flaky { number });
        for enqueued in producer.enqueue_all(tasks).retry(policy).await {
            enqueued.unwrap();
        }
    }
    let is_done = |account: &Account| {
        account.attempts.iter().filter(|attempt| attempt.number >= 4).count() >= 2 * EACH as usize
    };
    timeout(PATIENCE, changes.wait_for(is_done)).await.expect("all are done in time").unwrap();
    for retrier in retriers {
        retrier.shut_down().await;
    }
    assert_eq!((broker.waiting("default").await.unwrap(), broker.dead("default").await.unwrap()), (0, 0));

    let mut attempts = account.borrow().attempts.clone();
    attempts.sort();
    let processes: BTreeSet<u32> = attempts.iter().map(|attempt| attempt.process).collect();
    assert_eq!(processes.len(), 2, "both had some");
    let tasks: Vec<&[Attempt]> = attempts.chunk_by(|one, next| one.task == next.task).collect();
    assert_eq!(tasks.len(), 2 * EACH as usize);
    let mut exponential = [Duration::ZERO; 3];
    for task in tasks {
        let numbers: Vec<u32> = task.iter().map(|attempt| attempt.number).collect();
        assert_eq!(numbers, [1, 2, 3, 4], "{task:?}");
        for (index, pair) in task.windows(2).enumerate() {
            let wait = pair[1].at - pair[0].at;
            if pair[0].task < EACH {
                assert!(wait >= fixed, "{wait:?} of {fixed:?}: {task:?}");
            } else {
                exponential[index] += wait / EACH;
            }
        }
    }
    println!("mean waits after attempts 1, 2 and 3 of the exponential policy: {exponential:?}");
    // Each wait is a random part of base, twice and four times base. The mean of so many is near the half.
    for (mean, most) in exponential.into_iter().zip([base, 2 * base, 4 * base]) {
        assert!(mean >= most / 3, "{exponential:?}");
    }
    Ok(())
}
