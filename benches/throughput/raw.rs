//! The same work by hand on amqprs: what taskhare is measured against.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;
use std::time::Instant;

use amqprs::Ack;
use amqprs::BasicProperties;
use amqprs::Cancel;
use amqprs::CloseChannel;
use amqprs::FieldTable;
use amqprs::FieldValue;
use amqprs::Nack;
use amqprs::Return;
use amqprs::callbacks::ChannelCallback;
use amqprs::channel::BasicAckArguments;
use amqprs::channel::BasicConsumeArguments;
use amqprs::channel::BasicPublishArguments;
use amqprs::channel::BasicQosArguments;
use amqprs::channel::Channel;
use amqprs::channel::ConfirmSelectArguments;
use amqprs::channel::QueueDeclareArguments;
use amqprs::connection::Connection;
use amqprs::connection::OpenConnectionArguments;
use async_trait::async_trait;
use taskhare::transport::amqp::Options;
use tokio::sync::Notify;
use tokio::sync::mpsc;

use crate::PREFETCH;
use crate::WINDOW;
use crate::measure::Sample;
use crate::measure::Stopwatch;
use crate::measure::percentiles;
use crate::work::Payload;

const QUEUE: &str = "raw";
/// A quarter of the prefetch.
const ACK_EVERY: u64 = 64;

pub async fn run(row: &str, url: &str, size: usize, tasks: u64) -> Sample {
    let mut publisher = Publisher::open(url).await;
    match row {
        "enqueue" => {
            publisher.fill(size, 1_000).await;
            let watch = Stopwatch::start();
            publisher.fill(size, tasks).await;
            watch.stop(tasks)
        }
        "consume" => {
            publisher.fill(size, tasks).await;
            consume(url, tasks).await.stop(tasks)
        }
        "end-to-end" => {
            let url = url.to_owned();
            let consumer = tokio::spawn(async move { consume(&url, tasks).await });
            publisher.fill(size, tasks).await;
            consumer.await.unwrap().stop(tasks)
        }
        _ => publisher.latency(url, size).await,
    }
}

async fn connect(url: &str) -> Connection {
    let endpoint = &Options::from_urls(url).unwrap().endpoints[0];
    let (user, password) = (&endpoint.user, &endpoint.password);
    let mut arguments = OpenConnectionArguments::new(&endpoint.host, endpoint.port, user, password);
    Connection::open(arguments.virtual_host(&endpoint.vhost)).await.unwrap()
}

struct Publisher {
    _connection: Connection,
    channel: Channel,
    confirms: Arc<Confirms>,
}

/// Which publishes are not confirmed yet.
#[derive(Default)]
struct Confirms {
    unconfirmed: Mutex<(u64, VecDeque<bool>)>,
    room: Notify,
}

impl Confirms {
    fn settle(&self, tag: u64, multiple: bool) {
        let mut unconfirmed = self.unconfirmed.lock().unwrap();
        let (base, window) = &mut *unconfirmed;
        let index = (tag - *base) as usize;
        let from = if multiple { 0 } else { index };
        window.range_mut(from..=index).for_each(|done| *done = true);
        while window.front() == Some(&true) {
            window.pop_front();
            *base += 1;
        }
        drop(unconfirmed);
        self.room.notify_one();
    }

    async fn at_most(&self, count: usize) {
        while self.unconfirmed.lock().unwrap().1.len() > count {
            self.room.notified().await;
        }
    }
}

struct Callback(Arc<Confirms>);

#[async_trait]
impl ChannelCallback for Callback {
    async fn close(&mut self, _: &Channel, close: CloseChannel) -> Result<(), amqprs::error::Error> {
        panic!("{close}");
    }
    async fn cancel(&mut self, _: &Channel, cancel: Cancel) -> Result<(), amqprs::error::Error> {
        panic!("{}", cancel.consumer_tag());
    }
    async fn flow(&mut self, _: &Channel, _: bool) -> Result<bool, amqprs::error::Error> {
        Ok(true)
    }
    async fn publish_ack(&mut self, _: &Channel, ack: Ack) {
        self.0.settle(ack.delivery_tag(), ack.mutiple());
    }
    async fn publish_nack(&mut self, _: &Channel, nack: Nack) {
        panic!("{}", nack.delivery_tag());
    }
    async fn publish_return(&mut self, _: &Channel, _: Return, _: BasicProperties, _: Vec<u8>) {
        panic!("returned");
    }
}

