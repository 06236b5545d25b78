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
use crate::testing::error::Error;
use crate::testing::error::Result;

/// What is wrong with the network. A change takes effect at once, on open connections too.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// Nothing.
    #[default]
    None,
    /// Everything takes so much longer, each way.
    Delay(Duration),
    /// What is sent vanishes, both ways, and the connections stay open: only a heartbeat can tell. What was dropped
    /// does not come later, so a connection is useless after it.
    Drop,
    /// Nothing is read any more, so that the sender's buffers fill: for write timeouts. It comes later, whole.
    Stall,
    /// Open connections are reset (RST); new ones are accepted and then reset.
    Reset,
    /// Open connections are closed (FIN); new ones are accepted and then closed.
    Close,
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
    let _counted = Counted::new(switch.open.clone());
    let Some(injected) = switch.injected.upgrade().map(|sender| sender.subscribe()) else { return };
    let _ = (client.set_nodelay(true), broker.set_nodelay(true));
    let (from_client, mut to_client) = client.into_split();
    let (from_broker, mut to_broker) = broker.into_split();
    let mut ended = switch.fault.clone();
    tokio::select! {
        () = copy(&from_client, &mut to_broker, switch.fault.clone(), None) => {}
        () = copy(&from_broker, &mut to_client, switch.fault, Some(injected)) => {}
        _ = ended.wait_for(is_end) => {}
    }
    let fault = *ended.borrow();
    for stream in [from_client.reunite(to_client), from_broker.reunite(to_broker)].into_iter().flatten() {
        end(&stream, fault);
    }
}

async fn copy(
    from: &OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mut fault: watch::Receiver<Fault>,
    mut injected: Option<broadcast::Receiver<Arc<[u8]>>>,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        // Takes nothing before it wins below, so that an injection loses nothing.
        let readable = async {
            fault.wait_for(|fault| *fault != Fault::Stall).await.ok()?;
            from.readable().await.ok()
        };
        let injection = async {
            match injected.as_mut() {
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
            outcome = readable => {
                if outcome.is_none() { return }
                let now = *fault.borrow();
                if now == Fault::Stall { continue }
                let count = match from.try_read(&mut buffer) {
                    Ok(0) => return,
                    Ok(count) => count,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                    Err(_) => return,
                };
                match now {
                    Fault::Drop => continue,
                    Fault::Delay(delay) => tokio::time::sleep(delay).await,
                    _ => {}
                }
                if to.write_all(&buffer[..count]).await.is_err() { return }
            }
        }
    }
}
