//! The consumers that docs/sinks.md shows, run as they stand there.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rdkafka::message::OwnedHeaders;
use tokio::net::TcpListener;

use crate::harness::{DEADLINE, eventually, in_world};

const PAGE: &str = include_str!("../../../docs/sinks.md");
/// Debian's own, which has the client from a package, whatever else is in the path.
const PYTHON: &str = "/usr/bin/python3";

/// Ends with the test, however that ends.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The page's first example in that language.
fn example(language: &str) -> &'static str {
    let (_, rest) = PAGE.split_once(&format!("```{language}\n")).expect("the page has an example");
    rest.split_once("```").expect("it ends").0
}

#[tokio::test(flavor = "multi_thread")]
async fn the_consumer_in_python_receives_each_event_past_what_is_none_and_commits_it() {
    in_world(2, async |world| {
        for poison in [Some(b"hello-1".as_slice()), Some(b"1"), Some(b"{}"), Some(b"\xff"), None] {
            world.send(0, Some(b"1001"), poison, OwnedHeaders::new()).await;
        }
        let events = world.send_orders(2, 20).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let admin = listener.local_addr().expect("bound");
        drop(listener);
        let consumer = Command::new(PYTHON)
            .args(["-u", "-c", example("python")])
            .env("KAFKA_BOOTSTRAP_SERVERS", &world.kafka)
            .env("TOPIC", &world.topic)
            .env("GROUP", world.group("python"))
            .env("ADMIN_ADDR", admin.to_string())
            .stdout(Stdio::piped())
            .spawn();
        let mut consumer = Running(consumer.expect("python3 runs: lab/tools installs what it needs"));
        let (output, count) = (consumer.0.stdout.take().expect("piped"), events.len());
        let reading = tokio::task::spawn_blocking(move || {
            BufReader::new(output).lines().map_while(Result::ok).take(count).collect::<BTreeSet<_>>()
        });
        let received = tokio::time::timeout(DEADLINE, reading).await.expect("in time").expect("read");
        let expected = events.iter().map(|event| format!("{} PENDING", event.order_id));
        assert_eq!(received, expected.collect());
        world.lag_is_zero("python").await;
        for path in ["/livez", "/readyz", "/metrics"] {
            eventually("it answers the kubelet", async || {
                let answer = reqwest::get(format!("http://{admin}{path}")).await.ok()?;
                answer.status().is_success().then_some(())
            })
            .await;
        }
    })
    .await;
}
