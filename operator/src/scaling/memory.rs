//! Memory: what a decision needs of the ticks before it.

use std::collections::BTreeMap;

use super::age::Log;
use super::rates::{Capacity, History, Sample};
use super::signals::{Backlog, Committed, Head, Reading, Seconds};
use super::sink::Sink;
use super::stalls::{self, Health};
use super::window::Window;
use super::{Age, Observation, Policy};

/// How long moved partitions are taken to rest in a rebalance before one was seen, in seconds.
const PAUSE_PRIOR: Seconds = 5.0;
/// How long a new pod is taken to need until it reads, before one was seen, in seconds.
const START_PRIOR: Seconds = 15.0;
/// A partition that is read below this share of what its pod could do, while it alone has records waiting, is bound by itself.
const BOUND_BY_ITSELF: f64 = 0.9;
/// Records that wait for this part of the target do not just wait for the next commit.
const SOME_WAIT: f64 = 0.25;
/// Pods whose records wait for this part of the target are busy.
const BUSY_WAIT: f64 = 0.5;
/// What binds a partition is believed for so long after it was last seen.
const CEILING_KEPT: Seconds = 60.0;
/// A topic that got partitions is taken to be growing until its group has committed in all of them, or for so long: our consumers
/// do within some ten seconds, and others perhaps never.
const GROWTH_SETTLES: Seconds = 120.0;

/// What a decision needs of the ticks before it. It may be lost: then capacity is measured anew, and until then nothing is added.
#[derive(Clone, Debug)]
pub struct Memory {
    pub(super) tracks: Vec<Track>,
    pub(super) capacity: Capacity,
    /// How long moved partitions rest in a rebalance.
    pub(super) pause: Seconds,
    /// How long a step out takes until its pods read.
    pub(super) start: Seconds,
    /// How many pods would have held, tick by tick.
    pub(super) wanted: Window,
    pub(super) sink: Sink,
    /// Since when the group has been reading without a rebalance, a change of members or a gap in what we saw.
    pub(super) undisturbed: Seconds,
    rebalancing: Option<Seconds>,
    ready: u32,
    lost_at: Option<Seconds>,
    grew_at: Option<Seconds>,
}

/// What is remembered of one partition.
#[derive(Clone, Debug, Default)]
pub(super) struct Track {
    pub(super) log: Log,
    pub(super) history: History,
    pub(super) age: Option<Age>,
    lost: u64,
    ceiling: Option<(f64, Seconds)>,
    stuck: Option<Stuck>,
}

/// A place at which nobody gets on. It is remembered over rebalances, until somebody does.
#[derive(Clone, Copy, Debug)]
struct Stuck {
    position: i64,
    /// Whether that is sure, and no longer a mere suspicion.
    sure: bool,
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            tracks: Vec::new(),
            capacity: Capacity::default(),
            pause: PAUSE_PRIOR,
            start: START_PRIOR,
            wanted: Window::default(),
            sink: Sink::default(),
            undisturbed: 0.0,
            rebalancing: None,
            ready: 0,
            lost_at: None,
            grew_at: None,
        }
    }
}

impl Memory {
    /// A memory of nothing but what one pod can do, in records per second.
    #[must_use]
    pub fn with_capacity(records: f64) -> Self {
        Self { capacity: Capacity::of(records), ..Self::default() }
    }

    /// What one pod reads per second while it is busy, once it was measured.
    #[must_use]
    pub fn capacity(&self) -> Option<f64> {
        self.capacity.known()
    }

    /// Age of the oldest record that is still to be read, in seconds, once every partition was read.
    #[must_use]
    pub fn oldest(&self) -> Option<Seconds> {
        self.tracks.iter().try_fold(0.0, |oldest: f64, track| Some(oldest.max(track.age?.seconds())))
    }

    /// Which partitions' first unread record is worth a look ([`Reading::head`]) in the next tick: those whose age only its own
    /// timestamp can tell, and those where nothing moves, for there may be nothing to read.
    #[must_use]
    pub fn to_look_at(&self) -> Vec<usize> {
        let unclear = |track: &Track| {
            let mut last = track.history.samples().rev();
            let stands = match (last.next(), last.next()) {
                (Some(now), Some(before)) => now.records > 0 && now.position == before.position,
                _ => false,
            };
            stands || matches!(track.age, Some(Age::AtLeast(_)))
        };
        self.tracks.iter().enumerate().filter(|(_, track)| unclear(track)).map(|(index, _)| index).collect()
    }

