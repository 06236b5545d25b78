//! [`AttemptSpan`] and [`EnqueueSpan`]: what is around an attempt and an enqueue. Where nobody wants it, nothing is.

use std::fmt;

use futures_util::future::BoxFuture;
use tracing::Instrument;
use tracing::Span;
use tracing::field::Empty;
use tracing::field::display;

use super::trace;
use crate::message::Headers;
use crate::outcome::Outcome;
use crate::task::TaskId;

/// Fields that only OpenTelemetry reads.
const OTEL: bool = cfg!(feature = "otel");
/// As OpenTelemetry writes it.
const ERROR: &str = "ERROR";

/// Around one attempt, from its handler's start until what follows it is stored.
///
/// Boxed, because it is rarely there, and part of what is moved for each task.
#[derive(Clone, Debug)]
pub(super) struct AttemptSpan(Option<Box<Span>>);

impl AttemptSpan {
    /// `headers` are those of the task.
    pub(super) fn new(id: TaskId, name: &'static str, queue: &str, attempt: u32, headers: &Headers) -> Self {
        let span = tracing::info_span!(
            target: "taskhare",
            parent: None,
            "task",
            task.id = %id,
            task.name = name,
            queue,
            attempt,
            outcome = Empty,
            otel.name = OTEL.then(|| format!("run {name}")),
            otel.kind = OTEL.then_some("consumer"),
            otel.status_code = Empty,
        );
        if span.is_disabled() {
            return Self(None);
        }
        trace::follow(&span, headers);
        Self(Some(Box::new(span)))
    }

    /// Runs a part of the attempt inside of it.
    pub(super) fn around<'a, T: 'a>(&self, part: BoxFuture<'a, T>) -> BoxFuture<'a, T> {
        match &self.0 {
            None => part,
            Some(span) => Box::pin(part.instrument(Span::clone(span))),
        }
    }

    /// A task that had no trace until now goes on in this one.
    pub(super) fn begin_trace(&self, headers: &mut Headers) {
        if let Some(span) = &self.0 {
            trace::begin(span, headers);
        }
    }

    /// Notes how it ended.
    pub(super) fn end(self, outcome: Outcome) {
        if let Some(span) = self.0 {
            span.record("outcome", word(outcome));
            if OTEL && matches!(outcome, Outcome::Retried | Outcome::DeadLettered(_) | Outcome::Expired(_)) {
                span.record("otel.status_code", ERROR);
            }
        }
    }
}

/// An outcome in one word.
pub(super) fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Succeeded => "succeeded",
        Outcome::Retried => "retried",
        Outcome::DeadLettered(_) => "dead",
        Outcome::Expired(_) => "expired",
        Outcome::Cancelled => "cancelled",
        Outcome::Superseded => "superseded",
        Outcome::HandedBack => "handed-back",
        Outcome::Deferred => "deferred",
    }
}

/// Around an enqueue, until the broker has confirmed it.
#[derive(Debug)]
pub(crate) struct EnqueueSpan(Span);

impl EnqueueSpan {
    /// Of one task.
    pub(crate) fn one(name: &'static str, queue: &str) -> Self {
        Self(tracing::debug_span!(
            target: "taskhare",
            "enqueue",
            task.id = Empty,
            task.name = name,
            queue,
            error = Empty,
            otel.name = OTEL.then(|| format!("enqueue {name}")),
            otel.kind = OTEL.then_some("producer"),
            otel.status_code = Empty,
        ))
    }

    /// Of many.
    pub(crate) fn many(name: &'static str, queue: &str) -> Self {
        Self(tracing::debug_span!(
            target: "taskhare",
            "enqueue_all",
            task.name = name,
            queue,
            otel.name = OTEL.then(|| format!("enqueue_all {name}")),
            otel.kind = OTEL.then_some("producer"),
        ))
    }

    /// Runs `enqueue` inside of it.
    pub(crate) fn around<'a, T: 'a>(self, enqueue: BoxFuture<'a, T>) -> BoxFuture<'a, T> {
        if self.0.is_disabled() { enqueue } else { Box::pin(enqueue.instrument(self.0)) }
    }

    /// The same, and notes how it ended; `id` tells which task it is.
    pub(crate) fn around_one<'a, T: Send + 'a, E: fmt::Display + Send + 'a>(
        self,
        enqueue: BoxFuture<'a, Result<T, E>>,
        id: fn(&T) -> TaskId,
    ) -> BoxFuture<'a, Result<T, E>> {
        if self.0.is_disabled() {
            return enqueue;
        }
        Box::pin(async move {
            let Self(span) = self;
            let enqueued = enqueue.instrument(span.clone()).await;
            match &enqueued {
                Ok(task) => span.record("task.id", display(id(task))),
                Err(error) if OTEL => span.record("error", display(error)).record("otel.status_code", ERROR),
                Err(error) => span.record("error", display(error)),
            };
            enqueued
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_nobody_listens_there_is_no_span_and_nothing_is_boxed() {
        let span = AttemptSpan::new(TaskId::from_u128(1), "work", "default", 1, &Headers::new());
        assert!(span.0.is_none());
        assert_eq!(size_of::<AttemptSpan>(), size_of::<usize>());
    }
}
