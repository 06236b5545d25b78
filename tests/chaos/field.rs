//! [`Field`]: where faults do their harm.

use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;
use taskhare::Broker;
use taskhare::Producer;
use taskhare::Task;
use taskhare::testing::Fault;
use taskhare::transport::Message;
use taskhare::transport::Name;
use taskhare::transport::Publish;
use tokio::time::sleep;

use crate::crew::Crew;
use crate::crew::Seat;
use crate::ground::Ground;
use crate::harm::Deed;
use crate::harm::Harm;
use crate::harm::LONG;
use crate::harm::Outage;
use crate::harm::STEP;
use crate::harm::Step;
use crate::harm::Which;
use crate::history::What;
use crate::load::QUEUES;
use crate::load::STRAYS;
use crate::load::id;
use crate::recorder::Recorder;
use crate::worker::Role;

/// As long as a supervisor takes to start another process.
const GAP: Duration = Duration::from_millis(500);
/// How long something may take to be there that the broker is about to make.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);

/// All that can be harmed in a run.
#[derive(Debug)]
pub struct Field<'a> {
    pub ground: &'a Ground,
    pub vhost: &'a str,
    pub seed: u64,
    pub crew: &'a Crew,
    /// Of whoever sees to the run; no process of it has it.
    pub broker: &'a Broker,
    pub recorder: &'a Recorder,
}

