//! Ticks of schedules are neither lost nor doubled: schedulers and a consumer in processes of their own, on a real
//! RabbitMQ, while the active scheduler and the broker fail.

use std::time::Duration;

use taskhare::Misfire;
use taskhare::testing::Fault;
use taskhare::testing::Proxy;
use taskhare::testing::Result;
use taskhare::testing::TestBroker;
use taskhare::testing::vhost_of;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::sleep;

use crate::account::Account;
use crate::process::Process;
use crate::ticks::CAUGHT_UP;
use crate::ticks::PERIOD;
use crate::ticks::Plan;
use crate::ticks::Ran;
use crate::ticks::now;
use crate::worker::scheduler_name;

/// How long anything may take; seconds, on an idle machine.
const PATIENCE: Duration = Duration::from_secs(40);
/// From the start of the processes to the first tick.
const SOON: Duration = Duration::from_secs(4);
/// Longer than any fault: every planned tick has to be fired.
const NEVER: Duration = Duration::from_secs(600);
const SECOND: Duration = Duration::from_secs(1);

/// Schedulers, and who runs their ticks.
struct Crew<'a> {
    broker: &'a TestBroker,
    url: String,
    plan: Plan,
    account: watch::Sender<Account>,
    schedulers: Vec<Process>,
    ticker: Process,
    started: Instant,
}

impl<'a> Crew<'a> {
    async fn new(broker: &'a TestBroker, plan: Plan, schedulers: usize) -> Self {
        let url = broker.fresh_vhost().await.unwrap();
        let account = watch::Sender::new(Account::default());
        let ticker = Process::start("ticker", 64, &url, &account);
        let started = Instant::now();
        let mut crew = Self { broker, url, plan, account, schedulers: Vec::new(), ticker, started };
        for _ in 0..schedulers {
            crew.add();
        }
        crew
    }

    fn vhost(&self) -> String {
        vhost_of(&self.url).unwrap()
    }

    fn add(&mut self) {
        self.add_at(&self.url.clone());
    }

    /// Another scheduler, that knows the broker by another address.
    fn add_at(&mut self, url: &str) {
        let plan = self.plan.to_string();
        self.schedulers.push(Process::start_told(&plan, "scheduler", 1, url, &self.account));
    }

    /// Writes down what happens, for whoever reads a failure.
    fn note(&self, what: &str) {
        let (seconds, account) = (self.started.elapsed().as_secs_f64(), self.account.borrow());
        println!(
            "{seconds:6.2} s  {what}; {} ticks were run, active: {:?}",
            account.ran.len(),
            account.active
        );
    }

    async fn until(&self, what: &str, check: impl Fn(&Account) -> bool) {
        let mut account = self.account.subscribe();
        if tokio::time::timeout(PATIENCE, account.wait_for(check)).await.is_err() {
            self.note("giving up");
            self.print_log();
            println!("{}", self.plan.judge(&self.account.borrow().ran));
            panic!("not within {PATIENCE:?}: {what}");
        }
    }

    /// Until that time since the Unix epoch.
    async fn until_time(&self, time: Duration) {
        sleep(time.saturating_sub(now())).await;
    }

    /// The place of the scheduler that was the last to become active, and is.
    async fn active(&self) -> usize {
        let place = |account: &Account| {
            let mut active = account.active.iter().rev();
            active.find_map(|process| self.schedulers.iter().position(|it| it.id() == *process))
        };
        self.until("a scheduler is active", |account| place(account).is_some()).await;
        place(&self.account.borrow()).unwrap()
    }

    /// Until another than that one has become active.
    async fn until_another(&self, process: u32) {
        self.until("another is active", |account| account.active.iter().any(|it| *it != process)).await;
    }

    /// Kills the active one. Returns when that was.
    async fn kill_active(&mut self) -> Duration {
        let active = self.active().await;
        let scheduler = self.schedulers.remove(active);
        let process = scheduler.id();
        let killed = scheduler.kill().await;
        self.account.send_modify(|account| account.active.retain(|it| *it != process));
        killed
    }

    async fn shut_down_schedulers(&mut self) {
        for scheduler in self.schedulers.drain(..) {
            scheduler.shut_down().await;
        }
    }

