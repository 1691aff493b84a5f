//! Many orders in one transaction, each served or refused as if it were alone and they had come one after another.
//!
//! ```text
//! begin ─▶ claim keys ─▶ lock products ─▶ lock coupons ─▶ allot (pure) ─▶ write everything ─▶ commit
//! ```
//!
//! Locks are taken in the order in which everything here takes them: an order's row, products, coupons, each by the bytes of their
//! names. Keys are only tried before that, in the order of arrival, and nobody waits for one. An order that is created here has a row
//! that nobody else can see yet.

pub mod write;

use std::collections::BTreeSet;
use std::future::Future;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use jiff::Timestamp;
use sqlx::{Connection, PgConnection};

use super::error::{BEGIN, COMMIT, DatabaseError, KeyConflict, Outcome, PlaceError, bounded, prompt};
use super::idempotency::{self, Claim};
use super::orders::PlaceSettings;
use super::{coupons, stock};
use crate::domain::allot::{Allotted, NotAllotted};
use crate::domain::{CouponCode, ProductId, Shelf, Submission};

/// Attempts at a transaction that loses against others, the first included; see `orders`.
const MAX_ATTEMPTS: usize = 5;
/// First pause between attempts.
const FIRST_RETRY: Duration = Duration::from_millis(5);

/// What one submission of a batch comes to.
pub type Answer = Result<Outcome, PlaceError>;

/// Why a batch as a whole came to nothing. Nothing changed, unless the connection broke during the commit.
#[derive(Debug, thiserror::Error)]
pub enum BatchError {
    /// Another transaction finished one of the keys after it was claimed here.
    #[error("another transaction was first to finish an idempotency key")]
    KeyRaced,
    /// The database failed.
    #[error(transparent)]
    Database(#[from] DatabaseError),
}

impl BatchError {
    fn is_conflict(&self) -> bool {
        match self {
            Self::KeyRaced => true,
            Self::Database(error) => error.is_conflict(),
        }
    }
}

/// A submission whose key, if it has one, is new, and what it got.
struct Served<'a> {
    position: usize,
    submission: &'a Submission,
    allotted: Result<Allotted, NotAllotted>,
}

/// Places the orders in one transaction; the answers are in their order. A transaction that loses against another is tried
/// again.
///
/// # Errors
/// A [`BatchError`] that concerns the transaction as a whole; one order of it may be the cause.
pub async fn place(
    connection: &mut PgConnection,
    submissions: &[&Submission],
    settings: &PlaceSettings,
) -> Result<Vec<Answer>, BatchError> {
    let retries = ExponentialBuilder::default().with_min_delay(FIRST_RETRY).with_jitter();
    let mut pauses = retries.with_max_times(MAX_ATTEMPTS - 1).build();
    loop {
        match place_once(connection, submissions, settings).await {
            Err(error) if error.is_conflict() => match pauses.next() {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            },
            ended => return ended,
        }
    }
}

async fn place_once(
    connection: &mut PgConnection,
    submissions: &[&Submission],
    settings: &PlaceSettings,
) -> Result<Vec<Answer>, BatchError> {
    let mut tx = prompt(BEGIN, connection.begin()).await?;
    match in_time(within(&mut tx, submissions, settings)).await {
        Ok((answers, true)) => {
            fail::fail_point!("writer::before_commit");
            bounded(COMMIT, tx.commit()).await?;
            fail::fail_point!("writer::after_commit");
            Ok(answers)
        }
        Ok((answers, false)) => {
            prompt("let the locks go", tx.rollback()).await?;
            Ok(answers)
        }
        Err(error) => {
            // At once, since a connection that is kept would keep the locks; where this fails, its end lets them go.
            let _ = prompt("let the locks go", tx.rollback()).await;
            Err(error)
        }
    }
}

/// The statements of a batch together within the time of one: a caller waits no longer than that.
async fn in_time<T>(statements: impl Future<Output = Result<T, BatchError>>) -> Result<T, BatchError> {
    bounded("write a batch", async { Ok(statements.await) }).await?
}

