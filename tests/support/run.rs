//! [`Run`]: one broker, its processes, and what becomes of all tasks. Included by `#[path]`.

use std::time::Duration;

use taskhare::Replication;
use taskhare::testing::Management;
use taskhare::testing::TestBroker;
use taskhare::testing::TestCluster;
use taskhare::testing::vhost_of;
use tokio::sync::Mutex;
use tokio::sync::MutexGuard;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::account::Account;
use crate::process::Process;
use crate::worker::PREFETCH;
use crate::worker::TASKS;

/// How long anything may take; seconds, on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// These tests are busy: one at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// How many tasks are under way at a time.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Enqueued and not yet confirmed.
    pub enqueued: usize,
    /// Run by the consumer.
    pub running: usize,
}

/// As fast as it goes: all is done in some seconds.
pub const FAST: Pace = Pace { enqueued: 256, running: 64 };

/// Slow enough for ten faults: 2000 tasks a second at most, on any machine, and a consumer that has a backlog.
pub const SLOW: Pace = Pace { enqueued: 16, running: 4 };

impl Pace {
    /// How many tasks its consumer may have that are not settled: its prefetch or, as its tasks are short, four times as
    /// many as run at once.
    pub const fn held(self) -> usize {
        let (prefetch, wide) = (PREFETCH as usize, 4 * self.running);
        if wide > prefetch { wide } else { prefetch }
    }
}

/// What a run needs of its broker: one node, or several.
pub trait Place {
    fn management(&self) -> &Management;
    /// The name and the URLs of a virtual host of one's own.
    async fn fresh_vhost(&self) -> (String, String);
}

impl Place for TestBroker {
    fn management(&self) -> &Management {
        self.management()
    }

    async fn fresh_vhost(&self) -> (String, String) {
        let url = self.fresh_vhost().await.unwrap();
        (vhost_of(&url).unwrap(), url)
    }
}

impl Place for TestCluster {
    fn management(&self) -> &Management {
        self.management()
    }

    async fn fresh_vhost(&self) -> (String, String) {
        let vhost = self.fresh_vhost().await.unwrap();
        let urls = self.urls(&vhost);
        (vhost, urls)
    }
}

/// A fault test in its course.
pub struct Run<'a, P = TestBroker> {
    pub broker: &'a P,
    pub vhost: String,
    /// What the processes connect to.
    pub url: String,
    /// What the queues of a steady producer and of a consumer are.
    pub replication: Replication,
    pace: Pace,
    account: watch::Sender<Account>,
    started: Instant,
    _alone: MutexGuard<'static, ()>,
}

impl<'a, P: Place> Run<'a, P> {
    /// On a virtual host of its own.
    pub async fn new(broker: &'a P, pace: Pace) -> Self {
        let alone = ALONE.lock().await;
        let (vhost, url) = broker.fresh_vhost().await;
        let (account, started) = (watch::Sender::new(Account::default()), Instant::now());
        let replication = Replication::default();
        Self { broker, vhost, url, replication, pace, account, started, _alone: alone }
    }

    pub fn producer(&self) -> Process {
        Process::start("producer", self.pace.enqueued, &self.url, &self.account)
    }

    /// A producer that goes on until it is told to end: for faults that take long.
    pub fn steady_producer(&self) -> Process {
        Process::start(self.role("steady", "classic steady"), self.pace.enqueued, &self.url, &self.account)
    }

    pub fn consumer(&self) -> Process {
        let role = self.role("consumer", "classic consumer");
        Process::start(role, self.pace.running, &self.url, &self.account)
    }

