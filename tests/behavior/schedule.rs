//! Schedules, as applications see them.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Cadence;
use taskhare::Consumer;
use taskhare::Schedule;
use taskhare::Scheduler;
use taskhare::Task;
use taskhare::Tick;

use crate::support::eventually;

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Sweep;

impl Task for Sweep {
    const NAME: &'static str = "sweep";
    type Output = ();
}

/// The ticks that were handled, in their order.
#[derive(Clone, Default)]
struct Ticks(Arc<Mutex<Vec<Tick>>>);

impl Ticks {
    fn all(&self) -> Vec<Tick> {
        self.0.lock().unwrap().clone()
    }

    fn sequences(&self) -> Vec<u64> {
        self.all().iter().map(Tick::sequence).collect()
    }

    async fn handle(&self, broker: &Broker) -> Consumer {
        let ticks = self.0.clone();
        let handler = move |_: Sweep, ctx: taskhare::TaskContext| {
            let ticks = ticks.clone();
            async move {
                ticks.lock().unwrap().push(ctx.tick().unwrap().clone());
                Ok(())
            }
        };
        Consumer::builder(broker).handler_fn(handler).start().await.unwrap()
    }
}

#[tokio::test(start_paused = true)]
async fn an_interval_ticks_without_drift() {
    let broker = Broker::in_process();
    let ticks = Ticks::default();
    let _consumer = ticks.handle(&broker).await;
    let sweep = Schedule::new("sweep", SECOND, Sweep);
    let scheduler = Scheduler::builder(&broker).schedule(sweep).start().await.unwrap();
    eventually("a hundred ticks", async || ticks.all().len() >= 100).await;
    scheduler.shutdown().await;
    let all = ticks.all();
    for (index, pair) in all.windows(2).enumerate() {
        assert_eq!(pair[0].sequence(), index as u64 + 1);
        assert_eq!(pair[1].planned_at().duration_since(pair[0].planned_at()).unwrap(), SECOND);
    }
}

#[tokio::test(start_paused = true)]
async fn a_year_passes() {
    let broker = Broker::in_process();
    let ticks = Ticks::default();
    let _consumer = ticks.handle(&broker).await;
    let sweep = Schedule::new("sweep", Cadence::cron("0 9 * * MON-FRI").zone("Europe/Berlin"), Sweep);
    let scheduler = Scheduler::builder(&broker).schedule(sweep).start().await.unwrap();
    tokio::time::sleep(365 * DAY).await;
    scheduler.shutdown().await;
    let count = ticks.all().len();
    assert!((260..=262).contains(&count), "{count} working days");
    assert_eq!(ticks.sequences(), (1..=count as u64).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn another_scheduler_takes_over_and_no_tick_is_missed_or_doubled() {
    let broker = Broker::in_process();
    let ticks = Ticks::default();
    let _consumer = ticks.handle(&broker).await;
    let start = async || {
        let sweep = Schedule::new("sweep", SECOND, Sweep);
        Scheduler::builder(&broker).schedule(sweep).start().await.unwrap()
    };
    let mut schedulers = vec![start().await, start().await, start().await];
    for round in 1..=20 {
        let before = ticks.all().len();
        eventually("ticks go on", async || ticks.all().len() >= before + 3).await;
        let active = schedulers.iter().position(Scheduler::is_active).unwrap();
        let old = schedulers.swap_remove(active);
        if round % 2 == 0 {
            drop(old);
        } else {
            old.shutdown().await;
        }
        schedulers.push(start().await);
    }
    let all = ticks.all();
    assert_eq!(ticks.sequences(), (1..=all.len() as u64).collect::<Vec<_>>());
    for pair in all.windows(2) {
        assert_eq!(pair[1].planned_at().duration_since(pair[0].planned_at()).unwrap(), SECOND);
    }
}
