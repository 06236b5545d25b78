//! [W3C trace context](https://www.w3.org/TR/trace-context/) in the headers of a task. The only file that knows
//! OpenTelemetry.

use opentelemetry::Context;
use opentelemetry::trace::SpanContext;
use opentelemetry::trace::SpanId;
use opentelemetry::trace::TraceContextExt;
use opentelemetry::trace::TraceFlags;
use opentelemetry::trace::TraceId;
use opentelemetry::trace::TraceState;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::message::Headers;
use crate::message::Value;

const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// Writes the trace that this code runs in, if there is one.
pub(crate) fn write_current(headers: &mut Headers) {
    let of_span = Span::current().context();
    if of_span.span().span_context().is_valid() {
        write(of_span.span().span_context(), headers);
    } else {
        // Of an application that uses OpenTelemetry without `tracing`.
        write(Context::current().span().span_context(), headers);
    }
}

/// Makes `span` a child of the one in the headers, if there is one.
pub(super) fn follow(span: &Span, headers: &Headers) {
    if let Some(parent) = read(headers) {
        // Fails where nobody listens for OpenTelemetry: then there is nothing to do.
        let _ = span.set_parent(Context::new().with_remote_span_context(parent));
    }
}

/// Writes the trace of `span`, unless there is one already.
pub(super) fn begin(span: &Span, headers: &mut Headers) {
    if headers.get(TRACEPARENT).is_none() {
        write(span.context().span().span_context(), headers);
    }
}

/// Replaces what is there.
fn write(trace: &SpanContext, headers: &mut Headers) {
    if !trace.is_valid() {
        return;
    }
    let sampled = u8::from(trace.is_sampled());
    headers.insert(TRACEPARENT, format!("00-{}-{}-{sampled:02x}", trace.trace_id(), trace.span_id()));
    let state = trace.trace_state().header();
    if !state.is_empty() {
        headers.insert(TRACESTATE, state);
    }
}

fn read(headers: &Headers) -> Option<SpanContext> {
    let (trace, span, flags) = parse(headers.get(TRACEPARENT)?.as_text()?)?;
    // What cannot be read of the state does no harm to the trace.
    let state = headers.get(TRACESTATE).and_then(Value::as_text).and_then(|state| state.parse().ok());
    let state: TraceState = state.unwrap_or_default();
    Some(SpanContext::new(trace, span, flags, true, state))
}

/// Of later versions the part that they have in common with this one counts.
fn parse(text: &str) -> Option<(TraceId, SpanId, TraceFlags)> {
    let mut parts = text.split('-');
    let mut hex = |digits: usize| {
        let part = parts.next()?;
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (part.len() == digits && part.bytes().all(is_hex)).then_some(part)
    };
    let (version, trace, span, flags) = (hex(2)?, hex(32)?, hex(16)?, hex(2)?);
    if version == "ff" || version == "00" && parts.next().is_some() {
        return None;
    }
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    (trace != TraceId::INVALID && span != SpanId::INVALID).then_some((trace, span, flags))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    const SPAN: &str = "00f067aa0ba902b7";

    #[test]
    fn only_what_the_w3c_allows_is_a_trace() {
        let yes = |flags: u8| {
            Some((TraceId::from_hex(TRACE).unwrap(), SpanId::from_hex(SPAN).unwrap(), TraceFlags::new(flags)))
        };
        let (zero, upper) = ("0".repeat(32), TRACE.to_uppercase());
        for (text, expected) in [
            (format!("00-{TRACE}-{SPAN}-01"), yes(1)),
            (format!("00-{TRACE}-{SPAN}-00"), yes(0)),
            (format!("00-{TRACE}-{SPAN}-ff"), yes(1)),
            (format!("01-{TRACE}-{SPAN}-01-more"), yes(1)),
            (format!("00-{TRACE}-{SPAN}-01-more"), None),
            (format!("ff-{TRACE}-{SPAN}-01"), None),
            (format!("00-{zero}-{SPAN}-01"), None),
            (format!("00-{TRACE}-{}-01", &zero[..16]), None),
            (format!("00-{upper}-{SPAN}-01"), None),
            (format!("00-{TRACE}-{SPAN}"), None),
            (format!("00-{TRACE}-{SPAN}-1"), None),
            (format!("00-+{}-{SPAN}-01", &TRACE[1..]), None),
            (String::new(), None),
        ] {
            assert_eq!(parse(&text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for state in ["", "vendor=1,other=2"] {
            let (trace, span) = (TraceId::from_hex(TRACE).unwrap(), SpanId::from_hex(SPAN).unwrap());
            let trace = SpanContext::new(trace, span, TraceFlags::SAMPLED, true, state.parse().unwrap());
            let mut headers = Headers::new();
            write(&trace, &mut headers);
            assert_eq!(headers.len(), if state.is_empty() { 1 } else { 2 });
            assert_eq!(read(&headers), Some(trace));
        }
    }

    #[test]
    fn outside_of_a_trace_nothing_is_written() {
        let mut headers = Headers::new();
        write_current(&mut headers);
        begin(&Span::none(), &mut headers);
        assert!(headers.is_empty());
    }

    #[test]
    fn a_state_that_cannot_be_read_costs_only_itself() {
        let headers: Headers = [(TRACEPARENT, format!("00-{TRACE}-{SPAN}-01")), (TRACESTATE, "?".to_owned())]
            .into_iter()
            .collect();
        assert_eq!(read(&headers).unwrap().trace_state(), &TraceState::NONE);
    }
}
