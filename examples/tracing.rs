//! A trace from whoever enqueues a task to each attempt of it, as OpenTelemetry gets it.
//!
//! ```text
//! cargo run --features otel --example tracing                             # no server needed
//! AMQP_URL=amqp://localhost cargo run --features otel --example tracing   # the same on RabbitMQ
//! ```

#![allow(clippy::print_stdout, reason = "an example")]

use std::time::Duration;

use opentelemetry::trace::SpanContext;
use opentelemetry::trace::SpanId;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::trace::InMemorySpanExporter;
use opentelemetry_sdk::trace::SdkTracerProvider;
use opentelemetry_sdk::trace::SpanData;
use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Task;
use taskhare::TaskError;
use tracing::Instrument;
use tracing::info_span;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

#[derive(Serialize, Deserialize)]
struct Charge {
    cents: i64,
}

impl Task for Charge {
    const NAME: &'static str = "charge";
    type Output = u32;
}

#[tokio::main]
async fn main() -> taskhare::Result<()> {
    // An application sends them to a collector, with `opentelemetry-otlp`. Here they stay in memory.
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("example"));
    tracing_subscriber::registry().with(layer).init();

    let broker = Broker::from_env().await?;
    let consumer = Consumer::builder(&broker)
        .retry(RetryPolicy::fixed(Duration::from_millis(50)))
        .handler_fn(|_: Charge, ctx| {
            let ask = async move { if ctx.attempt() < 3 { Err("no answer") } else { Ok(ctx.attempt()) } };
            // A span of the handler's own is a child of the attempt's.
            async { ask.instrument(info_span!("ask the bank")).await.map_err(TaskError::retry) }
        })
        .start()
        .await?;
    let producer = Producer::builder(&broker).build().await?;

    // What an HTTP server has around each request, say.
    let checkout = async { producer.enqueue(Charge { cents: 995 }).await?.output().await };
    assert_eq!(checkout.instrument(info_span!("checkout")).await?, 3);
    consumer.shutdown().await; // by now all attempts have ended
    broker.close().await;

    let spans = exporter.get_finished_spans().unwrap_or_default();
    let root = spans.iter().find(|span| span.name == "checkout").map(|span| span.span_context.clone());
    let trace: Vec<_> = spans
        .into_iter()
        .filter(|span| Some(span.span_context.trace_id()) == root.as_ref().map(SpanContext::trace_id))
        .collect();
    let mut lines = Vec::new();
    draw(&trace, SpanId::INVALID, 0, &mut lines);
    println!("{}", lines.join("\n"));
    let attempt = ["    run charge", "      ask the bank"];
    assert_eq!(lines, [["checkout", "  enqueue charge"], attempt, attempt, attempt].concat());
    Ok(())
}

/// The children of a span, and theirs.
fn draw(trace: &[SpanData], parent: SpanId, depth: usize, lines: &mut Vec<String>) {
    for span in trace.iter().filter(|span| span.parent_span_id == parent) {
        lines.push(format!("{}{}", "  ".repeat(depth), span.name));
        draw(trace, span.span_context.span_id(), depth + 1, lines);
    }
}
