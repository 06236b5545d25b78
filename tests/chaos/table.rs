//! [`Row`]: what one run has shown, in a line of the table of the documentation.

use std::fmt;
use std::time::Duration;

use crate::checker::Cause;
use crate::checker::Verdict;

/// The lines above the rows.
pub const HEAD: &str = "\
| fault | operations | confirmed | lost | started again, with the cause | unexplained | other violations | \
work went on after | longest pause |
| --- | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |";

#[derive(Debug)]
pub struct Row<'a> {
    pub fault: &'a str,
    pub verdict: &'a Verdict,
}

impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, verdict } = self;
        let Verdict { operations, confirmed, lost, unexplained, taken, .. } = verdict;
        let lost = match taken {
            0 => lost.to_string(),
            taken => format!("{lost} (and {taken} by the operator)"),
        };
        let others = verdict.violations.len() - unexplained.min(&verdict.violations.len());
        // Of several faults the one that was worst.
        let back = verdict.recoveries.iter().filter_map(|it| it.back).max();
        let idle = verdict.recoveries.iter().map(|it| it.idle).max();
        write!(
            f,
            "| {fault} | {operations} | {confirmed} | {lost} | {} | {unexplained} | {others} | {} | {} |",
            repeats(verdict),
            seconds(back),
            seconds(idle),
        )
    }
}

fn repeats(verdict: &Verdict) -> String {
    let one = |(cause, count): (&Cause, &usize)| format!("{count} {cause}");
    let mut all: Vec<String> = verdict.repeated.iter().map(one).collect();
    if verdict.ticks_repeated > 0 {
        all.push(format!("{} ticks", verdict.ticks_repeated));
    }
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

fn seconds(time: Option<Duration>) -> String {
    time.map_or_else(String::new, |time| format!("{:.1} s", time.as_secs_f64()))
}
