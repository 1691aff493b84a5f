//! Stalls: partitions that nobody gets on with, by the rules of `LinkedIn`'s Burrow, which need no threshold.

use super::rates::Sample;
use super::signals::Seconds;

/// A partition that nobody got on with for so long is stalled.
pub(super) const SURE: Seconds = 60.0;
/// After so long it may be. It is no longer counted then, for its backlog grows without telling anything about pods.
pub(super) const SUSPECT: Seconds = 20.0;

/// A place that was committed, with what was still to be read then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Commit {
    /// The offset.
    pub(super) offset: i64,
    /// When, in milliseconds.
    pub(super) millis: i64,
    /// Records still to be read, where that was known.
    pub(super) lag: Option<u64>,
}

/// How a group gets on with a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Health {
    /// It does.
    Sound,
    /// It reads, and falls behind.
    Slow,
    /// It commits the same place again and again.
    Stalled,
    /// It has stopped committing.
    Stopped,
    /// It went back.
    Rewound,
}

/// Burrow's rules, over commits from the oldest to the newest: `ends` are the latest log ends, `lag` is what is to be
/// read now, `now` is in milliseconds.
#[must_use]
pub(super) fn health(commits: &[Commit], ends: &[i64], lag: u64, now: i64) -> Health {
    let (Some(first), Some(last)) = (commits.first(), commits.last()) else { return Health::Sound };
    if lag == 0 {
        return Health::Sound;
    }
    // Silent for longer than the commits that are known took altogether, and not just because there was nothing to read.
    let silent = now - last.millis > last.millis - first.millis;
    if silent && !ends.iter().any(|end| *end <= last.offset) {
        return Health::Stopped;
    }
    if commits.iter().any(|commit| commit.lag == Some(0)) {
        return Health::Sound;
    }
    let pairs = || commits.iter().zip(commits.iter().skip(1));
    if pairs().any(|(before, after)| after.offset < before.offset) {
        Health::Rewound
    } else if pairs().all(|(before, after)| after.offset == before.offset) {
        Health::Stalled
    } else if pairs().all(|(before, after)| after.lag >= before.lag) {
        Health::Slow
    } else {
        Health::Sound
    }
}

/// Health by what was seen in each tick: every sample counts as a commit, for a broker does not tell when one was made.
/// Only samples since `since` count, when the group last began to read undisturbed.
#[must_use]
pub(super) fn seen<'a>(samples: impl Iterator<Item = &'a Sample>, since: Seconds) -> Health {
    let commit = |sample: &Sample| {
        #[expect(clippy::cast_possible_truncation, reason = "a time in milliseconds lies far within 64 bits")]
        let millis = (sample.at * 1000.0) as i64;
        Commit { offset: sample.position, millis, lag: Some(sample.records) }
    };
    let commits: Vec<_> = samples.filter(|sample| sample.at >= since).map(commit).collect();
    match commits.as_slice() {
        [_, .., last] => health(&commits, &[], last.lag.unwrap_or(0), last.millis),
        _ => Health::Sound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offsets and lags of commits at 100 s, 200 s and so on.
    fn commits(offsets: [i64; 5], lags: [u64; 5]) -> Vec<Commit> {
        let times = (1..).map(|index| index * 100_000);
        let rows = offsets.into_iter().zip(lags).zip(times);
        rows.map(|((offset, lag), millis)| Commit { offset, millis, lag: Some(lag) }).collect()
    }

    /// What is committed, the latest log ends, the lag now, the time in seconds, what is expected.
    type Vector = (&'static str, Vec<Commit>, Vec<i64>, u64, i64, Health);

    /// Inputs and results are those of Burrow's `caching_test.go` (ced55ba), by number.
    fn vectors() -> Vec<Vector> {
        const RISING: [i64; 5] = [1000, 2000, 3000, 4000, 5000];
        const SAME: [i64; 5] = [1000; 5];
        let from_zero = [0, 50, 100, 150, 200];
        let from_fifty = [50, 100, 150, 200, 250];
        let growing = [100, 150, 200, 250, 300];
        let second_by_second = || {
            let row = |index: i64| Commit {
                offset: 792_748_079 + index,
                millis: 1_512_224_618_356 + index * 1003,
                lag: Some(0),
            };
            (0..15).map(row).collect::<Vec<_>>()
        };
        let mut gaps = commits(RISING, from_zero);
        for (index, offset) in [1500, 2500, 3500, 4500, 5500].into_iter().enumerate() {
            let millis = 150_000 + 100_000 * i64::try_from(index).unwrap();
            gaps.insert(2 * index + 1, Commit { offset, millis, lag: None });
        }
        let rewound = commits([1000, 2000, 3000, 2000, 4000], [100, 150, 200, 1250, 300]);
        vec![
            ("0: no lag somewhere", commits(RISING, from_zero), vec![5200], 200, 600, Health::Sound),
            ("1: just not silent", commits(RISING, from_zero), vec![5200], 200, 900, Health::Sound),
            ("2: silent", commits(RISING, from_zero), vec![5200], 200, 1000, Health::Stopped),
            ("3: silent, always lag", commits(RISING, from_fifty), vec![5250], 250, 1000, Health::Stopped),
            ("4: same place, no lag at first", commits(SAME, from_zero), vec![1200], 200, 600, Health::Sound),
            ("5: same place", commits(SAME, growing), vec![1300], 300, 600, Health::Stalled),
            ("6: same place, same lag", commits(SAME, [100; 5]), vec![1100], 100, 600, Health::Stalled),
            ("7: went back", rewound, vec![4300], 300, 600, Health::Rewound),
            ("8: no lag now", commits(RISING, from_fifty), vec![5250], 0, 1000, Health::Sound),
            (
                "9: silent since new data came",
                second_by_second(),
                vec![792_749_024, 792_749_000, 792_748_800, 792_748_600, 792_748_500],
                931,
                1_512_224_650,
                Health::Stopped,
            ),
            (
                "10: silent for want of data",
                second_by_second(),
                vec![792_748_094, 792_748_093, 792_748_093, 792_748_093],
                1,
                1_512_224_650,
                Health::Sound,
            ),
            ("11: unknown lags between", gaps, vec![5700], 200, 600, Health::Sound),
        ]
    }

    #[test]
    fn health_is_what_burrow_makes_of_its_own_vectors() {
        for (name, commits, ends, lag, seconds, expected) in vectors() {
            assert_eq!(health(&commits, &ends, lag, seconds * 1000), expected, "{name}");
        }
    }

    #[test]
    fn a_group_that_reads_and_falls_behind_is_slow_and_not_stalled() {
        let commits = commits([1000, 1010, 1020, 1030, 1040], [100, 200, 300, 400, 500]);
        assert_eq!(health(&commits, &[1540], 500, 510_000), Health::Slow);
    }

    #[test]
    fn one_look_tells_nothing() {
        let sample = Sample { at: 100.0, end: 10, position: 0, records: 10, age: 50.0 };
        assert_eq!(seen([sample].iter(), 0.0), Health::Sound);
        let later = Sample { at: 105.0, ..sample };
        assert_eq!(seen([sample, later].iter(), 0.0), Health::Stalled);
        assert_eq!(seen([sample, later].iter(), 101.0), Health::Sound, "only one since then");
    }
}
