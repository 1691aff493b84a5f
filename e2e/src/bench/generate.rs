//! The load generator: one thread, bounded connections. Open loop: orders go out when they are due, however slow the answers
//! are, and latency counts from then (no coordinated omission). Closed loop: clients that each wait for their answer.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use runtime::shutdown::CancellationToken;
use tokio::sync::Notify;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep_until, timeout};

use super::samples::{Outcome, Sample, Samples, micros, short_micros};
use super::schedule::{Arrivals, Schedule};
use super::wire::Wire;
use super::workload::{Draft, Orders, Workload};

/// Longest wait for one answer: longer than the service lets a request take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// A call that found no free connection for so long is given up, so that an overload ends with its load.
const GIVE_UP_AFTER: Duration = Duration::from_secs(5);
/// At the end of the load, what became due within this may still find a connection.
const LAST_CALLS: Duration = Duration::from_millis(50);
/// Pause of a connection that broke: a service that is gone must not be called a million times.
const PAUSE_AFTER_BREAK: Duration = Duration::from_millis(20);

/// A load to put on the service.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// The service's public port.
    pub address: SocketAddr,
    /// What is ordered.
    pub workload: Workload,
    /// How long orders become due.
    pub duration: Duration,
    /// Decides arrivals and orders.
    pub seed: u64,
    /// Open or closed.
    pub pace: Pace,
}

/// What decides when the next order goes out.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// A schedule.
    Open {
        /// Orders per second.
        per_second: f64,
        /// How they follow one another.
        arrivals: Arrivals,
        /// Most calls under way at once.
        connections: usize,
    },
    /// The answer to the one before.
    Closed {
        /// Clients, each with one call under way.
        clients: usize,
    },
}

impl Load {
    /// Runs the load on a thread of its own until every call has ended; nothing becomes due after `stop`. `start` is the
    /// run's time zero.
    ///
    /// # Errors
    /// When the generator itself fails; a service that can't be reached is an outcome.
    pub async fn run(self, start: Instant, stop: CancellationToken) -> anyhow::Result<Samples> {
        tokio::task::spawn_blocking(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            LocalSet::new().block_on(&runtime, self.drive(start, stop))
        })
        .await?
    }

    async fn drive(self, start: Instant, stop: CancellationToken) -> anyhow::Result<Samples> {
        let lanes = match self.pace {
            Pace::Open { connections, .. } => connections,
            Pace::Closed { clients } => clients,
        };
        let shared = Rc::new(Shared::new(self, start, stop));
        let mut tasks = Vec::new();
        for _ in 0..lanes {
            // Connected when first needed, which is during the warm-up.
            let lane = Lane { shared: Rc::clone(&shared), wire: None, request: Vec::with_capacity(512) };
            tasks.push(tokio::task::spawn_local(lane.run()));
        }
        if let Pace::Open { per_second, arrivals, .. } = self.pace {
            shared.dispatch(Schedule::new(arrivals, per_second, self.seed)).await;
        }
        for task in tasks {
            task.await?;
        }
        Ok(shared.samples.take())
    }
}

/// What the connections of one load share; all of it lives on one thread.
struct Shared {
    load: Load,
    start: Instant,
    stop: CancellationToken,
    orders: RefCell<Orders>,
    due: RefCell<VecDeque<Duration>>,
    arrival: Notify,
    closed: Cell<bool>,
    samples: RefCell<Samples>,
}

impl Shared {
    fn new(load: Load, start: Instant, stop: CancellationToken) -> Self {
        let orders = RefCell::new(Orders::new(load.workload, load.seed));
        let (due, samples) = (RefCell::default(), RefCell::default());
        Self { load, start, stop, orders, due, arrival: Notify::new(), closed: Cell::new(false), samples }
    }

    /// Lines up what has become due. The timer ticks in milliseconds, so arrivals may come up to one late and in small
    /// groups; that is counted as latency, and shown as `unsent_for`.
    async fn dispatch(&self, schedule: Schedule) {
        for due in schedule.take_while(|due| *due < self.load.duration) {
            if self.start.elapsed() < due {
                sleep_until(self.start + due).await;
            }
            if self.stop.is_cancelled() {
                break;
            }
            self.due.borrow_mut().push_back(due);
            // The connection that was used last is the warmest, and no more are used than needed.
            self.arrival.notify_last();
        }
        // The load ends here: clients whose calls found no connection until now have gone.
        let now = self.start.elapsed();
        let (last, gone): (VecDeque<_>, VecDeque<_>) =
            self.due.take().into_iter().partition(|due| now.saturating_sub(*due) <= LAST_CALLS);
        self.due.replace(last);
        for due in gone {
            let waited = short_micros(now.saturating_sub(due));
            let outcome = Outcome::Unsent;
            let due = short_micros(due);
            self.samples.borrow_mut().calls.push(Sample {
                due,
                unsent_for: waited,
                latency: waited,
                outcome,
            });
        }
        self.closed.set(true);
        self.arrival.notify_waiters();
    }

    /// When the next call is due, once it is; nothing when there will be no more.
    async fn next_due(&self) -> Option<Duration> {
        if matches!(self.load.pace, Pace::Closed { .. }) {
            return Some(self.start.elapsed())
                .filter(|now| *now < self.load.duration && !self.stop.is_cancelled());
        }
        loop {
            let next = self.due.borrow_mut().pop_front();
            if next.is_some() || self.closed.get() {
                return next;
            }
            self.arrival.notified().await;
        }
    }

    fn draw(&self) -> Draft {
        self.orders.borrow_mut().draw()
    }
}

/// One connection and what it sends.
struct Lane {
    shared: Rc<Shared>,
    wire: Option<Wire>,
    request: Vec<u8>,
}

impl Lane {
    async fn run(mut self) {
        while let Some(due) = self.shared.next_due().await {
            let unsent_for = self.shared.start.elapsed().saturating_sub(due);
            let outcome = if unsent_for > GIVE_UP_AFTER { Outcome::Unsent } else { self.call().await };
            let latency = self.shared.start.elapsed().saturating_sub(due);
            self.shared.samples.borrow_mut().calls.push(Sample {
                due: short_micros(due),
                unsent_for: short_micros(unsent_for),
                latency: short_micros(latency),
                outcome,
            });
            if outcome == Outcome::Broken {
                tokio::time::sleep(PAUSE_AFTER_BREAK).await;
            }
        }
    }

    async fn call(&mut self) -> Outcome {
        self.shared.draw().render(&mut self.request);
        let wire = match self.wire.take() {
            Some(wire) => Ok(wire),
            None => Wire::connect(self.shared.load.address).await,
        };
        let Ok(mut wire) = wire else { return Outcome::Broken };
        let Ok(Ok(answer)) = timeout(ANSWER_TIMEOUT, wire.call(&self.request)).await else {
            return Outcome::Broken;
        };
        if !answer.closes {
            self.wire = Some(wire);
        }
        if let Some(order) = answer.order.filter(|_| answer.status == 201) {
            let at = micros(self.shared.start.elapsed());
            self.shared.samples.borrow_mut().accepted.push((order, at));
        }
        answer.into()
    }
}
