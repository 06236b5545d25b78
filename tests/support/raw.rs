//! [`RawClient`]: AMQP 0-9-1 by hand, to send what a proper client cannot. Included by `#[path]`.

use std::io;

use tokio::io::AsyncReadExt;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

type Method = (u16, u16);

const START: Method = (10, 10);
const START_OK: Method = (10, 11);
const TUNE: Method = (10, 30);
const TUNE_OK: Method = (10, 31);
const OPEN: Method = (10, 40);
const OPEN_OK: Method = (10, 41);
const CHANNEL_OPEN: Method = (20, 10);
const CHANNEL_OPEN_OK: Method = (20, 11);
const CHANNEL_CLOSE: Method = (20, 40);
const CHANNEL_CLOSE_OK: Method = (20, 41);
const QOS: Method = (60, 10);
const QOS_OK: Method = (60, 11);
const PUBLISH: Method = (60, 40);
const ACK: Method = (60, 80);
const CONFIRM_SELECT: Method = (85, 10);
const CONFIRM_SELECT_OK: Method = (85, 11);

const METHOD_FRAME: u8 = 1;
const HEADER_FRAME: u8 = 2;
const BODY_FRAME: u8 = 3;
const FRAME_END: u8 = 0xCE;
/// The property flag of `headers`.
const HEADERS: u16 = 1 << 13;

/// One connection with one channel.
pub(crate) struct RawClient {
    stream: TcpStream,
    frame_max: usize,
}

impl RawClient {
    /// Logs in and opens channel 1.
    pub(crate) async fn connect(url: &str) -> io::Result<Self> {
        let uri = fluent_uri::Uri::parse(url).map_err(io::Error::other)?;
        let authority = uri.authority().ok_or(io::ErrorKind::InvalidInput)?;
        let login = authority.userinfo().map(|it| it.split_once(':').unwrap_or((it, it)));
        let (user, password) = login.ok_or(io::ErrorKind::InvalidInput)?;
        let vhost = taskhare::testing::vhost_of(url).map_err(io::Error::other)?;
        let address = format!("{}:{}", authority.host(), authority.port_to_u16().unwrap().unwrap_or(5672));

        let stream = TcpStream::connect(address).await?;
        let mut client = Self { stream, frame_max: 4096 };
        client.stream.write_all(b"AMQP\x00\x00\x09\x01").await?;
        client.expect(START).await?;
        let plain = format!("\0{}\0{}", user.decode().to_string_lossy(), password.decode().to_string_lossy());
        let start_ok = [&table(&[])[..], &short("PLAIN"), &long(plain.as_bytes()), &short("en_US")].concat();
        client.send(0, START_OK, &start_ok).await?;
        let tune = client.expect(TUNE).await?;
        client.frame_max = u32::from_be_bytes([tune[2], tune[3], tune[4], tune[5]]) as usize;
        // What the broker offers, and no heartbeat.
        client.send(0, TUNE_OK, &[&tune[..6], &[0, 0]].concat()).await?;
        client.send(0, OPEN, &[&short(&vhost)[..], &short(""), &[0]].concat()).await?;
        client.expect(OPEN_OK).await?;
        client.send(1, CHANNEL_OPEN, &short("")).await?;
        client.expect(CHANNEL_OPEN_OK).await?;
        Ok(client)
    }

    /// Publishes with no property but `headers`, a whole table as it goes over the wire: see [`table`].
    pub(crate) async fn publish(
        &mut self,
        exchange: &str,
        key: &str,
        headers: &[u8],
        body: &[u8],
    ) -> io::Result<()> {
        self.publish_raw(exchange, key, &[&HEADERS.to_be_bytes()[..], headers].concat(), body).await
    }

