//! The management API of a real broker: what it lists and closes, and for whom.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use serde_json::json;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Error as TaskhareError;
use taskhare::Producer;
use taskhare::Task;
use taskhare::management::Management;
use tokio::sync::Semaphore;

use crate::*;

/// A user of the management API, who may do everything in the virtual host of `url`; and his AMQP URL.
async fn user(url: &str, tags: &str) -> (Management, String) {
    let broker = TestBroker::shared().await.unwrap();
    let name = format!("{tags}-{:08x}", fastrand::u32(..));
    let amqp = broker.add_user(&name, "secret", ".*", ".*", ".*", &vhost_of(url).unwrap()).await.unwrap();
    let tagged = json!({ "password": "secret", "tags": tags });
    broker.management().put(&format!("/users/{name}"), &tagged).await.unwrap();
    (client(&name, "secret").await, amqp)
}

async fn client(user: &str, password: &str) -> Management {
    let place = TestBroker::shared().await.unwrap().management().place();
    Management::new(&place.replacen("://", &format!("://{user}:{password}@"), 1)).unwrap()
}

#[tokio::test]
async fn users_are_told_what_they_lack() {
    let lab = Lab::new().await;
    let wrong = client("guest", "wrong").await.connections().await;
    assert!(matches!(wrong, Err(TaskhareError::Login { .. })), "{wrong:?}");
    let (untagged, _) = user(&lab.url, "").await;
    let error = untagged.queues(&lab.vhost).await.unwrap_err();
    assert!(matches!(error, TaskhareError::AccessRefused { .. }), "{error:?}");
    assert!(error.to_string().contains("tag `management`"), "{error}");
    let nowhere = client("guest", "guest").await.queues("nowhere").await;
    assert!(matches!(nowhere, Err(TaskhareError::Management { status: 404, .. })), "{nowhere:?}");
}

#[tokio::test]
async fn a_user_closes_his_own_connections_and_an_administrator_all() {
    let lab = Lab::new().await;
    let (own, url) = user(&lab.url, "management").await;
    let (seeing, _) = user(&lab.url, "monitoring").await;
    let (administrator, _) = user(&lab.url, "administrator").await;
    let amqp = Amqp::connect(options(&url)).await.unwrap();
    let _subscription = amqp.subscribe(subscribe("q", 1)).await.unwrap();
    let name = amqp.connection_names().remove(0);
    let find = async |client: &Management| {
        let all = client.connections().await.unwrap();
        all.into_iter().find(|it| it.user_provided_name == name)
    };
    for client in [&own, &administrator] {
        eventually("it is listed", async || find(&seeing).await.is_some()).await;
        let connection = find(&own).await.unwrap();
        assert_eq!(connection.vhost, lab.vhost);
        let refused = seeing.close_connection(&connection.name, "").await;
        assert!(matches!(refused, Err(TaskhareError::AccessRefused { .. })), "{refused:?}");
        assert!(client.close_connection(&connection.name, "for a test").await.unwrap());
        eventually("it is gone", async || !client.close_connection(&connection.name, "").await.unwrap())
            .await;
    }
}

