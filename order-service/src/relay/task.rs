//! A statement that runs beside the relay's loop: one at a time of each kind, its answer fetched when it is there.

use std::future::Future;
use std::sync::Arc;

use tokio::sync::{Notify, oneshot};
use tokio::task::AbortHandle;

/// At most one running statement. Dropping it gives the statement up.
#[derive(Debug)]
pub struct Task<T> {
    running: Option<(AbortHandle, oneshot::Receiver<T>)>,
}

impl<T> Default for Task<T> {
    fn default() -> Self {
        Self { running: None }
    }
}

impl<T: Send + 'static> Task<T> {
    /// Runs `work`, giving up what ran before, and notifies `done` once there is an answer.
    pub fn start(&mut self, done: &Arc<Notify>, work: impl Future<Output = T> + Send + 'static) {
        self.stop();
        let (answer, answered) = oneshot::channel();
        let done = done.clone();
        let task = tokio::spawn(async move {
            // Nobody listens any more when the work was given up.
            let _ = answer.send(work.await);
            done.notify_one();
        });
        self.running = Some((task.abort_handle(), answered));
    }

    /// True while something runs or its answer was not fetched.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// The answer, once.
    pub fn answer(&mut self) -> Option<T> {
        let (_, answered) = self.running.as_mut()?;
        match answered.try_recv() {
            Ok(answer) => {
                self.running = None;
                Some(answer)
            }
            Err(oneshot::error::TryRecvError::Empty) => None,
            // It panicked, and said so; whoever wants it starts it again.
            Err(oneshot::error::TryRecvError::Closed) => {
                self.running = None;
                None
            }
        }
    }
}

impl<T> Task<T> {
    /// Gives up what runs.
    pub fn stop(&mut self) {
        if let Some((task, _)) = self.running.take() {
            task.abort();
        }
    }
}

impl<T> Drop for Task<T> {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_is_announced_and_fetched_once() {
        let (mut task, done) = (Task::default(), Arc::new(Notify::new()));
        assert!(!task.is_running());
        task.start(&done, async { 7 });
        assert!(task.is_running());
        done.notified().await;
        assert_eq!((task.answer(), task.answer()), (Some(7), None));
        assert!(!task.is_running());
    }

    #[tokio::test]
    async fn what_was_given_up_answers_nothing() {
        let (mut task, done) = (Task::default(), Arc::new(Notify::new()));
        task.start(&done, std::future::pending::<()>());
        task.stop();
        assert!(!task.is_running() && task.answer().is_none());
    }
}
