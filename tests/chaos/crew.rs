//! [`Crew`]: the processes of a run, each in its [`Seat`], where another one takes its place when it has died.

use std::ffi::OsString;
use std::time::Duration;

use taskhare::testing::Fault;
use taskhare::testing::Proxy;
use taskhare::testing::WallClock;
use tokio::sync::Mutex;
use tokio::sync::MutexGuard;

use crate::child::Child;
use crate::history::Record;
use crate::history::What;
use crate::recorder::Recorder;
use crate::worker::Course;
use crate::worker::HOLD;
use crate::worker::PLAN;
use crate::worker::Plan;
use crate::worker::Role;

/// How long a process may take to start; a second, on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// How many there are of each role.
const PRODUCERS: u32 = 2;
const CONSUMERS: u32 = 3;
const SCHEDULERS: u32 = 2;

#[derive(Debug)]
pub struct Crew {
    pub seats: Vec<Seat>,
    recorder: Recorder,
}

/// A process, and the link over which it reaches the broker.
#[derive(Debug)]
pub struct Seat {
    pub plan: Plan,
    link: Option<Proxy>,
    clock: Option<WallClock>,
    recorder: Recorder,
    process: Mutex<Option<Child>>,
}

impl Crew {
    /// Starts all of them, and waits until they are ready. `url` is that of a broker, to which each has a link of its own
    /// that can be cut, or, with commas, those of several. `with_clocks` each has a clock of its own that can be set.
    pub async fn start(url: &str, course: &Course, with_clocks: bool, recorder: &Recorder) -> Self {
        let mut seats = Vec::new();
        for (role, of) in
            [(Role::Consumer, CONSUMERS), (Role::Scheduler, SCHEDULERS), (Role::Producer, PRODUCERS)]
        {
            for place in 0..of {
                let link = match url.contains(',') {
                    true => None,
                    false => Some(Proxy::start(url).await.unwrap()),
                };
                let own = link.as_ref().map_or_else(|| url.to_owned(), |link| link.url(url).unwrap());
                let history = recorder.history().to_owned();
                let plan = Plan { role, url: own, course: course.clone(), place, of, history };
                let clock = with_clocks.then(|| WallClock::new().unwrap());
                let process = Mutex::new(None);
                seats.push(Seat { plan, link, clock, recorder: recorder.clone(), process });
            }
        }
        futures_util::future::join_all(seats.iter().map(Seat::start)).await;
        Self { seats, recorder: recorder.clone() }
    }

    /// One of those of that role, by chance.
    pub fn any(&self, role: Role, random: &mut fastrand::Rng) -> &Seat {
        let all: Vec<&Seat> = self.all(role).collect();
        all[random.usize(..all.len())]
    }

    pub fn all(&self, role: Role) -> impl Iterator<Item = &Seat> {
        self.seats.iter().filter(move |seat| seat.plan.role == role)
    }

    /// The scheduler that was the last to become the active one.
    pub async fn active(&self) -> &Seat {
        let last = |records: &[Record]| {
            let leads = |record: &&Record| matches!(record.what, What::Leads { active: true });
            records.iter().rev().find(leads).map(|record| record.who.clone())
        };
        let is_active = self.recorder.until(PATIENCE, |records| last(records).is_some()).await;
        assert!(is_active, "no scheduler is active");
        let active = last(&self.recorder.records()).expect("somebody was");
        for seat in self.all(Role::Scheduler) {
            if seat.name().await == active {
                return seat;
            }
        }
        self.all(Role::Scheduler).next().expect("there is one")
    }

    /// Starts another one in the place of each that has ended by itself, if that is to be expected.
    pub async fn replace_the_dead(&self) {
        for seat in &self.seats {
            // Somebody who holds it sees to it.
            let Ok(mut process) = seat.process.try_lock() else { continue };
            let Some(end) = process.as_mut().and_then(Child::end) else { continue };
            if let Some(dead) = process.take() {
                let name = seat.name_of(&dead);
                // All that it said.
                dead.kill().await;
                let was_meant = |records: &[Record]| {
                    records.iter().any(|it| matches!(&it.what, What::Began { whom, .. } if *whom == name))
                };
                if !self.recorder.is(was_meant) {
                    self.recorder
                        .logged(&name, &format!("panicked at its end: it ended by itself with {end}"));
                }
                seat.fill(&mut process).await;
                self.recorder.note(What::Healed { fault: "abort".to_owned(), whom: name });
            }
        }
    }

