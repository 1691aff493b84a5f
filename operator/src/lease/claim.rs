//! Who may take the lease, and when. No clock of another machine is believed: what counts is how long the lease has not
//! changed before this candidate's own eyes.

use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};

use super::timing::Timing;

/// What a candidate knows of the lease.
#[derive(Debug)]
pub(super) struct Candidate {
    name: String,
    identity: String,
    timing: Timing,
    seen: Option<Seen>,
}

/// The lease as it was last seen to change.
#[derive(Debug)]
struct Seen {
    version: Option<String>,
    since: Instant,
    /// Who else held it, and how long it was promised.
    other: Option<(String, Duration)>,
}

/// What a candidate may do.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// Write this: the lease is its own, or free, or has run out.
    Take(Box<Lease>),
    /// Leave it alone.
    Wait {
        /// Who has it.
        holder: String,
        /// It can't have run out before this has passed.
        left: Duration,
    },
}

impl Seen {
    /// What is left of the time that another was promised, if anything is.
    fn wait(&self, now: Instant) -> Option<Verdict> {
        let (holder, promised) = self.other.as_ref()?;
        let left = promised.saturating_sub(now.saturating_duration_since(self.since));
        (!left.is_zero()).then(|| Verdict::Wait { holder: holder.clone(), left })
    }
}

impl Candidate {
    /// A candidate for the lease of this name, under an `identity` that no other process has.
    pub(super) fn new(name: &str, identity: &str, timing: Timing) -> Self {
        Self { name: name.to_owned(), identity: identity.to_owned(), timing, seen: None }
    }

    /// Whether the lease names this candidate as its holder.
    pub(super) fn holds(&self, lease: &Lease) -> bool {
        holder(lease) == Some(self.identity.as_str())
    }

    /// Judges the lease as it was read by `now`; `wall` is only written down, for people.
    pub(super) fn judge(&mut self, found: Option<&Lease>, now: Instant, wall: Timestamp) -> Verdict {
        if let Some(lease) = found {
            self.look(lease, now);
        }
        // A lease that somebody deleted is still its holder's, who has not heard of it yet.
        if let Some(wait) = self.seen.as_ref().and_then(|seen| seen.wait(now)) {
            return wait;
        }
        Verdict::Take(Box::new(match found {
            Some(lease) if self.holds(lease) => self.renewed(lease, wall),
            Some(lease) => self.taken(lease, wall),
            None => self.new_lease(wall),
        }))
    }

    /// Remembers the lease, and since when it has been so.
    fn look(&mut self, lease: &Lease, now: Instant) {
        let version = &lease.metadata.resource_version;
        let since = match &self.seen {
            Some(seen) if seen.version == *version => seen.since,
            _ => now,
        };
        let other = holder(lease).filter(|holder| *holder != self.identity);
        let other = other.map(|holder| (holder.to_owned(), self.promised(lease)));
        self.seen = Some(Seen { version: version.clone(), since, other });
    }

    /// The lease without a holder; everything else stays, so that the count of transitions goes on.
    pub(super) fn released(&self, lease: &Lease, wall: Timestamp) -> Lease {
        let mut lease = lease.clone();
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = None;
        spec.renew_time = Some(MicroTime(wall));
        lease
    }

    /// How long its holder was promised the lease; by the holder's word, whose options may differ from ours.
    fn promised(&self, lease: &Lease) -> Duration {
        let seconds = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
        let promised = seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        promised.unwrap_or(self.timing.duration)
    }