impl Field<'_> {
    /// Does it, and sees to it that it is over.
    pub async fn strike(&self, harm: Harm, random: &mut fastrand::Rng) {
        let name = harm.name;
        match harm.deed {
            Deed::Tasks(_) => {}
            Deed::Kill(role, times) => {
                for _ in 0..times {
                    self.victim(role, random).await.kill(name, GAP).await;
                    pause(random).await;
                }
            }
            Deed::Terminate(role, times) => {
                for _ in 0..times {
                    self.victim(role, random).await.terminate(name).await;
                    pause(random).await;
                }
            }
            Deed::Freeze(role, time) => self.victim(role, random).await.freeze(name, time).await,
            Deed::Clock(role, step) => self.set_clock(name, self.victim(role, random).await, step).await,
            Deed::Link(role, fault, time) => {
                let seat = self.victim(role, random).await;
                let whom = format!("link {}", seat.name().await);
                self.with_links(name, &whom, &[seat], fault, time).await;
            }
            Deed::Links(fault, time) => {
                let seats: Vec<&Seat> = self.crew.seats.iter().collect();
                self.with_links(name, "link", &seats, fault, time).await;
            }
            Deed::Close(times) => {
                for _ in 0..times {
                    let close = self.ground.management().close_connections(self.vhost);
                    self.recorder.during(name, "all", close).await.unwrap();
                    pause(random).await;
                }
            }
            Deed::Purge(times) => {
                for _ in 0..times {
                    self.recorder.during(name, &format!("queue {}", QUEUES[0]), self.purge()).await;
                    pause(random).await;
                }
            }
            Deed::Delete => {
                self.recorder.during(name, &format!("queue {}", lane("normal")), self.delete()).await;
            }
            Deed::Stray => self.stray().await,
            Deed::Broker(outage) => {
                self.recorder.during(name, "broker", self.with_broker(outage)).await;
            }
            Deed::Node(which, outage) => {
                let node = self.node(which).await;
                let whom = format!("node {node}");
                self.recorder.during(name, &whom, self.with_node(node, outage)).await;
            }
            Deed::Rolling => {
                for node in 0..self.ground.cluster().size() {
                    let restart = self.with_node(node, Outage::Stopped(Duration::ZERO));
                    self.recorder.during(name, &format!("node {node}"), restart).await;
                }
            }
            Deed::Minority => self.recorder.during(name, "broker", self.lose_majority()).await,
        }
    }

    async fn victim(&self, role: Role, random: &mut fastrand::Rng) -> &Seat {
        match role {
            Role::Scheduler => self.crew.active().await,
            _ => self.crew.any(role, random),
        }
    }

    async fn set_clock(&self, name: &str, seat: &Seat, step: Step) {
        let course = async {
            seat.set_clock(STEP, step == Step::Behind);
            sleep(LONG).await;
            seat.set_clock(Duration::ZERO, false);
        };
        self.recorder.during(name, &seat.name().await, course).await;
    }

    async fn with_links(&self, name: &str, whom: &str, seats: &[&Seat], fault: Fault, time: Duration) {
        let course = async {
            seats.iter().for_each(|seat| seat.set_link(fault));
            sleep(time).await;
            seats.iter().for_each(|seat| seat.set_link(Fault::None));
        };
        self.recorder.during(name, whom, course).await;
    }

    async fn purge(&self) {
        for lane in ["urgent", "normal", "low"].map(lane) {
            let messages = self.ready(&lane).await;
            self.ground.management().purge(self.vhost, &lane).await.unwrap();
            self.recorder.note(What::Emptied { queue: lane, messages });
        }
    }

    async fn delete(&self) {
        let lane = lane("normal");
        let messages = self.ready(&lane).await;
        self.ground.management().delete_queue(self.vhost, &lane).await.unwrap();
        self.recorder.note(What::Emptied { queue: lane, messages });
    }

    async fn ready(&self, queue: &str) -> u64 {
        let queues = self.ground.management().queues(self.vhost).await.unwrap_or_default();
        queues.iter().find(|it| it.name == queue).map_or(0, |it| it.totals.ready)
    }

    async fn with_broker(&self, outage: Outage) {
        let node = self.ground.node();
        let ended = match outage {
            Outage::Killed(time) => {
                node.kill().await.unwrap();
                sleep(time).await;
                node.start_again().await
            }
            Outage::Stopped(time) => {
                node.stop().await.unwrap();
                sleep(time).await;
                node.start_again().await
            }
            Outage::Frozen(time) => {
                node.freeze().await.unwrap();
                sleep(time).await;
                node.thaw().await
            }
            Outage::MemoryAlarm(time) => {
                node.set_memory_alarm(true).await.unwrap();
                sleep(time).await;
                node.set_memory_alarm(false).await
            }
            Outage::DiskAlarm(time) => {
                node.set_disk_alarm(true).await.unwrap();
                sleep(time).await;
                node.set_disk_alarm(false).await
            }
            Outage::Cut(_) => panic!("a single node has nobody to be cut off from"),
        };
        ended.unwrap();
    }

    async fn with_node(&self, node: usize, outage: Outage) {
        let cluster = self.ground.cluster();
        let ended = match outage {
            Outage::Killed(time) => {
                cluster.kill(node).await.unwrap();
                sleep(time).await;
                cluster.start_again(node).await
            }
            Outage::Stopped(time) => {
                cluster.stop(node).await.unwrap();
                sleep(time).await;
                cluster.start_again(node).await
            }
            Outage::Frozen(time) => {
                cluster.freeze(node).await.unwrap();
                sleep(time).await;
                cluster.thaw(node).await
            }
            Outage::Cut(time) => {
                cluster.cut(node).await.unwrap();
                sleep(time).await;
                cluster.heal(node).await
            }
            Outage::MemoryAlarm(_) | Outage::DiskAlarm(_) => panic!("this is for a single node"),
        };
        ended.unwrap();
    }

    async fn lose_majority(&self) {
        let cluster = self.ground.cluster();
        for node in 1..cluster.size() {
            cluster.kill(node).await.unwrap();
        }
        sleep(LONG).await;
        cluster.start_all_again().await.unwrap();
    }

    async fn node(&self, which: Which) -> usize {
        match which {
            Which::Leader(queue) => self.leader_of(queue).await,
            Which::Follower(queue) => (self.leader_of(queue).await + 1) % self.ground.cluster().size(),
            Which::Ours => self.node_of_consumer().await,
        }
    }

    async fn leader_of(&self, queue: &str) -> usize {
        for _ in 0..(PATIENCE.as_millis() / LOOK.as_millis()) {
            if let Ok(leader) = self.ground.cluster().leader_of(self.vhost, queue).await {
                return leader;
            }
            sleep(LOOK).await;
        }
        panic!("{queue} has no leader");
    }

    /// The node that a consumer takes its tasks from.
    async fn node_of_consumer(&self) -> usize {
        let cluster = self.ground.cluster();
        let ports = (0..cluster.size()).map(|node| format!(":{}", port(&cluster.url(node, self.vhost))));
        let ports: Vec<String> = ports.collect();
        let all = self.ground.management().connections(self.vhost).await.unwrap();
        let ours = all.iter().filter(|it| it.user_provided_name.contains(" consume "));
        let mut nodes = ours.filter_map(|it| ports.iter().position(|port| it.name.ends_with(port.as_str())));
        nodes.next().expect("a consumer is connected")
    }

    /// One that no handler is there for, one whose payload is another type's, and one that no taskhare has written.
    async fn stray(&self) {
        let producer = Producer::builder(self.broker).build().await.unwrap();
        let ids: Vec<_> = (STRAYS..).map(|number| id(self.seed, number)).take(3).collect();
        for (task, reason) in (STRAYS..).zip(["unknown-task", "undecodable", "foreign"]) {
            self.recorder.note(What::Strayed { task, reason: reason.to_owned() });
        }
        producer.enqueue(Unknown).id(ids[0]).queue(QUEUES[0]).await.unwrap();
        producer.enqueue(Impostor("no chore".to_owned())).id(ids[1]).queue(QUEUES[0]).await.unwrap();
        let foreign = Publish {
            exchange: Name::new("exchange", "taskhare.tasks").unwrap(),
            key: Name::new("routing key", format!("{}.normal", QUEUES[0])).unwrap(),
            mandatory: true,
            message: Message { id: Some(ids[2].to_string()), body: b"{}".to_vec(), ..Message::default() },
        };
        self.broker.transport().publish(&foreign, PATIENCE).await.unwrap();
    }
}

/// A type of task that nobody handles.
#[derive(Serialize, Deserialize)]
struct Unknown;

impl Task for Unknown {
    const NAME: &'static str = "unknown";
    type Output = ();
}

/// Another payload under the name of a task that somebody does.
#[derive(Serialize, Deserialize)]
struct Impostor(String);

impl Task for Impostor {
    const NAME: &'static str = "chore";
    type Output = ();
}

fn lane(priority: &str) -> String {
    format!("taskhare.{}.{priority}", QUEUES[0])
}

/// Of an AMQP URL that has one.
fn port(url: &str) -> &str {
    url.rsplit(':').next().and_then(|rest| rest.split('/').next()).unwrap_or_default()
}

async fn pause(random: &mut fastrand::Rng) {
    sleep(Duration::from_millis(random.u64(300..1_500))).await;
}