/// The answers, and whether anything was written.
async fn within(
    tx: &mut PgConnection,
    submissions: &[&Submission],
    settings: &PlaceSettings,
) -> Result<(Vec<Answer>, bool), BatchError> {
    let mut answers = claim_keys(tx, submissions, settings.key_lifetime).await?;
    let open =
        || submissions.iter().zip(&answers).filter(|(_, answer)| answer.is_none()).map(|(open, _)| *open);
    let mut shelf = lock(tx, open()).await?;

    let mut served = Vec::with_capacity(submissions.len());
    for (position, submission) in submissions.iter().copied().enumerate() {
        if answers[position].is_none() {
            let allotted = shelf.allot(&submission.new, &settings.currency, Timestamp::now());
            served.push(Served { position, submission, allotted });
        }
    }

    let write = write::Write::of(&served, &shelf);
    let wrote = !write.is_empty();
    if wrote {
        fail::fail_point!("writer::before_write");
        write.run(tx, settings).await?;
    }
    for Served { position, allotted, .. } in served {
        answers[position] = Some(answer(allotted));
    }
    Ok((answers.into_iter().flatten().collect(), wrote))
}

/// Claims the keys of the submissions that have one, and answers those that are settled by that.
async fn claim_keys(
    tx: &mut PgConnection,
    submissions: &[&Submission],
    lifetime: Duration,
) -> Result<Vec<Option<Answer>>, BatchError> {
    let mut answers: Vec<Option<Answer>> = submissions.iter().map(|_| None).collect();
    let mut seen = BTreeSet::new();
    let (mut positions, mut keys) = (Vec::new(), Vec::new());
    for (position, submission) in submissions.iter().enumerate() {
        let Some(keyed_by) = &submission.keyed_by else { continue };
        positions.push(position);
        keys.push(keyed_by);
    }
    if keys.is_empty() {
        return Ok(answers);
    }
    let claims = idempotency::claim(tx, &keys, lifetime).await?;
    for ((position, keyed_by), claim) in positions.into_iter().zip(&keys).zip(claims) {
        answers[position] = match claim {
            Claim::Ours if seen.insert(&keyed_by.key) => None,
            // The first with this key is in this very batch.
            Claim::Ours => Some(Err(KeyConflict::InProgress.into())),
            Claim::Answered(outcome) => Some(Ok(outcome)),
            Claim::Conflict(conflict) => Some(Err(conflict.into())),
        };
    }
    Ok(answers)
}

/// Locks every product and coupon that the submissions name.
async fn lock<'a>(
    tx: &mut PgConnection,
    submissions: impl Iterator<Item = &'a Submission> + Clone,
) -> Result<Shelf, BatchError> {
    let products: BTreeSet<&str> = submissions
        .clone()
        .flat_map(|submission| submission.new.lines.keys())
        .map(ProductId::as_str)
        .collect();
    let codes: BTreeSet<&str> = submissions
        .filter_map(|submission| submission.new.coupon_code.as_ref())
        .map(CouponCode::as_str)
        .collect();
    if products.is_empty() {
        return Ok(Shelf::default());
    }
    let products = stock::lock(tx, &products.into_iter().collect::<Vec<_>>()).await?;
    let coupons = if codes.is_empty() {
        Vec::new()
    } else {
        coupons::lock(tx, &codes.into_iter().collect::<Vec<_>>()).await?
    };
    Ok(Shelf::new(products, coupons))
}

fn answer(allotted: Result<Allotted, NotAllotted>) -> Answer {
    match allotted {
        Ok(Allotted { order, event: _ }) => Ok(Outcome { verdict: Ok(order), replayed: false }),
        Err(NotAllotted::Refused(refusal)) => Ok(Outcome { verdict: Err(refusal), replayed: false }),
        Err(NotAllotted::Encode(error)) => Err(error.into()),
    }
}
