//! What a recorder gets (feature `metrics`).

#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::time::Duration;

use metrics_util::debugging::DebugValue;
use metrics_util::debugging::DebuggingRecorder;
use metrics_util::debugging::Snapshotter;
use taskhare::Broker;
use taskhare::Cadence;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Schedule;
use taskhare::Scheduler;
use taskhare::Task;
use taskhare::TaskError;

const SECOND: Duration = Duration::from_secs(1);

/// Runs for a second, then fails so many times, or for good.
#[derive(serde::Serialize, serde::Deserialize)]
struct Work(Option<u32>);

impl Task for Work {
    const NAME: &'static str = "work";
    type Output = ();
}

/// Has no handler.
#[derive(serde::Serialize, serde::Deserialize)]
struct Stray;

impl Task for Stray {
    const NAME: &'static str = "stray";
    type Output = ();
}

/// What was recorded on this thread, which is that of the test's tasks too.
struct Recorded<G> {
    snapshotter: Snapshotter,
    series: BTreeMap<String, Vec<f64>>,
    _guard: G,
}

fn record() -> Recorded<impl Drop> {
    let recorder: &'static DebuggingRecorder = Box::leak(Box::default());
    let _guard = metrics::set_default_local_recorder(recorder);
    Recorded { snapshotter: recorder.snapshotter(), series: BTreeMap::new(), _guard }
}

impl<G> Recorded<G> {
    /// All series until now, such as `name{label="value"}`: counts, levels, or seconds to a tenth.
    fn series(&mut self) -> &mut BTreeMap<String, Vec<f64>> {
        // A snapshot takes out what it tells.
        for (key, _, _, value) in self.snapshotter.snapshot().into_vec() {
            let labels: Vec<_> =
                key.key().labels().map(|label| format!("{}={:?}", label.key(), label.value())).collect();
            let series = self.series.entry(format!("{}{{{}}}", key.key().name(), labels.join(",")));
            let values = series.or_default();
            match value {
                #[allow(clippy::cast_precision_loss, reason = "small numbers")]
                DebugValue::Counter(count) => *values = vec![values.iter().sum::<f64>() + count as f64],
                DebugValue::Gauge(level) => *values = vec![values.iter().sum::<f64>() + *level],
                DebugValue::Histogram(times) => {
                    values.extend(times.into_iter().map(|time| (*time * 10.0).round() / 10.0));
                }
            }
        }
        &mut self.series
    }
}

