//! Clocks that are set forward and back by an hour, and that drift, under a consumer, a producer and schedulers.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use taskhare::Broker;
use taskhare::testing::Result;
use taskhare::testing::TestBroker;
use taskhare::testing::WallClock;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio::time::timeout;

use crate::account::Account;
use crate::process::Process;
use crate::ticks::Plan;
use crate::ticks::Ran;
use crate::worker;
use crate::worker::BACKOFF;
use crate::worker::TIMED;
use crate::worker::delay;

const HOUR: Duration = Duration::from_secs(3600);
/// How early a task may start, whatever the clocks: the last part of a wait, which its consumer holds.
const EARLY: Duration = Duration::from_millis(200);
/// To which times are told.
const TOLD: Duration = Duration::from_millis(20);
/// How long anything may take; seconds, on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What becomes of a clock while a test runs, again and again.
async fn disturb(clock: Arc<WallClock>) {
    for step in 0.. {
        match step % 6 {
            0 => clock.ahead(HOUR).unwrap(),
            2 => clock.behind(HOUR).unwrap(),
            4 => drift(&clock).await.unwrap(),
            _ => clock.ahead(Duration::ZERO).unwrap(),
        }
        sleep(Duration::from_millis(1_300)).await;
    }
}

/// A tenth too fast, for a second.
async fn drift(clock: &WallClock) -> Result<()> {
    for step in 0..20 {
        clock.ahead(Duration::from_millis(5) * step)?;
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// Delayed tasks, tasks that fail three times and tasks with a deadline, while the clock of whoever runs or enqueues
/// them is set.
async fn time_passes(disturbed: &str) -> Result<()> {
    let url = TestBroker::shared().await?.fresh_vhost().await?;
    let account = watch::Sender::new(Account::default());
    let clock = Arc::new(WallClock::new()?);
    let start = |role: &'static str, at_a_time| {
        let environment = if role == disturbed { clock.environment() } else { Vec::new() };
        Process::start_with(environment, role, at_a_time, &url, &account)
    };
    let (timer, consumer) = (start("timer", 2), start("timed", 16));
    let disturbing = tokio::spawn(disturb(clock.clone()));
    let broker = Broker::connect(&url).await.unwrap();
    let all = TIMED as usize;
    let ended = async || {
        let dead = broker.dead("default").await.unwrap_or(0) as usize;
        let account = account.borrow();
        let count = |check: &dyn Fn(u32, u32) -> bool| {
            account.attempts.iter().filter(|attempt| check(attempt.task, attempt.number)).count()
        };
        let delayed = count(&|task, number| task < TIMED && number == 1);
        let retried = count(&|task, number| (TIMED..2 * TIMED).contains(&task) && number == 4);
        let pressing = count(&|task, number| task >= 2 * TIMED && number == 1);
        [delayed, retried, pressing + dead]
    };
    let done = async {
        while ended().await != [all; 3] {
            sleep(Duration::from_millis(100)).await;
        }
    };
    let in_time = timeout(PATIENCE, done).await.is_ok();
    disturbing.abort();
    if !in_time {
        account.borrow().log.iter().for_each(|line| println!("          {line}"));
        panic!("not within {PATIENCE:?}: {:?} of {all} each", ended().await);
    }
    timer.shut_down().await;
    consumer.shut_down().await;
    assert_eq!(ended().await, [all; 3], "each has ended once");
    assert_eq!(broker.waiting("default").await.unwrap() + broker.delayed().await.unwrap(), 0);
    judge(&account.borrow());
    broker.close().await;
    Ok(())
}

/// None is early, none waits for its clock to be right again, none is started twice.
fn judge(account: &Account) {
    assert!(!account.panicked(), "{:?}", account.log);
    let mut starts = BTreeMap::new();
    for attempt in &account.attempts {
        let twice = starts.insert((attempt.task, attempt.number), attempt.at);
        assert!(twice.is_none(), "started twice: {attempt:?}");
    }
    let mut latest = [Duration::ZERO; 2];
    for ((task, number), at) in &starts {
        let wait = match (*task, *number) {
            (task, 1) if task < TIMED => delay(task),
            (task, 2..) if task < 2 * TIMED => BACKOFF,
            _ => continue,
        };
        let due = starts[&(*task, number - 1)] + wait;
        assert!(*at + EARLY + TOLD >= due, "task {task}, attempt {number}: early by {:?}", due - *at);
        let latest = &mut latest[usize::from(*number > 1)];
        *latest = (*latest).max(at.saturating_sub(due));
    }
    println!("late at most: delayed tasks {:?}, retries {:?}", latest[0], latest[1]);
    assert!(latest.iter().all(|late| *late < HOUR / 60), "{latest:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_on_time_though_the_clock_of_their_consumer_is_set() -> Result<()> {
    time_passes("timed").await
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_on_time_though_the_clock_of_their_enqueuer_is_set() -> Result<()> {
    time_passes("timer").await
}

/// Ticks of eight schedules, told by their schedulers, whose clocks are their own.
#[tokio::test(flavor = "multi_thread")]
async fn schedules_go_on_though_the_clock_of_their_scheduler_is_set() -> Result<()> {
    let url = TestBroker::shared().await?.fresh_vhost().await?;
    let account = watch::Sender::new(Account::default());
    let clock = WallClock::new()?;
    let second = Duration::from_secs(1);
    let mut plan = Plan::new(8, second, 5 * HOUR, 5 * second);
    // They have begun by any of these clocks.
    plan.starts -= 2 * HOUR;
    let told = (worker::PLAN, plan.to_string().into());
    let start = |environment: Vec<_>| {
        let environment = environment.into_iter().chain([told.clone()]).collect();
        Process::start_with(environment, "scheduler", 1, &url, &account)
    };
    let ticker = Process::start("ticker", 64, &url, &account);
    let disturbed = start(clock.environment());
    let is_active = |account: &Account| account.active.contains(&disturbed.id());
    timeout(PATIENCE, account.subscribe().wait_for(is_active)).await.expect("it is active").unwrap();
    let other = start(Vec::new());
    let goes_on = async |what: &str| {
        // Of each schedule, beyond those that were on their way.
        let before = by_schedule(&account.borrow().ran);
        let after = |account: &Account| {
            let now = by_schedule(&account.ran);
            let more = |name: &String| now[name].len() >= before.get(name).map_or(0, BTreeMap::len) + 4;
            now.len() == 8 && now.keys().all(more)
        };
        if timeout(PATIENCE, account.subscribe().wait_for(after)).await.is_err() {
            account.borrow().log.iter().for_each(|line| println!("          {line}"));
            panic!("ticks do not go on {what}: {:?}", by_schedule(&account.borrow().ran));
        }
    };
    goes_on("at first").await;
    clock.ahead(HOUR)?;
    goes_on("an hour ahead").await;
    clock.ahead(Duration::ZERO)?;
    goes_on("set back by an hour").await;
    clock.behind(HOUR)?;
    goes_on("an hour behind").await;
    drift(&clock).await?;
    goes_on("an hour forward, too fast").await;
    clock.ahead(HOUR)?;
    goes_on("an hour ahead again").await;
    // Another one goes on, whose clock is right.
    disturbed.kill().await;
    goes_on("with another scheduler").await;
    other.shut_down().await;
    ticker.shut_down().await;
    let account = account.borrow();
    assert!(!account.panicked(), "{:?}", account.log);
    let mut ids = BTreeSet::new();
    for tick in &account.ran {
        assert!(ids.insert(&tick.id), "run twice: {tick:?}");
    }
    for (name, ticks) in by_schedule(&account.ran) {
        let last = *ticks.keys().next_back().unwrap();
        assert!(
            ticks.keys().copied().eq(1..=last),
            "{name}: a tick was fired and not run, of {last}: {ticks:?}"
        );
    }
    Ok(())
}

/// When the ticks were planned, by their sequence.
fn by_schedule(ran: &[Ran]) -> BTreeMap<String, BTreeMap<u64, Duration>> {
    let mut all = BTreeMap::<_, BTreeMap<_, _>>::new();
    for tick in ran {
        all.entry(tick.schedule.clone()).or_default().insert(tick.sequence, tick.planned);
    }
    all
}
