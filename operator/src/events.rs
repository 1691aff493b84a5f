//! Events, published beside the passes: what only tells of work never holds it up.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use kube::runtime::events::Recorder;
use tokio::sync::{Semaphore, watch};

use crate::metrics::Metrics;
use crate::report::{self, Note};

/// Objects whose Events wait or are under way: those of a thousand pipelines made at once, with a few hundred bytes each.
const ROOM: u32 = 2048;

/// Requests at a time. They share the API server with the passes, which go first.
const AT_ONCE: usize = 4;

/// What is left at a stop is waited for this long; what takes longer is lost.
const LAST_WAIT: Duration = Duration::from_secs(5);

/// Publishes Events. One for all, because its recorder folds repeated ones.
pub struct Events {
    recorder: Recorder,
    /// Of how many objects Events wait or are under way.
    waiting: Arc<watch::Sender<u32>>,
    turn: Arc<Semaphore>,
    metrics: Metrics,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("waiting", &self.waiting).finish_non_exhaustive()
    }
}

/// A place among those who wait; it is free again when this is dropped.
struct Place(Arc<watch::Sender<u32>>);

impl Place {
    fn take(waiting: &Arc<watch::Sender<u32>>) -> Option<Self> {
        let is_taken = waiting.send_if_modified(|taken| {
            let is_free = *taken < ROOM;
            *taken += u32::from(is_free);
            is_free
        });
        is_taken.then(|| Self(Arc::clone(waiting)))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.send_modify(|taken| *taken -= 1);
    }
}

impl Events {
    /// Events that are published through `recorder`; those that are not are counted in `metrics`.
    #[must_use]
    pub fn new(recorder: Recorder, metrics: Metrics) -> Self {
        let waiting = Arc::new(watch::Sender::new(0));
        Self { recorder, waiting, turn: Arc::new(Semaphore::new(AT_ONCE)), metrics }
    }

    /// Publishes `notes` soon, in their order, or drops them when too many wait already. To be called within the runtime.
    pub fn publish(&self, regarding: &impl Resource<DynamicType = ()>, notes: Vec<Note>) {
        if notes.is_empty() {
            return;
        }
        let Some(place) = Place::take(&self.waiting) else {
            self.metrics.dropped_events(notes.len());
            let reason = notes.first().map(|note| note.reason);
            tracing::warn!(reason, dropped = notes.len(), "dropped Events: too many wait");
            return;
        };
        let (recorder, turn) = (self.recorder.clone(), Arc::clone(&self.turn));
        let regarding: ObjectReference = regarding.object_ref(&());
        tokio::spawn(async move {
            // It is never closed, and whoever waits longest has its turn first.
            let _turn = turn.acquire().await;
            report::publish(&recorder, &regarding, &notes).await;
            drop(place);
        });
    }

    /// Waits until nothing is left to publish, for a bounded time.
    pub async fn flush(&self) {
        let mut waiting = self.waiting.subscribe();
        // The sender lives as long as this does.
        let _ = tokio::time::timeout(LAST_WAIT, waiting.wait_for(|waiting| *waiting == 0)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::{Request, Response, StatusCode};
    use kube::Client;
    use kube::client::Body;
    use kube::runtime::events::Reporter;

    use super::*;
    use crate::fixtures::pipeline_with;

    fn note() -> Note {
        Note { warning: false, reason: "Tested", action: "test".to_owned(), message: "tested".to_owned() }
    }

    /// Events of an API server that counts requests, and answers none of them before `open` has a permit for it.
    fn events(open: &Arc<Semaphore>) -> (Events, Arc<AtomicUsize>) {
        let arrived = Arc::new(AtomicUsize::new(0));
        let (counted, open) = (Arc::clone(&arrived), Arc::clone(open));
        let server = tower::service_fn(move |_: Request<Body>| {
            counted.fetch_add(1, Ordering::SeqCst);
            let open = Arc::clone(&open);
            async move {
                open.acquire().await.unwrap().forget();
                let answer =
                    Response::builder().status(StatusCode::INTERNAL_SERVER_ERROR).body(Body::empty());
                Ok::<_, std::convert::Infallible>(answer.unwrap())
            }
        });
        let reporter = Reporter { controller: "test".to_owned(), instance: None };
        let recorder = Recorder::new(Client::new(server, "default"), reporter);
        (Events::new(recorder, Metrics::default()), arrived)
    }

    #[tokio::test]
    async fn what_finds_no_room_is_dropped_and_counted_and_nobody_waits() {
        let open = Arc::new(Semaphore::new(0));
        let (events, arrived) = events(&open);
        let pipeline = pipeline_with("paused: false");
        for _ in 0..ROOM + 3 {
            events.publish(&pipeline, vec![note()]);
        }
        assert_eq!(events.metrics.events_dropped(), 3);
        open.add_permits(ROOM as usize);
        events.flush().await;
        assert_eq!(
            arrived.load(Ordering::SeqCst),
            ROOM as usize,
            "an Event that is refused holds up no other"
        );
    }
}