async fn consumer(broker: &Broker) -> Consumer {
    let builder = Consumer::builder(broker).handler_fn(|work: Work, ctx| async move {
        tokio::time::sleep(SECOND).await;
        match work.0 {
            None => Err(TaskError::reject("as told")),
            Some(failures) if ctx.attempt() <= failures => Err(TaskError::retry("as told")),
            Some(_) => Ok(()),
        }
    });
    builder.concurrency(7).retry(RetryPolicy::fixed(10 * SECOND)).start().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn tasks_are_counted_and_timed_by_queue_name_and_outcome() {
    let mut recorded = record();
    let broker = Broker::in_process();
    let consumer = consumer(&broker).await;
    let producer = Producer::builder(&broker).build().await.unwrap();
    producer.enqueue(Work(Some(1))).await.unwrap();
    producer.enqueue(Work(None)).await.unwrap();
    producer.enqueue(Stray).await.unwrap();
    assert!(producer.enqueue(Stray).queue("no name").await.is_err());
    tokio::time::sleep(SECOND / 2).await;
    let running = recorded.series();
    assert_eq!(running[r#"taskhare_tasks_running{queue="default"}"#], [2.0]);
    assert_eq!(running[r#"taskhare_slots{queue="default"}"#], [7.0]);

    tokio::time::sleep(60 * SECOND).await;
    consumer.shutdown().await;
    let after = recorded.series();
    for (name, expected) in [
        (r#"taskhare_tasks_enqueued_total{queue="default",task="work"}"#, &[2.0][..]),
        (r#"taskhare_tasks_enqueued_total{queue="default",task="stray"}"#, &[1.0]),
        (r#"taskhare_enqueue_failures_total{task="stray"}"#, &[1.0]),
        (r#"taskhare_enqueue_seconds{queue="default",task="work"}"#, &[0.0, 0.0]),
        (r#"taskhare_enqueue_seconds{queue="default",task="stray"}"#, &[0.0]),
        (r#"taskhare_attempts_total{queue="default",task="work",outcome="retried"}"#, &[1.0]),
        (r#"taskhare_attempts_total{queue="default",task="work",outcome="succeeded"}"#, &[1.0]),
        (r#"taskhare_attempts_total{queue="default",task="work",outcome="dead"}"#, &[1.0]),
        (r#"taskhare_tasks_dead_total{queue="default",task="work",reason="rejected"}"#, &[1.0]),
        (r#"taskhare_tasks_dead_total{queue="default",task="unknown",reason="unknown-task"}"#, &[1.0]),
        (r#"taskhare_task_wait_seconds{queue="default",task="work"}"#, &[0.0, 0.0, 0.0]),
        (r#"taskhare_task_run_seconds{queue="default",task="work"}"#, &[1.0, 1.0, 1.0]),
        (r#"taskhare_task_total_seconds{queue="default",task="work"}"#, &[12.0]),
        (r#"taskhare_tasks_running{queue="default"}"#, &[0.0]),
        (r#"taskhare_slots{queue="default"}"#, &[0.0]),
    ] {
        assert_eq!(after.remove(name).as_deref(), Some(expected), "{name}");
    }
    assert!(after.is_empty(), "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_stopped_runs_no_more() {
    let mut recorded = record();
    let broker = Broker::in_process();
    let builder = Consumer::builder(&broker).handler_fn(|_: Work, _| std::future::pending());
    let consumer = builder.shutdown_grace(SECOND).start().await.unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    producer.enqueue(Work(None)).await.unwrap();
    tokio::time::sleep(SECOND).await;
    assert_eq!(recorded.series()[r#"taskhare_tasks_running{queue="default"}"#], [1.0]);
    assert_eq!(consumer.shutdown().await.aborted(), 1);
    assert_eq!(recorded.series()[r#"taskhare_tasks_running{queue="default"}"#], [0.0]);
}

#[tokio::test(start_paused = true)]
async fn ticks_are_counted_and_one_scheduler_is_active() {
    let mut recorded = record();
    let broker = Broker::in_process();
    let schedule = Schedule::new("often", Cadence::every(SECOND), Work(None)).limit(3);
    let first = Scheduler::builder(&broker).schedule(schedule).start().await.unwrap();
    let second = Scheduler::builder(&broker).start().await.unwrap();
    tokio::time::sleep(10 * SECOND).await;
    let seen = recorded.series();
    assert_eq!(seen["taskhare_schedulers_active{}"], [1.0]);
    assert_eq!(seen[r#"taskhare_tasks_enqueued_total{queue="default",task="work"}"#], [3.0]);
    first.shutdown().await;
    second.shutdown().await;
    assert_eq!(recorded.series()["taskhare_schedulers_active{}"], [0.0]);
}

/// Of the documentation's table and of what the recorder was told of.
#[test]
fn each_metric_is_documented_and_described() {
    let text = include_str!("../src/telemetry/mod.rs").split("# Metrics").nth(1).unwrap();
    let rows = text.lines().filter(|line| line.starts_with("//! | `taskhare_"));
    let documented: BTreeSet<_> = rows.map(|row| row.split('`').nth(1).unwrap().to_owned()).collect();
    let code = include_str!("../src/telemetry/meter.rs");
    let named: BTreeSet<_> =
        code.split('"').filter(|text| text.starts_with("taskhare_")).map(str::to_owned).collect();
    assert_eq!(documented, named);
    let describe = code.split("fn describe()").nth(1).unwrap().split("\n}").next().unwrap();
    for constant in code.lines().filter_map(|line| line.strip_prefix("const ")?.split(':').next()) {
        assert!(describe.contains(&format!("({constant}, ")), "{constant} is not described");
    }
}
