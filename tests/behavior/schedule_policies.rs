//! What becomes of ticks that nobody could fire in time, and of those whose predecessor has not ended.

use std::time::Duration;
use std::time::SystemTime;

use taskhare::Broker;
use taskhare::Cadence;
use taskhare::Consumer;
use taskhare::Misfire;
use taskhare::Overlap;
use taskhare::Producer;
use taskhare::RetryPolicy;
use taskhare::Schedule;
use taskhare::Scheduler;
use taskhare::transport::Name;

use crate::support::Act;
use crate::support::Actor;
use crate::support::Seen;
use crate::support::eventually;
use crate::support::soon_after;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(60 * 60);

struct Setup {
    broker: Broker,
    actor: Actor,
    _consumer: Consumer,
}

async fn setup() -> Setup {
    let (broker, actor) = (Broker::in_process(), Actor::new());
    let consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    Setup { broker, actor, _consumer: consumer }
}

async fn start(broker: &Broker, schedule: Schedule) -> Scheduler {
    Scheduler::builder(broker).schedule(schedule).start().await.unwrap()
}

/// When each tick was planned, in seconds after the schedule was declared, and when its task started.
fn seconds(seen: &[Seen], declared: SystemTime) -> Vec<(u64, u64)> {
    let planned = |seen: &Seen| seen.tick().planned_at().duration_since(declared).unwrap();
    let round = |time: Duration| (time + SECOND / 4).as_secs();
    seen.iter().map(|seen| (round(planned(seen)), round(seen.at))).collect()
}

fn are_contiguous(seen: &[Seen]) -> bool {
    seen.iter().map(|seen| seen.tick().sequence()).eq(1..=seen.len() as u64)
}

/// What ran of a schedule of ten seconds, until so many attempts have started.
async fn every_ten_seconds(act: Act, overlap: Overlap, count: usize) -> Vec<(u64, u64)> {
    let declared = SystemTime::now();
    let Setup { broker, actor, _consumer } = setup().await;
    let schedule = Schedule::new("sweep", 10 * SECOND, act)
        .overlap(overlap)
        .retry(RetryPolicy::fixed(25 * SECOND).max_attempts(2));
    let scheduler = start(&broker, schedule).await;
    let seen = actor.wait_for(count).await;
    scheduler.shutdown().await;
    let firsts: Vec<_> = seen.iter().filter(|seen| seen.attempt == 1).cloned().collect();
    assert!(are_contiguous(&firsts), "{firsts:?}");
    seconds(&seen[..count], declared)
}

#[tokio::test(start_paused = true)]
async fn ticks_overlap_where_they_may() {
    let ran = every_ten_seconds(Act::Sleep(25 * SECOND), Overlap::Allow, 4).await;
    assert_eq!(ran, [(10, 10), (20, 20), (30, 30), (40, 40)]);
}

#[tokio::test(start_paused = true)]
async fn a_tick_is_skipped_while_the_one_before_it_runs() {
    let ran = every_ten_seconds(Act::Sleep(25 * SECOND), Overlap::Skip, 3).await;
    assert_eq!(ran, [(10, 10), (40, 40), (70, 70)]);
}

#[tokio::test(start_paused = true)]
async fn a_tick_waits_for_the_end_of_the_one_before_it_and_one_is_enough() {
    let ran = every_ten_seconds(Act::Sleep(25 * SECOND), Overlap::Wait, 5).await;
    assert_eq!(ran, [(10, 10), (20, 35), (40, 60), (70, 85), (90, 110)]);
}

#[tokio::test(start_paused = true)]
async fn a_tick_that_is_tried_again_has_not_ended() {
    let skipped = every_ten_seconds(Act::FailOnce, Overlap::Skip, 4).await;
    assert_eq!(skipped, [(10, 10), (10, 35), (40, 40), (40, 65)]);
    let waited = every_ten_seconds(Act::FailOnce, Overlap::Wait, 4).await;
    assert_eq!(waited, [(10, 10), (10, 35), (20, 35), (20, 60)]);
}

