//! Where a task stands, asked of a large history on a real broker.

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Kind;
use taskhare::Outcome;
use taskhare::Producer;
use taskhare::Standing;
use taskhare::Task;
use taskhare::TaskChange;
use taskhare::TaskId;
use taskhare::transport::Value;

use crate::*;

/// Messages in each of the two parts of the history that have nothing to do with the task, and events in each message.
const MESSAGES: u64 = 300;
const EVENTS: u16 = 1_000;
/// Longer than clocks may differ, and the second to which the broker finds a time.
const GAP: Duration = Duration::from_secs(7);

#[derive(serde::Serialize, serde::Deserialize)]
struct Steps(u64);

impl Task for Steps {
    const NAME: &'static str = "step";
    type Output = ();
}

async fn connect(url: &str) -> Broker {
    Broker::connect(url).await.unwrap()
}

/// Takes so many milliseconds, in ten steps.
async fn stepper(broker: &Broker) -> Consumer {
    let builder = Consumer::builder(broker).handler_fn(|task: Steps, ctx| async move {
        for step in 1..=10 {
            tokio::time::sleep(Duration::from_millis(task.0 / 10)).await;
            ctx.progress(step, 10, "");
        }
        Ok(())
    });
    builder.start().await.unwrap()
}

/// Events of other tasks, as their process writes them: MessagePack, field by field.
fn others() -> Vec<u8> {
    let text = |text: &str| [&[0xa0 | u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    let mut body = [&[0xdc][..], &EVENTS.to_be_bytes()].concat();
    for _ in 0..EVENTS {
        body.push(0x87);
        body.extend(
            [text("k"), text("succeeded"), text("n"), text("other"), text("q"), text("default")].concat(),
        );
        body.extend([text("i"), vec![0xc4, 16], TaskId::new().as_u128().to_be_bytes().to_vec()].concat());
        body.extend([text("t"), vec![1], text("z"), vec![1], text("o"), vec![1]].concat());
    }
    body
}

/// Writes a part of the history that has nothing to do with the task.
async fn write_others(broker: &Broker, source: &str) {
    let body = others();
    let publish = |sequence: u64| {
        let headers = [("taskhare-source", Value::from(source)), ("taskhare-sequence", sequence.into())];
        let (kind, headers) = (Some("taskhare.events".into()), headers.into_iter().collect());
        let message = Message { kind, headers, body: body.clone(), ..Message::default() };
        Publish { exchange: name("taskhare.events"), key: name("taskhare.events"), mandatory: true, message }
    };
    // One by one: so they are in order, and each is stored by itself.
    for sequence in 1..=MESSAGES {
        broker.transport().publish(&publish(sequence), PATIENCE).await.unwrap();
    }
}

async fn read(broker: &Broker, id: TaskId) -> (Standing, u64) {
    let (state, messages) = broker.status(id).timeout(PATIENCE).counted().await.unwrap();
    (state.expect("it is known").standing, messages)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_status_reads_the_history_from_the_beginning_of_the_task_to_its_end() {
    let url = fresh_vhost().await;
    let broker = connect(&url).await;
    let producer = Producer::builder(&broker).build().await.unwrap();
    let _consumer = stepper(&broker).await;
    write_others(&broker, "before").await;
    tokio::time::sleep(GAP).await;
    let done = producer.enqueue(Steps(0)).await.unwrap().id();
    let timeless = producer.enqueue(Steps(0)).id(TaskId::from_u128(7)).await.unwrap().id();
    let waiting = producer.enqueue(Steps(0)).delay(Duration::from_secs(3600)).await.unwrap().id();
    let asker = connect(&url).await;
    let mut life = asker.follow(done).await.unwrap();
    while life.next().await.is_some() {}
    // Those that are to come are not stored with what was.
    write_others(&broker, "after").await;

    let (standing, messages) = read(&asker, done).await;
    assert_eq!(standing, Standing::Done(Outcome::Succeeded));
    assert!(messages < 20, "{messages} of {} messages", 2 * MESSAGES);
    let (standing, messages) = read(&asker, waiting).await;
    assert!(matches!(standing, Standing::Delayed { .. }), "{standing:?}");
    assert!((MESSAGES..MESSAGES + 20).contains(&messages), "{messages}: up to now, it may have begun");
    let (standing, messages) = read(&asker, timeless).await;
    assert_eq!(standing, Standing::Done(Outcome::Succeeded));
    assert!((MESSAGES..MESSAGES + 20).contains(&messages), "{messages}: from the start to its end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_is_followed_from_another_process_over_connections_that_are_lost() {
    let url = fresh_vhost().await;
    let (broker, asker) = (connect(&url).await, connect(&url).await);
    let producer = Producer::builder(&broker).build().await.unwrap();
    let _consumer = stepper(&broker).await;
    let id = producer.enqueue(Steps(3_000)).await.unwrap().id();
    let mut life = asker.follow(id).await.unwrap();
    let mut kinds = vec![life.next().await.unwrap().change.kind()];
    let management = TestBroker::shared().await.unwrap().management();
    let vhost = vhost_of(&url).unwrap();
    eventually("connections are closed", async || management.close_connections(&vhost).await.unwrap() > 0)
        .await;
    while let Some(event) = tokio::time::timeout(PATIENCE, life.next()).await.expect("it ends") {
        kinds.push(event.change.kind());
    }
    assert_eq!(kinds.last(), Some(&Kind::Succeeded), "{kinds:?}");
    assert!(kinds.contains(&Kind::Accepted) && kinds.contains(&Kind::Started), "{kinds:?}");
    assert_eq!(life.state().map(|state| &state.standing), Some(&Standing::Done(Outcome::Succeeded)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_is_seen_in_another_process_in_order() {
    let url = fresh_vhost().await;
    let (broker, asker) = (connect(&url).await, connect(&url).await);
    let producer = Producer::builder(&broker).build().await.unwrap();
    let _consumer = stepper(&broker).await;
    let id = producer.enqueue(Steps(2_000)).await.unwrap().id();
    let mut life = asker.follow(id).await.unwrap();
    let mut steps = Vec::new();
    while let Some(event) = tokio::time::timeout(PATIENCE, life.next()).await.expect("it ends") {
        if let TaskChange::Progress { done, total: Some(10), .. } = event.change {
            steps.push(done);
        }
    }
    assert!(steps.is_sorted() && steps.len() > 1, "{steps:?}");
    assert_eq!(steps.last(), Some(&10), "{steps:?}");
}
