//! `amqps://`.

use std::error::Error as _;
use std::net::TcpListener;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;

use rcgen::BasicConstraints;
use rcgen::CertificateParams;
use rcgen::DnType;
use rcgen::ExtendedKeyUsagePurpose;
use rcgen::IsCa;
use rcgen::Issuer;
use rcgen::KeyPair;
use taskhare::Broker;
use taskhare::Consumer;
use taskhare::Error;
use taskhare::Producer;
use taskhare::Result;
use taskhare::Task;
use taskhare::Tls;
use taskhare::management::Management;
use taskhare::testing::TestBroker;
use taskhare::testing::vhost_of;
use tokio::sync::OnceCell;

#[derive(serde::Serialize, serde::Deserialize)]
struct Echo(String);

impl Task for Echo {
    const NAME: &'static str = "echo";
    type Output = String;
}

/// Who signs.
struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate and its key, as PEM.
struct Signed {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        Self { certificate, issuer: Issuer::new(params, key) }
    }

    fn sign(&self, name: &str, hosts: &[&str], purpose: ExtendedKeyUsagePurpose) -> Signed {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![purpose];
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap().pem();
        Signed { certificate, key: key.serialize_pem() }
    }

    fn client(&self, name: &str) -> Signed {
        self.sign(name, &[], ExtendedKeyUsagePurpose::ClientAuth)
    }
}

/// A broker with TLS, and who signed its certificate.
struct Secure {
    broker: TestBroker,
    port: u16,
    management_port: u16,
    authority: Authority,
    /// Removes the directory with the keys when this process has ended, and its standard input with it.
    _cleaner: Child,
}

