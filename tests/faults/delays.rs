//! Delayed tasks, while their consumer or their broker is killed. Nobody schedules them: their enqueuer ends once it
//! has enqueued them, and then there is the broker, and a consumer.

use std::collections::BTreeMap;
use std::time::Duration;
use std::time::SystemTime;
use std::time::UNIX_EPOCH;

use taskhare::Broker;
use taskhare::Producer;
use taskhare::testing::Result;
use taskhare::testing::TestBroker;
use taskhare::testing::vhost_of;
use tokio::sync::watch;
use tokio::time::sleep;

use crate::account::Account;
use crate::process::Process;
use crate::worker::Later;

const TASKS: u32 = 2_000;
const SOONEST: Duration = Duration::from_millis(50);
const LATEST: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(120);

/// Tasks that wait, and when each is due, since the Unix epoch.
struct Waiting {
    url: String,
    due: Vec<Duration>,
    account: watch::Sender<Account>,
}

impl Waiting {
    async fn on(broker: &TestBroker) -> Self {
        let url = broker.fresh_vhost().await.unwrap();
        let enqueuer = Broker::connect(&url).await.unwrap();
        let producer = Producer::builder(&enqueuer).build().await.unwrap();
        let mut due = Vec::new();
        for number in 0..TASKS {
            let delay = fastrand::u64(SOONEST.as_millis() as u64..=LATEST.as_millis() as u64);
            let at = SystemTime::now() + Duration::from_millis(delay);
            producer.enqueue(Later { number }).at(at).await.unwrap();
            due.push(at.duration_since(UNIX_EPOCH).unwrap());
        }
        enqueuer.close().await;
        Self { url, due, account: watch::Sender::new(Account::default()) }
    }

    /// What is still on the broker, by queue.
    async fn left(&self, broker: &TestBroker) -> Vec<(String, u64)> {
        let queues = broker.management().queues(&vhost_of(&self.url).unwrap()).await.unwrap();
        let filled = queues.into_iter().filter(|queue| queue.totals.messages > 0);
        filled.map(|queue| (queue.name, queue.totals.messages)).collect()
    }

    fn consumer(&self) -> Process {
        Process::start("waiter", 16, &self.url, &self.account)
    }

    /// Until all have started, none of them early; tells how late they were, apart for those due since the last fault.
    async fn finish(self, broker: &TestBroker, consumer: Process) {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let mut account = self.account.subscribe();
        let starts = |account: &Account| {
            let mut starts = BTreeMap::new();
            for attempt in &account.attempts {
                starts.entry(attempt.task).or_insert(attempt.at);
            }
            starts
        };
        let is_done = |account: &Account| starts(account).len() == TASKS as usize;
        let done = tokio::time::timeout(PATIENCE, account.wait_for(is_done)).await.map(drop);
        if done.is_err() {
            let done = starts(&self.account.borrow()).len();
            panic!("{done} of {TASKS} are done; the rest: {:?}", self.left(broker).await);
        }
        consumer.shut_down().await;
        let account = self.account.borrow();
        let early: Vec<_> =
            account.attempts.iter().filter(|attempt| attempt.at < self.due[attempt.task as usize]).collect();
        assert!(early.is_empty(), "{early:?}");
        for (what, from) in [("all", Duration::ZERO), ("due after the last fault", since)] {
            let due = |task: u32| self.due[task as usize];
            let starts = starts(&account).into_iter().filter(|(task, _)| due(*task) >= from);
            let mut late: Vec<Duration> = starts.map(|(task, at)| at - due(task)).collect();
            late.sort();
            let at = |percent: usize| late.get(late.len().saturating_sub(1) * percent / 100);
            println!("late, {what}: p50 {:?}, p90 {:?}, p99 {:?}, max {:?}", at(50), at(90), at(99), at(100));
        }
        println!("{} starts of {TASKS} tasks", account.attempts.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn delayed_tasks_survive_the_kills_of_their_consumer_and_none_is_early() -> Result<()> {
    let broker = TestBroker::shared().await?;
    let waiting = Waiting::on(broker).await;
    let mut consumer = waiting.consumer();
    for _ in 0..3 {
        sleep(LATEST / 5).await;
        consumer.kill().await;
        consumer = waiting.consumer();
    }
    waiting.finish(broker, consumer).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn delayed_tasks_survive_the_kill_of_their_broker_and_none_is_early() -> Result<()> {
    let broker = TestBroker::start().await?;
    let waiting = Waiting::on(&broker).await;
    let consumer = waiting.consumer();
    sleep(LATEST / 4).await;
    broker.kill().await?;
    broker.start_again().await?;
    waiting.finish(&broker, consumer).await;
    Ok(())
}