    fn new_lease(&self, wall: Timestamp) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(self.timing.lease_seconds()),
            acquire_time: Some(MicroTime(wall)),
            renew_time: Some(MicroTime(wall)),
            lease_transitions: Some(0),
            ..LeaseSpec::default()
        };
        let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
        Lease { metadata, spec: Some(spec) }
    }

    fn taken(&self, lease: &Lease, wall: Timestamp) -> Lease {
        let mut lease = lease.clone();
        let spec = lease.spec.get_or_insert_default();
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or_default().saturating_add(1));
        spec.holder_identity = Some(self.identity.clone());
        spec.lease_duration_seconds = Some(self.timing.lease_seconds());
        spec.acquire_time = Some(MicroTime(wall));
        spec.renew_time = Some(MicroTime(wall));
        lease
    }

    /// Always later than the renewal before, even if the machine's clock was set back or stands: the API server drops a
    /// write that changes nothing, and others would see no renewal.
    fn renewed(&self, lease: &Lease, wall: Timestamp) -> Lease {
        let mut lease = lease.clone();
        let spec = lease.spec.get_or_insert_default();
        let before = spec.renew_time.as_ref().map(|time| time.0);
        let next = before.and_then(|time| time.checked_add(SignedDuration::from_micros(1)).ok());
        spec.renew_time = Some(MicroTime(next.map_or(wall, |next| next.max(wall))));
        spec.lease_duration_seconds = Some(self.timing.lease_seconds());
        lease
    }
}

