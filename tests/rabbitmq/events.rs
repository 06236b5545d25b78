//! The history on a real broker: what RabbitMQ takes out of queues by itself, and what happens to the history itself.

use std::collections::BTreeMap;

use taskhare::Broker;
use taskhare::BrokerBuilder;
use taskhare::Consumer;
use taskhare::DeadReason;
use taskhare::Event;
use taskhare::Kind;
use taskhare::Producer;
use taskhare::Task;
use taskhare::TaskChange;
use taskhare::TaskError;
use taskhare::TaskId;

use crate::*;

#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
enum Act {
    Succeed,
    Reject,
}

impl Task for Act {
    const NAME: &'static str = "act";
    type Output = ();
}

struct Setting {
    url: String,
    broker: Broker,
    producer: Producer,
}

async fn setting(with: impl FnOnce(BrokerBuilder) -> BrokerBuilder) -> Setting {
    let url = fresh_vhost().await;
    let broker = with(Broker::builder().url(&url)).connect().await.unwrap();
    let producer = Producer::builder(&broker).queue("default").build().await.unwrap();
    Setting { url, broker, producer }
}

async fn consumer(broker: &Broker) -> Consumer {
    let builder = Consumer::builder(broker).handler_fn(|act: Act, _| async move {
        match act {
            Act::Succeed => Ok(()),
            Act::Reject => Err(TaskError::reject("as told")),
        }
    });
    builder.start().await.unwrap()
}

/// What the history says of tasks, in its order.
async fn history(broker: &Broker) -> Vec<(TaskId, TaskChange)> {
    let mut events = broker.events().from_start().until_now().subscribe().await.unwrap();
    let mut told = Vec::new();
    while let Some(event) = events.next().await {
        if let Event::Task(event) = event {
            told.push((event.id, event.change));
        }
    }
    told
}

