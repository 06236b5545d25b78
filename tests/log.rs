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
use tracing_subscriber::fmt::MakeWriter;

const SECOND: Duration = Duration::from_secs(1);

/// Everything that was logged so far. Each test asks for it first.
static LOG: LazyLock<Log> = LazyLock::new(|| {
    let log = Log::default();
    tracing_subscriber::fmt().with_writer(log.clone()).with_ansi(false).init();
    log
});

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
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
        let words = ["WARN", "task has expired", &id.to_string(), &format!("reason={reason}")];
        let is_told = |line: &str| words.iter().all(|word| line.contains(word));
        assert!(log.text().lines().any(is_told), "{reason} of {id}:\n{}", log.text());
    }
}
