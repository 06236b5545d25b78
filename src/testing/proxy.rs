//! [`Proxy`]: a network that fails on command.

use std::future::pending;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::broadcast;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::testing::address::Address;
use crate::testing::confirms::Confirms;
use crate::testing::confirms::Fate;
use crate::testing::error::Error;
use crate::testing::error::Result;

/// What is wrong with the network. A change takes effect at once, on open connections too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Everything takes so much longer, each way; up to twice as long for what follows closely.
    Delay(Duration),
    /// Everything takes longer, each way, by a random time up to this. The order stays.
    Jitter(Duration),
    /// So many bytes a second each way, on each connection.
    Bandwidth(u32),
    /// What is sent vanishes, both ways, and the connections stay open: only a heartbeat can tell. What was dropped
    /// does not come later, so a connection is useless after it.
    Drop,
    /// As [`Drop`](Self::Drop), of what clients send: they still hear the broker.
    DropToBroker,
    /// As [`Drop`](Self::Drop), of what the broker sends: it still hears its clients.
    DropToClient,
    /// The broker's end of each connection is closed, and its client hears nothing of that, nor anything else, until
    /// this ends: then it is reset. So is a new connection, which reaches no broker.
    HalfOpen,
    /// Nothing is read any more, so that the sender's buffers fill: for write timeouts. It comes later, whole.
    Stall,
    /// Open connections are reset (RST); new ones are accepted and then reset.
    Reset,
    /// Open connections are closed (FIN); new ones are accepted and then closed.
    Close,
    /// The broker's confirms of publishes (`basic.ack`, `basic.nack`) come when this ends, and everything else flows,
    /// heartbeats too. Those of a channel that is closed meanwhile never come. Not through TLS.
    HoldConfirms,
    /// As [`HoldConfirms`](Self::HoldConfirms), and they never come; but a later confirm may be of several, those among
    /// them.
    LoseConfirms,
}

/// A TCP proxy in front of a broker whose network fails as the test wants.
///
/// ```no_run
/// # async fn example() -> taskhare::testing::Result<()> {
/// use taskhare::testing::Fault;
/// use taskhare::testing::Proxy;
/// use taskhare::testing::TestBroker;
///
/// let url = TestBroker::shared().await?.fresh_vhost().await?;
/// let proxy = Proxy::start(&url).await?;
/// let url = proxy.url(&url)?; // what the code under test connects to
/// proxy.set(Fault::Reset);
/// # Ok(()) }
/// ```
///
/// It runs on the runtime that started it. Dropping it closes every connection and refuses new ones.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    fault: watch::Sender<Fault>,
    injected: broadcast::Sender<Arc<[u8]>>,
    open: Arc<AtomicUsize>,
    listener: AbortHandle,
}

