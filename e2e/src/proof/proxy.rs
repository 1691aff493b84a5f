//! A TCP proxy whose two directions can each be cut, delayed or made lossy, and whose connections can be broken.
//!
//! Written here because nothing kept well fits: noxious (a port of toxiproxy) had its last release in 2021 and neither
//! holds back one direction nor stalls like a lost packet; toxiproxy itself is a second program in another language;
//! this kernel has no netem. What a lost packet does to a TCP stream is that everything behind it waits for the
//! retransmission, and that is what is done here; a cut holds the bytes back as unacknowledged segments would be, so that
//! they arrive, late, once it is healed.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Context;
use bytes::{Bytes, BytesMut};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, MutexGuard, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

/// Largest piece that is passed on at once, in bytes; a few packets.
const CHUNK: usize = 16 * 1024;
/// Pieces under way in one direction: enough for 200 ms of any traffic here; beyond it the sender waits, as on a full window.
const CHUNKS_UNDER_WAY: usize = 256;
/// What a lost packet costs: Linux's minimal retransmission timeout.
const RETRANSMISSION: Duration = Duration::from_millis(200);
/// How long a client may take to say who it is.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause between looks at a greeting that has come in part.
const GREETING_POLL: Duration = Duration::from_millis(5);

/// What one direction is like.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Weather {
    /// Everything passes.
    Fair,
    /// Nothing passes; what was sent arrives afterwards.
    Cut,
    /// Everything is late by this much.
    Late(Duration),
    /// Of a hundred pieces, so many wait for a retransmission, and all behind them wait too.
    Lossy(u32),
}

/// The wire between one client and one server, shared by all connections between them.
#[derive(Clone, Debug)]
pub struct Link(Arc<Wire>);

#[derive(Debug)]
struct Wire {
    to_server: watch::Sender<Weather>,
    to_client: watch::Sender<Weather>,
    /// Raised to break every connection that is open then.
    breaks: watch::Sender<u64>,
    /// Raised to make every connection that is open then swallow whatever it is given.
    forgets: watch::Sender<u64>,
    /// Pieces held back or made late, and connections broken or forgotten.
    touched: AtomicU64,
    /// Seed of the next connection's losses.
    next_seed: AtomicU64,
    /// Held by the fault that makes its weather.
    fault: Mutex<()>,
}

impl Link {
    /// A wire in fair weather; `seed` decides which pieces get lost.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let (to_server, to_client) = (watch::Sender::new(Weather::Fair), watch::Sender::new(Weather::Fair));
        Self(Arc::new(Wire {
            to_server,
            to_client,
            breaks: watch::Sender::new(0),
            forgets: watch::Sender::new(0),
            touched: AtomicU64::new(0),
            next_seed: AtomicU64::new(seed),
            fault: Mutex::new(()),
        }))
    }

    /// For one fault alone, until it is dropped: of two at once, the first that ends would heal the other, and each would
    /// be taken to have been felt where only one was.
    pub async fn claim(&self) -> MutexGuard<'_, ()> {
        self.0.fault.lock().await
    }

    /// Changes the weather of both directions.
    pub fn set(&self, to_server: Weather, to_client: Weather) {
        self.0.to_server.send_replace(to_server);
        self.0.to_client.send_replace(to_client);
    }

    /// Fair weather both ways.
    pub fn heal(&self) {
        self.set(Weather::Fair, Weather::Fair);
    }

    /// Breaks every open connection.
    pub fn reset(&self) {
        self.0.breaks.send_modify(|count| *count += 1);
    }

    /// Makes every open connection swallow what it is given from now on, for as long as it lives: healing does not help it.
    pub fn forget(&self) {
        let open = self.0.forgets.receiver_count();
        self.0.touched.fetch_add(u64::try_from(open).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.0.forgets.send_modify(|count| *count += 1);
    }

    /// How many pieces were held back or made late and how many connections broken or forgotten: what shows that a fault was felt.
    #[must_use]
    pub fn touched(&self) -> u64 {
        self.0.touched.load(Ordering::Relaxed)
    }
}

/// A listening proxy; dropped, it ends with all its connections.
#[derive(Debug)]
pub struct Proxy {
    /// Where it listens on 127.0.0.1.
    pub port: u16,
    task: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Says on which link a new connection is.
pub enum Chooser {
    /// All on one.
    Only(Link),
    /// Of Kafka clients: by their ids.
    ByKafkaClient(Directory),
}

/// Which Kafka client is on which link. Brokers advertise one address, so runs side by side share one proxy and this.
#[derive(Clone, Debug)]
pub struct Directory {
    named: Arc<std::sync::Mutex<HashMap<String, Link>>>,
    other: Link,
}

impl Directory {
    /// Nobody is in it; who is not is on a link of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { named: Arc::default(), other: Link::new(seed) }
    }

    /// From now on clients whose id has `name` at its end, or before a `-`, are on `link`: a client that serves another calls itself
    /// after it, such as `NAME-dead-letters`.
    pub fn enter(&self, name: &str, link: Link) {
        self.named().insert(name.to_owned(), link);
    }

    /// From now on they are not.
    pub fn strike(&self, name: &str) {
        self.named().remove(name);
    }

    fn look_up(&self, id: &str) -> Link {
        let named = self.named();
        named.iter().find(|(name, _)| is_of(id, name)).map_or(&self.other, |(_, link)| link).clone()
    }

