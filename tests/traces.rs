//! Traces, from the enqueuer to the handler, as OpenTelemetry gets them (feature `otel`).

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use opentelemetry::Value;
use opentelemetry::trace::SpanId;
use opentelemetry::trace::SpanKind;
use opentelemetry::trace::Status;
use opentelemetry::trace::TraceContextExt;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::InMemorySpanExporter;
use opentelemetry_sdk::trace::SdkTracerProvider;
use opentelemetry_sdk::trace::SpanData;
use taskhare::Broker;
use taskhare::Cadence;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Schedule;
use taskhare::Scheduler;
use taskhare::Task;
use taskhare::TaskContext;
use taskhare::TaskError;
use tracing::Instrument;
use tracing::Level;
use tracing::Span;
use tracing::level_filters::LevelFilter;
use tracing::subscriber::DefaultGuard;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;

const SECOND: Duration = Duration::from_secs(1);

/// Fails so many times.
#[derive(serde::Serialize, serde::Deserialize)]
struct Work {
    failures: u32,
}

impl Task for Work {
    const NAME: &'static str = "work";
    type Output = ();
}

/// What OpenTelemetry got of this thread.
struct Traces {
    exporter: InMemorySpanExporter,
    provider: SdkTracerProvider,
    _guard: DefaultGuard,
}

impl Traces {
    fn up_to(level: Level) -> Self {
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(LevelFilter::from_level(level)).with(layer);
        Self { exporter, provider, _guard: tracing::subscriber::set_default(subscriber) }
    }

    /// The next so many attempts that have ended, in their order.
    async fn attempts(&self, count: usize) -> Vec<SpanData> {
        loop {
            let spans = self.named("run work");
            if spans.len() >= count {
                return spans;
            }
            tokio::time::sleep(SECOND / 10).await;
        }
    }

    fn named(&self, name: &str) -> Vec<SpanData> {
        self.provider.force_flush().unwrap();
        let spans = self.exporter.get_finished_spans().unwrap().into_iter();
        spans.filter(|span| span.name == name).collect()
    }
}

async fn attempt(work: Work, ctx: TaskContext) -> Result<(), TaskError> {
    tracing::info_span!("inside").in_scope(|| {});
    if ctx.attempt() <= work.failures { Err(TaskError::retry("as told")) } else { Ok(()) }
}

async fn consumer(broker: &Broker) -> Consumer {
    let builder = Consumer::builder(broker).handler_fn(attempt);
    builder.retry(RetryPolicy::fixed(SECOND).max_attempts(2)).start().await.unwrap()
}

/// The span that an application has around an enqueue, and what OpenTelemetry calls it.
fn request() -> (Span, String, SpanId) {
    let span = tracing::info_span!("request");
    let context = span.context();
    let context = context.span().span_context().clone();
    assert!(context.is_valid());
    (span, context.trace_id().to_string(), context.span_id())
}

fn trace(span: &SpanData) -> String {
    span.span_context.trace_id().to_string()
}

fn text(span: &SpanData, key: &str) -> Option<String> {
    let attribute = span.attributes.iter().find(|attribute| attribute.key.as_str() == key)?;
    match &attribute.value {
        Value::String(text) => Some(text.to_string()),
        other => Some(other.to_string()),
    }
}

