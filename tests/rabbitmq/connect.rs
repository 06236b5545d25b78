//! The first connection: what can be wrong is said at once, and by its name.

use crate::*;

use taskhare::Error;
use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;

async fn refusal(url: &str) -> Error {
    let mut options = options(url);
    options.connect_timeout = Duration::from_secs(20);
    Amqp::connect(options).await.expect_err("it cannot connect")
}

#[tokio::test]
async fn a_wrong_password_is_a_failed_login() {
    let broker = TestBroker::shared().await.unwrap();
    let url = broker.fresh_vhost().await.unwrap();
    let vhost = vhost_of(&url).unwrap();
    let url = broker.add_user("somebody", "right", "", "", "", &vhost).await.unwrap();
    let error = refusal(&url.replace("right", "wr0ng")).await;
    assert!(matches!(&error, Error::Login { user, .. } if user == "somebody"), "{error:?}");
    assert!(!format!("{error:?} {error}").contains("wr0ng"), "{error:?}");
}

#[tokio::test]
async fn a_virtual_host_that_is_missing_or_closed_to_us_is_named() {
    let broker = TestBroker::shared().await.unwrap();
    let url = broker.fresh_vhost().await.unwrap();
    let error = refusal(&format!("{url}-missing")).await;
    assert!(matches!(&error, Error::VirtualHost { reason, .. } if reason.contains("not found")), "{error:?}");
    let vhost = vhost_of(&url).unwrap();
    let elsewhere = broker.add_user("elsewhere", "secret", "", "", "", &vhost).await.unwrap();
    let path = url.rsplit_once('/').unwrap().1;
    let other = broker.fresh_vhost().await.unwrap();
    let closed = elsewhere.replace(path, other.rsplit_once('/').unwrap().1);
    let error = refusal(&closed).await;
    assert!(matches!(&error, Error::VirtualHost { reason, .. } if reason.contains("refused")), "{error:?}");
}

#[tokio::test]
async fn where_nothing_listens_all_hosts_are_named_with_the_cause() {
    let error = refusal("amqp://127.0.0.1:1,amqp://127.0.0.1:2").await;
    assert_eq!(error.to_string(), "cannot connect to 127.0.0.1:1, 127.0.0.1:2");
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("refused"), "{cause}");
}

#[tokio::test]
async fn of_several_hosts_one_that_answers_is_enough() {
    let url = fresh_vhost().await;
    let amqp = Amqp::connect(options(&format!("amqp://127.0.0.1:1,{url}"))).await.unwrap();
    amqp.declare(&queue("q", QUORUM)).await.unwrap();
}

/// One that accepts connections and never answers: a frozen node looks like that.
#[tokio::test]
async fn of_several_hosts_one_that_hangs_is_passed_over() {
    let url = TestBroker::shared().await.unwrap().fresh_vhost().await.unwrap();
    let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let urls = format!("amqp://{}?connection_timeout=200,{url}", hangs.local_addr().unwrap());
    // The order is random: that none of them meets the other one first is one in 256.
    for _ in 0..8 {
        Amqp::connect(options(&urls)).await.unwrap();
    }
}

/// Three copies, and a list of nodes of which one is there.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_set_for_a_cluster_works_on_a_single_node() {
    let lab = Lab::new().await;
    let urls = format!("amqp://127.0.0.1:1,{},amqp://127.0.0.1:2", lab.url);
    let broker = taskhare::Broker::builder().url(&urls);
    let broker = broker.replication(taskhare::Replication::Quorum { group_size: 3 }).connect().await.unwrap();
    let echo = |task: Echo, _| async move { Ok(task.0) };
    let consumer = taskhare::Consumer::builder(&broker).handler_fn(echo).start().await.unwrap();
    let producer = taskhare::Producer::builder(&broker).build().await.unwrap();
    assert_eq!(producer.enqueue(Echo(7)).await.unwrap().output().await.unwrap(), 7);
    consumer.shutdown().await;
    let management = TestBroker::shared().await.unwrap().management();
    let path = format!("/queues/{}/taskhare.default.normal", lab.vhost.replace('/', "%2F"));
    eventually("it has one copy", async || {
        let queue = management.get(&path).await.unwrap();
        queue["members"].as_array().is_some_and(|members| members.len() == 1)
    })
    .await;
    broker.close().await;
}

#[derive(serde::Serialize, serde::Deserialize)]
struct Echo(u32);

impl taskhare::Task for Echo {
    const NAME: &'static str = "echo";
    type Output = u32;
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = options(&format!("amqp://{}", listener.local_addr().unwrap()));
    options.connect_timeout = Duration::from_millis(200);
    let error = Amqp::connect(options).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(cause, "no answer within 200ms");
}