    // A map of handles: a panic elsewhere can't leave it half-written.
    fn named(&self) -> std::sync::MutexGuard<'_, HashMap<String, Link>> {
        self.named.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_of(id: &str, name: &str) -> bool {
    id.match_indices(name).any(|(at, _)| {
        let rest = &id[at + name.len()..];
        rest.is_empty() || rest.starts_with('-')
    })
}

impl Proxy {
    /// Listens on `port` of 127.0.0.1 (0 for any that is free) and passes connections on to `server`, a port there too.
    ///
    /// # Errors
    /// When the port is taken.
    pub async fn listen(port: u16, server: u16, chooser: Chooser) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", port))
            .await
            .with_context(|| format!("failed to listen on 127.0.0.1:{port}: does another campaign run?"))?;
        let port = listener.local_addr()?.port();
        let chooser = Arc::new(chooser);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => if let Ok((client, _)) = accepted {
                        connections.spawn(connection(client, server, Arc::clone(&chooser)));
                    },
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Ok(Self { port, task })
    }
}

async fn connection(client: TcpStream, server: u16, chooser: Arc<Chooser>) {
    let link = match &*chooser {
        Chooser::Only(link) => link.clone(),
        Chooser::ByKafkaClient(directory) => {
            let Ok(Some(id)) = tokio::time::timeout(GREETING_TIMEOUT, kafka_client_id(&client)).await else {
                return;
            };
            directory.look_up(&id)
        }
    };
    let wire = &link.0;
    let (mut breaks, forgets) = (wire.breaks.subscribe(), wire.forgets.subscribe());
    let serve = async {
        // A connection can't be made over a wire that is cut either way.
        for weather in [&wire.to_server, &wire.to_client] {
            pass_cut(&mut weather.subscribe(), &wire.touched).await;
        }
        let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
        if client.set_nodelay(true).and_then(|()| server.set_nodelay(true)).is_err() {
            return;
        }
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        tokio::join!(
            direction(from_client, to_server, wire.to_server.subscribe(), &forgets, wire),
            direction(from_server, to_client, wire.to_client.subscribe(), &forgets, wire),
        );
    };
    tokio::select! {
        () = serve => {}
        _ = breaks.changed() => {
            wire.touched.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The client id in the head of the first request, without taking it from the stream.
async fn kafka_client_id(client: &TcpStream) -> Option<String> {
    // length i32, API i16, its version i16, correlation id i32, then the id's length i16
    const HEAD: usize = 14;
    let mut buffer = [0; 512];
    loop {
        let seen = client.peek(&mut buffer).await.ok().filter(|seen| *seen > 0)?;
        if seen >= HEAD {
            let length = usize::try_from(i16::from_be_bytes([buffer[12], buffer[13]])).ok()?;
            if seen >= HEAD + length || seen == buffer.len() {
                let id = buffer.get(HEAD..HEAD + length)?;
                return Some(String::from_utf8_lossy(id).into_owned());
            }
        }
        tokio::time::sleep(GREETING_POLL).await;
    }
}

/// Passes one direction of one connection on until it ends.
async fn direction(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    forgets: &watch::Receiver<u64>,
    wire: &Wire,
) {
    let is_forgotten = || forgets.has_changed().unwrap_or(true);
    let (sender, mut under_way) = mpsc::channel::<(Instant, Bytes)>(CHUNKS_UNDER_WAY);
    let read = async move {
        let mut buffer = BytesMut::with_capacity(CHUNK);
        while from.read_buf(&mut buffer).await.is_ok_and(|count| count > 0) {
            if sender.send((Instant::now(), buffer.split().freeze())).await.is_err() {
                return;
            }
            buffer.reserve(CHUNK);
        }
    };
    // Each half owns its end of the channel: when one gives up, the other ends too. A forgotten connection is not told.
    let write = async move {
        let mut rng = StdRng::seed_from_u64(wire.next_seed.fetch_add(1, Ordering::Relaxed));
        while let Some((sent, chunk)) = under_way.recv().await {
            travel(sent, &mut weather, &wire.touched, &mut rng).await;
            if is_forgotten() {
                continue;
            }
            if to.write_all(&chunk).await.is_err() {
                return;
            }
        }
        if is_forgotten() {
            std::future::pending::<()>().await;
        }
        // The end of a stream is a packet as well.
        pass_cut(&mut weather, &wire.touched).await;
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

/// Waits for as long as the piece that was sent then takes.
async fn travel(
    sent: Instant,
    weather: &mut watch::Receiver<Weather>,
    touched: &AtomicU64,
    rng: &mut StdRng,
) {
    let now = *weather.borrow_and_update();
    match now {
        Weather::Fair | Weather::Cut => {}
        Weather::Late(by) => {
            touched.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep_until(sent + by).await;
        }
        Weather::Lossy(percent) => {
            if rng.random_ratio(percent.min(100), 100) {
                touched.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(RETRANSMISSION).await;
            }
        }
    }
    pass_cut(weather, touched).await;
}

async fn pass_cut(weather: &mut watch::Receiver<Weather>, touched: &AtomicU64) {
    if *weather.borrow_and_update() == Weather::Cut {
        touched.fetch_add(1, Ordering::Relaxed);
        // An error means that the link is gone, and the run with it.
        let _ = weather.wait_for(|weather| *weather != Weather::Cut).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clients_helpers_are_on_its_wire_and_a_longer_number_is_another() {
        for (id, is_on_it) in [
            ("member-a-17", true),
            ("member-a-17-dead-letters", true),
            ("proof-member-a-17", true),
            ("member-a-170", false),
            ("member-a-170-dead-letters", false),
            ("guest-dead-letters", false),
        ] {
            assert_eq!(is_of(id, "member-a-17"), is_on_it, "{id}");
        }
    }
}
