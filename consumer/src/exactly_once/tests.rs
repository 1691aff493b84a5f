//! What the worker does with each of the sink's answers, with a sink that answers as the test says.

use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use runtime::shutdown::CancellationToken;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use super::*;
use crate::deliver::tests::deliverer;
use crate::metrics::ConsumerMetrics;
use crate::record::tests::{event, record};
use crate::sink::Sink;
use crate::worker::{Lease, Reporter};

const PATIENCE: Duration = Duration::from_secs(10);

/// From which place, how many events, to which place.
type Call = (i64, usize, i64);
type Answer = Result<Applied, SinkError>;

/// Answers in turn, and then no more.
struct Scripted {
    answers: Mutex<VecDeque<Answer>>,
    calls: UnboundedSender<Call>,
}

impl Sink for Scripted {
    fn batch_limit(&self) -> usize {
        10
    }

    fn lanes(&self) -> usize {
        1
    }

    fn patience(&self) -> Duration {
        PATIENCE
    }

    fn deliver<'a>(&'a self, _: &'a [Decoded]) -> BoxFuture<'a, Result<(), SinkError>> {
        async { Err(SinkError::rejected("Unasked", "only places are moved here")) }.boxed()
    }

    fn apply<'a>(&'a self, claimed: &'a Claimed, batch: &'a [Decoded], until: i64) -> BoxFuture<'a, Answer> {
        let answer = self.answers.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let _ = self.calls.send((claimed.place, batch.len(), until));
        match answer {
            Some(answer) => async { answer }.boxed(),
            None => futures::future::pending().boxed(),
        }
    }
}

struct Scene {
    calls: UnboundedReceiver<Call>,
    reports: mpsc::Receiver<Report>,
    records: UnboundedSender<Record>,
    metrics: ConsumerMetrics,
    stop: CancellationToken,
    worker: JoinHandle<()>,
}

impl Scene {
    /// A worker whose place is 10.
    fn with(answers: impl IntoIterator<Item = Answer>, is_log_new: bool) -> Self {
        Self::where_done(answers, is_log_new, Runs::default())
    }

    /// … in a log of which so much is done.
    fn where_done(answers: impl IntoIterator<Item = Answer>, is_log_new: bool, done: Runs) -> Self {
        let (calls_sender, calls) = unbounded_channel();
        let sink = Scripted { answers: Mutex::new(answers.into_iter().collect()), calls: calls_sender };
        let deliverer = Arc::new(deliverer(sink));
        let metrics = deliverer.metrics.clone();
        let (reports_sender, reports) = mpsc::channel();
        let (records_sender, records) = unbounded_channel();
        let (lease, stop) = (Lease { partition: 0, number: 1 }, CancellationToken::new());
        let reporter = Reporter { lease, reports: reports_sender };
        let serial = Serial { reporter, records, deliverer, stop: stop.clone(), batch_max_records: 10 };
        let claimed = Claimed { partition: 0, epoch: 1, place: 10 };
        let worker = tokio::spawn(ExactlyOnce::new(serial, claimed, is_log_new, done).run());
        Self { calls, reports, records: records_sender, metrics, stop, worker }
    }

    fn sends(&self, offset: i64) {
        self.records.send(record(&event(1), offset)).expect("it works");
    }

    fn sends_no_event(&self, offset: i64) {
        let typed = Record { value: Some(Bytes::from("hello-1")), ..record(&event(1), offset) };
        self.records.send(typed).expect("it works");
    }

    async fn call(&mut self) -> Call {
        tokio::time::timeout(PATIENCE, self.calls.recv()).await.expect("in time").expect("it works")
    }

    /// What it says at its end, and that it calls the sink no more.
    async fn end(mut self) -> Vec<Report> {
        self.stop.cancel();
        self.worker.await.expect("no panic");
        assert_eq!(self.calls.recv().await, None);
        self.reports.try_iter().collect()
    }
}

