//! What is logged. A binary of its own: its subscriber must be there before the first event of the process.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io;
use std::sync::Arc;
use std::sync::LazyLock;
use std::sync::Mutex;
use std::time::Duration;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Task;
use taskhare::TaskError;
use taskhare::TaskId;
use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::FmtSpan;

const SECOND: Duration = Duration::from_secs(1);

/// Everything that was logged so far. Each test asks for it first.
static LOG: LazyLock<Log> = LazyLock::new(|| {
    let log = Log::default();
    let format = tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false);
    format.with_max_level(Level::DEBUG).with_span_events(FmtSpan::CLOSE).init();
    log
});

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// Waits for a line with all of these words, in their order.
    async fn tells(&self, words: &[&str]) {
        let is_told =
            |line: &str| words.iter().try_fold(line, |line, word| Some(line.split_once(word)?.1)).is_some();
        let told = async {
            while !self.text().lines().any(is_told) {
                tokio::time::sleep(SECOND / 10).await;
            }
        };
        let is_in_time = tokio::time::timeout(60 * SECOND, told).await.is_ok();
        assert!(is_in_time, "no line has {words:?}:\n{}", self.text());
    }
}

impl io::Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Fails, or waits that long.
#[derive(serde::Serialize, serde::Deserialize)]
struct Work(Option<Duration>);

impl Task for Work {
    const NAME: &'static str = "work";
    type Output = ();
}

#[tokio::test(start_paused = true)]
async fn each_expiry_that_a_consumer_finds_is_logged_with_its_reason() {
    let log = &*LOG;
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let consumer = Consumer::builder(&broker).handler_fn(|work: Work, _| async move {
        let time = work.0.ok_or_else(|| TaskError::retry("as told"))?;
        tokio::time::sleep(time).await;
        Ok(())
    });
    let _consumer = consumer.retry(RetryPolicy::fixed(10 * SECOND)).concurrency(1).start().await.unwrap();
    let mut expected = Vec::new();
    for (work, reason) in [
        (Work(None), "expired-retrying"),
        (Work(Some(60 * SECOND)), "expired-running"),
        (Work(Some(SECOND)), "expired-unstarted"),
    ] {
        expected.push((producer.enqueue(work).deadline_in(5 * SECOND).await.unwrap().id(), reason));
        tokio::time::sleep(SECOND / 10).await;
    }
    while broker.dead("default").await.unwrap() < 3 {
        tokio::time::sleep(SECOND).await;
    }
    for (id, reason) in expected {
        log.tells(&["WARN", "task has expired", &format!("task.id={id}"), &format!("reason={reason}")]).await;
    }
}

/// Fails at its first attempt.
async fn second_time_lucky(attempt: u32) -> Result<(), TaskError> {
    tracing::info!("at work");
    if attempt == 1 { Err(TaskError::retry("as told")) } else { Ok(()) }
}

#[tokio::test(start_paused = true)]
async fn each_attempt_has_a_span_that_tells_what_is_run_and_how_it_ended() {
    let log = &*LOG;
    let broker = Broker::in_process();
    let consumer = Consumer::builder(&broker)
        .handler_fn(|_: Work, ctx| async move { second_time_lucky(ctx.attempt()).await });
    let _consumer = consumer.retry(RetryPolicy::fixed(SECOND)).start().await.unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let id = producer.enqueue(Work(None)).await.unwrap().id();
    for (attempt, outcome) in [(1, "retried"), (2, "succeeded")] {
        let span = format!("task{{task.id={id} task.name=\"work\" queue=\"default\" attempt={attempt}");
        log.tells(&["INFO", &span, "at work"]).await;
        log.tells(&["INFO", &span, &format!("outcome=\"{outcome}\""), "taskhare: close"]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_blocks_its_thread_is_inside_of_its_span() {
    let log = &*LOG;
    let broker = Broker::in_process();
    let consumer = Consumer::builder(&broker).handler_blocking(|_: Work, _| {
        tracing::info!("on a thread of its own");
        Ok(())
    });
    let _consumer = consumer.start().await.unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let id = producer.enqueue(Work(None)).await.unwrap().id();
    log.tells(&["INFO", &format!("task{{task.id={id} "), "on a thread of its own"]).await;
}

#[tokio::test(start_paused = true)]
async fn an_enqueue_has_a_span_that_tells_which_task_it_was() {
    let log = &*LOG;
    let producer = Producer::builder(&Broker::in_process()).build().await.unwrap();
    let id = producer.enqueue(Work(None)).queue("of-spans").await.unwrap().id();
    let span = "enqueue{task.name=\"work\" queue=\"of-spans\"";
    log.tells(&["DEBUG", span, &format!("task.id={id}"), "taskhare: close"]).await;
    let refused = producer.enqueue(Work(None)).queue("no name").await;
    let error = format!("error={}", refused.err().unwrap());
    log.tells(&["DEBUG", "enqueue{task.name=\"work\" queue=\"no name\"", &error, "close"]).await;
    let _ = producer.enqueue_all([Work(None)]).queue("of-many").await;
    log.tells(&["DEBUG", "enqueue_all{task.name=\"work\" queue=\"of-many\"", "close"]).await;
}

#[tokio::test]
async fn a_task_enqueued_by_a_handler_does_not_lend_it_its_id() {
    let log = &*LOG;
    let broker = Broker::in_process();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let again = producer.clone();
    let consumer = Consumer::builder(&broker).handler_fn(move |_: Work, _| {
        let again = again.clone();
        async move {
            again.enqueue(Work(None)).queue("nobody").await.map_err(TaskError::retry)?;
            Ok(())
        }
    });
    let _consumer = consumer.start().await.unwrap();
    let id: TaskId = producer.enqueue(Work(None)).await.unwrap().id();
    let inner = format!("task{{task.id={id} task.name=\"work\" queue=\"default\" attempt=1");
    log.tells(&[&inner, "}:enqueue{", "queue=\"nobody\"", "close"]).await;
    log.tells(&[&inner, "outcome=\"succeeded\"}: taskhare: close"]).await;
}