    fn role(&self, usual: &'static str, classic: &'static str) -> &'static str {
        if self.replication == Replication::Classic { classic } else { usual }
    }

    /// A consumer of tasks whose numbers say how they end.
    pub fn fated(&self) -> Process {
        Process::start("fated", self.pace.running, &self.url, &self.account)
    }

    /// What the processes said they did, in short.
    pub fn summary(&self) -> String {
        self.account.borrow().to_string()
    }

    /// Writes down what happens, for whoever reads a failure.
    pub fn note(&self, what: &str) {
        println!("{:6.2} s  {what}: {}", self.started.elapsed().as_secs_f64(), *self.account.borrow());
    }

    pub fn confirmed(&self) -> usize {
        self.account.borrow().confirmed()
    }

    pub fn done(&self) -> usize {
        self.account.borrow().done()
    }

    /// Waits until so many of `of` parts of all tasks are done.
    pub async fn until_done(&self, parts: u32, of: u32) {
        let count = (TASKS / of * parts) as usize;
        self.until("tasks are done", async |account| account.borrow().done() >= count).await;
    }

    /// Waits until so many of `of` parts of all tasks are confirmed.
    pub async fn until_confirmed(&self, parts: u32, of: u32) {
        let count = (TASKS / of * parts) as usize;
        self.until("tasks are confirmed", async |account| account.borrow().confirmed() >= count).await;
    }

    /// Waits until `check` holds.
    pub async fn until(&self, what: &str, mut check: impl AsyncFnMut(&watch::Sender<Account>) -> bool) {
        let started = Instant::now();
        while !check(&self.account).await {
            if self.account.borrow().panicked() {
                self.give_up(&format!("a process panicked before: {what}"));
            }
            if started.elapsed() > PATIENCE {
                self.give_up(&format!("not within {PATIENCE:?}: {what}"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn give_up(&self, why: &str) -> ! {
        self.note("giving up");
        self.print_log();
        let lost = self.account.borrow().lost();
        panic!("{why}; confirmed and not done: {:?}", &lost[..lost.len().min(20)]);
    }

    /// Waits until so many more tasks are confirmed, and so many more done, than now.
    pub async fn until_more(&self, tasks: usize) {
        let (confirmed, done) = (self.account.borrow().confirmed(), self.account.borrow().done());
        let is_so = async |account: &watch::Sender<Account>| {
            let account = account.borrow();
            account.confirmed() >= confirmed + tasks && account.done() >= done + tasks
        };
        self.until("more tasks are confirmed and done", is_so).await;
    }

    /// Tells a steady producer to end, and then as [`finish`](Self::finish).
    pub async fn wind_up(self, producer: Process, consumer: Process) -> Account {
        producer.shut_down().await;
        self.note("the producer has ended");
        self.finish(None, consumer).await
    }

    /// To the end: all that was confirmed is done, the broker has nothing left, and what ran has shut down well.
    pub async fn finish(self, producer: Option<Process>, consumer: Process) -> Account {
        if let Some(mut producer) = producer {
            self.until("the producer ends", async |_| producer.has_ended()).await;
            producer.shut_down().await;
            assert_eq!(self.account.borrow().confirmed(), TASKS as usize);
        }
        self.until("all that is confirmed is done", async |account| account.borrow().lost().is_empty()).await;
        self.until("nothing is left on the broker", async |_| self.left().await == 0).await;
        self.note("nothing is left on the broker");
        consumer.shut_down().await;
        assert_eq!(self.left().await, 0, "nothing came back with the end of the consumer");
        self.note("finished");
        self.print_log();
        let account = self.account.send_replace(Account::default());
        assert_eq!(account.invented(), 0);
        assert!(!account.panicked());
        account
    }

    /// How many messages all queues of the virtual host hold, unacknowledged ones and dead letters included.
    async fn left(&self) -> u64 {
        let queues = self.broker.management().queues(&self.vhost).await.unwrap();
        assert!(queues.iter().any(|queue| queue.name == "taskhare.default.dead"), "{queues:?}");
        queues.iter().map(|queue| queue.totals.messages).sum()
    }

    fn print_log(&self) {
        self.account.borrow().log.iter().for_each(|line| println!("          {line}"));
    }
}
