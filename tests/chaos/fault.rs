//! [`Harm`]: the faults that a run may meet, each with what it does and what it needs.

use std::time::Duration;

use taskhare::testing::Fault;
use tokio::time::sleep;

use crate::crew::Crew;
use crate::ground::Ground;
use crate::load::Fate;
use crate::recorder::Recorder;
use crate::worker::HEARTBEAT;
use crate::worker::Role;

/// Beyond two heartbeats, so that whoever is silent for so long is given up.
const LONG: Duration = Duration::from_secs(7);
const _: () = assert!(LONG.as_millis() > 3 * HEARTBEAT.as_millis());
/// As long as a supervisor takes to start another process.
const GAP: Duration = Duration::from_millis(500);

/// One of the faults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    None,
    KillConsumer,
    KillProducer,
    KillScheduler,
    FreezeConsumer,
    FreezeScheduler,
    TerminateConsumer,
    TerminateScheduler,
    Abort,
    Block,
    Overrun,
    KillBroker,
    RestartBroker,
    FreezeBroker,
    MemoryAlarm,
    CloseConnections,
    CloseAgain,
    Blackhole,
    BlackholeAll,
    Reset,
    Slow,
}

/// What a fault needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    Node,
    Cluster,
}

/// Where a fault does its harm.
#[derive(Debug)]
pub struct Field<'a> {
    pub ground: &'a Ground,
    pub vhost: &'a str,
    pub crew: &'a Crew,
    pub recorder: &'a Recorder,
}

impl Harm {
    pub const ALL: [Self; 21] = [
        Self::None,
        Self::KillConsumer,
        Self::KillProducer,
        Self::KillScheduler,
        Self::FreezeConsumer,
        Self::FreezeScheduler,
        Self::TerminateConsumer,
        Self::TerminateScheduler,
        Self::Abort,
        Self::Block,
        Self::Overrun,
        Self::KillBroker,
        Self::RestartBroker,
        Self::FreezeBroker,
        Self::MemoryAlarm,
        Self::CloseConnections,
        Self::CloseAgain,
        Self::Blackhole,
        Self::BlackholeAll,
        Self::Reset,
        Self::Slow,
    ];

    /// As it is called in the history and in the documentation.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::KillConsumer => "consumer killed",
            Self::KillProducer => "producer killed",
            Self::KillScheduler => "scheduler killed",
            Self::FreezeConsumer => "consumer frozen",
            Self::FreezeScheduler => "scheduler frozen",
            Self::TerminateConsumer => "consumer terminated",
            Self::TerminateScheduler => "scheduler terminated",
            Self::Abort => "task aborts its process",
            Self::Block => "handler blocks",
            Self::Overrun => "handler ignores cancellation",
            Self::KillBroker => "broker killed",
            Self::RestartBroker => "broker restarted",
            Self::FreezeBroker => "broker frozen",
            Self::MemoryAlarm => "memory alarm",
            Self::CloseConnections => "connections closed",
            Self::CloseAgain => "connections closed again and again",
            Self::Blackhole => "link swallows all",
            Self::BlackholeAll => "all links swallow all",
            Self::Reset => "all links reset",
            Self::Slow => "all links slow",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|harm| harm.name().replace(' ', "-") == name.replace(' ', "-"))
    }

    pub fn needs(self) -> Needs {
        Needs::Node
    }

    /// Whether a queue or stream must have been there for a while before: see `settled` in the documentation.
    pub fn needs_settled(self) -> bool {
        matches!(self, Self::KillBroker | Self::RestartBroker)
    }

    /// The tasks that are the fault, or come with it.
    pub fn fates(self) -> &'static [Fate] {
        match self {
            Self::Abort => &[Fate::Kills],
            Self::Block => &[Fate::Blocks, Fate::Blocks, Fate::Blocks],
            Self::Overrun => &[Fate::Overruns(1), Fate::Overruns(2), Fate::Overruns(1)],
            _ => &[],
        }
    }

    /// Does it, and sees to it that it is over.
    pub async fn strike(self, field: &Field<'_>, random: &mut fastrand::Rng) {
        let (crew, name) = (field.crew, self.name());
        match self {
            // Done by a task.
            Self::None | Self::Abort | Self::Block | Self::Overrun => {}
            Self::KillConsumer => crew.any(Role::Consumer, random).kill(name, GAP).await,
            Self::KillProducer => crew.any(Role::Producer, random).kill(name, GAP).await,
            Self::KillScheduler => crew.active().await.kill(name, GAP).await,
            Self::FreezeConsumer => crew.any(Role::Consumer, random).freeze(name, LONG).await,
            Self::FreezeScheduler => crew.active().await.freeze(name, LONG).await,
            Self::TerminateConsumer => crew.any(Role::Consumer, random).terminate(name).await,
            Self::TerminateScheduler => crew.active().await.terminate(name).await,
            Self::KillBroker => field.with_broker(name, Duration::ZERO, "kill", "start").await,
            Self::RestartBroker => field.with_broker(name, Duration::ZERO, "stop", "start").await,
            Self::FreezeBroker => field.with_broker(name, LONG, "freeze", "thaw").await,
            Self::MemoryAlarm => field.with_broker(name, LONG, "alarm", "no alarm").await,
            Self::CloseConnections => field.close(name).await,
            Self::CloseAgain => {
                for _ in 0..6 {
                    field.close(name).await;
                    sleep(Duration::from_millis(random.u64(200..1_500))).await;
                }
            }
            Self::Blackhole => {
                let seat = crew.any(Role::Consumer, random);
                let whom = format!("link {}", seat.name().await);
                let course = async {
                    seat.set_link(Fault::Drop);
                    sleep(LONG).await;
                    seat.set_link(Fault::None);
                };
                field.recorder.during(name, &whom, course).await;
            }
            Self::BlackholeAll => field.with_links(name, Fault::Drop, LONG).await,
            Self::Reset => field.with_links(name, Fault::Reset, Duration::from_secs(2)).await,
            Self::Slow => field.with_links(name, Fault::Delay(Duration::from_millis(80)), LONG).await,
        }
    }
}

impl Field<'_> {
    async fn with_broker(&self, name: &str, time: Duration, begin: &str, end: &str) {
        let course = async {
            self.tell_broker(begin).await;
            sleep(time).await;
            self.tell_broker(end).await;
        };
        self.recorder.during(name, "broker", course).await;
    }

    async fn tell_broker(&self, verb: &str) {
        let node = self.ground.node();
        let done = match verb {
            "kill" => node.kill().await,
            "stop" => node.stop().await,
            "start" => node.start_again().await,
            "freeze" => node.freeze().await,
            "thaw" => node.thaw().await,
            "alarm" => node.set_memory_alarm(true).await,
            _ => node.set_memory_alarm(false).await,
        };
        done.unwrap();
    }

    async fn with_links(&self, name: &str, fault: Fault, time: Duration) {
        let set = |fault| self.crew.seats.iter().for_each(|seat| seat.set_link(fault));
        let course = async {
            set(fault);
            sleep(time).await;
            set(Fault::None);
        };
        self.recorder.during(name, "link", course).await;
    }

    /// Every connection, as an operator does it.
    async fn close(&self, name: &str) {
        let close = async { self.ground.management().close_connections(self.vhost).await.unwrap() };
        self.recorder.during(name, "all", close).await;
    }
}