/// Who holds the lease; nobody where the name is empty, as some clients leave it.
fn holder(lease: &Lease) -> Option<&str> {
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
    holder.filter(|holder| !holder.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DURATION: Duration = Duration::from_secs(15);
    const BIT: Duration = Duration::from_millis(1);

    fn candidate(identity: &str) -> Candidate {
        let timing = Timing::new(DURATION, Duration::from_secs(10), Duration::from_secs(2)).unwrap();
        Candidate::new("lease", identity, timing)
    }

    fn wall(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    /// As the API server would have stored it.
    fn stored(verdict: Verdict, version: &str) -> Lease {
        let Verdict::Take(mut lease) = verdict else { panic!("not taken: {verdict:?}") };
        lease.metadata.resource_version = Some(version.to_owned());
        *lease
    }

    fn held_by(identity: &str, version: &str) -> Lease {
        stored(candidate(identity).judge(None, Instant::now(), wall(0)), version)
    }

    fn spec(lease: &Lease) -> &LeaseSpec {
        lease.spec.as_ref().unwrap()
    }

    fn waits(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Wait { .. })
    }

    #[test]
    fn a_lease_that_nobody_holds_is_taken_at_once() {
        let mut me = candidate("me");
        let made = stored(me.judge(None, Instant::now(), wall(7)), "1");
        assert!(me.holds(&made));
        assert_eq!(spec(&made).lease_transitions, Some(0));
        assert_eq!(spec(&made).lease_duration_seconds, Some(15));
        assert_eq!(spec(&made).acquire_time, Some(MicroTime(wall(7))));

        let released = candidate("other").released(&held_by("other", "2"), wall(8));
        let taken = stored(me.judge(Some(&released), Instant::now(), wall(9)), "3");
        assert!(me.holds(&taken));
        assert_eq!(spec(&taken).lease_transitions, Some(1));
    }

    #[test]
    fn the_time_counts_from_what_this_candidate_saw_and_not_from_what_the_lease_says() {
        let (mut me, now) = (candidate("me"), Instant::now());
        // Its holder's clock is decades behind.
        let lease = held_by("other", "1");
        assert_eq!(
            me.judge(Some(&lease), now, wall(1_000_000)),
            Verdict::Wait { holder: "other".into(), left: DURATION }
        );
        let verdict = me.judge(Some(&lease), now + DURATION - BIT, wall(0));
        assert_eq!(verdict, Verdict::Wait { holder: "other".into(), left: BIT });
        let taken = stored(me.judge(Some(&lease), now + DURATION, wall(0)), "2");
        assert!(me.holds(&taken));
        assert_eq!(spec(&taken).lease_transitions, Some(1));
        assert_eq!(taken.metadata.resource_version.as_deref(), Some("2"));
    }

    #[test]
    fn every_change_of_the_lease_starts_the_time_anew() {
        let (mut me, now) = (candidate("me"), Instant::now());
        me.judge(Some(&held_by("other", "1")), now, wall(0));
        let renewed = held_by("other", "2");
        assert!(waits(&me.judge(Some(&renewed), now + DURATION, wall(0))));
        assert!(waits(&me.judge(Some(&renewed), now + DURATION * 2 - BIT, wall(0))));
        assert!(!waits(&me.judge(Some(&renewed), now + DURATION * 2, wall(0))));
    }

    #[test]
    fn a_candidate_that_slept_does_not_count_its_sleep() {
        let (mut me, now) = (candidate("me"), Instant::now());
        me.judge(Some(&held_by("other", "1")), now, wall(0));
        assert!(waits(&me.judge(Some(&held_by("other", "900")), now + DURATION * 100, wall(0))));
    }

    #[test]
    fn a_holder_keeps_the_time_it_was_promised_whatever_the_candidate_s_own_options_are() {
        let (mut me, now) = (candidate("me"), Instant::now());
        let mut lease = held_by("other", "1");
        lease.spec.as_mut().unwrap().lease_duration_seconds = Some(60);
        me.judge(Some(&lease), now, wall(0));
        assert!(waits(&me.judge(Some(&lease), now + DURATION * 2, wall(0))));
        assert!(!waits(&me.judge(Some(&lease), now + Duration::from_secs(60), wall(0))));
        lease.spec.as_mut().unwrap().lease_duration_seconds = None;
        assert!(!waits(&me.judge(Some(&lease), now + DURATION, wall(0))));
    }

    #[test]
    fn a_lease_that_was_deleted_is_its_holder_s_until_its_time_has_run_out() {
        let (mut me, now) = (candidate("me"), Instant::now());
        me.judge(Some(&held_by("other", "1")), now, wall(0));
        let verdict = me.judge(None, now + DURATION - BIT, wall(0));
        assert_eq!(verdict, Verdict::Wait { holder: "other".into(), left: BIT });
        let made = stored(me.judge(None, now + DURATION, wall(0)), "2");
        assert!(me.holds(&made));
        assert!(!waits(&me.judge(None, now + DURATION, wall(0))), "one's own is made again at once");

        let mut next = candidate("next");
        next.judge(Some(&candidate("other").released(&held_by("other", "3"), wall(0))), now, wall(0));
        assert!(!waits(&next.judge(None, now, wall(0))), "nobody held it");
    }

    #[test]
    fn a_renewal_is_later_than_the_one_before_even_if_the_clock_was_set_back() {
        let mut me = candidate("me");
        let lease = stored(me.judge(None, Instant::now(), wall(100)), "1");
        let renewed = stored(me.judge(Some(&lease), Instant::now(), wall(50)), "2");
        assert!(spec(&renewed).renew_time > spec(&lease).renew_time);
        assert_eq!(spec(&renewed).acquire_time, spec(&lease).acquire_time);
        assert_eq!(spec(&renewed).lease_transitions, Some(0));
        let later = stored(me.judge(Some(&renewed), Instant::now(), wall(200)), "3");
        assert_eq!(spec(&later).renew_time, Some(MicroTime(wall(200))));
    }

    #[test]
    fn a_write_carries_the_version_that_was_read_so_that_of_two_candidates_one_loses() {
        let (mut me, now) = (candidate("me"), Instant::now());
        let lease = held_by("other", "41");
        me.judge(Some(&lease), now, wall(0));
        let Verdict::Take(taken) = me.judge(Some(&lease), now + DURATION, wall(0)) else { panic!("waits") };
        assert_eq!(taken.metadata.resource_version.as_deref(), Some("41"));
    }

    #[test]
    fn a_released_lease_keeps_its_count_and_names_nobody() {
        let lease = held_by("me", "1");
        let released = candidate("me").released(&lease, wall(3));
        assert_eq!(holder(&released), None);
        assert_eq!(spec(&released).lease_transitions, Some(0));
        let mut empty = released;
        empty.spec.as_mut().unwrap().holder_identity = Some(String::new());
        assert_eq!(holder(&empty), None);
    }
}
