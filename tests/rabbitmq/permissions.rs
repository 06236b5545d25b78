//! Users who may do no more than their role needs: what `docs/security.md` grants, word by word.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::ConsumerBuilder;
use taskhare::DeadReason;
use taskhare::Error;
use taskhare::Event;
use taskhare::Kind;
use taskhare::OnDuplicate;
use taskhare::Priority;
use taskhare::Producer;
use taskhare::Redrive;
use taskhare::Result;
use taskhare::RetryPolicy;
use taskhare::Schedule;
use taskhare::Scheduler;
use taskhare::Standing;
use taskhare::Task;
use taskhare::TaskContext;
use taskhare::TaskError;
use taskhare::TaskEvent;

use crate::*;

const DOCUMENT: &str = include_str!("../../docs/security.md");

#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
enum Order {
    Succeed,
    FailOnce,
    Reject,
    Wait,
}

impl Task for Order {
    const NAME: &'static str = "order";
    const QUEUE: &'static str = "mail";
    type Output = u32;
}

/// A namespace where all is declared, by a user who may.
struct Shop {
    url: String,
}

impl Shop {
    async fn open() -> Self {
        let shop = Self { url: TestBroker::shared().await.unwrap().fresh_vhost().await.unwrap() };
        let broker = shop.enter("deployer").await;
        broker.declare_queues(&["mail", "letters"]).await.unwrap();
        broker.close().await;
        shop
    }

    /// As a user of that role.
    async fn enter(&self, role: &str) -> Broker {
        let [configure, write, read] = granted(role);
        let (user, vhost) = (format!("{role}-{:08x}", fastrand::u32(..)), vhost_of(&self.url).unwrap());
        let lab = TestBroker::shared().await.unwrap();
        let url = lab.add_user(&user, "secret", configure, write, read, &vhost).await.unwrap();
        self.connect(&url).await
    }

    /// As a user who may do anything.
    async fn owner(&self) -> Broker {
        self.connect(&self.url).await
    }

    async fn connect(&self, url: &str) -> Broker {
        Broker::builder().url(url).namespace("shop").without_declaring().connect().await.unwrap()
    }
}

/// Configure, write, read.
fn granted(role: &str) -> [&'static str; 3] {
    let grant = format!("rabbitmqctl set_permissions -p production {role} ");
    let line = DOCUMENT.lines().find_map(|line| line.strip_prefix(&grant)).expect("a role of the document");
    let quoted: Vec<_> = line.split('\'').skip(1).step_by(2).collect();
    quoted.try_into().expect("three regular expressions")
}

async fn producer(broker: &Broker) -> Producer {
    Producer::builder(broker).build().await.unwrap()
}

fn consumer(broker: &Broker) -> ConsumerBuilder {
    let failed = Arc::new(AtomicU32::new(0));
    let handler = move |order: Order, ctx: TaskContext| {
        let failed = failed.clone();
        async move {
            match order {
                Order::FailOnce if failed.fetch_add(1, Ordering::Relaxed) == 0 => {
                    Err(std::io::Error::other("once").into())
                }
                Order::Succeed | Order::FailOnce => Ok(ctx.attempt()),
                Order::Reject => Err(TaskError::reject("as told")),
                Order::Wait => {
                    ctx.cancellation().cancelled().await;
                    Err(std::io::Error::other("stopped").into())
                }
            }
        }
    };
    let retry = RetryPolicy::fixed(Duration::from_millis(300));
    Consumer::builder(broker).handler_fn(handler).retry(retry)
}

fn is_refused<T: std::fmt::Debug>(what: &str, result: &Result<T>) {
    assert!(matches!(result, Err(Error::AccessRefused { .. })), "{what}: {result:?}");
}

async fn waiting(broker: &Broker, queue: &str) -> u64 {
    broker.waiting(queue).await.unwrap()
}