    /// Nothing is known of this tick: what goes on unseen is not judged afterwards.
    pub(super) fn lose_sight(&mut self, at: Seconds) {
        self.undisturbed = at;
        self.wanted.clear();
    }

    /// Takes down what a tick brought.
    pub(super) fn take_down(&mut self, policy: &Policy, seen: &Observation<'_>, backlogs: &[Backlog]) {
        if self.tracks.len() > backlogs.len() {
            self.tracks.clear();
        }
        if !self.tracks.is_empty() && self.tracks.len() < backlogs.len() {
            self.grew_at = Some(seen.at);
        }
        self.tracks.resize_with(backlogs.len(), Track::default);
        for ((track, reading), backlog) in self.tracks.iter_mut().zip(seen.partitions).zip(backlogs) {
            let more_lost = backlog.lost > track.lost;
            track.take_down(reading, *backlog, seen.at);
            if more_lost {
                self.lost_at = Some(seen.at);
            }
        }
        self.watch_group(seen);
        for track in &mut self.tracks {
            track.watch(seen.at, self.undisturbed);
        }
        if self.undisturbed < seen.at {
            self.measure(policy, seen);
        }
        // One partition that is late may be so because of one key; several are so because of their pods.
        let is_late = |track: &&Track| {
            !track.suspect() && track.age.is_some_and(|age| age.seconds() > policy.target_age)
        };
        if !seen.rebalancing && self.tracks.iter().filter(is_late).count() > 1 {
            self.capacity.settle();
        }
    }

    fn watch_group(&mut self, seen: &Observation<'_>) {
        let rebalanced = self.rebalancing.is_some();
        match (self.rebalancing, seen.rebalancing) {
            (None, true) => self.rebalancing = Some(seen.at),
            (Some(since), false) => {
                self.pause = f64::midpoint(self.pause, seen.at - since);
                self.rebalancing = None;
            }
            _ => {}
        }
        // A rebalance that was under way in the last tick ended at some time since.
        if rebalanced || seen.rebalancing || seen.ready == 0 || seen.ready != self.ready {
            self.undisturbed = seen.at;
        }
        self.ready = seen.ready;
        if let Some(took) = self.sink.settled(seen, self.undisturbed) {
            self.start = f64::midpoint(self.start, took);
        }
    }

    /// Measures what a pod can do, and which partitions are bound by themselves.
    fn measure(&mut self, policy: &Policy, seen: &Observation<'_>) {
        let whole = |track: &Track| track.history.since().is_some_and(|since| since >= self.undisturbed);
        if !self.tracks.iter().all(whole) {
            return;
        }
        let pods = self.pods(seen, policy.target_age * BUSY_WAIT);
        let Some(most) = pods.values().map(|pod| pod.drain).max_by(f64::total_cmp) else { return };
        let busy: Vec<_> = pods.values().filter(|pod| pod.busy).map(|pod| pod.drain).collect();
        // A single busy pod may be so because of one hot key; when most of them are, it is what pods can do.
        let measured = busy.len() * 2 > pods.len();
        if measured {
            let mean = busy.iter().sum::<f64>() / busy.len() as f64;
            if self.sink.judge(seen.at, mean) {
                self.capacity.measured(mean);
            }
            self.tracks.iter_mut().for_each(|track| track.ceiling = None);
        } else {
            self.sink.not_busy();
            self.capacity.reached(most);
            self.find_ceilings(policy, seen, &pods);
        }
    }

    /// The pods with what they read; all of them as one average pod where it is unknown who reads what.
    fn pods(&self, seen: &Observation<'_>, waiting: Seconds) -> BTreeMap<u32, Pod> {
        let owned = seen.partitions.iter().all(|reading| reading.owner.is_some());
        let mut pods: BTreeMap<u32, (f64, usize, usize)> = BTreeMap::new();
        for (track, reading) in self.tracks.iter().zip(seen.partitions) {
            let pod = pods.entry(reading.owner.filter(|_| owned).unwrap_or(0)).or_default();
            // Without a commit the place moves with the log, and with lost records with what is deleted: nobody reads there.
            if reading.committed != Committed::Nothing && track.lost == 0 {
                pod.0 += track.history.drain().unwrap_or(0.0);
            }
            if !track.suspect() {
                pod.1 += 1;
                pod.2 += usize::from(track.history.busy(waiting));
            }
        }
        let share = if owned { 1.0 } else { f64::from(seen.ready.max(1)) };
        let pod = |(drain, partitions, busy): (f64, usize, usize)| Pod {
            drain: drain / share,
            busy: busy > 0 && busy * 2 >= partitions,
        };
        pods.into_iter().map(|(owner, sums)| (owner, pod(sums))).collect()
    }

