//! [`Observation`]: what is told of one attempt: its span, its trace, its measures.

use std::sync::Arc;

use futures_util::future::BoxFuture;

use super::meter::AttemptMeter;
use super::span::AttemptSpan;
use crate::clock::Clock;
use crate::envelope::Envelope;
use crate::message::Headers;
use crate::outcome::Outcome;

/// One attempt, from its handler's start until what follows it is stored. Dropped before, it was stopped.
pub(crate) struct Observation {
    span: AttemptSpan,
    meter: AttemptMeter,
}

impl Observation {
    /// It starts now.
    pub(crate) fn begin(queue: &Arc<str>, name: &'static str, envelope: &Envelope, clock: Clock) -> Self {
        let Envelope { id, attempt, ref rest, .. } = *envelope;
        Self {
            span: AttemptSpan::new(id, name, queue, attempt, rest),
            meter: AttemptMeter::begin(queue, name, envelope, clock),
        }
    }

    /// Runs a part of the attempt inside of its span.
    pub(crate) fn around<'a, T: 'a>(&self, part: BoxFuture<'a, T>) -> BoxFuture<'a, T> {
        self.span.around(part)
    }

    /// Its handler has ended.
    pub(crate) fn ran(&self) {
        self.meter.ran();
    }

    /// A task that had no trace until now goes on in this attempt's.
    pub(crate) fn begin_trace(&self, headers: &mut Headers) {
        self.span.begin_trace(headers);
    }

    pub(crate) fn end(self, outcome: Outcome) {
        self.span.end(outcome);
        self.meter.end(outcome);
    }
}