    /// Until all ticks of the plan were run, the schedulers have shut down, and the consumer has nothing left. Returns
    /// what was run, in the order in which it was fired.
    async fn finish(mut self, expected: impl Fn(&Plan, &[Ran]) -> bool) -> Vec<Ran> {
        self.until_time(self.plan.ends).await;
        self.until("all ticks were run", |account| expected(&self.plan, &account.ran)).await;
        // One message for each, those included that the active scheduler has, and no more.
        self.until_left("taskhare.schedules", self.plan.schedules().len() as u64 + 1).await;
        self.shut_down_schedulers().await;
        self.until_left("taskhare.default.normal", 0).await;
        self.print_log();
        self.ticker.shut_down().await;
        let account = self.account.borrow();
        assert!(!account.panicked(), "{:?}", account.log);
        let mut ran = account.ran.clone();
        ran.sort_by_key(|tick| tick.fired);
        ran
    }

    /// Until `queue` holds so many messages.
    async fn until_left(&self, queue: &str, count: u64) {
        let started = Instant::now();
        loop {
            let all = self.broker.management().queues(&self.vhost()).await.unwrap();
            let totals = all.iter().find(|it| it.name == queue).map(|queue| queue.totals);
            if totals.is_some_and(|totals| totals.messages == count) {
                return;
            }
            if started.elapsed() > PATIENCE {
                self.print_log();
                panic!("{queue} does not hold {count}: {totals:?}");
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    fn print_log(&self) {
        self.account.borrow().log.iter().for_each(|line| println!("          {line}"));
    }
}

/// All of the many, whatever they are.
fn all(plan: &Plan, ran: &[Ran]) -> bool {
    ran.len() >= plan.ticks() && plan.judge(ran).missing.is_empty()
}

/// How long after each of these times the next tick was fired, and how long ticks took to be fired and run.
fn print_delays(what: &str, since: &[Duration], ran: &[Ran]) {
    let gap = |time: &Duration| ran.iter().find(|tick| tick.fired > *time).map(|tick| tick.fired - *time);
    let quantiles = |mut all: Vec<Duration>| {
        all.sort();
        let at = |percent: usize| {
            all.get(all.len().saturating_sub(1) * percent / 100).copied().unwrap_or_default()
        };
        format!(
            "{} values, p50 {:?}, p90 {:?}, p99 {:?}, max {:?}",
            all.len(),
            at(50),
            at(90),
            at(99),
            at(100)
        )
    };
    println!("{what} to the next tick fired: {}", quantiles(since.iter().filter_map(gap).collect()));
    println!("all: {:?}", since.iter().map(gap).collect::<Vec<_>>());
    let late = ran.iter().map(|tick| tick.fired.saturating_sub(tick.planned)).collect();
    println!("planned to fired: {}", quantiles(late));
    println!(
        "fired to run: {}",
        quantiles(ran.iter().map(|tick| tick.at.saturating_sub(tick.fired)).collect())
    );
}

/// Kills the active one of three at random instants, so often in so long.
async fn kill_at_random(kills: u32, time: Duration) -> Result<()> {
    let broker = TestBroker::shared().await?;
    let plan = Plan::new(200, SOON, time, NEVER);
    let mut crew = Crew::new(broker, plan, 3).await;
    let slot = (plan.ends - plan.starts) / kills;
    let mut killed = Vec::new();
    for number in 0..kills {
        crew.until_time(plan.starts + slot * number + slot.mul_f64(0.9 * fastrand::f64())).await;
        killed.push(crew.kill_active().await);
        crew.add();
        crew.note("the active one was killed");
    }
    let ran = crew.finish(all).await;
    print_delays("from a kill", &killed, &ran);
    let verdict = plan.judge(&ran);
    println!("{} planned; {verdict}", plan.ticks());
    assert!(verdict.is_perfect(), "{verdict}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_planned_tick_is_run_once_though_the_active_scheduler_is_killed_again_and_again() -> Result<()>
{
    kill_at_random(7, Duration::from_secs(20)).await
}

#[ignore = "a minute of the same"]
#[tokio::test(flavor = "multi_thread")]
async fn every_planned_tick_is_run_once_though_the_active_scheduler_is_killed_twenty_times() -> Result<()> {
    kill_at_random(20, Duration::from_secs(60)).await
}

/// How long the active one stays frozen.
enum Frozen {
    /// Until another is active, and up to so much longer.
    UntilAnother(Duration),
    /// So long at least, and at most.
    Between(Duration, Duration),
}

/// Freezes the active one of three, and thaws it, so often.
async fn freeze(times: u32, frozen: Frozen, time: Duration) -> Result<()> {
    let broker = TestBroker::shared().await?;
    let plan = Plan::new(40, SOON, time, NEVER);
    let crew = Crew::new(broker, plan, 3).await;
    crew.until_time(plan.starts).await;
    let mut since = Vec::new();
    for _ in 0..times {
        sleep(SECOND.mul_f64(fastrand::f64())).await;
        let active = crew.active().await;
        since.push(now());
        crew.schedulers[active].freeze().await;
        crew.note("the active one is frozen");
        match frozen {
            Frozen::UntilAnother(longer) => {
                crew.until_another(crew.schedulers[active].id()).await;
                sleep(longer.mul_f64(fastrand::f64())).await;
            }
            Frozen::Between(least, most) => sleep(least + (most - least).mul_f64(fastrand::f64())).await,
        }
        crew.schedulers[active].thaw().await;
        crew.note("it is thawed");
    }
    crew.note("all is well from now on");
    let ran = crew.finish(all).await;
    print_delays("from a freeze", &since, &ran);
    let verdict = plan.judge(&ran);
    println!("{} planned; {verdict}", plan.ticks());
    assert!(verdict.is_perfect(), "{verdict}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_tick_is_run_twice_though_the_active_scheduler_is_frozen_and_thawed() -> Result<()> {
    freeze(2, Frozen::UntilAnother(2 * SECOND), 20 * SECOND).await
}

#[ignore = "a minute of the same"]
#[tokio::test(flavor = "multi_thread")]
async fn no_tick_is_run_twice_though_the_active_scheduler_is_frozen_for_twelve_seconds() -> Result<()> {
    freeze(4, Frozen::Between(12 * SECOND, 12 * SECOND), 60 * SECOND).await
}

/// Around the time that the broker needs to see it.
#[ignore = "a minute and a half of the same"]
#[tokio::test(flavor = "multi_thread")]
async fn no_tick_is_run_twice_though_the_active_scheduler_is_frozen_for_some_seconds() -> Result<()> {
    freeze(16, Frozen::Between(SECOND, 8 * SECOND), 90 * SECOND).await
}

/// As a deployment does. The active one each time, and it hands over.
#[tokio::test(flavor = "multi_thread")]
async fn every_planned_tick_is_run_once_though_the_active_scheduler_is_replaced_again_and_again() -> Result<()>
{
    let broker = TestBroker::shared().await?;
    let plan = Plan::new(100, SOON, 15 * SECOND, NEVER);
    let mut crew = Crew::new(broker, plan, 2).await;
    crew.until_time(plan.starts).await;
    let mut ended = Vec::new();
    while now() < plan.ends - SECOND {
        sleep(SECOND.mul_f64(0.5 + fastrand::f64())).await;
        let active = crew.active().await;
        crew.add();
        ended.push(now());
        crew.schedulers.remove(active).shut_down().await;
        crew.note("the active one has shut down");
    }
    let ran = crew.finish(all).await;
    print_delays("from a shutdown", &ended, &ran);
    let verdict = plan.judge(&ran);
    println!("{} planned; {verdict}", plan.ticks());
    assert!(verdict.is_perfect(), "{verdict}");
    Ok(())
}

/// It lives, and believes to be active until its time is over. For all it knows the broker has died, so a tick that the
/// broker has taken, and whose confirm was cut off, may be run once more: one that was just fired; and one of each schedule
/// that a stalled link held back, if the broker gets them after all. Not one that another scheduler has fired.
#[tokio::test(flavor = "multi_thread")]
async fn no_tick_is_lost_though_the_active_scheduler_is_cut_off_from_the_broker() -> Result<()> {
    let broker = TestBroker::shared().await?;
    let plan = Plan::new(40, SOON, 20 * SECOND, NEVER);
    let mut crew = Crew::new(broker, plan, 0).await;
    let mut links = Vec::new();
    for _ in 0..3 {
        let link = Proxy::start(&crew.url).await?;
        crew.add_at(&link.url(&crew.url)?);
        links.push(link);
    }
    crew.until_time(plan.starts).await;
    let mut cut = Vec::new();
    for fault in [Fault::Drop, Fault::Reset, Fault::Stall] {
        sleep(SECOND.mul_f64(fastrand::f64())).await;
        let active = crew.active().await;
        cut.push(now());
        links[active].set(fault);
        crew.note(&format!("the link of the active one: {fault:?}"));
        crew.until_another(crew.schedulers[active].id()).await;
        crew.note("another is active");
        sleep(2 * SECOND.mul_f64(fastrand::f64())).await;
        links[active].set(Fault::None);
    }
    let ran = crew.finish(all).await;
    print_delays("from a cut", &cut, &ran);
    let verdict = plan.judge(&ran);
    println!("{} planned; {verdict}", plan.ticks());
    assert!(verdict.repeated.len() <= 40 + cut.len() * 4, "{verdict}");
    assert!(verdict.is_perfect_but_for_repeats(), "{verdict}");
    Ok(())
}

/// What a policy does, tick by tick, to those that nobody could fire from `down` to `up`. Where the machine stood still
/// as well that is as good a reason: only what was late may be left out.
fn check_policy(name: &str, policy: Misfire, plan: &Plan, ticks: &[Ran], down: Duration, up: Duration) {
    let late = plan.misfire_after;
    let sequences: Vec<u64> = ticks.iter().map(|tick| tick.sequence).collect();
    assert_eq!(sequences, (1..=ticks.len() as u64).collect::<Vec<_>>(), "{name}: {ticks:?}");
    assert_eq!((ticks[0].planned, ticks[ticks.len() - 1].planned), (plan.starts, plan.ends), "{name}");
    let mut left_out = Vec::new();
    for pair in ticks.windows(2) {
        let (tick, next) = (&pair[0], &pair[1]);
        let mut time = tick.planned + PERIOD;
        while time < next.planned {
            let is_right = match policy {
                Misfire::Once => tick.fired >= time && tick.fired > tick.planned + late,
                Misfire::CatchUp(within) => next.fired > time + within,
                _ => next.fired > time + late,
            };
            assert!(is_right, "{name}: {time:?} was left out between {tick:?} and {next:?}");
            left_out.push(time);
            time += PERIOD;
        }
        assert_eq!(time, next.planned, "{name}: {next:?} was not planned");
    }
    let missed: Vec<&Ran> =
        ticks.iter().filter(|tick| tick.planned > down && tick.planned < up - late).collect();
    let delays: Vec<Duration> = missed.iter().map(|tick| tick.fired - tick.planned).collect();
    println!(
        "{name}: {} run, {} left out, {} made up for, late by {delays:?}",
        ticks.len(),
        left_out.len(),
        missed.len()
    );
    match policy {
        Misfire::Once => {
            assert_eq!(missed.len(), 1, "{name}: {missed:?}");
            assert!(missed[0].planned <= down + PERIOD, "the first of them: {missed:?}");
        }
        Misfire::CatchUp(within) if within == CAUGHT_UP => {
            assert!(!missed.is_empty(), "{name}");
            assert!(missed.iter().all(|tick| tick.planned >= up - within), "{name}: {missed:?}");
        }
        Misfire::CatchUp(_) => assert!(left_out.is_empty(), "{name}: {left_out:?}"),
        _ => assert!(missed.is_empty(), "{name}: {missed:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ticks_of_a_time_without_schedulers_are_made_up_for_as_each_policy_says() -> Result<()> {
    let broker = TestBroker::shared().await?;
    let plan = Plan::new(0, SOON, 18 * SECOND, SECOND);
    let mut crew = Crew::new(broker, plan, 3).await;
    crew.until_time(plan.starts + 3 * SECOND).await;
    crew.shut_down_schedulers().await;
    let down = now();
    crew.note("all schedulers have shut down");
    sleep(10 * SECOND).await;
    let up = now();
    (0..3).for_each(|_| crew.add());
    let are_over =
        |plan: &Plan, ran: &[Ran]| ran.iter().filter(|tick| tick.planned == plan.ends).count() >= 4;
    let ran = crew.finish(are_over).await;
    for (name, policy) in Plan::POLICIES {
        let ticks: Vec<Ran> = ran.iter().filter(|tick| tick.schedule == name).cloned().collect();
        check_policy(name, policy, &plan, &ticks, down, up);
    }
    Ok(())
}

/// How a broker ends.
enum End {
    InOrder,
    Killed,
}

/// Ends a broker with so many schedules so often, and starts it again. What its end may cost is what was on its way
/// unconfirmed, so that is told and not asserted: that no tick is another's is.
async fn restart_broker(end: End, many: u64, times: u32) -> Result<()> {
    let broker = TestBroker::start().await?;
    let plan = Plan::new(many, SOON, times * 20 * SECOND, NEVER);
    let crew = Crew::new(&broker, plan, 2).await;
    let mut turns = Vec::new();
    for number in 0..times {
        crew.until_time(plan.starts + number * 20 * SECOND + SECOND.mul_f64(3.0 + fastrand::f64())).await;
        turns.push(now());
        match end {
            End::InOrder => broker.stop().await?,
            End::Killed => broker.kill().await?,
        }
        crew.note("the broker has ended");
        broker.start_again().await?;
        crew.note("the broker is ready again");
        turns.push(now());
    }
    let ran = crew.finish(Plan::is_over).await;
    print_delays("from the end and the start of the broker", &turns, &ran);
    let verdict = plan.judge(&ran);
    println!("{} planned; {verdict}", plan.ticks());
    let again = verdict.repeated.iter().filter(|tick| tick.is_redelivered).count();
    println!("of the repeated {again} were delivered again; the others were fired twice");
    assert!(verdict.at_odds.is_empty() && verdict.unplanned.is_empty(), "{verdict}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn schedules_go_on_after_an_orderly_restart_of_their_broker() -> Result<()> {
    restart_broker(End::InOrder, 40, 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn schedules_go_on_after_the_kill_of_their_broker() -> Result<()> {
    restart_broker(End::Killed, 40, 1).await
}

#[ignore = "two minutes of the same"]
#[tokio::test(flavor = "multi_thread")]
async fn schedules_go_on_after_five_kills_of_their_broker() -> Result<()> {
    restart_broker(End::Killed, 200, 5).await
}

#[ignore = "two minutes of the same"]
#[tokio::test(flavor = "multi_thread")]
async fn schedules_go_on_after_five_orderly_restarts_of_their_broker() -> Result<()> {
    restart_broker(End::InOrder, 200, 5).await
}

/// Of one scheduler only, so that what it had on its way is all that is in doubt.
#[tokio::test(flavor = "multi_thread")]
async fn every_planned_tick_is_run_once_though_the_connections_of_the_active_scheduler_are_closed()
-> Result<()> {
    let broker = TestBroker::shared().await?;
    let plan = Plan::new(40, SOON, 18 * SECOND, NEVER);
    let crew = Crew::new(broker, plan, 3).await;
    let management = crew.broker.management();
    crew.until_time(plan.starts).await;
    let mut closed = Vec::new();
    while closed.len() < 10 {
        sleep(SECOND.mul_f64(0.5 + fastrand::f64())).await;
        let name = scheduler_name(crew.schedulers[crew.active().await].id());
        let mut all = management.connections(&crew.vhost()).await?;
        all.retain(|connection| connection.user_provided_name.starts_with(&name));
        let count = all.len();
        for connection in all {
            let path: String = connection.name.bytes().map(|byte| format!("%{byte:02X}")).collect();
            // It may be gone already.
            let _ = management.delete(&format!("/connections/{path}")).await;
        }
        if count > 0 {
            closed.push(now());
            crew.note(&format!("{count} connections of {name} are closed"));
        }
    }
    let ran = crew.finish(all).await;
    print_delays("from a close", &closed, &ran);
    let verdict = plan.judge(&ran);
    println!("{} planned; {verdict}", plan.ticks());
    assert!(verdict.is_perfect(), "{verdict}");
    Ok(())
}
