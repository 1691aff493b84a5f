//! Requests of one kind that wait together go to the broker as one.

use std::collections::HashSet;
use std::future::Future;
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot::error::TryRecvError;
use tokio::sync::{Semaphore, oneshot};

use super::error::Error;

/// Items in one request. A broker works on one for a moment only, and an answer of this many topics with their
/// configuration has about a megabyte.
const BATCH_MAX: usize = 256;

/// Requests of one kind under way at a time: while one is, what comes waits, and becomes the next.
const AT_ONCE: usize = 1;

type Waiting<I, O> = (I, oneshot::Sender<Result<O, Error>>);

/// Those who wait to ask for one kind of thing. Bounded by the number of reconciliations at a time.
pub(super) struct Shared<I, O> {
    action: &'static str,
    waiting: Mutex<Vec<Waiting<I, O>>>,
    turn: Semaphore,
}

impl<I, O> std::fmt::Debug for Shared<I, O> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("action", &self.action).finish_non_exhaustive()
    }
}

impl<I, O> Shared<I, O> {
    pub(super) fn new(action: &'static str) -> Self {
        Self { action, waiting: Mutex::default(), turn: Semaphore::new(AT_ONCE) }
    }

    /// Asks for `item`, by a `request` made here or by one that somebody else makes for several. A request answers each item
    /// at its place. No two items of one name are in one request: a broker refuses that.
    ///
    /// # Errors
    /// As the request's; [`Error::Aborted`] when whoever made it gave up.
    pub(super) async fn ask<F: Future<Output = Vec<Result<O, Error>>>>(
        &self,
        item: I,
        name: impl Fn(&I) -> Option<&str>,
        request: impl Fn(Vec<I>) -> F,
    ) -> Result<O, Error> {
        let aborted = || Error::Aborted { action: self.action.to_owned() };
        let (answer, mut answered) = oneshot::channel();
        self.lock().push((item, answer));
        let _turn = tokio::select! {
            biased;
            answer = &mut answered => return answer.unwrap_or_else(|_| Err(aborted())),
            turn = self.turn.acquire() => turn.map_err(|_| aborted())?,
        };
        // Whoever had the turn before may have answered this one too, or left it for want of room or for its name.
        loop {
            match answered.try_recv() {
                Ok(answer) => return answer,
                Err(TryRecvError::Closed) => return Err(aborted()),
                Err(TryRecvError::Empty) => {}
            }
            let (items, answers): (Vec<I>, Vec<_>) = self.next(&name).into_iter().unzip();
            for (answer, result) in answers.into_iter().zip(request(items).await) {
                // Whoever gave up waiting does not listen.
                let _ = answer.send(result);
            }
        }
    }

    /// The next batch, oldest first.
    fn next(&self, name: &impl Fn(&I) -> Option<&str>) -> Vec<Waiting<I, O>> {
        let mut waiting = self.lock();
        let (mut names, mut batch, mut rest) = (HashSet::new(), Vec::new(), Vec::new());
        for (item, answer) in waiting.drain(..) {
            let is_alone = name(&item).is_none_or(|name| names.insert(name.to_owned()));
            if batch.len() < BATCH_MAX && is_alone && !answer.is_closed() {
                batch.push((item, answer));
            } else if !answer.is_closed() {
                rest.push((item, answer));
            }
        }
        *waiting = rest;
        batch
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Waiting<I, O>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Notify;

    use super::*;

    type Batches = Mutex<Vec<Vec<&'static str>>>;

    /// Asks for each of `items`; the first request is held up until all of them wait. Returns the requests.
    async fn asked(items: &[&'static str]) -> Vec<Vec<&'static str>> {
        let (shared, batches, go) =
            (Arc::new(Shared::new("ask")), Arc::new(Batches::default()), Arc::new(Notify::new()));
        let ask = |item| {
            let (shared, batches, go) = (shared.clone(), batches.clone(), go.clone());
            tokio::spawn(async move {
                let request = |items: Vec<&'static str>| {
                    batches.lock().unwrap().push(items.clone());
                    let is_first = batches.lock().unwrap().len() == 1;
                    let go = go.clone();
                    async move {
                        if is_first {
                            go.notified().await;
                        }
                        items.into_iter().map(Ok).collect()
                    }
                };
                shared.ask(item, |item| Some(*item), request).await.unwrap()
            })
        };
        let asking: Vec<_> = items.iter().map(|item| ask(*item)).collect();
        while shared.lock().len() + 1 < items.len() {
            tokio::task::yield_now().await;
        }
        go.notify_one();
        for (item, asking) in items.iter().zip(asking) {
            assert_eq!(asking.await.unwrap(), *item);
        }
        batches.lock().unwrap().clone()
    }

    #[tokio::test]
    async fn what_waits_while_a_request_is_under_way_shares_the_next() {
        assert_eq!(asked(&["a", "b", "c"]).await, [vec!["a"], vec!["b", "c"]]);
    }

    #[tokio::test]
    async fn two_of_one_name_are_never_in_one_request() {
        assert_eq!(asked(&["a", "b", "b", "c"]).await, [vec!["a"], vec!["b", "c"], vec!["b"]]);
    }

    #[tokio::test]
    async fn who_gives_up_while_asking_for_all_leaves_the_others_with_an_error_and_not_without_an_answer() {
        let shared = Arc::new(Shared::<&str, &str>::new("ask"));
        let (asker, other) = (shared.clone(), shared.clone());
        let stuck = tokio::spawn(async move {
            asker.ask("a", |_| None, |_| std::future::pending::<Vec<Result<&str, Error>>>()).await
        });
        while shared.turn.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        let asking = tokio::spawn(async move {
            other.ask("b", |_| None, |items| async { items.into_iter().map(Ok).collect() }).await
        });
        stuck.abort();
        assert_eq!(asking.await.unwrap().unwrap(), "b");
    }
}