impl Publisher {
    async fn open(url: &str) -> Self {
        let connection = connect(url).await;
        let channel = connection.open_channel(None).await.unwrap();
        let confirms = Arc::new(Confirms::default());
        confirms.unconfirmed.lock().unwrap().0 = 1;
        channel.register_callback(Callback(confirms.clone())).await.unwrap();
        let mut arguments = FieldTable::new();
        let mut argument = |name: &str, value: FieldValue| arguments.insert(name.try_into().unwrap(), value);
        argument("x-queue-type", FieldValue::S("quorum".try_into().unwrap()));
        argument("x-delivery-limit", FieldValue::l(20));
        argument("x-overflow", FieldValue::S("reject-publish".try_into().unwrap()));
        let mut declare = QueueDeclareArguments::durable_client_named(QUEUE);
        channel.queue_declare(declare.arguments(arguments).finish()).await.unwrap();
        channel.confirm_select(ConfirmSelectArguments::default()).await.unwrap();
        Self { _connection: connection, channel, confirms }
    }

    async fn publish(&mut self, number: u64, size: usize) {
        let body = rmp_serde::to_vec_named(&Payload::new(number, size)).unwrap();
        let properties = BasicProperties::default()
            .with_message_id(&number.to_string())
            .with_message_type("bench")
            .with_content_type("application/msgpack")
            .with_persistence(true)
            .finish();
        let mut arguments = BasicPublishArguments::new("", QUEUE);
        self.confirms.unconfirmed.lock().unwrap().1.push_back(false);
        self.channel.basic_publish(properties, body, arguments.mandatory(true).finish()).await.unwrap();
    }

    async fn fill(&mut self, size: usize, tasks: u64) {
        for number in 0..tasks {
            self.confirms.at_most(WINDOW - 1).await;
            self.publish(number, size).await;
        }
        self.confirms.at_most(0).await;
    }

    async fn latency(&mut self, url: &str, size: usize) -> Sample {
        let url = url.to_owned();
        let (started, mut starts) = mpsc::unbounded_channel();
        let consumer = tokio::spawn(async move {
            let mut deliveries = Deliveries::open(&url).await;
            loop {
                deliveries.next().await;
                started.send(Instant::now()).unwrap();
                deliveries.ack().await;
            }
        });
        let mut latencies = Vec::new();
        for number in 0..500 {
            let begin = Instant::now();
            self.publish(number, size).await;
            self.confirms.at_most(0).await;
            latencies.push(starts.recv().await.unwrap() - begin);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        consumer.abort();
        percentiles(latencies)
    }
}

struct Deliveries {
    _connection: Connection,
    channel: Channel,
    receiver: mpsc::UnboundedReceiver<amqprs::channel::ConsumerMessage>,
    tag: u64,
}

impl Deliveries {
    async fn open(url: &str) -> Self {
        let connection = connect(url).await;
        let channel = connection.open_channel(None).await.unwrap();
        channel.basic_qos(BasicQosArguments::new(0, PREFETCH, false)).await.unwrap();
        let arguments = BasicConsumeArguments::new(QUEUE, "raw");
        let (_, receiver) = channel.basic_consume_rx(arguments).await.unwrap();
        Self { _connection: connection, channel, receiver, tag: 0 }
    }

    async fn next(&mut self) -> Payload {
        let message = self.receiver.recv().await.unwrap();
        self.tag = message.deliver.unwrap().delivery_tag();
        rmp_serde::from_slice(&message.content.unwrap()).unwrap()
    }

    async fn ack(&mut self) {
        self.channel.basic_ack(BasicAckArguments::new(self.tag, true)).await.unwrap();
    }
}

async fn consume(url: &str, tasks: u64) -> Stopwatch {
    let mut deliveries = Deliveries::open(url).await;
    let mut first = None;
    for count in 1..=tasks {
        let payload = deliveries.next().await;
        first.get_or_insert_with(Stopwatch::start);
        assert!(!payload.data.is_empty());
        if count % ACK_EVERY == 0 || count == tasks {
            deliveries.ack().await;
        }
    }
    // The round trip proves that the acknowledgements were applied.
    deliveries.channel.clone().close().await.unwrap();
    first.unwrap()
}
