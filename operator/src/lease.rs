//! The election: one Lease, which of several processes one holds. Whoever loses it ends.
//!
//! ```text
//! hold ─▶ acquire (stand by, look, take) ─▶ work ──────────────────────────────┐ ended as asked ─▶ release
//!                                           keep: renew ─▶ Leadership::extend  ┘ lost ─▶ Err: the process exits
//! ```
//!
//! `claim` says who may take the lease and when, and does no I/O; here it is read and written, always under the
//! resourceVersion that was read, so that of two who take it at once one is refused.

mod timing;
mod claim;

use std::future::Future;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use kube::api::PostParams;
use kube::{Api, Client};
use rand::Rng;
use runtime::health::Health;
use runtime::shutdown::CancellationToken;
use tokio::task::JoinError;

use crate::leadership::Leadership;
use claim::{Candidate, Verdict};
pub use timing::{Timing, Unsafe};

/// The name of the election's loop in /livez.
const LOOP: &str = "leader election";

/// The loop goes round within the lease's duration, whatever the API server does. Silent for as many of them, but no
/// shorter than the least, it hangs.
const OVERDUE_DURATIONS: u32 = 2;
const OVERDUE_LEAST: Duration = Duration::from_secs(60);

/// Before the lease is looked at again after somebody else wrote it in between: who, is to be known soon.
const AFTER_CONFLICT: Duration = Duration::from_millis(100);

/// From the stop signal to the end of what is under way: a request to Kafka takes 10 s at most by default. The pod's
/// grace period is longer by the time that releasing takes.
const DRAIN: Duration = Duration::from_secs(25);

/// A release that was overtaken by another writer is tried this often in all; the lease runs out by itself.
const RELEASES: usize = 3;

/// Which lease, and for whom.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Namespace of the lease.
    pub namespace: String,
    /// Name of the lease.
    pub name: String,
    /// Name of this process, for people; [`identity`] makes one that no other process has.
    pub identity: String,
    /// How long it lasts.
    pub timing: Timing,
}

/// An identity for this process: a second one of the same name would else take the lease for its own.
#[must_use]
pub fn identity(name: &str) -> String {
    format!("{name}_{:016x}", rand::rng().random::<u64>())
}

/// A request for the lease that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused, or could not be reached.
    #[error("failed to {action} the lease: {source}")]
    Refused {
        /// What was asked for.
        action: &'static str,
        /// Why it failed.
        #[source]
        source: Box<kube::Error>,
    },
    /// The API server did not answer.
    #[error("failed to {action} the lease: no answer within {waited:?}")]
    Silence {
        /// What was asked for.
        action: &'static str,
        /// How long it was waited for.
        waited: Duration,
    },
}

/// Why this process leads no more.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    /// Others may take the lease soon.
    #[error("lost the lease: no renewal got through in time")]
    NotRenewed,
    /// It was taken.
    #[error("lost the lease: {holder} holds it")]
    Taken {
        /// Who has it.
        holder: String,
    },
    /// The task that renewed it ended.
    #[error("lost the lease: its renewal ended early")]
    Aborted(#[from] JoinError),
}

/// How one look at the lease ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Round {
    /// The lease is this candidate's, who may act until then.
    Leads {
        /// Counted from before the write: nobody can have seen it earlier.
        until: Instant,
    },
    /// Another holds it.
    Follows {
        /// Who.
        holder: String,
        /// It can't run out before this has passed.
        left: Duration,
    },
    /// Another wrote it between this candidate's look and its write.
    Overtaken,
}

/// One candidate of the election.
pub struct Elector {
    leases: Api<Lease>,
    settings: Settings,
    candidate: Candidate,
    /// The lease as the last write of our own left it; nothing when it is to be read anew.
    mine: Option<Lease>,
    leadership: Leadership,
    health: Health,
}

impl Elector {
    /// A candidate that stands by. `client` must not be one that waits for the leadership.
    #[must_use]
    pub fn new(client: Client, settings: Settings, health: Health) -> Self {
        Self {
            leases: Api::namespaced(client, &settings.namespace),
            candidate: Candidate::new(&settings.name, &settings.identity, settings.timing),
            settings,
            mine: None,
            leadership: Leadership::standby(),
            health,
        }
    }

    /// The token of this candidate: held while it leads.
    #[must_use]
    pub fn leadership(&self) -> Leadership {
        self.leadership.clone()
    }

    /// Looks at the lease once, and takes or renews it if that is allowed.
    ///
    /// # Errors
    /// When the API server does not answer or refuses.
    pub async fn round(&mut self) -> Result<Round, Error> {
        let found = match self.mine.take() {
            Some(mine) => Some(mine),
            None => self.asked("read", self.leases.get_opt(&self.settings.name)).await?,
        };
        let lease = match self.candidate.judge(found.as_ref(), Instant::now(), Timestamp::now()) {
            Verdict::Wait { holder, left } => return Ok(Round::Follows { holder, left }),
            Verdict::Take(lease) => lease,
        };
        let until = Instant::now() + self.settings.timing.renew_deadline;
        match self.write(&lease, found.is_some()).await? {
            Some(written) => {
                self.mine = Some(written);
                Ok(Round::Leads { until })
            }
            None => Ok(Round::Overtaken),
        }
    }

