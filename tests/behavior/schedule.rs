//! Schedules, as applications see them.

use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::SystemTime;

use futures_util::future::join_all;
use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Cadence;
use taskhare::Consumer;
use taskhare::Error;
use taskhare::Priority;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Schedule;
use taskhare::Scheduler;
use taskhare::Task;
use taskhare::Tick;
use taskhare::transport::Name;

use crate::support::Act;
use crate::support::Actor;
use crate::support::Seen;
use crate::support::dead_letters;
use crate::support::eventually;
use crate::support::quiet;
use crate::support::soon_after;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);
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

    /// How far apart they were planned.
    fn gaps(&self) -> Vec<Duration> {
        self.all().windows(2).map(|pair| after(pair[0].planned_at(), pair[1].planned_at())).collect()
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

fn after(earlier: SystemTime, later: SystemTime) -> Duration {
    later.duration_since(earlier).unwrap()
}

async fn start(broker: &Broker, schedule: Schedule) -> Scheduler {
    Scheduler::builder(broker).schedule(schedule).start().await.unwrap()
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
    let broker = quiet();
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

/// A year from whenever this runs has both changes: see the documentation of [`Cadence`].
#[tokio::test(start_paused = true)]
async fn a_named_hour_has_one_tick_a_day_whatever_the_clocks_do() {
    let broker = quiet();
    let ticks = Ticks::default();
    let _consumer = ticks.handle(&broker).await;
    let night = Schedule::new("night", Cadence::cron("30 2 * * *").zone("Europe/Berlin"), Sweep);
    let _scheduler = start(&broker, night).await;
    tokio::time::sleep(366 * DAY).await;
    let mut unusual: Vec<_> = ticks.gaps().into_iter().filter(|gap| *gap != DAY).collect();
    unusual.sort();
    // 2:30 is skipped in March, and 3:00 half an hour later by the clock; it comes twice in October.
    let half_hour = HOUR / 2;
    assert_eq!(unusual, [DAY - half_hour, DAY - half_hour, DAY + HOUR]);
    assert!((365..=366).contains(&ticks.all().len()));
}

#[tokio::test(start_paused = true)]
async fn every_hour_is_every_hour_whatever_the_clocks_do() {
    let broker = quiet();
    let ticks = Ticks::default();
    let _consumer = ticks.handle(&broker).await;
    let hourly = Schedule::new("hourly", Cadence::cron("30 * * * *").zone("Europe/Berlin"), Sweep);
    let _scheduler = start(&broker, hourly).await;
    tokio::time::sleep(365 * DAY).await;
    assert!(ticks.gaps().iter().all(|gap| *gap == HOUR));
    assert!((8759..=8761).contains(&ticks.all().len()));
}

#[tokio::test(start_paused = true)]
async fn a_single_time_has_one_tick() {
    let (broker, actor) = (quiet(), Actor::new());
    let _consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    let time = SystemTime::now() + HOUR;
    let _scheduler = start(&broker, Schedule::new("once", Cadence::at(time), Act::Succeed)).await;
    tokio::time::sleep(30 * DAY).await;
    let seen = actor.seen();
    assert_eq!(seen.len(), 1);
    assert!(soon_after(seen[0].at, HOUR), "{seen:?}");
    assert!(after(seen[0].tick().planned_at(), time) < Duration::from_millis(1));
    let status = broker.schedules().get("once").await.unwrap().unwrap();
    assert_eq!((status.ticks(), status.next_tick()), (1, None));
}

#[tokio::test(start_paused = true)]
async fn a_schedule_ticks_from_its_start_to_its_end() {
    let broker = quiet();
    let ticks = Ticks::default();
    let _consumer = ticks.handle(&broker).await;
    let (first, last) = (SystemTime::now() + HOUR, SystemTime::now() + HOUR + 10 * SECOND);
    let sweep = Schedule::new("sweep", SECOND, Sweep).starting_at(first).ending_at(last);
    let _scheduler = start(&broker, sweep).await;
    tokio::time::sleep(DAY).await;
    let planned: Vec<_> = ticks.all().iter().map(Tick::planned_at).collect();
    assert_eq!(planned.len(), 11, "both ends included");
    assert!(after(planned[0], first) < Duration::from_millis(1), "its start is its first tick");
}

#[tokio::test(start_paused = true)]
async fn a_limit_counts_all_ticks_also_through_a_takeover() {
    let broker = quiet();
    let ticks = Ticks::default();
    let _consumer = ticks.handle(&broker).await;
    let sweep = || Schedule::new("sweep", SECOND, Sweep).limit(5);
    let first = start(&broker, sweep()).await;
    eventually("two ticks", async || ticks.all().len() == 2).await;
    broker.schedules().trigger("sweep").await.unwrap();
    first.shutdown().await;
    let _second = start(&broker, sweep()).await;
    tokio::time::sleep(DAY).await;
    assert_eq!(ticks.sequences(), [1, 2, 3, 4, 5]);
    let error = broker.schedules().trigger("sweep").await.unwrap_err();
    assert!(matches!(&error, Error::Refused { action, .. } if action.contains("\"sweep\"")), "{error}");
}

/// How much later than planned ten ticks were fired.
async fn jitters(takes_over: bool) -> Vec<Duration> {
    let (broker, actor) = (Broker::in_process(), Actor::new());
    let _consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    let minute = || Schedule::new("minute", Cadence::cron("* * * * *"), Act::Succeed).jitter(30 * SECOND);
    let mut scheduler = start(&broker, minute()).await;
    for count in 1..=10 {
        actor.wait_for(count).await;
        if takes_over {
            scheduler.shutdown().await;
            scheduler = start(&broker, minute()).await;
        }
    }
    actor.seen().iter().map(|seen| after(seen.tick().planned_at(), seen.enqueued_at)).collect()
}

#[tokio::test(start_paused = true)]
async fn jitter_is_within_its_width_and_the_same_whoever_fires() {
    // Not in the second in which a minute ends: both are to see the same minutes.
    let (alone, in_turns) = tokio::join!(jitters(false), jitters(true));
    assert!(alone.iter().all(|jitter| *jitter < 31 * SECOND), "{alone:?}");
    assert!(alone.iter().max() > alone.iter().min(), "{alone:?}");
    for (one, other) in alone.iter().zip(&in_turns) {
        assert!(one.abs_diff(*other) < Duration::from_millis(20), "{alone:?} {in_turns:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_said_of_its_tasks_arrives_with_each_of_them() {
    let (broker, actor) = (Broker::in_process(), Actor::new());
    let consumer = Consumer::builder(&broker).queue("reports").handler(actor.clone());
    let _consumer = consumer.cancel_grace(SECOND).start().await.unwrap();
    let schedule = Schedule::new("report", 20 * MINUTE, Act::UntilCancelled)
        .queue("reports")
        .priority(Priority::Urgent)
        .deadline_in(10 * MINUTE)
        .run_timeout(5 * SECOND)
        .retry(RetryPolicy::fixed(10 * SECOND).max_attempts(9))
        .max_attempts(2);
    let _scheduler = start(&broker, schedule).await;
    let seen = actor.wait_for(2).await;
    dead_letters(&broker, "reports", 1).await;
    let (first, second) = (&seen[0], &seen[1]);
    assert_eq!((first.attempt, second.attempt), (1, 2));
    assert!(soon_after(second.at - first.at, 15 * SECOND), "{seen:?}");
    assert_eq!((first.queue.as_str(), first.priority), ("reports", Priority::Urgent));
    assert_eq!(first.deadline, Some(first.tick().planned_at() + 10 * MINUTE));
    assert_eq!((first.id, &first.tick), (second.id, &second.tick), "another attempt of the same tick");
    assert_eq!((first.tick().schedule(), first.tick().sequence()), ("report", 1));
    assert!(!first.tick().is_triggered());
    assert_eq!(actor.seen().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_somebody_enqueued_is_no_tick() {
    let (broker, actor) = (Broker::in_process(), Actor::new());
    let _consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    Producer::builder(&broker).build().await.unwrap().enqueue(Act::Succeed).await.unwrap();
    assert_eq!(actor.wait_for(1).await[0].tick, None);
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_hands_over_at_once_and_loses_nothing() {
    let broker = Broker::in_process();
    let ticks = Ticks::default();
    let _consumer = ticks.handle(&broker).await;
    let sweep = || Schedule::new("sweep", SECOND, Sweep);
    let first = start(&broker, sweep()).await;
    eventually("it is active", async || first.is_active()).await;
    let second = start(&broker, sweep()).await;
    assert!(!second.is_active());
    eventually("ticks", async || ticks.all().len() == 3).await;
    let begun = tokio::time::Instant::now();
    first.shutdown().await;
    eventually("the other is active", async || second.is_active()).await;
    assert!(begun.elapsed() < SECOND / 2);
    eventually("ticks go on", async || ticks.all().len() == 6).await;
    assert_eq!(ticks.sequences(), [1, 2, 3, 4, 5, 6]);
    assert!(ticks.gaps().iter().all(|gap| *gap == SECOND));
}

#[tokio::test(start_paused = true)]
async fn many_processes_that_declare_it_at_once_make_one_schedule() {
    let broker = Broker::in_process();
    let ticks = Ticks::default();
    let _consumer = ticks.handle(&broker).await;
    let all = (0..20).map(|_| start(&broker, Schedule::new("sweep", SECOND, Sweep)));
    let schedulers = join_all(all).await;
    eventually("ten ticks", async || ticks.all().len() == 10).await;
    assert_eq!(ticks.sequences(), (1..=10).collect::<Vec<_>>());
    assert!(ticks.gaps().iter().all(|gap| *gap == SECOND));
    assert_eq!(schedulers.iter().filter(|scheduler| scheduler.is_active()).count(), 1);
    assert_eq!(broker.schedules().list().await.unwrap().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_schedule_that_was_declared_while_no_scheduler_ran_ticks_once_one_does() {
    let (broker, actor) = (Broker::in_process(), Actor::new());
    let _consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    let producer = Producer::builder(&broker).build().await.unwrap();
    producer.schedule("report", 20 * MINUTE, Act::Succeed).await.unwrap();
    tokio::time::sleep(10 * MINUTE).await;
    assert!(actor.seen().is_empty());
    let _scheduler = Scheduler::builder(&broker).start().await.unwrap();
    // Counted from when it was declared.
    let seen = actor.wait_for(2).await;
    assert!(soon_after(seen[0].at, 20 * MINUTE) && soon_after(seen[1].at, 40 * MINUTE), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn five_thousand_schedules_all_tick() {
    let (broker, actor) = (Broker::in_process(), Actor::new());
    let _consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    let names: Vec<String> = (0..5000).map(|number| format!("schedule-{number:04}")).collect();
    let all = names.iter().map(|name| Schedule::new(name, 60 * SECOND, Act::Succeed));
    let scheduler = all.fold(Scheduler::builder(&broker), taskhare::SchedulerBuilder::schedule);
    let first = scheduler.start().await.unwrap();
    actor.wait_for(5000).await;
    first.shutdown().await;
    let _second = Scheduler::builder(&broker).start().await.unwrap();
    let seen = actor.wait_for(15_000).await;
    let listed = broker.schedules().list().await.unwrap();
    assert!(listed.iter().map(taskhare::ScheduleStatus::name).eq(&names), "all, by name");
    let mut count = std::collections::HashMap::<&str, u64>::new();
    for tick in seen.iter().map(Seen::tick) {
        let count = count.entry(tick.schedule()).or_default();
        *count += 1;
        assert_eq!(tick.sequence(), *count, "{tick:?}");
    }
}

/// The broker confirms a tick that reaches only the queue of the schedules.
#[tokio::test(start_paused = true)]
async fn a_lane_that_somebody_deleted_is_back_within_a_minute() {
    let broker = Broker::in_process();
    let sweep = Schedule::new("sweep", SECOND, Act::Succeed);
    let _scheduler = Scheduler::builder(&broker).schedule(sweep).start().await.unwrap();
    eventually("it ticks", async || broker.waiting("default").await.unwrap() == 3).await;
    let lane = Name::new("queue", "taskhare.default.normal").unwrap();
    broker.transport().delete(&lane).await.unwrap();
    tokio::time::sleep(61 * SECOND).await;
    let actor = Actor::new();
    eventually("it ticks again", async || broker.waiting("default").await.unwrap() > 0).await;
    let _consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    let seen = actor.wait_for(2).await;
    assert!(seen[0].tick().sequence() > 3, "{seen:?}");
}