fn is_reported(reports: &[Report]) -> bool {
    reports.iter().any(|report| matches!(report, Report::Fenced { .. }))
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "waited in vain until {what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_place_where_it_was_not_left_is_not_gone_on_from() {
    let mut scene = Scene::with([Ok(Applied::Moved), Ok(Applied::Found(3))], false);
    scene.sends(10);
    assert_eq!(scene.call().await, (10, 1, 11));
    scene.sends(11);
    assert_eq!(scene.call().await, (11, 1, 12));
    let metrics = scene.metrics.clone();
    until("it is seen", || metrics.place_jumps.get() == 1).await;
    let reports = scene.end().await;
    assert!(is_reported(&reports), "the partition is claimed anew, and without a wait: {reports:?}");
    assert_eq!(metrics.fenced.get(), 0, "nobody else claimed it");
}

#[tokio::test]
async fn in_a_log_made_anew_the_place_is_gone_on_from_once() {
    let mut scene =
        Scene::with([Ok(Applied::Found(1000)), Ok(Applied::Moved), Ok(Applied::Found(500))], true);
    scene.sends(0);
    assert_eq!(scene.call().await, (10, 1, 1));
    assert_eq!(scene.call().await, (1000, 1, 1));
    scene.sends(1);
    assert_eq!(scene.call().await, (1, 1, 2));
    let metrics = scene.metrics.clone();
    until("it is seen", || metrics.place_jumps.get() == 1).await;
    assert!(is_reported(&scene.end().await));
}

fn done(from: i64, until: i64) -> Runs {
    let mut runs = Runs::default();
    runs.push(from, until);
    runs
}

#[tokio::test]
async fn the_place_moves_over_what_the_group_had_done_under_another_guarantee() {
    let mut scene = Scene::where_done([Ok(Applied::Moved), Ok(Applied::Moved)], false, done(11, 20));
    scene.sends(10);
    assert_eq!(scene.call().await, (10, 1, 20));
    scene.sends(20);
    assert_eq!(scene.call().await, (20, 1, 21));
}

#[tokio::test]
async fn what_was_done_in_another_log_is_not_moved_over_in_this_one() {
    let mut scene = Scene::where_done([Ok(Applied::Moved), Ok(Applied::Moved)], false, done(11, 20));
    scene.sends(0);
    assert_eq!(scene.call().await, (10, 1, 1));
    scene.sends(10);
    assert_eq!(scene.call().await, (1, 1, 11));
}

#[tokio::test]
async fn an_answer_that_was_lost_is_told_by_the_place() {
    let lost = SinkError::unavailable("Timeout", "no answer");
    let mut scene = Scene::with([Err(lost), Ok(Applied::Found(11))], false);
    scene.sends(10);
    assert_eq!(scene.call().await, (10, 1, 11));
    assert_eq!(scene.call().await, (10, 1, 11));
    scene.sends(11);
    assert_eq!(scene.call().await, (11, 1, 12));
}

#[tokio::test]
async fn who_has_lost_the_claim_writes_no_letter() {
    let mut scene = Scene::with([Ok(Applied::Fenced)], false);
    scene.sends_no_event(10);
    assert_eq!(scene.call().await, (10, 0, 10), "it asks whether the claim holds");
    let metrics = scene.metrics.clone();
    until("it is seen", || metrics.fenced.get() == 1).await;
    scene.end().await;
    assert_eq!(metrics.dead_letter_blocked.get(), 0, "it did not try to write one");
}

#[tokio::test]
async fn a_place_that_can_not_be_moved_alone_is_tried_more_and_more_seldom() {
    const TRIES: u32 = 9;
    let refused = || Err(SinkError::rejected("ClientError", "HTTP status 400"));
    let mut scene = Scene::with((0..TRIES).map(|_| refused()), false);
    let begin = Instant::now();
    scene.sends_no_event(10);
    for _ in 0..TRIES {
        assert_eq!(scene.call().await, (10, 0, 10));
    }
    // 2, 4, … 256 ms at least; without growth it would be 2 to 4 ms each.
    assert!(begin.elapsed() >= Duration::from_millis(500), "{:?}", begin.elapsed());
}
