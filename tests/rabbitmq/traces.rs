//! A trace goes through a real broker (feature `otel`).

use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::InMemorySpanExporter;
use opentelemetry_sdk::trace::SdkTracerProvider;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Task;
use taskhare::TaskError;
use taskhare::transport::Value;
use tracing::Instrument;
use tracing_subscriber::layer::SubscriberExt;

use crate::tasks::broker;
use crate::tasks::dead_letter;
use crate::*;

#[derive(serde::Serialize, serde::Deserialize)]
struct Fail;

impl Task for Fail {
    const NAME: &'static str = "fail";
    type Output = ();
}

#[tokio::test]
async fn a_trace_goes_through_the_broker_its_delays_and_the_dead_letters() {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    // While a process has only one subscriber, tracing asks that of the thread alone whether it wants a new span: another
    // test, whose thread has none, would turn ours off. With two it asks all.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    let (broker, _) = broker().await;
    let consumer = Consumer::builder(&broker)
        .retry(RetryPolicy::fixed(Duration::from_millis(20)).max_attempts(3))
        .handler_fn(|_: Fail, _| async { Err(TaskError::retry("as told")) });
    let consumer = consumer.start().await.unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    let enqueue = async { producer.enqueue(Fail).await.unwrap() };
    enqueue.instrument(tracing::info_span!("request")).await;
    let letter = dead_letter(&broker).await;
    consumer.shutdown().await;

    let spans = exporter.get_finished_spans().unwrap();
    let sent = spans.iter().find(|span| span.name == "enqueue fail").unwrap();
    let attempts: Vec<_> = spans.iter().filter(|span| span.name == "run fail").collect();
    assert_eq!(attempts.len(), 3);
    for attempt in attempts {
        assert_eq!(attempt.span_context.trace_id(), sent.span_context.trace_id());
        assert_eq!(attempt.parent_span_id, sent.span_context.span_id());
    }
    let (trace, span) = (sent.span_context.trace_id(), sent.span_context.span_id());
    let expected = Value::from(format!("00-{trace}-{span}-01"));
    assert_eq!(letter.headers.get("traceparent"), Some(&expected));
}