    fn find_ceilings(&mut self, policy: &Policy, seen: &Observation<'_>, pods: &BTreeMap<u32, Pod>) {
        let Some(capacity) = self.capacity.known() else { return };
        for (track, reading) in self.tracks.iter_mut().zip(seen.partitions) {
            let Some(pod) = reading.owner.and_then(|owner| pods.get(&owner)) else { continue };
            if pod.drain >= BOUND_BY_ITSELF * capacity {
                track.ceiling = None;
            } else if track.history.busy(policy.target_age * SOME_WAIT) {
                track.ceiling = track.history.drain().map(|drain| (drain, seen.at));
            }
        }
    }

    /// Whether the topic got partitions of which the group may not know yet.
    pub(super) fn growing(&self, seen: &Observation<'_>) -> bool {
        let unaware = seen.partitions.iter().any(|reading| reading.committed == Committed::Nothing);
        unaware && self.grew_at.is_some_and(|at| seen.at - at <= GROWTH_SETTLES)
    }

    /// Records that are still to be read, and those that were deleted before they were.
    #[must_use]
    pub fn backlog(&self) -> (u64, u64) {
        let last = |track: &Track| track.history.samples().next_back().map_or(0, |sample| sample.records);
        self.tracks.iter().fold((0, 0), |(left, lost), track| (left + last(track), lost + track.lost))
    }

    /// Whether records were lost within the last `span`.
    pub(super) fn lost_within(&self, now: Seconds, span: Seconds) -> bool {
        self.lost_at.is_some_and(|at| now - at <= span)
    }
}

/// A pod over the last span.
#[derive(Clone, Copy, Debug)]
struct Pod {
    /// Records read per second.
    drain: f64,
    /// Whether it always had records waiting in half of its partitions.
    busy: bool,
}

impl Track {
    fn take_down(&mut self, reading: &Reading, backlog: Backlog, at: Seconds) {
        let Some(end) = reading.log_end else { return };
        self.log.end_seen(end, at);
        if let Head::Record { appended } = reading.head {
            self.log.record_read(backlog.position, appended);
        }
        self.log.forget_before(backlog.position);
        let age = if backlog.records == 0 { Age::Nothing } else { self.log.age(backlog.position, at) };
        self.age = Some(age);
        let Backlog { position, records, lost } = backlog;
        self.history.push(Sample { at, end, position, records, age: age.seconds() });
        self.lost = lost;
    }

    /// Watches whether anybody gets on, who has been reading since `undisturbed`.
    fn watch(&mut self, now: Seconds, undisturbed: Seconds) {
        let Some(last) = self.history.samples().next_back().copied() else { return };
        let stands = |span: Seconds| {
            let since = now - span;
            let seen_all = self.history.samples().next().is_some_and(|oldest| oldest.at <= since);
            let stalled = || stalls::seen(self.history.samples(), since) == Health::Stalled;
            since >= undisturbed && seen_all && stalled()
        };
        let before = self.stuck.filter(|stuck| stuck.position == last.position && last.records > 0);
        let sure = before.is_some_and(|stuck| stuck.sure) || stands(stalls::SURE);
        let suspect = sure || before.is_some() || stands(stalls::SUSPECT);
        self.stuck = suspect.then_some(Stuck { position: last.position, sure });
    }

    /// Whether perhaps nobody gets on with it.
    pub(super) fn suspect(&self) -> bool {
        self.stuck.is_some()
    }

    /// Whether surely nobody gets on with it.
    pub(super) fn stalled(&self) -> bool {
        self.stuck.is_some_and(|stuck| stuck.sure)
    }

    /// What the partition is read at most, in records per second, however many pods there are.
    pub(super) fn ceiling(&self, now: Seconds) -> f64 {
        self.ceiling.filter(|(_, at)| now - at <= CEILING_KEPT).map_or(f64::INFINITY, |(records, _)| records)
    }
}