async fn ends(broker: &Broker) -> BTreeMap<TaskId, Vec<Kind>> {
    let mut ends = BTreeMap::<TaskId, Vec<Kind>>::new();
    for (id, change) in history(broker).await {
        if change.kind().is_end() {
            ends.entry(id).or_default().push(change.kind());
        }
    }
    ends
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_broker_takes_out_by_itself_is_told_once_and_is_in_the_dead_letters() {
    let Setting { broker, producer, url } = setting(|builder| builder.delivery_limit(2)).await;
    let letters = broker.dead_letters("default").unwrap();
    let crashed = producer.enqueue(Act::Succeed).await.unwrap().id();
    for _ in 0..3 {
        let mut lane = broker.transport().subscribe(subscribe("taskhare.default.normal", 1)).await.unwrap();
        let delivery = next(&mut lane).await;
        lane.close().await;
        drop(delivery);
    }
    eventually("it came back too often", async || letters.count().await.unwrap() == 1).await;
    let expired = producer.enqueue(Act::Succeed).deadline_in(Duration::from_millis(200)).await.unwrap().id();
    eventually("it is too late", async || letters.count().await.unwrap() == 2).await;
    let other = Broker::connect(&url).await.unwrap();
    let late = Producer::builder(&other).build().await.unwrap();
    let lost = late.enqueue(Act::Succeed).queue("late").delay(Duration::from_secs(8)).await.unwrap().id();
    // It would declare the queue again with its next connection.
    other.close().await;
    let management = TestBroker::shared().await.unwrap().management();
    management.delete_queue(&vhost_of(&url).unwrap(), "taskhare.late.normal").await.unwrap();
    let undeliverable = broker.undeliverable();
    eventually("it is undeliverable", async || undeliverable.count().await.unwrap() == 1).await;
    let mut ends: Vec<_> = history(&broker).await;
    ends.retain(|(_, change)| change.kind().is_end());
    let reasons: Vec<_> = ends
        .iter()
        .map(|(id, change)| match change {
            TaskChange::Dead { reason, .. } | TaskChange::Expired { reason, .. } => (*id, *reason),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(
        reasons,
        [
            (crashed, DeadReason::Crashed),
            (expired, DeadReason::ExpiredInQueue),
            (lost, DeadReason::Undeliverable)
        ]
    );
}

/// The stream keeps what it is sent and gives up what is old: it refuses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_history_beyond_its_limits_holds_up_no_dead_letters() {
    let with = |builder: BrokerBuilder| builder.history_size(1 << 20).history_age(Duration::from_secs(1));
    let Setting { broker, producer, .. } = setting(with).await;
    let consumer = consumer(&broker).await;
    for task in producer.enqueue_all((0..3_000).map(|_| Act::Reject)).await {
        task.unwrap();
    }
    eventually("all are dead", async || broker.dead("default").await.unwrap() == 3_000).await;
    consumer.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_somebody_deletes_is_declared_again_and_no_task_suffers() {
    let Setting { broker, producer, url } = setting(|builder| builder).await;
    let vhost = vhost_of(&url).unwrap();
    let management = TestBroker::shared().await.unwrap().management();
    let consumer = consumer(&broker).await;
    let both = async |done: &str| {
        for act in [Act::Succeed, Act::Reject] {
            producer.enqueue(act).await.unwrap();
        }
        let idle = async || broker.waiting("default").await.unwrap() == 0;
        eventually(done, idle).await;
    };
    both("before").await;
    eventually("the first is dead", async || broker.dead("default").await.unwrap() == 1).await;
    management.delete_queue(&vhost, "taskhare.history").await.unwrap();
    both("without a queue").await;
    let path = format!("/exchanges/{}/taskhare.events", vhost.replace('/', "%2F"));
    let is_there = async || {
        let stream = name("taskhare.history");
        broker.transport().depth(&stream).await.unwrap().is_some()
    };
    eventually("the queue is there again", is_there).await;
    management.delete(&path).await.unwrap();
    both("without an exchange").await;
    eventually("the exchange is there again", async || management.get(&path).await.is_ok()).await;
    eventually("all of them are dead", async || broker.dead("default").await.unwrap() == 3).await;
    // What leads there comes a moment later.
    let are_told = async || {
        let succeeded = producer.enqueue(Act::Succeed).await.unwrap().id();
        let dead = producer.enqueue(Act::Reject).await.unwrap().id();
        let letters = broker.dead_letters("default").unwrap();
        eventually("it is dead", async || letters.find(dead).await.unwrap().is_some()).await;
        let ends = ends(&broker).await;
        (ends.get(&succeeded), ends.get(&dead)) == (Some(&vec![Kind::Succeeded]), Some(&vec![Kind::Dead]))
    };
    eventually("what comes then is told, dead letters too", are_told).await;
    consumer.shutdown().await;
}

/// Its tasks are dead-lettered by the broker's own hand, which needs no permission of his.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_who_may_not_write_events_runs_tasks_without() {
    let Setting { broker, producer, url } = setting(|builder| builder).await;
    let lab = TestBroker::shared().await.unwrap();
    // Somebody else has declared everything.
    consumer(&broker).await.shutdown().await;
    let user = format!("worker-{}", fastrand::u32(..));
    let write = r"^taskhare\.(?!events).*$";
    let limited = lab.add_user(&user, "secret", "^$", write, ".*", &vhost_of(&url).unwrap()).await.unwrap();
    let limited = Broker::builder().url(&limited).without_declaring().connect().await.unwrap();
    let builder = Consumer::builder(&limited).handler_fn(|act: Act, _| async move {
        match act {
            Act::Succeed => Ok(()),
            Act::Reject => Err(TaskError::reject("as told")),
        }
    });
    let consumer = builder.start().await.unwrap();
    let acts = (0..200).map(|number| if number % 4 == 0 { Act::Reject } else { Act::Succeed });
    let enqueued: Vec<TaskId> =
        producer.enqueue_all(acts).await.into_iter().map(|task| task.unwrap().id()).collect();
    eventually("those that fail are dead", async || broker.dead("default").await.unwrap() == 50).await;
    eventually("all are taken", async || broker.waiting("default").await.unwrap() == 0).await;
    let receipt = consumer.shutdown().await;
    assert_eq!(receipt.unstarted(), 0);
    limited.close().await;
    let ends = ends(&broker).await;
    let dead: Vec<_> = enqueued.iter().step_by(4).map(|id| ends[id].clone()).collect();
    assert_eq!(dead, vec![[Kind::Dead]; 50]);
    assert_eq!(ends.len(), 50, "nobody tells of the others");
}
