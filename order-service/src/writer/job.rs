//! An order on its way through the queue. Its caller may withdraw it until a lane has started it: exactly one of them wins.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use tokio::sync::oneshot;

use super::error::WriterError;
use crate::domain::Submission;
use crate::store::Outcome;

/// What a caller is told.
pub type Told = Result<Outcome, WriterError>;

/// The lane's end of an order.
#[derive(Debug)]
pub struct Job {
    /// What to place.
    pub submission: Submission,
    /// Since when it waits.
    pub enqueued: Instant,
    decided: Arc<AtomicBool>,
    reply: oneshot::Sender<Told>,
}

/// The caller's end of an order.
#[derive(Debug)]
pub struct Ticket {
    decided: Arc<AtomicBool>,
    reply: oneshot::Receiver<Told>,
}

/// Both ends of a new order.
#[must_use]
pub fn ticket(submission: Submission) -> (Job, Ticket) {
    let decided = Arc::new(AtomicBool::new(false));
    let (sender, receiver) = oneshot::channel();
    let job = Job { submission, enqueued: Instant::now(), decided: decided.clone(), reply: sender };
    (job, Ticket { decided, reply: receiver })
}

impl Job {
    /// Starts the work on it; false when nobody waits for it any more.
    #[must_use]
    pub fn start(&self) -> bool {
        !self.decided.swap(true, Ordering::AcqRel) && !self.reply.is_closed()
    }

    /// Whether somebody still waits for the answer.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        !self.reply.is_closed()
    }

    /// Tells the caller. One that went away meanwhile finds the order, if it asks again.
    pub fn tell(self, told: Told) {
        let _ = self.reply.send(told);
    }
}

impl Ticket {
    /// What became of the order.
    ///
    /// # Errors
    /// A [`WriterError`].
    pub async fn answer(&mut self) -> Told {
        (&mut self.reply).await.unwrap_or(Err(WriterError::BrokeOff))
    }

    /// Takes the order back; false when a lane has started it.
    #[must_use]
    pub fn withdraw(&self) -> bool {
        !self.decided.swap(true, Ordering::AcqRel)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::NewOrder;

    fn submission() -> Submission {
        Submission::new(NewOrder::parse("u1".to_owned(), vec![("p1".to_owned(), 1)], None).unwrap(), None)
    }

    #[test]
    fn either_the_lane_starts_an_order_or_its_caller_withdraws_it() {
        let (job, caller) = ticket(submission());
        assert!(job.start());
        assert!(!caller.withdraw());
        let (job, caller) = ticket(submission());
        assert!(caller.withdraw());
        assert!(!job.start());
    }

    #[test]
    fn an_order_whose_caller_went_away_is_not_started() {
        let (job, caller) = ticket(submission());
        assert!(job.is_awaited());
        drop(caller);
        assert!(!job.is_awaited() && !job.start());
    }

    #[tokio::test]
    async fn a_lane_that_breaks_off_leaves_nobody_waiting() {
        let (job, mut caller) = ticket(submission());
        drop(job);
        assert!(matches!(caller.answer().await, Err(WriterError::BrokeOff)));
    }
}