#[tokio::test]
async fn queues_are_listed_with_what_is_in_them() {
    let lab = Lab::new().await;
    lab.publish_all(3).await;
    let mut subscription = lab.subscribe(1).await;
    let _held = next(&mut subscription).await;
    let client = TestBroker::shared().await.unwrap().management().client();
    eventually("all is counted", async || {
        let queues = client.queues(&lab.vhost).await.unwrap();
        let [queue] = &queues[..] else { panic!("{queues:?}") };
        assert_eq!((queue.name.as_str(), queue.kind.as_str()), ("q", "quorum"));
        let totals = queue.totals;
        (totals.messages, totals.ready, totals.unacknowledged, queue.consumers) == (3, 2, 1, 1)
    })
    .await;
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Hang;

impl Task for Hang {
    const NAME: &'static str = "hang";
    type Output = String;
}

/// A process of its own: a broker handle and a consumer, whose attempts end when they are allowed to.
struct Process {
    broker: Broker,
    consumer: Consumer,
    started: Arc<AtomicUsize>,
    may_end: Arc<Semaphore>,
}

impl Process {
    async fn start(url: &str, name: &'static str, slots: usize) -> Self {
        let broker = Broker::connect(url).await.unwrap();
        let (started, may_end) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let (count, gate) = (started.clone(), may_end.clone());
        let builder = Consumer::builder(&broker).handler_fn(move |_: Hang, _| {
            count.fetch_add(1, Ordering::SeqCst);
            let gate = gate.clone();
            async move {
                // Hangs: it listens to no cancellation.
                gate.acquire().await.unwrap().forget();
                Ok(name.to_owned())
            }
        });
        let consumer = builder.concurrency(slots).prefetch(1).start().await.unwrap();
        Self { broker, consumer, started, may_end }
    }

    async fn starts(&self, count: usize) {
        eventually("it starts", async || self.started.load(Ordering::SeqCst) == count).await;
    }

    async fn stop(self) {
        self.consumer.shutdown().await;
        self.broker.close().await;
    }

    /// Has its connection closed.
    async fn close(&self) {
        let client = TestBroker::shared().await.unwrap().management().client();
        let names = self.broker.transport().connection_names();
        let close = async || client.close_consumer(&names, "a task hangs").await.unwrap() == 1;
        eventually("its connection is listed, and closed", close).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_is_run_by_another_when_the_connection_of_its_consumer_is_closed() {
    let url = fresh_vhost().await;
    let hanging = Process::start(&url, "hanging", 1).await;
    let producer = Producer::builder(&hanging.broker).build().await.unwrap();
    let task = producer.enqueue(Hang).await.unwrap();
    hanging.starts(1).await;

    let other = Process::start(&url, "other", 1).await;
    hanging.close().await;
    other.starts(1).await;
    other.may_end.add_permits(1);
    assert_eq!(task.output().await.unwrap(), "other");

    // What hung ends at last, and that changes nothing; it is a consumer like any other again.
    hanging.may_end.add_permits(1);
    other.stop().await;
    hanging.may_end.add_permits(1);
    let next = producer.enqueue(Hang).await.unwrap();
    assert_eq!(next.output().await.unwrap(), "hanging");
    assert_eq!(hanging.started.load(Ordering::SeqCst), 2);
    let (waiting, dead) = (hanging.broker.waiting("default").await, hanging.broker.dead("default").await);
    assert_eq!((waiting.unwrap(), dead.unwrap()), (0, 0));
    hanging.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_other_consumer_is_the_same_one_starts_the_task_beside_the_one_that_hangs() {
    let url = fresh_vhost().await;
    let hanging = Process::start(&url, "hanging", 2).await;
    let producer = Producer::builder(&hanging.broker).build().await.unwrap();
    let task = producer.enqueue(Hang).await.unwrap();
    hanging.starts(1).await;
    hanging.close().await;
    hanging.starts(2).await;
    hanging.may_end.add_permits(2);
    assert_eq!(task.output().await.unwrap(), "hanging");
    hanging.stop().await;
}

/// Two handles of one process, as in a test, or two processes with the same id in two containers of the same name.
#[tokio::test]
async fn each_handle_has_connections_of_its_own_name() {
    let lab = Lab::new().await;
    let other = Lab::connected_to(&lab.url).await;
    let (one, two) = (lab.subscribe(1).await, other.subscribe(1).await);
    let client = TestBroker::shared().await.unwrap().management().client();
    let names = async || {
        let all = client.connections_of(&lab.vhost).await.unwrap();
        let consuming = all.into_iter().map(|it| it.user_provided_name).filter(|it| it.contains(" consume "));
        consuming.collect::<BTreeSet<_>>()
    };
    let expected =
        [lab.amqp.connection_names(), other.amqp.connection_names()].concat().into_iter().collect();
    eventually("both are listed by what they say of themselves", async || names().await == expected).await;
    assert_eq!(expected.len(), 2);
    drop((one, two));
}
