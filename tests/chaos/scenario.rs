//! [`Scenario`]: the course of one run.

use std::time::Duration;

use taskhare::Broker;
use tokio::time::sleep;

use crate::checker::Bounds;
use crate::checker::Scope;
use crate::checker::Verdict;
use crate::crew::Crew;
use crate::field::Field;
use crate::ground::Ground;
use crate::harm::Harm;
use crate::harm::STEP;
use crate::history::What;
use crate::history::now;
use crate::load::Fate;
use crate::load::PERIODS;
use crate::recorder::Recorder;
use crate::scheduler;
use crate::sweep::MORE;
use crate::sweep::Sweep;
use crate::worker::Course;
use crate::worker::Role;

/// From the start of the processes to the load; a second, on an idle machine.
const SOON: Duration = Duration::from_secs(8);
/// Longer than what a queue or stream must have been there for to survive a `kill -9` of its only node.
const SETTLED: Duration = Duration::from_secs(14);
/// How long after the load its producers may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// On a machine of two cores that is busy with other things as well.
const PACE: Duration = Duration::from_secs(1);
const NEWS: Duration = Duration::from_secs(1);
/// If set, the files of runs that went well are kept as well.
const KEEP: &str = "TASKHARE_CHAOS_KEEP";
/// No fault strikes sooner after the beginning of the load.
const EARLIEST: Duration = Duration::from_secs(3);
/// How often it is looked whether a process has died.
const LOOK: Duration = Duration::from_millis(50);

/// What is to happen in a run.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: String,
    pub seed: u64,
    /// Tasks a second, for so long.
    pub rate: u32,
    pub time: Duration,
    /// One after the other.
    pub harms: Vec<Harm>,
}

/// What has happened.
#[derive(Debug)]
pub struct Outcome {
    pub verdict: Verdict,
    /// Panics of processes that nobody wanted.
    pub panics: Vec<String>,
    recorder: Recorder,
}

impl Outcome {
    pub fn is_good(&self) -> bool {
        self.verdict.is_clean() && self.panics.is_empty()
    }

    /// Keeps the files if there is a reason to; they are removed if there is none.
    pub fn keep(&self, again: &str) {
        let keeps = std::env::var_os(KEEP).is_some();
        if !self.is_good() || keeps {
            println!("{}", self.verdict);
            self.panics.iter().for_each(|panic| println!("- {panic}"));
            println!("history: {}\nagain: {again}", self.recorder.history().display());
        } else {
            self.recorder.remove();
        }
    }
}

impl Scenario {
    pub fn new(name: &str, seed: u64, rate: u32, time: Duration, harms: Vec<Harm>) -> Self {
        Self { name: name.to_owned(), seed, rate, time, harms }
    }

    pub async fn play(&self, ground: &Ground) -> Outcome {
        let recorder = Recorder::new(&self.name, self.seed);
        let mut random = fastrand::Rng::with_seed(self.seed);
        let (vhost, url) = ground.fresh_vhost().await;
        let soon = if self.harms.iter().any(|harm| harm.needs_settled()) { SETTLED } else { SOON };
        let fates: Vec<Fate> = self.harms.iter().flat_map(|harm| harm.fates()).copied().collect();
        let starts = Duration::from_millis((now() + soon).as_millis() as u64);
        let course = Course { seed: self.seed, rate: self.rate, starts, time: self.time, fates };
        note_plan(&course, &recorder);
        let with_clocks = self.harms.iter().any(|harm| harm.needs_clocks());
        let crew = Crew::start(&url, &course, with_clocks, &recorder).await;
        let broker = Broker::connect(&url).await.unwrap();
        let (seed, vhost) = (self.seed, vhost.as_str());
        let sweep = Sweep { ground, vhost, recorder: &recorder };
        let before = sweep.count_before(starts + EARLIEST).await;
        crew.hold(true).await;

        let field = Field { ground, vhost, seed, crew: &crew, broker: &broker, recorder: &recorder };
        tokio::select! {
            () = replace_the_dead(&crew) => {}
            () = async {
                self.strike(&field, &course, &mut random).await;
                let is_loaded = recorder.until(PATIENCE, |records| {
                    let loaded = records.iter().filter(|it| matches!(it.what, What::Loaded));
                    loaded.count() >= crew.all(Role::Producer).count()
                });
                is_loaded.await;
                sleep(course.ends().saturating_sub(now())).await;
                sweep.drain().await;
                sweep.count_after(before.as_ref()).await;
                crew.hold(false).await;
                sweep.sweep(&broker).await;
            } => {}
        }
        broker.close().await;
        crew.shut_down().await;
        recorder.flush();
        ground.remove_vhost(vhost).await;
        let verdict = Verdict::of(&course.load(), &recorder.records(), Self::scope(with_clocks));
        Outcome { verdict, panics: recorder.panics(), recorder }
    }

    /// How strictly runs are judged, whose clocks are set or not.
    pub fn scope(with_clocks: bool) -> Scope {
        let clocks = if with_clocks { STEP } else { Duration::ZERO };
        let [connections, channels, consumers, queues] = MORE;
        // … and the tasks that see to all that.
        let bounds = Bounds { connections, channels, consumers, queues, tasks: 32, ..Bounds::default() };
        Scope { pace: PACE, news: NEWS, clocks, bounds, ..Scope::default() }
    }

    /// One fault after the other, each at its time: the only one when a quarter to a third of the load is done.
    async fn strike(&self, field: &Field<'_>, course: &Course, random: &mut fastrand::Rng) {
        let slot = self.time / (self.harms.len() as u32 + 2);
        for (place, harm) in (1..).zip(&self.harms) {
            let at = course.starts + (slot * place).mul_f64(0.7 + 0.3 * random.f64()).max(EARLIEST);
            sleep(at.saturating_sub(now())).await;
            field.strike(*harm, random).await;
        }
    }
}

async fn replace_the_dead(crew: &Crew) {
    loop {
        sleep(LOOK).await;
        crew.replace_the_dead().await;
    }
}

fn note_plan(course: &Course, recorder: &Recorder) {
    recorder.note(What::Planned {
        seed: course.seed,
        rate: course.rate,
        time: course.time.as_micros() as u64,
        fates: course.fates.clone(),
    });
    for (schedule, period) in scheduler::names().zip(PERIODS) {
        recorder.note(What::Scheduled {
            schedule,
            queue: crate::load::QUEUES[0].to_owned(),
            period: period.as_micros() as u64,
            starts: course.starts.as_micros() as u64,
            ends: course.ends().as_micros() as u64,
        });
    }
}