    /// Has all of them say what they hold, `before` there is any load or at the end.
    pub async fn hold(&self, before: bool) {
        let held = |records: &[Record]| {
            records
                .iter()
                .filter(|it| matches!(it.what, What::Held { before: it, .. } if it == before))
                .count()
        };
        let so_far = held(&self.recorder.records());
        for seat in &self.seats {
            seat.tell(HOLD[usize::from(!before)]).await;
        }
        let all = so_far + self.seats.len();
        self.recorder.until(Duration::from_secs(10), |records| held(records) >= all).await;
    }

    /// Producers first, so that nothing is left behind.
    pub async fn shut_down(self) {
        for seat in self.seats.into_iter().rev() {
            if let Some(process) = seat.process.into_inner() {
                process.shut_down().await;
            }
        }
    }
}

impl Seat {
    /// What it is called in the history.
    pub async fn name(&self) -> String {
        let process = self.process.lock().await;
        process.as_ref().map(|process| self.name_of(process)).unwrap_or_default()
    }

    fn name_of(&self, process: &Child) -> String {
        format!("{} {}", self.plan.role, process.id())
    }

    async fn start(&self) {
        self.fill(&mut self.process.lock().await).await;
    }

    /// Starts a process here, and waits until it is ready.
    async fn fill(&self, place: &mut MutexGuard<'_, Option<Child>>) {
        self.recorder.flush();
        let plan = serde_json::to_string(&self.plan).unwrap();
        let (role, said, logged) = (self.plan.role.to_string(), self.recorder.clone(), self.recorder.clone());
        // What a backtrace needs would be taken for memory that leaks.
        let mut variables: Vec<(&str, OsString)> = vec![(PLAN, plan.into()), ("RUST_BACKTRACE", "0".into())];
        variables.extend(self.clock.iter().flat_map(WallClock::environment));
        let who = format!("{role} of seat {}", self.plan.place);
        let process = Child::start(
            &role,
            "worker::process",
            variables,
            move |line| said.said(&line),
            move |_, line| logged.logged(&who, &line),
        );
        let name = self.name_of(&process);
        **place = Some(process);
        let is_ready = |records: &[Record]| {
            let ready = |it: &&Record| it.who == name && matches!(it.what, What::Held { before: true, .. });
            records.iter().rev().find(ready).is_some()
        };
        if !self.recorder.until(PATIENCE, is_ready).await {
            self.recorder.logged(&name, "panicked at its start: it is not ready");
        }
    }

    async fn tell(&self, line: &str) {
        if let Some(process) = self.process.lock().await.as_mut() {
            process.tell(line).await;
        }
    }

    /// Kills it, and starts another one after `gap`.
    pub async fn kill(&self, fault: &str, gap: Duration) {
        let mut place = self.process.lock().await;
        let Some(process) = place.take() else { return };
        let name = self.name_of(&process);
        let course = async {
            process.kill().await;
            tokio::time::sleep(gap).await;
            self.fill(&mut place).await;
        };
        self.recorder.during(fault, &name, course).await;
    }

    /// Shuts it down by SIGTERM while another one is not there yet.
    pub async fn terminate(&self, fault: &str) {
        let mut place = self.process.lock().await;
        let Some(process) = place.take() else { return };
        let name = self.name_of(&process);
        let course = async {
            process.terminate().await;
            self.fill(&mut place).await;
        };
        self.recorder.during(fault, &name, course).await;
    }

    /// Stands still for so long.
    pub async fn freeze(&self, fault: &str, time: Duration) {
        let place = self.process.lock().await;
        let Some(process) = place.as_ref() else { return };
        let course = async {
            process.freeze().await;
            tokio::time::sleep(time).await;
            process.thaw().await;
        };
        self.recorder.during(fault, &self.name_of(process), course).await;
    }

    /// From now on, that is wrong with its link.
    pub fn set_link(&self, fault: Fault) {
        if let Some(link) = &self.link {
            link.set(fault);
        }
    }

    /// From now on its clock is off by so much.
    pub fn set_clock(&self, by: Duration, is_behind: bool) {
        let Some(clock) = &self.clock else { return };
        let set = if is_behind { clock.behind(by) } else { clock.ahead(by) };
        set.unwrap();
    }
}
