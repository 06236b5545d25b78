//! Passwords are in no log, no error and no `Debug`. A binary of its own: it listens to all that its process logs, of
//! the lowest level and of all crates.
//!
//! What the client library would log at its lowest level does hold the login, so it is built without that: see
//! `docs/security.md`.

#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Error;
use taskhare::Producer;
use taskhare::Scheduler;
use taskhare::Task;
use taskhare::management::Management;
use taskhare::testing::Proxy;
use taskhare::testing::TestBroker;
use taskhare::testing::vhost_of;
use tracing::Level;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::FmtSpan;

const USER: &str = "keeper";
/// The right one, and a wrong one. Not as they stand in a URL.
const PASSWORDS: [&str; 2] = ["se/cr:et@7#hare", "wr/on:g@7#hare"];
/// The same in a URL.
const ENCODED: [&str; 2] = ["se%2Fcr%3Aet%407%23hare", "wr%2Fon%3Ag%407%23hare"];

#[derive(serde::Serialize, serde::Deserialize)]
struct Echo(u32);

impl Task for Echo {
    const NAME: &'static str = "echo";
    type Output = u32;
}

/// All that was logged or shown.
#[derive(Clone, Default)]
struct Shown(Arc<Mutex<Vec<u8>>>);

impl Shown {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }

    fn show(&self, thing: &impl Debug) {
        self.write(&format!("{thing:?}\n{thing:#?}\n"));
    }

    /// With all of its causes.
    fn fails<T>(&self, outcome: Result<T, Error>) {
        let error = outcome.err().expect("it cannot succeed");
        let mut cause: Option<&dyn std::error::Error> = Some(&error);
        while let Some(error) = cause {
            self.write(&format!("{error}\n{error:?}\n{error:#?}\n"));
            cause = error.source();
        }
    }

    fn write(&self, text: &str) {
        self.0.lock().unwrap().extend_from_slice(text.as_bytes());
    }

    async fn tells(&self, word: &str, times: usize) {
        let told = async {
            while self.text().matches(word).count() < times {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        assert!(tokio::time::timeout(Duration::from_secs(60), told).await.is_ok(), "{word}: {}", self.text());
    }
}

impl io::Write for Shown {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(text);
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Shown {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// All that a password may look like.
fn disguises(password: &str) -> Vec<String> {
    let encoded = ENCODED[PASSWORDS.iter().position(|known| *known == password).unwrap()];
    let mut disguises = vec![password.to_owned(), encoded.to_owned()];
    // As HTTP and AMQP log in; the text before it shifts what base64 makes of it.
    for login in [format!("{USER}:{password}"), format!("\0{USER}\0{password}"), password.to_owned()] {
        disguises.push(base64(login.as_bytes()));
    }
    let bytes: Vec<String> = password.bytes().map(|byte| byte.to_string()).collect();
    disguises.push(bytes.join(", "));
    disguises
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    // Whole groups only: the last digits depend on what follows.
    let groups = bytes.chunks_exact(3).map(|group| {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        [18, 12, 6, 0].map(|shift| char::from(DIGITS[(bits >> shift & 63) as usize]))
    });
    groups.flatten().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_password_is_logged_or_shown_whatever_goes_wrong() {
    let shown = Shown::default();
    let format = tracing_subscriber::fmt().with_writer(shown.clone()).with_ansi(false);
    format.with_max_level(Level::TRACE).with_span_events(FmtSpan::FULL).init();
    let lab = TestBroker::shared().await.unwrap();
    let vhost = vhost_of(&lab.fresh_vhost().await.unwrap()).unwrap();
    let url = lab.add_user(USER, PASSWORDS[0], ".*", ".*", ".*", &vhost).await.unwrap();
    let wrong = url.replace(ENCODED[0], ENCODED[1]);
    assert!(url.contains(ENCODED[0]) && wrong.contains(ENCODED[1]), "they are what the URL holds");

    works(&shown, lab, &url, &vhost).await;
    cannot_connect(&shown, &url, &wrong).await;
    #[cfg(feature = "tls")]
    cannot_connect_by_tls(&shown, &url).await;
    management(&shown, lab, &wrong).await;
    testing(&shown, lab, &url).await;

    let text = shown.text();
    for expected in ["connected", "connection lost", USER, "refused the login", "BrokerBuilder", "Endpoint"] {
        assert!(text.contains(expected), "it listens: {expected}\n{text}");
    }
    for password in PASSWORDS {
        for disguise in disguises(password) {
            let found = text.lines().find(|line| line.contains(&disguise));
            assert!(found.is_none(), "{disguise} in: {found:?}");
        }
    }
}

/// Everything that there is works, loses its connections, and is closed.
async fn works(shown: &Shown, lab: &TestBroker, url: &str, vhost: &str) {
    shown.show(&Broker::builder().url(url));
    let broker = Broker::builder().url(url).connect().await.unwrap();
    shown.show(&broker);
    let builder = Consumer::builder(&broker).handler_fn(|echo: Echo, _| async move { Ok(echo.0) });
    shown.show(&builder);
    let consumer = builder.start().await.unwrap();
    shown.show(&consumer);
    let builder = Producer::builder(&broker);
    shown.show(&builder);
    let producer = builder.build().await.unwrap();
    shown.show(&producer);
    let builder = Scheduler::builder(&broker);
    shown.show(&builder);
    let scheduler = builder.start().await.unwrap();
    shown.show(&scheduler);
    shown.show(&producer.enqueue(Echo(1)));
    assert_eq!(producer.enqueue(Echo(1)).await.unwrap().output().await.unwrap(), 1);
    let closed = async || lab.management().close_connections(vhost).await.unwrap() > 0;
    while !closed().await {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    shown.tells("connection lost", 1).await;
    assert_eq!(producer.enqueue(Echo(2)).await.unwrap().output().await.unwrap(), 2);
    scheduler.shutdown().await;
    consumer.shutdown().await;
    broker.close().await;
    shown.fails(producer.enqueue(Echo(3)).await);
}

async fn cannot_connect(shown: &Shown, url: &str, wrong: &str) {
    let path = |path: &str| format!("{}/{path}", url.rsplit_once('/').unwrap().0);
    let host = |host: &str| format!("{}@{host}/", url.rsplit_once('@').unwrap().0);
    for url in [
        wrong.to_owned(),
        path("no-such-vhost"),
        path("v?unknown=1"),
        path("v?heartbeat=never"),
        path("v/w"),
        host("127.0.0.1:1"),
        host("no-such-host.invalid"),
        host("127.0.0.1:99999"),
        host("ho%st"),
        url.replace("amqp://", "http://"),
        url.replace("amqp://", "amqp:"),
        url.replace(ENCODED[0], PASSWORDS[0]),
        url.replace('@', "%zz@"),
        format!("{url},"),
    ] {
        shown.fails(Broker::connect(&url).await);
    }
}

/// No broker answers there by TLS.
#[cfg(feature = "tls")]
async fn cannot_connect_by_tls(shown: &Shown, url: &str) {
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate =
        rcgen::CertificateParams::new(vec!["client".to_owned()]).unwrap().self_signed(&key).unwrap();
    let (certificate, pem) = (certificate.pem(), key.serialize_pem());
    let tls = taskhare::Tls::new().root_certificates(certificate.as_bytes()).unwrap();
    let tls = tls.client_certificate(certificate.as_bytes(), pem.as_bytes()).unwrap();
    shown.show(&tls);
    let builder = || Broker::builder().tls(tls.clone());
    shown.show(&builder());
    shown.fails(builder().url(url).connect().await);
    shown.fails(builder().url(&url.replace("amqp://", "amqps://")).connect().await);
    let text = shown.text();
    let secret = pem.lines().nth(1).unwrap();
    assert!(!text.contains(secret), "the key is shown");
}

async fn management(shown: &Shown, lab: &TestBroker, wrong: &str) {
    let place = lab.management().place().strip_prefix("http://").unwrap().to_owned();
    let login = wrong.strip_prefix("amqp://").unwrap().split_once('@').unwrap().0;
    for url in [
        format!("http://{login}@{place}"),
        format!("http://{login}@127.0.0.1:1"),
        format!("http://{login}@no-such-host.invalid"),
    ] {
        let builder = Management::builder(&url);
        shown.show(&builder);
        let client = builder.build().unwrap();
        shown.show(&client);
        shown.fails(client.connections().await);
    }
    for url in
        [format!("ftp://{login}@{place}"), format!("http://{login}@{place}?q=1"), format!("https:{login}")]
    {
        shown.fails(Management::builder(&url).build());
    }
}

async fn testing(shown: &Shown, lab: &TestBroker, url: &str) {
    let proxy = Proxy::start(url).await.unwrap();
    shown.show(&proxy);
    shown.show(lab);
    shown.show(lab.management());
    let given = taskhare::testing::Management::new("http://localhost:1", USER, PASSWORDS[0]).unwrap();
    shown.show(&given);
    for error in [
        given.get("/overview").await.unwrap_err(),
        vhost_of(&url.replace("amqp:", "ftp:")).unwrap_err(),
        Proxy::start(&url.replace("amqp:", "ftp:")).await.unwrap_err(),
    ] {
        shown.write(&format!("{error}\n{error:?}\n"));
    }
}