#[tokio::test(start_paused = true)]
async fn a_tick_that_is_dead_has_ended() {
    for overlap in [Overlap::Skip, Overlap::Wait] {
        let ran = every_ten_seconds(Act::Reject, overlap, 3).await;
        assert_eq!(ran, [(10, 10), (20, 20), (30, 30)], "{overlap:?}");
        let ran = every_ten_seconds(Act::Panic, overlap, 2).await;
        assert_eq!(ran, [(10, 10), (10, 35)], "{overlap:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_tick_that_is_cancelled_has_ended() {
    let declared = SystemTime::now();
    let Setup { broker, actor, _consumer } = setup().await;
    let producer = Producer::builder(&broker).build().await.unwrap();
    let sweep = Schedule::new("sweep", 10 * SECOND, Act::UntilCancelled).overlap(Overlap::Skip);
    let _scheduler = start(&broker, sweep).await;
    let first = actor.wait_for(1).await;
    tokio::time::sleep(25 * SECOND).await;
    producer.cancel(first[0].id).await.unwrap();
    assert_eq!(seconds(&actor.wait_for(2).await, declared), [(10, 10), (40, 40)]);
}

#[tokio::test(start_paused = true)]
async fn a_tick_that_expired_in_its_queue_has_ended() {
    let (broker, actor) = (Broker::in_process(), Actor::new());
    let schedule = Schedule::new("sweep", 10 * SECOND, Act::Succeed).overlap(Overlap::Skip);
    let _scheduler = start(&broker, schedule.deadline_in(5 * SECOND)).await;
    tokio::time::sleep(55 * SECOND).await;
    let running = async || broker.schedules().get("sweep").await.unwrap().unwrap().running();
    assert_eq!(running().await, 1);
    let _consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    eventually("it has ended", async || running().await == 0).await;
    assert_eq!(actor.wait_for(1).await[0].tick().sequence(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_triggered_tick_runs_beside_another_and_holds_up_the_next() {
    let declared = SystemTime::now();
    let Setup { broker, actor, _consumer } = setup().await;
    let sweep = Schedule::new("sweep", 10 * SECOND, Act::Sleep(15 * SECOND)).overlap(Overlap::Skip);
    let _scheduler = start(&broker, sweep).await;
    actor.wait_for(1).await;
    tokio::time::sleep(8 * SECOND).await;
    broker.schedules().trigger("sweep").await.unwrap();
    let status = broker.schedules().get("sweep").await.unwrap().unwrap();
    assert_eq!(status.running(), 2);
    // The first ends at 25, the triggered one at 33.
    let seen = actor.wait_for(3).await;
    assert!(seen[1].tick().is_triggered());
    assert_eq!(seconds(&[seen[0].clone(), seen[2].clone()], declared), [(10, 10), (40, 40)]);
}

#[tokio::test(start_paused = true)]
async fn overlap_is_known_to_who_takes_over() {
    let declared = SystemTime::now();
    let Setup { broker, actor, _consumer } = setup().await;
    let sweep = || Schedule::new("sweep", 10 * SECOND, Act::Sleep(45 * SECOND)).overlap(Overlap::Skip);
    let first = start(&broker, sweep()).await;
    actor.wait_for(1).await;
    first.shutdown().await;
    let second = start(&broker, sweep()).await;
    tokio::time::sleep(15 * SECOND).await;
    drop(second);
    // It ends, at 55, while no scheduler runs.
    tokio::time::sleep(40 * SECOND).await;
    let _third = start(&broker, sweep()).await;
    let seen = actor.wait_for(2).await;
    assert!(are_contiguous(&seen));
    assert!(seconds(&seen, declared)[1].1 >= 65, "{seen:?}");
}

/// What is due at 20 is skipped, because what was due at 10 runs until 22. Nobody makes up for it at 23.
#[tokio::test(start_paused = true)]
async fn a_tick_that_was_skipped_is_skipped_for_who_takes_over_too() {
    let declared = SystemTime::now();
    let Setup { broker, actor, _consumer } = setup().await;
    let sweep = || Schedule::new("sweep", 10 * SECOND, Act::Sleep(12 * SECOND)).overlap(Overlap::Skip);
    let first = start(&broker, sweep()).await;
    actor.wait_for(1).await;
    tokio::time::sleep(13 * SECOND).await;
    drop(first);
    let _second = start(&broker, sweep()).await;
    let seen = actor.wait_for(2).await;
    assert_eq!(seconds(&seen, declared), [(10, 10), (30, 30)]);
}

/// Whether the task of a tick that nobody tells about holds up the next, and for how long.
#[tokio::test(start_paused = true)]
async fn a_tick_whose_end_nobody_tells_ends_after_its_longest_run() {
    let declared = SystemTime::now();
    let (broker, actor) = (Broker::in_process(), Actor::new());
    let sweep = Schedule::new("sweep", 10 * SECOND, Act::Succeed).overlap(Overlap::Skip);
    let _scheduler = start(&broker, sweep.longest_run(35 * SECOND)).await;
    eventually("it is fired", async || broker.waiting("default").await.unwrap() == 1).await;
    let lane = Name::new("queue", "taskhare.default.normal").unwrap();
    assert_eq!(broker.transport().purge(&lane).await.unwrap(), 1);
    let _consumer = Consumer::builder(&broker).handler(actor.clone()).start().await.unwrap();
    let seen = actor.wait_for(2).await;
    // Fired at 10, so until 45.
    assert_eq!(seconds(&seen, declared), [(50, 50), (60, 60)]);
}

/// What a schedule of a minute makes up for when no scheduler ran for an hour: when its ticks were planned and started, in
/// minutes since the last one before.
async fn after_an_hour(policy: Misfire) -> Vec<(u64, u64)> {
    let Setup { broker, actor, _consumer } = setup().await;
    let sweep = || Schedule::new("sweep", MINUTE, Act::Succeed).misfire(policy);
    let first = start(&broker, sweep()).await;
    let last = actor.wait_for(3).await[2].clone();
    tokio::time::sleep(30 * SECOND).await;
    first.shutdown().await;
    tokio::time::sleep(HOUR).await;
    let _next = start(&broker, sweep()).await;
    tokio::time::sleep(2 * MINUTE).await;
    let seen = actor.seen();
    assert!(are_contiguous(&seen), "{seen:?}");
    let planned = |seen: &Seen| seen.tick().planned_at().duration_since(last.tick().planned_at()).unwrap();
    let missed =
        |seen: &Seen| (planned(seen).as_secs() / 60, (seen.at - last.at + SECOND / 4).as_secs() / 60);
    seen[3..].iter().map(missed).collect()
}

#[tokio::test(start_paused = true)]
async fn ticks_that_nobody_fired_are_skipped() {
    assert_eq!(after_an_hour(Misfire::Skip).await, [(61, 61), (62, 62)]);
}

#[tokio::test(start_paused = true)]
async fn one_tick_makes_up_for_all_that_nobody_fired() {
    assert_eq!(after_an_hour(Misfire::Once).await, [(1, 60), (61, 61), (62, 62)]);
}

#[tokio::test(start_paused = true)]
async fn ticks_that_nobody_fired_are_caught_up_with_as_far_back_as_wanted() {
    let expected = [(56, 60), (57, 60), (58, 60), (59, 60), (60, 60), (61, 61), (62, 62)];
    assert_eq!(after_an_hour(Misfire::CatchUp(5 * MINUTE)).await, expected);
    assert_eq!(after_an_hour(Misfire::CatchUp(DAY)).await.len(), 62);
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

#[tokio::test(start_paused = true)]
async fn a_tick_that_is_only_a_little_late_is_fired_whatever_the_policy() {
    let Setup { broker, actor, _consumer } = setup().await;
    let sweep = || Schedule::new("sweep", MINUTE, Act::Succeed).misfire(Misfire::Skip);
    let builder = || Scheduler::builder(&broker).schedule(sweep()).misfire_after(20 * SECOND);
    let first = builder().start().await.unwrap();
    let last = actor.wait_for(1).await[0].at;
    tokio::time::sleep(30 * SECOND).await;
    first.shutdown().await;
    tokio::time::sleep(45 * SECOND).await;
    let _next = builder().start().await.unwrap();
    let seen = actor.wait_for(3).await;
    assert!(soon_after(seen[1].at - last, 75 * SECOND), "late by 15 s: {seen:?}");
    assert!(soon_after(seen[2].at - last, 120 * SECOND), "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn a_single_time_that_has_passed_is_up_to_the_misfire_policy() {
    for (policy, ticks) in [
        (Misfire::Once, 1),
        (Misfire::Skip, 0),
        (Misfire::CatchUp(MINUTE), 0),
        (Misfire::CatchUp(2 * HOUR), 1),
    ] {
        let Setup { broker, actor, _consumer } = setup().await;
        let time = SystemTime::now() - HOUR;
        let once = || Schedule::new("once", Cadence::at(time), Act::Succeed).misfire(policy);
        let first = start(&broker, once()).await;
        tokio::time::sleep(MINUTE).await;
        // Declared again, and by another one: not again.
        first.shutdown().await;
        let _second = start(&broker, once()).await;
        tokio::time::sleep(MINUTE).await;
        assert_eq!(actor.seen().len(), ticks, "{policy:?}");
    }
}