#[tokio::test(start_paused = true)]
async fn all_attempts_of_a_task_are_in_its_enqueuers_trace() {
    let traces = Traces::up_to(Level::DEBUG);
    let broker = Broker::in_process();
    let _consumer = consumer(&broker).await;
    let producer = Producer::builder(&broker).build().await.unwrap();
    let (request, trace_id, request_id) = request();
    let enqueue = async { producer.enqueue(Work { failures: 1 }).await.unwrap().id() };
    let id = enqueue.instrument(request).await.to_string();

    let attempts = traces.attempts(2).await;
    let enqueues = traces.named("enqueue work");
    let [enqueue] = &enqueues[..] else { unreachable!("{enqueues:?}") };
    assert_eq!((trace(enqueue), enqueue.parent_span_id), (trace_id.clone(), request_id));
    assert_eq!((&enqueue.span_kind, text(enqueue, "task.id")), (&SpanKind::Producer, Some(id.clone())));
    for (attempt, outcome) in attempts.iter().zip(["retried", "succeeded"]) {
        assert_eq!(
            (trace(attempt), attempt.parent_span_id),
            (trace_id.clone(), enqueue.span_context.span_id())
        );
        assert!(attempt.parent_span_is_remote);
        assert_eq!(attempt.span_kind, SpanKind::Consumer);
        assert_eq!(text(attempt, "task.id"), Some(id.clone()));
        assert_eq!(text(attempt, "outcome").as_deref(), Some(outcome));
    }
    assert_eq!(attempts[0].status, Status::error(""));
    assert_eq!(attempts[1].status, Status::Unset);
    let inside: Vec<_> = traces.named("inside").iter().map(|span| span.parent_span_id).collect();
    let ids: Vec<_> = attempts.iter().map(|span| span.span_context.span_id()).collect();
    assert_eq!(inside, ids, "what the handler does belongs to its attempt");
}

#[tokio::test(start_paused = true)]
async fn without_a_span_of_its_own_an_enqueue_hands_on_the_one_around_it() {
    let traces = Traces::up_to(Level::INFO);
    let broker = Broker::in_process();
    let _consumer = consumer(&broker).await;
    let producer = Producer::builder(&broker).build().await.unwrap();
    let (request, trace_id, request_id) = request();
    let tasks = [Work { failures: 0 }, Work { failures: 0 }];
    let enqueue = async { producer.enqueue_all(tasks).await };
    assert!(enqueue.instrument(request).await.iter().all(Result::is_ok));
    for attempt in traces.attempts(2).await {
        assert_eq!((trace(&attempt), attempt.parent_span_id), (trace_id.clone(), request_id));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_requeued_from_the_dead_letters_goes_on_in_its_trace() {
    let traces = Traces::up_to(Level::INFO);
    let broker = Broker::in_process();
    let _consumer = consumer(&broker).await;
    let producer = Producer::builder(&broker).build().await.unwrap();
    let (request, trace_id, request_id) = request();
    let enqueue = async { producer.enqueue(Work { failures: 1 }).max_attempts(1).await.unwrap() };
    let id = enqueue.instrument(request).await.id();
    assert_eq!(text(&traces.attempts(1).await[0], "outcome").as_deref(), Some("dead"));
    broker.dead_letters("default").unwrap().requeue(id).await.unwrap();
    for attempt in traces.attempts(2).await {
        assert_eq!((trace(&attempt), attempt.parent_span_id), (trace_id.clone(), request_id));
    }
}

#[tokio::test(start_paused = true)]
async fn a_task_without_a_trace_begins_one_that_its_retries_go_on_in() {
    let traces = Traces::up_to(Level::INFO);
    let broker = Broker::in_process();
    let _consumer = consumer(&broker).await;
    let producer = Producer::builder(&broker).build().await.unwrap();
    producer.enqueue(Work { failures: 1 }).await.unwrap();
    let attempts = traces.attempts(2).await;
    assert_eq!(attempts[0].parent_span_id, SpanId::INVALID);
    assert_eq!(trace(&attempts[0]), trace(&attempts[1]));
    assert_eq!(attempts[1].parent_span_id, attempts[0].span_context.span_id());
}

#[tokio::test(start_paused = true)]
async fn each_tick_of_a_schedule_is_a_trace_of_its_own() {
    let traces = Traces::up_to(Level::INFO);
    let broker = Broker::in_process();
    let _consumer = consumer(&broker).await;
    let (request, trace_id, _) = request();
    let schedule = Schedule::new("often", Cadence::every(SECOND), Work { failures: 0 });
    let start = Scheduler::builder(&broker).schedule(schedule).start();
    let _scheduler = start.instrument(request).await.unwrap();
    let attempts = traces.attempts(2).await;
    assert_ne!(trace(&attempts[0]), trace(&attempts[1]));
    for attempt in attempts {
        assert_eq!(attempt.parent_span_id, SpanId::INVALID);
        assert_ne!(trace(&attempt), trace_id, "of whoever started the scheduler");
    }
}
