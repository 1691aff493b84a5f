//! A database that vanishes without a word: connections that carry nothing any more and never break.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::join_all;
use reqwest::StatusCode;
use runtime::shutdown::CancellationToken;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::harness::{bench, until};

/// A lane gives a silent server up after 2 s where it begins; the relay waits longest, for a statement as long as one may take.
const BACK_WITHIN: Duration = Duration::from_secs(20);

/// Of the pool for requests.
const CONNECTIONS: u32 = 4;

/// A way to the database whose connections can be made to swallow whatever they are given.
struct Way {
    address: SocketAddr,
    /// Cancelled for the connections that are open when the server vanishes.
    vanished: Arc<Mutex<CancellationToken>>,
}

impl Way {
    async fn to(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let vanished = Arc::new(Mutex::new(CancellationToken::new()));
        let current = vanished.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, vanished) = (server.clone(), current.lock().await.clone());
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(server).await else { return };
                    let ((from_client, to_client), (from_server, to_server)) =
                        (client.into_split(), server.into_split());
                    tokio::join!(
                        carry(from_client, to_server, &vanished),
                        carry(from_server, to_client, &vanished)
                    );
                });
            }
        });
        Self { address, vanished }
    }

    /// Connections that are open now carry nothing any more; new ones work.
    async fn vanish(&self) {
        let mut vanished = self.vanished.lock().await;
        std::mem::take(&mut *vanished).cancel();
    }
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    vanished: &CancellationToken,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(size @ 1..) = from.read(&mut buffer).await {
        if !vanished.is_cancelled() && to.write_all(&buffer[..size]).await.is_err() {
            break;
        }
    }
    // Neither side may learn that the other is gone.
    if vanished.is_cancelled() {
        std::future::pending::<()>().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_vanished_without_a_word_is_given_up_and_everything_goes_on_with_its_successor() {
    bench(Some(3), async |bench| {
        let mut config = bench.config("a");
        let url = config.database.database_url.expose().to_owned();
        let (server, database) = url.rsplit_once('@').unwrap().1.split_once('/').unwrap();
        let way = Way::to(server.to_owned()).await;
        config.database.database_url = format!("postgres://postgres@{}/{database}", way.address).into();
        config.http.http_timeout = Duration::from_secs(2);
        // The one lane there is has a connection to lose.
        config.writer.writer_lanes = NonZeroU32::MIN;
        config.database.database_max_connections = CONNECTIONS;
        let shop = bench.start_with(config).await;
        shop.load(&[("p1", 100, 1000)], &[]).await;
        let before = shop.placed("p1").await;
        bench.until_published().await;

        // Requests that hold all connections of the pool, so that what is given up with them is seen to be replaced.
        let mut holder = bench.pool.begin().await.unwrap();
        let lock = sqlx::query("select from orders where id = $1 for update")
            .bind(Uuid::parse_str(&before).unwrap());
        lock.execute(&mut *holder).await.unwrap();
        let confirm = async || shop.post(&format!("/orders/{before}/confirm")).send().await.unwrap().status();
        let stuck = async { join_all((0..CONNECTIONS).map(async |_| confirm().await)).await };
        let vanishing = async {
            bench.until_someone_waits_for_a_lock().await;
            way.vanish().await;
        };
        let (given_up, ()) = tokio::join!(stuck, vanishing);
        assert!(given_up.iter().all(|status| *status == StatusCode::GATEWAY_TIMEOUT), "{given_up:?}");
        holder.rollback().await.unwrap();

        let began = Instant::now();
        until("orders are placed again", async || {
            shop.order("p1", 1, None).await.status() == StatusCode::CREATED
        })
        .await;
        for _ in 0..CONNECTIONS {
            until("orders are read again", async || {
                let answer = shop.get(&format!("/orders/{before}")).send().await.unwrap();
                answer.status() == StatusCode::OK
            })
            .await;
        }
        bench.until_published().await;
        assert!(began.elapsed() < BACK_WITHIN, "{:?}", began.elapsed());
        shop.stop().await;
    })
    .await;
}