    /// Stands by until this candidate leads, which is `true`, or until `stop`. `stands_by` is called each time the
    /// lease was seen in another's hands.
    pub async fn acquire(&mut self, stop: &CancellationToken, stands_by: impl Fn()) -> bool {
        let mut followed = None;
        while !stop.is_cancelled() {
            self.beat();
            let pause = match self.round().await {
                Ok(Round::Leads { until }) => {
                    self.leadership.begin(until);
                    tracing::info!(lease = self.settings.name, identity = self.settings.identity, "leads");
                    return true;
                }
                Ok(Round::Follows { holder, left }) => {
                    stands_by();
                    if followed.as_ref() != Some(&holder) {
                        tracing::info!(lease = self.settings.name, %holder, "stands by");
                        followed = Some(holder);
                    }
                    left.min(self.settings.timing.look())
                }
                Ok(Round::Overtaken) => AFTER_CONFLICT,
                Err(error) => {
                    tracing::warn!(lease = self.settings.name, error = %error, "failed to look at the lease");
                    self.settings.timing.retry
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
        false
    }

    /// Renews the lease until `finished`, then releases it.
    ///
    /// # Errors
    /// When it was lost. The leadership is over by then, and before anybody else can have taken the lease.
    pub async fn keep(mut self, finished: CancellationToken) -> Result<(), Lost> {
        let kept = self.renew(&finished).await;
        self.leadership.end();
        self.health.retire(LOOP);
        kept?;
        self.release().await;
        Ok(())
    }

    fn beat(&self) {
        self.health.beat(LOOP, (self.settings.timing.duration * OVERDUE_DURATIONS).max(OVERDUE_LEAST));
    }

    async fn renew(&mut self, finished: &CancellationToken) -> Result<(), Lost> {
        let retry = self.settings.timing.retry;
        let (mut pause, mut lapses) = (retry, Instant::now() + self.settings.timing.renew_deadline);
        loop {
            self.beat();
            let round = tokio::select! {
                biased;
                () = finished.cancelled() => return Ok(()),
                () = tokio::time::sleep_until(lapses.into()) => return Err(Lost::NotRenewed),
                round = async { tokio::time::sleep(pause).await; self.round().await } => round,
            };
            pause = match round {
                Ok(Round::Leads { until }) if self.leadership.extend(until) => {
                    lapses = until;
                    retry
                }
                Ok(Round::Leads { .. }) => return Err(Lost::NotRenewed),
                Ok(Round::Follows { holder, .. }) => return Err(Lost::Taken { holder }),
                Ok(Round::Overtaken) => AFTER_CONFLICT,
                Err(error) => {
                    tracing::warn!(lease = self.settings.name, error = %error, "failed to renew the lease");
                    retry
                }
            };
        }
    }

    /// Leaves the lease to the next. What fails here costs the next one the lease's duration and nothing else.
    async fn release(&mut self) {
        for _ in 0..RELEASES {
            match self.try_release().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(lease = self.settings.name, error = %error, "failed to release the lease");
                    return;
                }
            }
        }
    }

    /// Whether the lease is another's or nobody's now.
    async fn try_release(&mut self) -> Result<bool, Error> {
        let found = match self.mine.take() {
            Some(mine) => Some(mine),
            None => self.asked("read", self.leases.get_opt(&self.settings.name)).await?,
        };
        let Some(lease) = found.filter(|lease| self.candidate.holds(lease)) else { return Ok(true) };
        let released = self.candidate.released(&lease, Timestamp::now());
        let written = self.write(&released, true).await?.is_some();
        if written {
            tracing::info!(
                lease = self.settings.name,
                identity = self.settings.identity,
                "released the lease"
            );
        }
        Ok(written)
    }

    /// Writes the lease under the version it was read with; nothing when that is not its version any more.
    async fn write(&self, lease: &Lease, exists: bool) -> Result<Option<Lease>, Error> {
        let params = PostParams::default();
        let written = if exists {
            self.asked("write", self.leases.replace(&self.settings.name, &params, lease)).await
        } else {
            self.asked("create", self.leases.create(&params, lease)).await
        };
        match written {
            Ok(written) => Ok(Some(written)),
            Err(Error::Refused { source, .. }) if is_overtaken(&source, exists) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn asked<T>(
        &self,
        action: &'static str,
        request: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, Error> {
        let waited = self.settings.timing.request();
        match tokio::time::timeout(waited, request).await {
            Ok(answer) => answer.map_err(|source| Error::Refused { action, source: Box::new(source) }),
            Err(_) => Err(Error::Silence { action, waited }),
        }
    }
}

/// Changed, created or deleted by another since it was read. What is not found when the lease is to be created is the
/// namespace.
fn is_overtaken(error: &kube::Error, existed: bool) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409 || (existed && status.code == 404))
}

/// Stands by, does `work` once the lease is held, and releases it when the work has ended after `shutdown`.
///
/// `work` is dropped where it stands as soon as the lease is lost. If it does not end in time after `shutdown`, the
/// lease is not released but runs out, which leaves its last requests to Kafka the time to end.
///
/// # Errors
/// When the lease was lost: the process must exit.
pub async fn hold(
    mut elector: Elector,
    shutdown: &CancellationToken,
    stands_by: impl Fn(),
    work: impl Future<Output = ()>,
) -> Result<(), Lost> {
    if !elector.acquire(shutdown, stands_by).await {
        return Ok(());
    }
    let (name, leadership) = (elector.settings.name.clone(), elector.leadership());
    let finished = CancellationToken::new();
    // A task of its own: no reconciliation that is slow to yield may hold up a renewal.
    let mut kept = tokio::spawn(elector.keep(finished.clone()));
    let too_long = async {
        shutdown.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        biased;
        lost = &mut kept => return lost?,
        () = work => finished.cancel(),
        () = too_long => {
            leadership.end();
            kept.abort();
            tracing::warn!(lease = name, bound = ?DRAIN, "work did not end in time: the lease is left to run out");
            return Ok(());
        }
    }
    kept.await?
}