impl Proxy {
    /// Starts one on a free port of the loopback, in front of the broker of the AMQP URL `upstream`.
    ///
    /// # Errors
    ///
    /// If `upstream` is not a URL, or no port is free.
    pub async fn start(upstream: &str) -> Result<Self> {
        let upstream = Address::parse(upstream)?.host_and_port();
        let bind = async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            Ok((listener.local_addr()?, listener))
        };
        let (address, listener) =
            bind.await.map_err(|error: std::io::Error| Error::because("cannot listen")(error))?;
        let (fault, _) = watch::channel(Fault::None);
        let (injected, _) = broadcast::channel(64);
        let open = Arc::new(AtomicUsize::new(0));
        let switch = Switch { fault: fault.subscribe(), injected: injected.downgrade(), open: open.clone() };
        let listener = tokio::spawn(accept(listener, upstream, switch)).abort_handle();
        Ok(Self { address, fault, injected, open, listener })
    }

    /// The AMQP URL `url` with the proxy's host and port.
    ///
    /// # Errors
    ///
    /// If `url` is not a URL.
    pub fn url(&self, url: &str) -> Result<String> {
        let address = Address::parse(url)?;
        Ok(Address { host: self.address.ip().to_string(), port: self.address.port(), ..address }.url())
    }

    /// From now on, `fault`.
    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Writes `bytes` to every client as if the broker had sent them, whatever the fault. They land between two reads
    /// from the broker: on a quiet connection between two frames, on a busy one perhaps within one.
    pub fn inject(&self, bytes: &[u8]) {
        // An error means that nobody is connected.
        let _ = self.injected.send(bytes.into());
    }

    /// How many connections are open through it.
    pub fn connections(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

/// What each connection holds of the proxy; all of it ends when the proxy is dropped.
#[derive(Clone)]
struct Switch {
    fault: watch::Receiver<Fault>,
    injected: broadcast::WeakSender<Arc<[u8]>>,
    open: Arc<AtomicUsize>,
}

/// Counts a connection for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(open: Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::SeqCst);
        Self(open)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn accept(listener: TcpListener, upstream: String, switch: Switch) {
    while let Ok((client, _)) = listener.accept().await {
        let (upstream, switch) = (upstream.clone(), switch.clone());
        tokio::spawn(async move {
            let fault = *switch.fault.borrow();
            if is_end(&fault) {
                return end(&client, fault);
            }
            let _counted = Counted::new(switch.open.clone());
            if fault == Fault::HalfOpen {
                return orphan(client, switch.fault).await;
            }
            if let Ok(broker) = TcpStream::connect(upstream).await {
                pipe(client, broker, switch).await;
            }
        });
    }
}

fn is_end(fault: &Fault) -> bool {
    matches!(fault, Fault::Reset | Fault::Close)
}

/// What the drop of a stream, which follows, is to look like to its peer.
fn end(stream: &TcpStream, fault: Fault) {
    if fault == Fault::Reset {
        // Without it the peer sees a FIN: still the end.
        let _ = stream.set_zero_linger();
    }
}

async fn pipe(client: TcpStream, broker: TcpStream, switch: Switch) {
    let Some(injected) = switch.injected.upgrade().map(|sender| sender.subscribe()) else { return };
    let _ = (client.set_nodelay(true), broker.set_nodelay(true));
    let (from_client, mut to_client) = client.into_split();
    let (from_broker, mut to_broker) = broker.into_split();
    let mut ended = switch.fault.clone();
    let to_broker_way = Way { confirms: None, injected: None };
    let to_client_way = Way { confirms: Some(Confirms::default()), injected: Some(injected) };
    tokio::select! {
        () = copy(&from_client, &mut to_broker, switch.fault.clone(), to_broker_way) => {}
        () = copy(&from_broker, &mut to_client, switch.fault, to_client_way) => {}
        _ = ended.wait_for(|fault| is_end(fault) || *fault == Fault::HalfOpen) => {}
    }
    let fault = *ended.borrow();
    let streams = (from_client.reunite(to_client), from_broker.reunite(to_broker));
    let (Ok(client), Ok(broker)) = streams else { return };
    if fault == Fault::HalfOpen {
        drop(broker);
        return orphan(client, ended).await;
    }
    end(&client, fault);
    end(&broker, fault);
}

/// A client whose broker is gone, until it is told.
async fn orphan(client: TcpStream, mut fault: watch::Receiver<Fault>) {
    // An error means that the proxy is dropped.
    let _ = fault.wait_for(|fault| *fault != Fault::HalfOpen).await;
    end(&client, Fault::Reset);
}

/// What is special on the way to the client, and nothing on the way to the broker.
struct Way {
    confirms: Option<Confirms>,
    injected: Option<broadcast::Receiver<Arc<[u8]>>>,
}

impl Way {
    fn drops(&self, fault: Fault) -> bool {
        match self.confirms {
            Some(_) => matches!(fault, Fault::Drop | Fault::DropToClient),
            None => matches!(fault, Fault::Drop | Fault::DropToBroker),
        }
    }

    /// What of `bytes` goes on under `fault`.
    fn pass(&mut self, fault: Fault, bytes: &[u8]) -> Vec<u8> {
        let passed = match &mut self.confirms {
            Some(confirms) => confirms.pass(fault.fate_of_confirms(), bytes),
            None => bytes.to_vec(),
        };
        if self.drops(fault) { Vec::new() } else { passed }
    }
}

impl Fault {
    fn fate_of_confirms(self) -> Fate {
        match self {
            Self::HoldConfirms => Fate::Wait,
            Self::LoseConfirms => Fate::Vanish,
            _ => Fate::Pass,
        }
    }

    /// How long `count` bytes are kept back.
    fn delay(self, count: usize) -> Duration {
        match self {
            Self::Delay(delay) => delay,
            Self::Jitter(longest) => longest.mul_f64(fastrand::f64()),
            Self::Bandwidth(rate) => Duration::from_secs_f64(count as f64 / f64::from(rate.max(1))),
            _ => Duration::ZERO,
        }
    }

    /// How much is read at a time, of what `room` there is: a twentieth of a second's, so that it flows.
    fn portion(self, room: usize) -> usize {
        match self {
            Self::Bandwidth(rate) => (rate as usize / 20).clamp(1, room),
            _ => room,
        }
    }
}

async fn copy(
    from: &OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mut fault: watch::Receiver<Fault>,
    mut way: Way,
) {
    let mut buffer = vec![0; 64 * 1024];
    let mut changes = fault.clone();
    loop {
        // Takes nothing before it wins below, so that an injection loses nothing.
        let readable = async {
            fault.wait_for(|fault| *fault != Fault::Stall).await.ok()?;
            from.readable().await.ok()
        };
        let injection = async {
            match way.injected.as_mut() {
                Some(injected) => injected.recv().await.ok(),
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            bytes = injection => {
                let Some(bytes) = bytes else { return };
                if to.write_all(&bytes).await.is_err() { return }
            }
            change = changes.changed() => {
                if change.is_err() { return }
                let now = *changes.borrow_and_update();
                // The confirms that waited.
                if to.write_all(&way.pass(now, &[])).await.is_err() { return }
            }
            outcome = readable => {
                if outcome.is_none() { return }
                let now = *fault.borrow();
                if now == Fault::Stall { continue }
                let portion = now.portion(buffer.len());
                let count = match from.try_read(&mut buffer[..portion]) {
                    Ok(0) => return,
                    Ok(count) => count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Err(_) => return,
                };
                let bytes = way.pass(now, &buffer[..count]);
                tokio::time::sleep(now.delay(count)).await;
                if to.write_all(&bytes).await.is_err() { return }
            }
        }
    }
}