impl Secure {
    async fn start() -> Self {
        let authority = Authority::new();
        let server =
            authority.sign("broker", &["localhost", "127.0.0.1"], ExtendedKeyUsagePurpose::ServerAuth);
        let dir = directory();
        let mut cleaner = Command::new("sh");
        cleaner.args(["-c", r#"cat; rm -rf "$1""#, "sh"]).arg(&dir.outside).stdin(Stdio::piped());
        let cleaner = cleaner.spawn().unwrap();
        let write = |name: &str, pem: &str| std::fs::write(dir.outside.join(name), pem).unwrap();
        write("ca.pem", &authority.certificate);
        write("server.pem", &server.certificate);
        write("server.key", &server.key);
        // Both bound at once, so that they differ.
        let [port, management_port] = [(); 2]
            .map(|()| TcpListener::bind("127.0.0.1:0").unwrap())
            .map(|listener| listener.local_addr().unwrap().port());
        let dir = dir.inside.display();
        let conf = format!(
            "listeners.ssl.default = 127.0.0.1:{port}\n\
             ssl_options.cacertfile = {dir}/ca.pem\n\
             ssl_options.certfile = {dir}/server.pem\n\
             ssl_options.keyfile = {dir}/server.key\n\
             ssl_options.verify = verify_peer\n\
             ssl_options.fail_if_no_peer_cert = false\n\
             management.ssl.ip = 127.0.0.1\n\
             management.ssl.port = {management_port}\n\
             management.ssl.cacertfile = {dir}/ca.pem\n\
             management.ssl.certfile = {dir}/server.pem\n\
             management.ssl.keyfile = {dir}/server.key\n\
             management.ssl.verify = verify_peer\n\
             management.ssl.fail_if_no_peer_cert = true\n\
             auth_mechanisms.1 = PLAIN\n\
             auth_mechanisms.2 = EXTERNAL\n\
             ssl_cert_login_from = common_name\n"
        );
        let broker = TestBroker::start_with(&conf).await.unwrap();
        Self { broker, port, management_port, authority, _cleaner: cleaner }
    }

    /// On a virtual host of its own.
    async fn url(&self, host: &str) -> String {
        let url = self.broker.fresh_vhost().await.unwrap();
        let vhost = vhost_of(&url).unwrap().replace('/', "%2F");
        format!("amqps://guest:guest@{host}:{}/{vhost}", self.port)
    }

    fn management(&self, host: &str) -> String {
        format!("https://guest:guest@{host}:{}", self.management_port)
    }

    fn tls(&self) -> Tls {
        Tls::new().root_certificates(self.authority.certificate.as_bytes()).unwrap()
    }
}

/// A directory, as this process and as the broker sees it.
struct Directory {
    outside: PathBuf,
    inside: PathBuf,
}

/// The broker may run in an unpacked system of its own.
fn directory() -> Directory {
    let inside = std::env::temp_dir().join(format!("taskhare-tls-{}", std::process::id()));
    let outside = match std::env::var_os("TASKHARE_TEST_ROOT") {
        Some(root) => Path::new(&root).join(inside.strip_prefix("/").unwrap()),
        None => inside.clone(),
    };
    std::fs::create_dir_all(&outside).unwrap();
    Directory { outside, inside }
}

async fn secure() -> &'static Secure {
    static SECURE: OnceCell<Secure> = OnceCell::const_new();
    SECURE.get_or_init(Secure::start).await
}

/// Runs a task.
async fn work(broker: &Broker) {
    let consumer = Consumer::builder(broker).handler_fn(|task: Echo, _| async move { Ok(task.0) });
    let consumer = consumer.start().await.unwrap();
    let producer = Producer::builder(broker).build().await.unwrap();
    let task = producer.enqueue(Echo("hello".to_owned())).await.unwrap();
    assert_eq!(task.output().await.unwrap(), "hello");
    consumer.shutdown().await;
}

/// An error with its causes.
fn text(error: &Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

async fn fails(url: &str, tls: Tls) -> Error {
    let connected: Result<Broker> = Broker::builder().url(url).tls(tls).connect().await;
    connected.expect_err("it connects")
}

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_enqueued_and_run_by_tls_and_a_lost_connection_is_made_anew() {
    let secure = secure().await;
    for host in ["localhost", "127.0.0.1"] {
        let url = secure.url(host).await;
        let broker = Broker::builder().url(&url).tls(secure.tls()).connect().await.unwrap();
        work(&broker).await;
        let closed = secure.broker.management().close_connections(&vhost_of(&url).unwrap()).await.unwrap();
        assert!(closed > 0);
        work(&broker).await;
        broker.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_cannot_prove_who_it_is_gets_nothing() {
    let secure = secure().await;
    let url = secure.url("localhost").await;
    let stranger = Tls::new().root_certificates(Authority::new().certificate.as_bytes()).unwrap();
    for (tls, expected) in [
        (stranger, "invalid peer certificate"),
        (secure.tls().server_name("elsewhere.example"), "elsewhere.example"),
    ] {
        let error = text(&fails(&url, tls).await);
        assert!(error.contains(expected), "{error}");
    }
    // This system does not know our authority; a bare one may know none at all.
    let error = fails(&url, Tls::new()).await;
    assert!(matches!(error, Error::Connect { .. } | Error::InvalidSetting { setting: "tls", .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_goes_out_in_plain_text_that_was_to_go_by_tls() {
    let secure = secure().await;
    let plain = secure.broker.url();
    let error = fails(&plain, secure.tls()).await;
    assert!(matches!(error, Error::InvalidSetting { setting: "tls", .. }), "{error}");
    let error = fails(&plain.replace("amqp://", "amqps://"), secure.tls()).await;
    assert!(matches!(error, Error::Connect { .. }), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_management_api_is_asked_by_tls_and_only_if_it_proves_who_it_is() {
    let secure = secure().await;
    let Signed { certificate, key } = secure.authority.client("operator");
    let known = |tls: Tls| tls.client_certificate(certificate.as_bytes(), key.as_bytes()).unwrap();
    let ask = async |url: &str, tls: Tls| {
        let client = Management::builder(url).tls(tls).build()?;
        client.connections().await
    };
    for host in ["localhost", "127.0.0.1"] {
        ask(&secure.management(host), known(secure.tls())).await.unwrap();
    }
    let url = secure.management("localhost");
    let stranger = Tls::new().root_certificates(Authority::new().certificate.as_bytes()).unwrap();
    for (what, tls) in [("broker", known(stranger)), ("client", secure.tls())] {
        let error = ask(&url, tls).await.unwrap_err();
        assert!(matches!(error, Error::Connect { .. }), "an unknown {what}: {error}");
    }
    for (url, tls) in [
        (url.replace("https://", "http://"), secure.tls()),
        (format!("{url},http://localhost"), secure.tls()),
        (url, secure.tls().server_name("elsewhere.example")),
    ] {
        let error = ask(&url, tls).await.unwrap_err();
        assert!(matches!(error, Error::InvalidSetting { setting: "tls", .. }), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_is_a_login() {
    let secure = secure().await;
    let (url, user) = (secure.url("localhost").await, "tls-client");
    let vhost = vhost_of(&url).unwrap();
    secure.broker.rabbitmqctl(["add_user", user, "unused"]).await.unwrap();
    secure.broker.rabbitmqctl(["set_permissions", "-p", &vhost, user, ".*", ".*", ".*"]).await.unwrap();
    let with = |authority: &Authority, name: &str| {
        let Signed { certificate, key } = authority.client(name);
        secure
            .tls()
            .client_certificate(certificate.as_bytes(), key.as_bytes())
            .unwrap()
            .login_by_certificate()
    };
    // The login of the URL does not count.
    let url = url.replace("guest:guest", "nobody:wrong");
    let broker = Broker::builder().url(&url).tls(with(&secure.authority, user)).connect().await.unwrap();
    work(&broker).await;
    let users = secure.broker.rabbitmqctl(["list_connections", "user"]).await.unwrap();
    assert!(users.lines().any(|line| line == user), "{users}");
    broker.close().await;
    let error = fails(&url, with(&secure.authority, "a-stranger")).await;
    assert!(matches!(error, Error::Login { .. }), "{error}");
    let error = fails(&url, with(&Authority::new(), user)).await;
    assert!(matches!(error, Error::Connect { .. } | Error::Login { .. }), "{error}");
}
