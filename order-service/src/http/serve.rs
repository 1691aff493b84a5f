//! Accepts the public API's connections: so many at once, and none that keeps a request to itself for long.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use runtime::shutdown::CancellationToken;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;

/// What the service allows.
pub const LIMITS: Limits =
    Limits { connections: CONNECTIONS, head_within: HEAD_WITHIN, taken_within: TAKEN_WITHIN };
/// Connections at once: twice as many as the service was measured with at four times too much load, and four times as many as
/// requests at once. One more waits in the kernel until another ends.
const CONNECTIONS: usize = 8192;
/// Longest wait for the head of a request, from the answer before it: also how long a connection may rest. Above the minute
/// or minute and a half after which clients and proxies close one themselves, so that they send nothing to one just closed.
const HEAD_WITHIN: Duration = Duration::from_secs(120);
/// Longest wait for a client to take more of its answer. Beyond what the kernel holds, an answer stays in memory until it is taken,
/// and its connection stays with it.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);

/// Bounds of the connections.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many at once.
    pub connections: usize,
    /// Longest wait for the head of a request.
    pub head_within: Duration,
    /// Longest wait for the client to take more of an answer.
    pub taken_within: Duration,
}

/// Serves until `shutdown`; then accepts no more, and ends when every connection has answered the request it was at.
pub async fn serve(mut listener: TcpListener, router: Router, limits: Limits, shutdown: &CancellationToken) {
    let places = Arc::new(Semaphore::new(limits.connections));
    let mut settings = http1::Builder::new();
    settings.timer(TokioTimer::new()).header_read_timeout(limits.head_within);
    let connections = GracefulShutdown::new();
    loop {
        let next = async {
            let place = places.clone().acquire_owned().await.expect("nobody closes it");
            // Failures are the kernel's, such as no file descriptor left: this waits and goes on.
            let (stream, _) = Listener::accept(&mut listener).await;
            (stream, place)
        };
        let (stream, place) = tokio::select! {
            next = next => next,
            () = shutdown.cancelled() => break,
        };
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(limits.taken_within));
        let stream = TokioIo::new(Box::pin(stream));
        let served = settings.serve_connection(stream, TowerToHyperService::new(router.clone()));
        let served = connections.watch(served);
        tokio::spawn(async move {
            if let Err(error) = served.await {
                // Clients go away in the middle of things; that is theirs to know.
                tracing::debug!(%error, "a connection broke off");
            }
            drop(place);
        });
    }
    // Who waits to be accepted is refused, and goes elsewhere.
    drop(listener);
    connections.shutdown().await;
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use axum::extract::State;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::Notify;
    use tokio::task::JoinHandle;
    use tokio::time::timeout;

    use super::*;

    /// Longest wait for what must happen.
    const DEADLINE: Duration = Duration::from_secs(20);
    const QUICK: &[u8] = b"GET /quick HTTP/1.1\r\nhost: shop\r\n\r\n";
    const LARGE: &[u8] = b"GET /large HTTP/1.1\r\nhost: shop\r\n\r\n";
    /// More than the kernel keeps for a connection.
    const LARGE_BYTES: usize = 64 << 20;
    const SLOW: &[u8] = b"GET /slow HTTP/1.1\r\nhost: shop\r\n\r\n";

    /// What the handlers share with a test.
    #[derive(Default)]
    struct Shop {
        requests: AtomicUsize,
        slow_arrived: Notify,
        slow_ends: Notify,
    }

    /// A running server.
    struct Server {
        shop: Arc<Shop>,
        address: SocketAddr,
        stop: CancellationToken,
        serving: JoinHandle<()>,
    }

    async fn start(limits: Limits) -> Server {
        let shop = Arc::new(Shop::default());
        let quick = async |State(shop): State<Arc<Shop>>| {
            shop.requests.fetch_add(1, Ordering::Relaxed);
            "done"
        };
        let slow = async |State(shop): State<Arc<Shop>>| {
            shop.slow_arrived.notify_one();
            shop.slow_ends.notified().await;
            "done"
        };
        let large = async || vec![0; LARGE_BYTES];
        let router = Router::new().route("/quick", get(quick)).route("/slow", get(slow));
        let router = router.route("/large", get(large)).with_state(shop.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, stop) = (listener.local_addr().unwrap(), CancellationToken::new());
        let token = stop.clone();
        let serving = tokio::spawn(async move { serve(listener, router, limits, &token).await });
        Server { shop, address, stop, serving }
    }

    async fn ask(client: &mut TcpStream, request: &[u8]) {
        client.write_all(request).await.unwrap();
    }

    async fn is_answered(client: &mut TcpStream) -> bool {
        let mut buffer = [0; 1024];
        let size = timeout(DEADLINE, client.read(&mut buffer)).await.unwrap().unwrap();
        String::from_utf8_lossy(&buffer[..size]).ends_with("done")
    }

    #[tokio::test]
    async fn a_connection_too_many_is_served_when_another_ends() {
        let server = start(Limits { connections: 1, ..LIMITS }).await;
        let mut first = TcpStream::connect(server.address).await.unwrap();
        ask(&mut first, QUICK).await;
        assert!(is_answered(&mut first).await);
        let mut second = TcpStream::connect(server.address).await.unwrap();
        ask(&mut second, QUICK).await;
        for _ in 0..20 {
            ask(&mut first, QUICK).await;
            assert!(is_answered(&mut first).await);
        }
        assert_eq!(server.shop.requests.load(Ordering::Relaxed), 21, "the second waits");
        drop(first);
        assert!(is_answered(&mut second).await);
    }

    #[tokio::test]
    async fn a_connection_that_does_not_bring_its_request_to_an_end_is_closed() {
        let server = start(Limits { head_within: Duration::from_millis(50), ..LIMITS }).await;
        for unfinished in [b"".as_slice(), &QUICK[..QUICK.len() - 2]] {
            let mut client = TcpStream::connect(server.address).await.unwrap();
            ask(&mut client, unfinished).await;
            let mut rest = Vec::new();
            timeout(DEADLINE, client.read_to_end(&mut rest)).await.unwrap().unwrap();
        }
        assert_eq!(server.shop.requests.load(Ordering::Relaxed), 0);
    }

    #[tokio::test]
    async fn a_connection_that_does_not_take_its_answer_is_closed() {
        let limits = Limits { connections: 1, taken_within: Duration::from_millis(50), ..LIMITS };
        let server = start(limits).await;
        let mut first = TcpStream::connect(server.address).await.unwrap();
        ask(&mut first, LARGE).await;
        let mut second = TcpStream::connect(server.address).await.unwrap();
        ask(&mut second, QUICK).await;
        assert!(is_answered(&mut second).await, "it has the place of the first");
    }

    #[tokio::test]
    async fn a_stop_answers_what_has_arrived_and_takes_no_more() {
        let Server { shop, address, stop, serving } = start(LIMITS).await;
        let mut resting = TcpStream::connect(address).await.unwrap();
        ask(&mut resting, QUICK).await;
        assert!(is_answered(&mut resting).await);
        let mut busy = TcpStream::connect(address).await.unwrap();
        ask(&mut busy, SLOW).await;
        shop.slow_arrived.notified().await;
        stop.cancel();
        assert!(!is_answered(&mut resting).await, "it is closed");
        shop.slow_ends.notify_one();
        assert!(is_answered(&mut busy).await);
        timeout(DEADLINE, serving).await.unwrap().unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }
}