#[tokio::test]
async fn a_proxy_with_nothing_behind_it_is_not_taken_for_a_wrong_password() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    assert!(matches!(refusal(&url).await, Error::Connect { .. }));
}

#[tokio::test]
async fn a_broker_that_is_too_old_or_not_rabbitmq_is_refused() {
    for (product, version) in [("RabbitMQ", "3.9.29"), ("LavinMQ", "4.0.0")] {
        let url = impostor(product, version, "").await;
        let error = refusal(&url).await;
        assert!(matches!(&error, Error::UnsupportedBroker { version: v, .. } if v == version), "{error:?}");
    }
}

/// As RabbitMQ 3.10.8 does that was started without the flag, word for word.
#[tokio::test]
async fn a_broker_with_streams_switched_off_is_told_by_the_flag_to_enable() {
    let text = "INTERNAL_ERROR - Cannot declare a queue 'queue 'taskhare.control' in vhost '/'' of type 'rabbit_stream_queue' on node 'rabbit@localhost': the corresponding feature flag is disabled";
    let url = impostor("RabbitMQ", "3.10.8", text).await;
    let amqp = Amqp::connect(options(&url)).await.unwrap();
    let error = amqp.declare(&queue("taskhare.control", QUORUM)).await.unwrap_err();
    assert!(matches!(&error, Error::FeatureDisabled { .. }), "{error:?}");
    assert!(error.to_string().contains("`rabbitmqctl enable_feature_flag stream_queue`"), "{error}");
}

/// Speaks just enough AMQP to be asked who it is. Who declares a queue loses the connection because of `text`.
async fn impostor(product: &str, version: &str, text: &str) -> String {
    let (product, version) = (raw::long(product.as_bytes()), raw::long(version.as_bytes()));
    let properties = raw::table(&[(b"product", b'S', &product), (b"version", b'S', &version)]);
    let start = [&[0, 9][..], &properties, &raw::long(b"PLAIN"), &raw::long(b"en_US")].concat();
    let close = [&541_u16.to_be_bytes()[..], &raw::short(text), &[0, 50, 0, 10]].concat();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("amqp://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut protocol = [0; 8];
            stream.read_exact(&mut protocol).await.unwrap();
            answer(&mut stream, 0, (10, 10), &start).await;
            // Until the other side hangs up.
            while let Some((channel, method)) = asked(&mut stream).await {
                match method {
                    (10, 11) => answer(&mut stream, 0, (10, 30), &[7, 255, 0, 2, 0, 0, 0, 60]).await,
                    (10, 40) => answer(&mut stream, 0, (10, 41), &[0]).await,
                    (20, 10) => answer(&mut stream, channel, (20, 11), &raw::long(b"")).await,
                    (50, 10) => answer(&mut stream, 0, (10, 50), &close).await,
                    _ => {}
                }
            }
        }
    });
    url
}

/// The next method that is called, and on which channel.
async fn asked(stream: &mut TcpStream) -> Option<(u16, (u16, u16))> {
    let mut head = [0; 7];
    stream.read_exact(&mut head).await.ok()?;
    let mut rest = vec![0; u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize + 1];
    stream.read_exact(&mut rest).await.ok()?;
    let number = |at: usize| rest.get(at..at + 2).map_or(0, |two| u16::from_be_bytes([two[0], two[1]]));
    Some((u16::from_be_bytes([head[1], head[2]]), (number(0), number(2))))
}

async fn answer(stream: &mut TcpStream, channel: u16, (class, id): (u16, u16), arguments: &[u8]) {
    let payload = [&class.to_be_bytes()[..], &id.to_be_bytes(), arguments].concat();
    let size = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let frame = [&[1][..], &channel.to_be_bytes(), &size, &payload, &[0xCE]].concat();
    stream.write_all(&frame).await.unwrap();
}

#[tokio::test]
async fn connections_tell_the_operator_whose_they_are() {
    let broker = TestBroker::shared().await.unwrap();
    let url = broker.fresh_vhost().await.unwrap();
    let mut options = options(&url);
    options.app = "billing".to_owned();
    let amqp = Amqp::connect(options).await.unwrap();
    amqp.declare(&queue("q", QUORUM)).await.unwrap();
    let _subscription = amqp.subscribe(subscribe("q", 1)).await.unwrap();
    let vhost = vhost_of(&url).unwrap();
    let names = async || {
        let connections = broker.management().connections(&vhost).await.unwrap();
        connections.into_iter().map(|it| it.user_provided_name).collect::<BTreeSet<_>>()
    };
    eventually("both are listed", async || names().await.len() == 2).await;
    let names = names().await;
    let pid = format!(":{}:", std::process::id());
    for role in ["billing consume ", "billing publish "] {
        assert!(names.iter().any(|name| name.starts_with(role) && name.contains(&pid)), "{names:?}");
    }
}