    /// Publishes with `properties` as they go over the wire: two bytes of flags, then what these announce.
    pub(crate) async fn publish_raw(
        &mut self,
        exchange: &str,
        key: &str,
        properties: &[u8],
        body: &[u8],
    ) -> io::Result<()> {
        self.send(1, PUBLISH, &[&[0, 0][..], &short(exchange), &short(key), &[0]].concat()).await?;
        let length = (body.len() as u64).to_be_bytes();
        let header = [&PUBLISH.0.to_be_bytes()[..], &[0, 0], &length, properties].concat();
        self.frame(HEADER_FRAME, 1, &header).await?;
        for part in body.chunks(self.frame_max - 8) {
            self.frame(BODY_FRAME, 1, part).await?;
        }
        Ok(())
    }

    /// From now on the broker confirms what is published.
    pub(crate) async fn confirm_select(&mut self) -> io::Result<()> {
        self.send(1, CONFIRM_SELECT, &[0]).await?;
        self.expect(CONFIRM_SELECT_OK).await.map(drop)
    }

    /// The delivery tag of the next confirm, which must come before anything else.
    pub(crate) async fn confirm(&mut self) -> io::Result<u64> {
        let arguments = self.expect(ACK).await?;
        Ok(u64::from_be_bytes(arguments[..8].try_into().unwrap()))
    }

    /// Asks the broker for something that it answers and that changes nothing.
    pub(crate) async fn ping(&mut self) -> io::Result<()> {
        self.send(1, QOS, &[0; 7]).await?;
        self.expect(QOS_OK).await.map(drop)
    }

    /// Closes the channel: once this is `Ok`, the broker has dealt with all that was published. What the broker has
    /// against it is the error.
    pub(crate) async fn close(mut self) -> io::Result<()> {
        let close = [&200u16.to_be_bytes()[..], &short("bye"), &[0; 4]].concat();
        self.send(1, CHANNEL_CLOSE, &close).await?;
        self.expect(CHANNEL_CLOSE_OK).await.map(drop)
    }

    async fn send(&mut self, channel: u16, method: Method, arguments: &[u8]) -> io::Result<()> {
        let (class, id) = method;
        let payload = [&class.to_be_bytes()[..], &id.to_be_bytes(), arguments].concat();
        self.frame(METHOD_FRAME, channel, &payload).await
    }

    async fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) -> io::Result<()> {
        let size = (payload.len() as u32).to_be_bytes();
        let frame = [&[kind][..], &channel.to_be_bytes(), &size, payload, &[FRAME_END]].concat();
        self.stream.write_all(&frame).await
    }

    /// The arguments of the next method, which must be `wanted`.
    async fn expect(&mut self, wanted: Method) -> io::Result<Vec<u8>> {
        loop {
            let mut head = [0; 7];
            self.stream.read_exact(&mut head).await?;
            let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
            let mut rest = vec![0; size + 1];
            self.stream.read_exact(&mut rest).await?;
            if head[0] != METHOD_FRAME {
                continue;
            }
            let got = (u16::from_be_bytes([rest[0], rest[1]]), u16::from_be_bytes([rest[2], rest[3]]));
            if got == wanted {
                return Ok(rest[4..size].to_vec());
            }
            return Err(io::Error::other(format!("{got:?}: {}", String::from_utf8_lossy(&rest[4..size]))));
        }
    }
}

/// A table as it goes over the wire, of fields whose names, types and values may be anything.
pub(crate) fn table(fields: &[(&[u8], u8, &[u8])]) -> Vec<u8> {
    let fields: Vec<Vec<u8>> = fields
        .iter()
        .map(|(name, kind, value)| [&[name.len() as u8], *name, &[*kind], *value].concat())
        .collect();
    long(&fields.concat())
}

/// A long string (type `S`, also a byte array, `x`) as it goes over the wire.
pub(crate) fn long(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u32).to_be_bytes(), bytes].concat()
}

/// A short string, of at most 255 bytes, as it goes over the wire.
pub(crate) fn short(text: &str) -> Vec<u8> {
    [&[text.len() as u8], text.as_bytes()].concat()
}