/// Reads events until one is found.
async fn told(broker: &Broker, mut is_wanted: impl FnMut(&TaskEvent) -> bool) {
    let mut events = broker.events().from_start().subscribe().await.unwrap();
    let search = async {
        while let Some(event) = events.next().await {
            if matches!(&event, Event::Task(event) if is_wanted(event)) {
                return;
            }
        }
        panic!("the events end");
    };
    tokio::time::timeout(PATIENCE, search).await.expect("it is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_may_only_write() {
    let shop = Shop::open().await;
    let broker = shop.enter("producer").await;
    let producer = producer(&broker).await;
    for priority in [Priority::Urgent, Priority::Normal, Priority::Low] {
        producer.enqueue(Order::Succeed).priority(priority).without_output().await.unwrap();
    }
    let day = Duration::from_secs(86_400);
    producer.enqueue(Order::Succeed).delay(day).without_output().await.unwrap();
    producer.schedule("daily", day, Order::Succeed).await.unwrap();
    let owner = shop.owner().await;
    assert_eq!((waiting(&owner, "mail").await, owner.delayed().await.unwrap()), (3, 1));
    told(&owner, |event| event.change.kind() == Kind::Accepted).await;

    is_refused("declare", &broker.declare_queues(&["other"]).await);
    is_refused("consume", &consumer(&broker).start().await);
    is_refused("cancel", &producer.cancel(taskhare::TaskId::new()).await);
    is_refused("outputs", &producer.enqueue(Order::Succeed).await);
    is_refused("events", &broker.events().from_start().subscribe().await);
    producer.enqueue(Order::Reject).without_output().await.unwrap();
    let consumer = consumer(&owner).start().await.unwrap();
    eventually("a dead letter", async || owner.dead("mail").await.unwrap() == 1).await;
    consumer.shutdown().await;
    is_refused("dead letters", &broker.dead_letters("mail").unwrap().list(1).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requester_waits_for_outputs_cancels_and_has_unique_keys() {
    let shop = Shop::open().await;
    let broker = shop.enter("requester").await;
    let producer = producer(&broker).await;
    let consumer = consumer(&shop.owner().await).start().await.unwrap();
    assert_eq!(producer.enqueue(Order::Succeed).await.unwrap().output().await.unwrap(), 1);
    let first = producer.enqueue(Order::Wait).unique("key").await.unwrap();
    let second =
        producer.enqueue(Order::Wait).unique("key").on_duplicate(OnDuplicate::Coalesce).await.unwrap();
    assert_eq!(first.id(), second.id());
    producer.cancel(first.id()).await.unwrap();
    let error = first.output().await.unwrap_err();
    assert!(matches!(error, Error::Cancelled { .. }), "{error}");
    consumer.shutdown().await;

    is_refused("consume", &self::consumer(&broker).start().await);
    is_refused("events", &broker.events().from_start().subscribe().await);
    is_refused("declare", &broker.declare_queues(&["other"]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_may_not_declare_nor_read_what_is_not_its() {
    let shop = Shop::open().await;
    let broker = shop.enter("consumer").await;
    let consumer = consumer(&broker).start().await.unwrap();
    let producer = producer(&shop.owner().await).await;
    assert_eq!(producer.enqueue(Order::FailOnce).await.unwrap().output().await.unwrap(), 2);
    let dead = producer.enqueue(Order::Reject).await.unwrap().output().await.unwrap_err();
    assert!(matches!(dead, Error::Failed { reason: DeadReason::Rejected, .. }), "{dead}");
    let unique = producer.enqueue(Order::Succeed).unique("key").await.unwrap();
    unique.output().await.unwrap();
    eventually("its key is free", async || producer.enqueue(Order::Succeed).unique("key").await.is_ok())
        .await;
    let running = producer.enqueue(Order::Wait).await.unwrap();
    producer.cancel(running.id()).await.unwrap();
    let error = running.output().await.unwrap_err();
    assert!(matches!(error, Error::Cancelled { .. }), "{error}");
    let owner = shop.owner().await;
    told(&owner, |event| event.change.kind() == Kind::Succeeded).await;
    eventually("a dead letter", async || owner.dead("mail").await.unwrap() == 1).await;
    consumer.shutdown().await;

    is_refused("declare", &broker.declare_queues(&["mail"]).await);
    is_refused("another queue", &self::consumer(&broker).queue("letters").start().await);
    is_refused("dead letters", &broker.dead_letters("mail").unwrap().list(1).await);
    is_refused("events", &broker.events().from_start().subscribe().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_long_tasks_has_a_queue_of_its_own() {
    let shop = Shop::open().await;
    let broker = shop.enter("long-consumer").await;
    let starts = Arc::new(AtomicU32::new(0));
    let counted = starts.clone();
    let consumer = Consumer::builder(&broker)
        .handler_fn(move |_: Order, _| {
            counted.fetch_add(1, Ordering::Relaxed);
            async {
                tokio::time::sleep(Duration::from_secs(5)).await;
                Ok(7)
            }
        })
        .consumer_timeout(Duration::from_secs(4))
        .start()
        .await
        .unwrap();
    let producer = producer(&shop.owner().await).await;
    let task = producer.enqueue(Order::Succeed).await.unwrap();
    let leases = async || {
        let queues =
            TestBroker::shared().await.unwrap().management().queues(&vhost_of(&shop.url).unwrap()).await;
        queues
            .unwrap()
            .into_iter()
            .any(|queue| queue.name.starts_with("shop.lease.") && queue.totals.messages > 0)
    };
    eventually("it holds the task there", leases).await;
    assert_eq!(task.output().await.unwrap(), 7);
    consumer.shutdown().await;
    assert_eq!(starts.load(Ordering::Relaxed), 1);
    eventually("it removes it", async || !leases().await).await;
    is_refused("declare", &broker.declare_queues(&["mail"]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_fires_and_watches_and_runs_nothing() {
    let shop = Shop::open().await;
    let broker = shop.enter("scheduler").await;
    let owner = shop.owner().await;
    let consumer = consumer(&owner).start().await.unwrap();
    let producer = producer(&owner).await;
    producer.enqueue(Order::Reject).without_output().await.unwrap();
    let schedule = Schedule::new("often", Duration::from_millis(200), Order::Succeed).limit(3);
    let scheduler = Scheduler::builder(&broker)
        .schedule(schedule)
        .redrive(Redrive::after(Duration::ZERO).times(1).queue("mail").only(|_| true))
        .start()
        .await
        .unwrap();
    let mut ticks = 0;
    told(&owner, |event| {
        ticks += u32::from(event.change.kind() == Kind::Succeeded);
        ticks == 3
    })
    .await;
    told(&owner, |event| event.change.kind() == Kind::Redriven).await;
    let schedules = owner.schedules();
    assert_eq!(schedules.get("often").await.unwrap().unwrap().ticks(), 3);
    schedules.remove("often").await.unwrap();
    eventually("it knows the consumer", async || scheduler.consumers().len() == 1).await;
    scheduler.shutdown().await;
    consumer.shutdown().await;

    is_refused("consume", &self::consumer(&broker).start().await);
    is_refused("declare", &broker.declare_queues(&["mail"]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_deals_with_dead_letters_and_schedules_and_runs_nothing() {
    let shop = Shop::open().await;
    let broker = shop.enter("operator").await;
    let owner = shop.owner().await;
    let producer = producer(&owner).await;
    let running = consumer(&owner).start().await.unwrap();
    let scheduler = Scheduler::builder(&owner)
        .schedule(Schedule::new("daily", Duration::from_secs(86_400), Order::Succeed))
        .start()
        .await
        .unwrap();
    let dead = producer.enqueue(Order::Reject).without_output().await.unwrap();
    eventually("a dead letter", async || owner.dead("mail").await.unwrap() == 1).await;
    running.shutdown().await;
    let letters = broker.dead_letters("mail").unwrap();
    assert_eq!(letters.list(9).await.unwrap()[0].id(), Some(dead.id()));
    let state = broker.status(dead.id()).await.unwrap().unwrap();
    assert!(matches!(state.standing, Standing::Done(_)), "{state:?}");
    letters.requeue(dead.id()).await.unwrap();
    assert_eq!(waiting(&owner, "mail").await, 1);
    assert_eq!(broker.undeliverable().list(1).await.unwrap().len(), 0);
    let schedules = broker.schedules();
    assert_eq!(schedules.list().await.unwrap().len(), 1);
    schedules.pause("daily").await.unwrap();
    Producer::builder(&broker).build().await.unwrap().cancel(dead.id()).await.unwrap();
    scheduler.shutdown().await;

    is_refused("consume", &consumer(&broker).start().await);
    is_refused("declare", &broker.declare_queues(&["mail"]).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_monitor_may_only_read_what_happens() {
    let shop = Shop::open().await;
    let broker = shop.enter("monitor").await;
    let producer_of_others = producer(&shop.owner().await).await;
    let task = producer_of_others.enqueue(Order::Succeed).without_output().await.unwrap();
    told(&broker, |event| event.id == task.id()).await;
    let counts = (waiting(&broker, "mail").await, broker.dead("mail").await.unwrap());
    assert_eq!((counts, broker.delayed().await.unwrap()), ((1, 0), 0));

    let producer = producer(&broker).await;
    is_refused("enqueue", &producer.enqueue(Order::Succeed).without_output().await);
    is_refused("cancel", &producer.cancel(task.id()).await);
    is_refused("consume", &consumer(&broker).start().await);
    is_refused("schedule", &producer.schedule("daily", Duration::from_secs(86_400), Order::Succeed).await);
    is_refused("status", &broker.status(task.id()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_says_what_was_tried_where_and_by_whom() {
    let shop = Shop::open().await;
    let broker = shop.enter("monitor").await;
    let refused = producer(&broker).await.enqueue(Order::Succeed).without_output().await.unwrap_err();
    let text = refused.to_string();
    for part in ["enqueue task", "queue 'mail'", "exchange 'shop.tasks'", "user 'monitor-"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let refused = consumer(&shop.enter("producer").await).start().await.unwrap_err().to_string();
    assert!(refused.contains("queue 'shop.control'"), "{refused}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_anybody_who_declares_what_is_missing_is_named() {
    let shop = Shop { url: TestBroker::shared().await.unwrap().fresh_vhost().await.unwrap() };
    let broker = shop.owner().await;
    let error = consumer(&broker).start().await.unwrap_err();
    assert!(matches!(&error, Error::Consume { queue, .. } if queue == "shop.control"), "{error:?}");
    let error = producer(&broker).await.enqueue(Order::Succeed).without_output().await.unwrap_err();
    assert!(error.to_string().contains("no exchange 'shop.tasks'"), "{error}");
}
