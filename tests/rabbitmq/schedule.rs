//! Schedules on a real broker.

use std::sync::Mutex;
use std::time::SystemTime;

use futures_util::future::join_all;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Error as TaskhareError;
use taskhare::Producer;
use taskhare::Schedule;
use taskhare::ScheduleStatus;
use taskhare::Scheduler;
use taskhare::SchedulerBuilder;
use taskhare::Task;
use taskhare::Tick;
use taskhare::management::Totals;
use taskhare::testing::Management;
use taskhare::transport::Value;

use crate::*;

const TENTH: Duration = Duration::from_millis(100);

#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
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

    fn count(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    /// A consumer that notes what it starts, one after the other, and panics if that is early.
    async fn handle(&self, broker: &Broker) -> Consumer {
        let ticks = self.0.clone();
        let builder = Consumer::builder(broker).handler_fn(move |_: Sweep, ctx| {
            let tick = ctx.tick().unwrap().clone();
            assert!(tick.planned_at() <= SystemTime::now(), "early: {tick:?}");
            ticks.lock().unwrap().push(tick);
            async { Ok(()) }
        });
        builder.concurrency(1).start().await.unwrap()
    }

    /// That all of one schedule were fired once, and were planned so far apart.
    fn assert_complete(&self, interval: Duration) {
        let all = self.all();
        assert!(all.iter().map(Tick::sequence).eq(1..=all.len() as u64), "{all:?}");
        for pair in all.windows(2) {
            let gap = pair[1].planned_at().duration_since(pair[0].planned_at()).unwrap();
            assert_eq!(gap, interval, "{pair:?}");
        }
    }
}

struct Setting {
    broker: Broker,
    management: &'static Management,
    vhost: String,
    url: String,
    ticks: Ticks,
    _consumer: Consumer,
}

async fn setting() -> Setting {
    let lab = TestBroker::shared().await.unwrap();
    let url = fresh_vhost().await;
    let (broker, ticks) = (Broker::connect(&url).await.unwrap(), Ticks::default());
    let consumer = ticks.handle(&broker).await;
    let (management, vhost) = (lab.management(), vhost_of(&url).unwrap());
    Setting { broker, management, vhost, url, ticks, _consumer: consumer }
}

impl Setting {
    async fn totals(&self, queue: &str) -> Totals {
        let queues = self.management.queues(&self.vhost).await.unwrap();
        queues.iter().find(|known| known.name == queue).map_or_else(Totals::default, |queue| queue.totals)
    }

    /// Waits until the queue of the schedules has so many messages and a marker, all with the active scheduler.
    async fn holds(&self, schedules: u64) {
        eventually("one message for each schedule", async || {
            let totals = self.totals("taskhare.schedules").await;
            (totals.messages, totals.unacknowledged) == (schedules + 1, schedules + 1)
        })
        .await;
    }

    async fn more_ticks(&self, count: usize) {
        let before = self.ticks.count();
        eventually("ticks go on", async || self.ticks.count() >= before + count).await;
    }
}

fn sweep() -> Schedule {
    Schedule::new("sweep", TENTH, Sweep)
}

