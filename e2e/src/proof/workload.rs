//! The clients: they buy, repeat what they do not know the outcome of, race against each other, confirm and cancel.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use super::check::answers::is_definite;
use super::client::Caller;
use super::history::Reads;
use super::ledger::{Action, Answer, Call, Ledger, OWN_CLIENTS, Outcome, Purchase, Verb};
use super::plan::shop::{PROBE, scarce_coupon};
use super::plan::{Plan, Taste};

/// How often a client repeats a purchase of unknown outcome before it gives up.
const REPETITIONS: u32 = 3;
/// Pause before it does so.
const REPETITION_PAUSE: Duration = Duration::from_millis(150);
/// Users whose orders are listed at the end: a few, since every order is read by itself.
const LISTS: usize = 12;
/// Pause after a replica was not there or said that it is busy: who asks again at once only hears it again.
const REFUSAL_PAUSE: Duration = Duration::from_millis(150);
/// Orders that any client may change: the last ones bought, so that changes meet each other and their order's first event.
const RECENT: usize = 24;
/// Longest pause between two calls, in multiples of the mean.
const LONGEST_THINK: f64 = 4.0;
/// Coupons as clients choose among them; none stands for the scarce one whose turn it is.
const COUPONS: [Option<&str>; 6] = [Some("FEW"), Some("SOME"), Some("MANY"), None, None, None];
/// The probes' number as a client.
const PROBER: u32 = OWN_CLIENTS;
/// The number of those who ask again.
const ASKER: u32 = OWN_CLIENTS + 1;
/// Those who ask again at once: fewer than the fewest requests that a replica takes at once.
const ASKERS: usize = 4;
/// Longest until a key gives an answer after the recovery: as long as a replica may take to take orders, and longer than
/// PostgreSQL keeps the transaction of a connection that was lost.
const SETTLED_DEADLINE: Duration = Duration::from_secs(40);

/// The clients of one run.
#[derive(Clone, Debug)]
pub struct Workload {
    plan: Arc<Plan>,
    caller: Caller,
    ledger: Ledger,
    /// Each with the last version that a client was told of.
    recent: Arc<Mutex<Vec<(Uuid, i64)>>>,
}

impl Workload {
    /// Clients of `caller`'s replicas.
    #[must_use]
    pub fn new(plan: Arc<Plan>, caller: Caller, ledger: Ledger) -> Self {
        Self { plan, caller, ledger, recent: Arc::default() }
    }

