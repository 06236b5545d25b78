//! A process with a scheduler, the active one or one that stands by.

use std::time::Duration;
use std::time::UNIX_EPOCH;

use taskhare::Broker;
use taskhare::Cadence;
use taskhare::Misfire;
use taskhare::Schedule;
use taskhare::Scheduler;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use crate::consumer::Tock;
use crate::history::What;
use crate::load::PERIODS;
use crate::worker::Course;
use crate::worker::Scribe;
use crate::worker::held;

/// How often a scheduler is asked whether it is the active one.
const LOOK: Duration = Duration::from_millis(5);
/// Longer than any run: every planned tick has to be fired.
const CATCH_UP: Duration = Duration::from_secs(3600);

pub async fn run(broker: &Broker, course: &Course, scribe: &Scribe, end: &CancellationToken) {
    let mut builder = Scheduler::builder(broker);
    for (name, period) in names().zip(PERIODS) {
        let schedule = Schedule::new(&name, Cadence::every(period), Tock)
            .starting_at(UNIX_EPOCH + course.starts)
            .ending_at(UNIX_EPOCH + course.ends())
            .misfire(Misfire::CatchUp(CATCH_UP));
        builder = builder.schedule(schedule);
    }
    let scheduler = builder.start().await.unwrap();
    scribe.write(held(true, &Handle::current()));
    let mut was_active = false;
    while !end.is_cancelled() {
        let active = scheduler.is_active();
        if active != was_active {
            scribe.write(What::Leads { active });
            was_active = active;
        }
        tokio::time::sleep(LOOK).await;
    }
    scheduler.shutdown().await;
}

/// What the schedules are called, in the order of [`PERIODS`].
pub fn names() -> impl Iterator<Item = String> {
    PERIODS.iter().map(|period| format!("every-{}", period.as_millis()))
}
