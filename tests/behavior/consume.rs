//! Handlers, queues and slots.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Error;
use taskhare::Priority;
use taskhare::Producer;
use taskhare::Task;

use crate::support::Act;
use crate::support::Actor;
use crate::support::eventually;

#[derive(serde::Serialize, serde::Deserialize)]
struct Count(usize);

impl Task for Count {
    const NAME: &'static str = "count";
    const QUEUE: &'static str = "numbers";
    type Output = ();
}

#[tokio::test(start_paused = true)]
async fn several_queues_and_handlers_share_one_consumer() {
    let broker = Broker::in_process();
    let actor = Actor::new();
    let sum = Arc::new(AtomicUsize::new(0));
    let total = sum.clone();
    let consumer = Consumer::builder(&broker)
        .handler(actor.clone())
        .handler_fn(move |task: Count, _ctx| {
            let total = total.clone();
            async move {
                total.fetch_add(task.0, Ordering::Relaxed);
                Ok(())
            }
        })
        .queue("mail")
        .queue("reports")
        .start()
        .await
        .unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    producer.enqueue(Act::Succeed).queue("mail").await.unwrap();
    producer.enqueue(Act::Succeed).queue("reports").await.unwrap();
    for number in 1..=4 {
        producer.enqueue(Count(number)).queue("mail").await.unwrap();
    }
    let mut queues: Vec<String> = actor.wait_for(2).await.into_iter().map(|seen| seen.queue).collect();
    queues.sort();
    assert_eq!(queues, ["mail", "reports"]);
    eventually("all are counted", async || sum.load(Ordering::Relaxed) == 10).await;
    assert_eq!(consumer.shutdown().await.unstarted(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_consumer_takes_the_queues_of_its_tasks_by_default() {
    let broker = Broker::in_process();
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    let _consumer = Consumer::builder(&broker)
        .handler_fn(move |task: Count, ctx| {
            sender.send((task.0, ctx.queue().to_owned())).unwrap();
            async { Ok(()) }
        })
        .start()
        .await
        .unwrap();
    Producer::builder(&broker).build().await.unwrap().enqueue(Count(3)).await.unwrap();
    assert_eq!(received.recv().await, Some((3, "numbers".to_owned())));
}

#[tokio::test(start_paused = true)]
async fn no_more_run_at_once_than_there_are_slots() {
    let broker = Broker::in_process();
    let running = Arc::new(AtomicUsize::new(0));
    let most = Arc::new(AtomicUsize::new(0));
    let done = Arc::new(AtomicUsize::new(0));
    let (running_, most_, done_) = (running.clone(), most.clone(), done.clone());
    let _consumer = Consumer::builder(&broker)
        .handler_fn(move |_: Act, _| {
            let (running, most, done) = (running_.clone(), most_.clone(), done_.clone());
            async move {
                most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(10)).await;
                running.fetch_sub(1, Ordering::SeqCst);
                done.fetch_add(1, Ordering::SeqCst);
                Ok(())
            }
        })
        .concurrency(3)
        .start()
        .await
        .unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    for result in producer.enqueue_all(vec![Act::Succeed; 20]).await {
        result.unwrap();
    }
    eventually("all are done", async || done.load(Ordering::SeqCst) == 20).await;
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[tokio::test(start_paused = true)]
async fn urgent_tasks_overtake_and_low_ones_still_move() {
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    for priority in [Priority::Low, Priority::Normal, Priority::Urgent] {
        for result in producer.enqueue_all(vec![Act::Succeed; 40]).priority(priority).await {
            result.unwrap();
        }
    }
    let order = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = order.clone();
    let consumer = Consumer::builder(&broker)
        .handler_fn(move |_: Act, ctx| {
            seen.lock().unwrap().push(ctx.priority());
            async { Ok(()) }
        })
        .concurrency(1)
        .prefetch(64)
        .start()
        .await
        .unwrap();
    eventually("all are done", async || order.lock().unwrap().len() == 120).await;
    let order = order.lock().unwrap().clone();
    let urgent = order[..42].iter().filter(|priority| **priority == Priority::Urgent).count();
    let low = order[..42].iter().filter(|priority| **priority == Priority::Low).count();
    assert!(urgent >= 30, "{urgent} of the first 42 are urgent");
    assert!(low >= 1, "{low} of the first 42 are low");
    consumer.shutdown().await;
}

#[tokio::test]
async fn a_blocking_handler_leaves_the_runtime_free() {
    let broker = Broker::in_process();
    let (entered, mut at_work) = tokio::sync::mpsc::unbounded_channel();
    let (release, gate) = std::sync::mpsc::channel::<()>();
    let gate = std::sync::Mutex::new(gate);
    let consumer = Consumer::builder(&broker)
        .handler_blocking(move |_: Act, _| {
            entered.send(()).unwrap();
            gate.lock().unwrap().recv()?;
            Ok(())
        })
        .start()
        .await
        .unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    producer.enqueue(Act::Succeed).await.unwrap();
    at_work.recv().await.unwrap();
    // This test has one thread, and it is not the one that the handler blocks.
    release.send(()).unwrap();
    let receipt = consumer.shutdown().await;
    assert_eq!((receipt.finished(), receipt.aborted()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_consumer_without_a_handler_or_with_two_for_a_task_does_not_start() {
    let broker = Broker::in_process();
    let none = Consumer::builder(&broker).start().await.unwrap_err();
    assert!(matches!(&none, Error::InvalidSetting { setting: "handler", .. }), "{none}");
    let two =
        Consumer::builder(&broker).handler(Actor::new()).handler(Actor::new()).start().await.unwrap_err();
    assert!(two.to_string().contains("\"act\""), "{two}");
    let twice =
        Consumer::builder(&broker).handler(Actor::new()).queue("a").queue("a").start().await.unwrap_err();
    assert!(twice.to_string().contains("\"a\" is named twice"), "{twice}");
}