    /// Lets every client go on for as long as planned, and ends when each has its last answer.
    ///
    /// # Errors
    /// When the ledger can't be written.
    pub async fn run(&self) -> anyhow::Result<()> {
        let until = Instant::now() + Duration::from_millis(self.plan.workload);
        let mut clients = JoinSet::new();
        for number in 0..self.plan.clients {
            let workload = self.clone();
            clients.spawn(async move { workload.client(number, until).await });
        }
        while let Some(ended) = clients.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// One order on that replica, once, with the ledger's knowledge; true when it was taken.
    ///
    /// # Errors
    /// When the ledger can't be written.
    pub async fn probe(&self, replica: usize, attempt: u32) -> anyhow::Result<bool> {
        let user = format!("probe-{replica}-{attempt}");
        let key = Some(format!("{}-{user}", self.plan.seed));
        let lines = vec![(PROBE.to_owned(), 1)];
        let action = Action::Create(Purchase { user, key, lines, coupon: None });
        Ok(matches!(self.call(PROBER, replica, action).await?, Outcome::Ok(_)))
    }

    /// What the replicas, each in turn, say of every order that a client was told of, and whose orders they list, of users from
    /// everywhere in the run.
    pub async fn read_back(&self) -> Reads {
        let (mut orders, mut users) = (BTreeSet::new(), BTreeSet::new());
        for call in self.ledger.calls() {
            if let Outcome::Ok(answer) = call.outcome {
                orders.insert(answer.order);
            }
            if let Action::Create(purchase) = call.action {
                users.insert(purchase.user);
            }
        }
        let every = users.len().div_ceil(LISTS).max(1);
        self.caller.read_back(orders, users.into_iter().step_by(every).collect()).await
    }

    /// Asks once more for every purchase that has a key, each of another replica than the last time if there is one, until
    /// the answer is one that is given again. One that does not come in time is for the checker to find.
    ///
    /// # Errors
    /// When the ledger can't be written.
    pub async fn ask_again(&self) -> anyhow::Result<()> {
        let mut keys: Vec<Vec<(Purchase, usize)>> = Vec::new();
        let mut known: HashMap<String, usize> = HashMap::new();
        for call in self.ledger.calls() {
            let Action::Create(purchase) = call.action else { continue };
            let Some(key) = purchase.key.clone() else { continue };
            let place = *known.entry(key).or_insert(keys.len());
            if place == keys.len() {
                keys.push(Vec::new());
            }
            // Those of one key one after another, as they first came.
            match keys[place].iter_mut().find(|(asked, _)| *asked == purchase) {
                Some((_, replica)) => *replica = call.replica,
                None => keys[place].push((purchase, call.replica)),
            }
        }
        let mut askers = JoinSet::new();
        for asker in 0..ASKERS {
            let workload = self.clone();
            let share: Vec<_> = keys.iter().skip(asker).step_by(ASKERS).flatten().cloned().collect();
            askers.spawn(async move {
                for (purchase, replica) in share {
                    // What does not answer once is not asked for the rest: the run is unsound already.
                    if !workload.settle(purchase, replica).await? {
                        break;
                    }
                }
                anyhow::Ok(())
            });
        }
        while let Some(ended) = askers.join_next().await {
            ended??;
        }
        Ok(())
    }

    /// True once the purchase has an answer that is given again.
    async fn settle(&self, purchase: Purchase, mut replica: usize) -> anyhow::Result<bool> {
        let deadline = Instant::now() + SETTLED_DEADLINE;
        let action = Action::Create(purchase);
        loop {
            replica = (replica + 1) % self.caller.replicas();
            if is_definite(&self.call(ASKER, replica, action.clone()).await?) {
                return Ok(true);
            }
            if Instant::now() > deadline {
                return Ok(false);
            }
            tokio::time::sleep(REPETITION_PAUSE).await;
        }
    }

    async fn client(self, number: u32, until: Instant) -> anyhow::Result<()> {
        let mut rng = StdRng::seed_from_u64(self.plan.seed << 16 | u64::from(number));
        let mut purchases = 0;
        loop {
            // Exponential pauses: calls of many clients then come at random, at a bounded mean rate.
            let share = (-rng.random_range(f64::EPSILON..1.0).ln()).min(LONGEST_THINK);
            let pause = Duration::from_millis(self.plan.think).mul_f64(share);
            if Instant::now() + pause >= until {
                return Ok(());
            }
            tokio::time::sleep(pause).await;
            if rng.random_bool(0.65) {
                purchases += 1;
                self.buy(number, purchases, &mut rng).await?;
            } else {
                self.change(number, &mut rng).await?;
            }
        }
    }

    async fn buy(&self, number: u32, purchase: u32, rng: &mut StdRng) -> anyhow::Result<()> {
        let wanted = self.purchase(number, purchase, rng);
        let action = Action::Create(wanted.clone());
        // Without a key a repetition would be another order.
        let repeatable = wanted.key.is_some();
        let replica = self.any_replica(rng);
        let mut outcome = if repeatable && rng.random_bool(0.06) {
            // Twice at once, perhaps on two replicas.
            let other = self.any_replica(rng);
            let (one, two) = tokio::join!(
                self.call(number, replica, action.clone()),
                self.call(number, other, action.clone())
            );
            let (one, two) = (one?, two?);
            if matches!(one, Outcome::Ok(_)) { one } else { two }
        } else {
            self.call(number, replica, action.clone()).await?
        };
        for _ in 0..REPETITIONS {
            if !repeatable || !matches!(outcome, Outcome::Unknown { .. }) {
                break;
            }
            tokio::time::sleep(REPETITION_PAUSE).await;
            outcome = self.call(number, self.any_replica(rng), action.clone()).await?;
        }
        let Outcome::Ok(answer) = outcome else { return Ok(()) };
        self.remember(&answer);
        if repeatable && rng.random_bool(0.05) {
            self.call(number, self.any_replica(rng), action).await?;
        } else if repeatable && rng.random_bool(0.03) {
            let mut other = wanted;
            other.lines[0].1 += 1;
            self.call(number, self.any_replica(rng), Action::Create(other)).await?;
        }
        Ok(())
    }

    fn purchase(&self, number: u32, purchase: u32, rng: &mut StdRng) -> Purchase {
        let user = format!("u{number}-{purchase}");
        let key = rng.random_bool(0.85).then(|| format!("{}-{user}", self.plan.seed));
        let products: Vec<&String> =
            self.plan.shop.products.keys().filter(|product| *product != PROBE).collect();
        let Taste { hot_percent, coupon_percent, max_lines } = self.plan.taste;
        let lines = (0..rng.random_range(1..=max_lines)).map(|_| {
            let hot = rng.random_ratio(hot_percent, 100);
            let product = if hot { products.first() } else { products.choose(rng) };
            (product.map(|name| (*name).clone()).unwrap_or_default(), rng.random_range(1..=2))
        });
        let lines = lines.collect();
        let with_coupon = rng.random_ratio(coupon_percent, 100);
        let coupon = with_coupon.then(|| match COUPONS.choose(rng) {
            Some(Some(code)) => (*code).to_owned(),
            // All clients come to the same one at about the same time.
            Some(None) | None => scarce_coupon(purchase),
        });
        Purchase { user, key, lines, coupon }
    }

    /// Confirms or cancels a recent order, or lets both race.
    async fn change(&self, number: u32, rng: &mut StdRng) -> anyhow::Result<()> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner).choose(rng).copied();
        let Some((order, version)) = recent else { return Ok(()) };
        let to = if rng.random_bool(0.6) { Verb::Confirm } else { Verb::Cancel };
        // Some insist on what they saw, which another client may have changed meanwhile.
        let at = rng.random_bool(0.4).then_some(version);
        let (replica, other) = (self.any_replica(rng), self.any_replica(rng));
        if rng.random_bool(0.25) {
            let (one, two) = tokio::join!(
                self.call(number, replica, Action::Change { order, to: Verb::Confirm, at }),
                self.call(number, other, Action::Change { order, to: Verb::Cancel, at })
            );
            for outcome in [one?, two?] {
                self.see(outcome);
            }
        } else {
            self.see(self.call(number, replica, Action::Change { order, to, at }).await?);
        }
        Ok(())
    }

    /// Keeps the version of a changed order in mind.
    fn see(&self, outcome: Outcome) {
        let Outcome::Ok(Answer { order, version, .. }) = outcome else { return };
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = recent.iter_mut().find(|(known, _)| *known == order) {
            known.1 = known.1.max(version);
        }
    }

    fn remember(&self, bought: &Answer) {
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.push((bought.order, bought.version));
        if recent.len() > RECENT {
            recent.remove(0);
        }
    }

    fn any_replica(&self, rng: &mut StdRng) -> usize {
        rng.random_range(0..self.caller.replicas())
    }

    async fn call(&self, client: u32, replica: usize, action: Action) -> anyhow::Result<Outcome> {
        let began = self.ledger.now();
        let outcome = self.caller.call(replica, &action).await;
        let ended = self.ledger.now();
        self.ledger.record(Call { client, replica, began, ended, action, outcome: outcome.clone() })?;
        if matches!(outcome, Outcome::Refused { status: 0 | 503, .. }) {
            tokio::time::sleep(REFUSAL_PAUSE).await;
        }
        Ok(outcome)
    }
}