async fn start(broker: &Broker) -> Scheduler {
    Scheduler::builder(broker).schedule(sweep()).start().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interval_ticks_on_its_grid_and_never_early() {
    let setting = setting().await;
    let scheduler = start(&setting.broker).await;
    setting.more_ticks(40).await;
    scheduler.shutdown().await;
    setting.ticks.assert_complete(TENTH);
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_one_message_for_each_schedule_however_often_they_tick() {
    let setting = setting().await;
    let often = (0..10).map(|number| Schedule::new(&format!("often {number}"), 2 * TENTH, Sweep));
    let builder = often.fold(Scheduler::builder(&setting.broker), SchedulerBuilder::schedule);
    let seldom = Schedule::new("seldom", Duration::from_secs(3600), Sweep);
    let scheduler = builder.schedule(seldom).start().await.unwrap();
    setting.more_ticks(500).await;
    for name in 0..10 {
        setting.broker.schedules().pause(&format!("often {name}")).await.unwrap();
    }
    setting.holds(11).await;
    scheduler.shutdown().await;
    let totals = setting.totals("taskhare.undeliverable").await;
    assert_eq!(totals.messages, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn schedules_are_listed_paused_resumed_triggered_and_removed_from_elsewhere() {
    let setting = setting().await;
    let _scheduler = start(&setting.broker).await;
    let other = Broker::connect(&setting.url).await.unwrap();
    let schedules = other.schedules();
    setting.more_ticks(1).await;
    schedules.pause("sweep").await.unwrap();
    let status = schedules.get("sweep").await.unwrap().unwrap();
    assert_eq!((status.is_paused(), status.task(), status.next_tick()), (true, "sweep", None));
    eventually("all have run", async || setting.ticks.count() as u64 == status.ticks()).await;
    schedules.trigger("sweep").await.unwrap();
    eventually("one more", async || setting.ticks.count() as u64 == status.ticks() + 1).await;
    let last = setting.ticks.all().pop().unwrap();
    assert_eq!((last.is_triggered(), last.sequence()), (true, status.ticks() + 1));
    schedules.resume("sweep").await.unwrap();
    setting.more_ticks(2).await;
    schedules.remove("sweep").await.unwrap();
    assert!(schedules.list().await.unwrap().is_empty());
    let gone = schedules.trigger("sweep").await;
    assert!(matches!(gone, Err(TaskhareError::NoSchedule { .. })), "{gone:?}");
    setting.holds(0).await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_scheduler_is_active_until_it_goes_and_then_another_one() {
    let setting = setting().await;
    let other = Broker::connect(&setting.url).await.unwrap();
    let mut active = start(&setting.broker).await;
    for round in 0..4 {
        eventually("one is active", async || active.is_active()).await;
        let next = start(if round % 2 == 0 { &other } else { &setting.broker }).await;
        setting.more_ticks(5).await;
        assert!(active.is_active() && !next.is_active());
        if round < 2 {
            active.shutdown().await;
        } else {
            drop(active);
        }
        setting.more_ticks(3).await;
        active = next;
    }
    setting.ticks.assert_complete(TENTH);
    setting.holds(1).await;
    active.shutdown().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_processes_that_declare_it_at_once_make_one_schedule() {
    let setting = setting().await;
    let brokers = join_all((0..6).map(async |_| Broker::connect(&setting.url).await.unwrap())).await;
    let schedulers = join_all(brokers.iter().map(start)).await;
    setting.more_ticks(20).await;
    setting.ticks.assert_complete(TENTH);
    assert_eq!(schedulers.iter().filter(|scheduler| scheduler.is_active()).count(), 1);
    setting.holds(1).await;
}

/// More than the 2,000 that a consumer without a limit gets of a quorum queue.
#[tokio::test(flavor = "multi_thread")]
async fn three_thousand_schedules_are_taken_over_and_tick() {
    let setting = setting().await;
    let producer = Producer::builder(&setting.broker).build().await.unwrap();
    let minute = Duration::from_secs(60);
    let soon = SystemTime::now() + minute;
    let names: Vec<String> = (0..3000).map(|number| format!("schedule {number:04}")).collect();
    let declare = async |name: &String| producer.schedule(name, minute, Sweep).starting_at(soon).await;
    for result in join_all(names.iter().map(declare)).await {
        result.unwrap();
    }
    let first = Scheduler::builder(&setting.broker).start().await.unwrap();
    setting.holds(3000).await;
    first.shutdown().await;
    let _second = Scheduler::builder(&setting.broker).start().await.unwrap();
    let listed = setting.broker.schedules().list().await.unwrap();
    assert!(listed.iter().map(ScheduleStatus::name).eq(&names));
    for name in names.iter().step_by(100) {
        setting.broker.schedules().trigger(name).await.unwrap();
    }
    eventually("they tick", async || setting.ticks.count() >= 30).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tick_that_its_lane_refuses_is_fired_once_when_it_has_room() {
    let setting = setting().await;
    let vhost = setting.vhost.replace('/', "%2F");
    let producer = Producer::builder(&setting.broker).queue("full").build().await.unwrap();
    let policy = serde_json::json!({
        "pattern": r"^taskhare\.full\.normal$", "apply-to": "queues", "definition": { "max-length": 2 },
    });
    let path = format!("/policies/{vhost}/full");
    setting.management.put(&path, &policy).await.unwrap();
    eventually("it takes no more", async || {
        matches!(producer.enqueue(Sweep).queue("full").await, Err(TaskhareError::Rejected { .. }))
    })
    .await;
    let waiting = setting.broker.waiting("full").await.unwrap();
    let once = || Schedule::new("once", taskhare::Cadence::at(SystemTime::now()), Sweep).queue("full");
    let first = Scheduler::builder(&setting.broker).schedule(once()).start().await.unwrap();
    let held = async || setting.totals("taskhare.schedules").await.messages;
    eventually("it is known", async || held().await > 1).await;
    tokio::time::sleep(4 * TENTH).await;
    assert_eq!(setting.broker.waiting("full").await.unwrap(), waiting);
    // Another one goes on where this one could not.
    first.shutdown().await;
    let _second = Scheduler::builder(&setting.broker).start().await.unwrap();
    tokio::time::sleep(4 * TENTH).await;
    // Quorum queues of 3.10 notice that they have room when something leaves, not when their limit goes.
    let ticks = Ticks::default();
    let noted = ticks.clone();
    let handler = move |_: Sweep, ctx: taskhare::TaskContext| {
        noted.0.lock().unwrap().extend(ctx.tick().cloned());
        async { Ok(()) }
    };
    let _consumer =
        Consumer::builder(&setting.broker).queue("full").handler_fn(handler).start().await.unwrap();
    eventually("it is run", async || ticks.count() == 1).await;
    setting.holds(1).await;
    let status = setting.broker.schedules().get("once").await.unwrap().unwrap();
    assert_eq!((status.ticks(), status.next_tick()), (1, None));
    tokio::time::sleep(4 * TENTH).await;
    assert_eq!((ticks.count(), ticks.all()[0].sequence()), (1, 1), "fired twice");
}

/// As the broker of an operator who allows a delivery to be held for 30 s.
#[tokio::test(flavor = "multi_thread")]
async fn entries_are_stored_anew_before_the_broker_takes_them_back() {
    let setting = setting().await;
    let seldom = Schedule::new("seldom", Duration::from_secs(3600), Sweep);
    let scheduler = Scheduler::builder(&setting.broker)
        .schedule(sweep())
        .schedule(seldom)
        .consumer_timeout(Duration::from_secs(30))
        .start()
        .await
        .unwrap();
    let schedules = setting.broker.schedules();
    schedules.get("seldom").await.unwrap().unwrap();
    setting.more_ticks(110).await;
    setting.ticks.assert_complete(TENTH);
    scheduler.shutdown().await;
    // Its version counts how often it was stored.
    let mut ledger = setting.broker.transport().subscribe(subscribe("taskhare.schedules", 10)).await.unwrap();
    let mut versions = std::collections::BTreeMap::new();
    while versions.len() < 2 {
        let delivery = next(&mut ledger).await;
        // Or the marker.
        let Some(Value::Table(table)) = delivery.message.headers.get("taskhare-schedule") else { continue };
        let text = |name| table.get(name).and_then(Value::as_text).unwrap_or_default().to_owned();
        versions.insert(text("name"), table.get("version").and_then(Value::as_int).unwrap());
    }
    assert!(versions["seldom"] > 1, "{versions:?}");
}
