//! [`Recovery`]: how long it took until work went on after a fault.

use std::fmt;
use std::time::Duration;

use super::Case;
use super::fault::Fault;
use crate::history::What;

/// What became of the work of all processes together, attempts and ticks that came to their end, during and after a fault.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    pub fault: String,
    pub whom: String,
    /// From when it began until it was healed; `None`: it never was.
    pub lasted: Option<Duration>,
    /// From when it began until the first work that was done once it was healed; `None`: there was none.
    ///
    /// Little more than [`lasted`](Self::lasted) if others went on meanwhile.
    pub back: Option<Duration>,
    /// The longest time without any work done, from when it began until then: what a user of the whole would notice.
    pub idle: Duration,
}

/// In the order in which the faults began.
pub fn recoveries(case: &Case<'_>) -> Vec<Recovery> {
    let is_done = |what: &What| matches!(what, What::Finished { .. } | What::Ran { .. });
    let work: Vec<u64> = case.records.iter().filter(|it| is_done(&it.what)).map(|it| it.at).collect();
    case.faults.all().iter().map(|fault| recovery(fault, &work)).collect()
}

/// `work`: when something was done.
fn recovery(fault: &Fault<'_>, work: &[u64]) -> Recovery {
    let Fault { name, whom, began, healed } = *fault;
    let since = |at: u64| Duration::from_micros(at.saturating_sub(began));
    let back = work.get(work.partition_point(|at| *at < healed)).copied();
    let end = back.or(work.last().copied()).unwrap_or(began);
    let meanwhile = &work[work.partition_point(|at| *at < began)..work.partition_point(|at| *at <= end)];
    let mut last = began;
    let mut idle = 0;
    for at in meanwhile {
        idle = idle.max(at - last);
        last = *at;
    }
    Recovery {
        fault: name.to_owned(),
        whom: whom.to_owned(),
        lasted: (healed < u64::MAX).then(|| since(healed)),
        back: back.map(since),
        idle: Duration::from_micros(idle),
    }
}

impl fmt::Display for Recovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { fault, whom, .. } = self;
        let time = |time: Option<Duration>| {
            time.map_or("never".to_owned(), |it| format!("{:.1} s", it.as_secs_f64()))
        };
        let (lasted, back, idle) = (time(self.lasted), time(self.back), time(Some(self.idle)));
        write!(f, "{fault} ({whom}): over after {lasted}, work after {back}, none for {idle} at most")
    }
}
