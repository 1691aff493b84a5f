//! How a replica's process ended, and whether that was asked of it.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use rustix::process::Signal;

use super::points::{Act, Point};

/// Lines of the log that a violation shows.
const LINES_SHOWN: usize = 5;
/// What `main` says when it returns an error.
const ERROR: &str = "Error: ";
/// What the runtime says of a panic.
const PANICKED: &str = "panicked at";
/// How a line of a program's own log begins. It catches SIGTERM before it has anything to say: whoever has said something does
/// not die by that signal.
const SAID: char = '{';
/// Another process took the port between two starts, which is the campaign's doing and not the service's.
const PORT_TAKEN: &str = "Address already in use";

/// An end of a process.
#[derive(Clone, Debug)]
pub struct End {
    /// How it ended.
    pub status: ExitStatus,
    /// The signal that it was sent to end it, if any.
    pub told: Option<Signal>,
    /// The point that was armed in it, if any.
    pub armed: Option<Point>,
    /// What this process, and none before it, wrote to its log.
    pub log: String,
}

impl End {
    /// The armed point ended it, and says so in the log: another abort is not the point's.
    #[must_use]
    pub fn by_point(&self) -> Option<Point> {
        let aborted = self.status.signal() == Some(Signal::ABORT.as_raw());
        self.armed.filter(|point| {
            aborted && point.act == Act::Die && self.log.lines().any(|line| line == point.last_words())
        })
    }

    /// It found its port taken at its start: allowed, and reported. A database that is away is waited for.
    #[must_use]
    pub fn at_start(&self) -> bool {
        let error = self.log.find(ERROR).map(|at| &self.log[at..]);
        self.status.code() == Some(1) && error.is_some_and(|error| error.contains(PORT_TAKEN))
    }

    /// It panicked somewhere, which a caller may have been spared: not by its fail point, which ends it by one panic.
    #[must_use]
    pub fn panicked(&self) -> Option<&str> {
        let lines: Vec<&str> = self.log.lines().collect();
        let last_words = self.by_point().map(|point| point.last_words());
        let panics: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].contains(PANICKED)).collect();
        if panics.len() <= usize::from(last_words.is_some()) {
            return None;
        }
        let is_points = |at: usize| lines.get(at + 1).copied() == last_words.as_deref();
        let other = panics.iter().copied().find(|at| !is_points(*at));
        other.or(panics.first().copied()).map(|at| lines[at])
    }

    /// What is wrong with this end, if it was neither asked for nor has an excuse. Success is no excuse: a service that
    /// nobody told to stop does not stop. Nor does one that was told to, and had begun its work, drop it where it stands.
    #[must_use]
    pub fn unasked(&self) -> Option<String> {
        let by_signal = self.told.is_some_and(|told| self.status.signal() == Some(told.as_raw()));
        let asked = if self.told == Some(Signal::TERM) {
            self.status.success() || (by_signal && !self.has_begun())
        } else {
            by_signal
        };
        let asked = asked || self.by_point().is_some() || self.at_start();
        (!asked).then(|| {
            let lines: Vec<&str> = self.log.lines().collect();
            let last = lines[lines.len().saturating_sub(LINES_SHOWN)..].join(" | ");
            format!("{}; its last words: {last}", self.status)
        })
    }

    /// It has said something, and so catches SIGTERM.
    fn has_begun(&self) -> bool {
        self.log.lines().any(|line| line.starts_with(SAID))
    }
}

#[cfg(test)]
mod tests {
    use super::super::points::POINTS;
    use super::*;

    const DIE: Point = Point { name: POINTS[0], after: 0, act: Act::Die };

    fn end(raw: i32, told: Option<Signal>, log: &str) -> End {
        End { status: ExitStatus::from_raw(raw), told, armed: None, log: log.to_owned() }
    }

    const fn exit(code: i32) -> i32 {
        code << 8
    }

    #[test]
    fn an_end_by_a_signal_that_was_sent_is_asked_for() {
        for (raw, told) in [(9, Signal::KILL), (15, Signal::TERM), (exit(0), Signal::TERM)] {
            assert_eq!(end(raw, Some(told), "").unasked(), None, "{raw}");
        }
    }

    #[test]
    fn sigterm_ends_a_process_by_itself_only_before_that_has_said_anything() {
        let said = r#"{"level":"INFO","message":"shards led"}"#;
        assert!(end(15, Some(Signal::TERM), said).unasked().is_some());
        for log in ["", "thread 'main' panicked at x.rs:1"] {
            assert_eq!(end(15, Some(Signal::TERM), log).unasked(), None, "{log:?}");
        }
        for (raw, told) in [(exit(0), Signal::TERM), (9, Signal::KILL)] {
            assert_eq!(end(raw, Some(told), said).unasked(), None, "{raw}");
        }
    }

    #[test]
    fn an_end_that_nobody_asked_for_is_found_whatever_its_status() {
        for raw in [exit(0), exit(1), exit(101), 6, 9, 11, 15] {
            assert!(end(raw, None, "").unasked().is_some(), "{raw}");
        }
    }

    #[test]
    fn a_panic_or_a_crash_on_the_way_out_is_found() {
        for raw in [exit(1), exit(101), 6, 11] {
            assert!(end(raw, Some(Signal::TERM), "").unasked().is_some(), "{raw}");
        }
    }

    #[test]
    fn the_armed_point_may_abort_the_process_if_the_log_says_that_it_did() {
        let log = format!("thread 'writer' panicked\nfailpoint {} panic\nnote: run with", DIE.name);
        let died = End { armed: Some(DIE), ..end(6, None, &log) };
        assert_eq!((died.by_point(), died.unasked()), (Some(DIE), None));
        let silent = End { log: "double free".to_owned(), ..died.clone() };
        assert!(silent.unasked().is_some(), "an abort while a point is armed need not be the point's");
        let asleep = End { armed: Some(Point { act: Act::Sleep(1), ..DIE }), ..died.clone() };
        assert!(asleep.unasked().is_some(), "a sleep ends nothing");
        assert!(End { armed: None, ..died }.unasked().is_some());
    }

    #[test]
    fn a_panic_that_the_process_survived_is_found_unless_it_is_the_points() {
        let log = format!("thread 'lane' panicked at x.rs:1\nfailpoint {} panic", DIE.name);
        assert!(end(15, Some(Signal::TERM), &log).panicked().is_some());
        assert!(End { armed: Some(DIE), ..end(6, None, &log) }.panicked().is_none());
        assert!(end(15, Some(Signal::TERM), "all well").panicked().is_none());
    }

    #[test]
    fn a_panic_beside_that_of_the_fail_point_is_found_whichever_came_first() {
        let point = format!("thread 'lane' panicked at x.rs:1:\nfailpoint {} panic", DIE.name);
        let other = "thread 'relay' panicked at y.rs:2:\nindex out of bounds";
        for log in [format!("{point}\n{other}"), format!("{other}\n{point}")] {
            let died = End { armed: Some(DIE), ..end(6, None, &log) };
            assert_eq!(died.panicked(), Some("thread 'relay' panicked at y.rs:2:"));
        }
        let twice = End { armed: Some(DIE), ..end(6, None, &format!("{point}\n{point}")) };
        assert!(twice.panicked().is_some(), "a point acts once");
    }

    #[test]
    fn a_start_without_its_port_has_an_excuse_and_one_without_its_database_has_none() {
        let lost = "Error: failed to claim the outbox\n\nCaused by:\n    error communicating with database";
        assert!(end(exit(1), None, lost).unasked().is_some());
        let taken = "Error: failed to listen\n\nCaused by:\n    Address already in use (os error 98)";
        assert_eq!(end(exit(1), None, taken).unasked(), None);
        let foreign = "Error: failed to claim the outbox for topic a: the database belongs to topic b";
        assert!(end(exit(1), None, foreign).unasked().is_some());
        assert!(end(exit(101), None, taken).unasked().is_some());
    }

    #[test]
    fn a_violation_shows_the_last_lines_of_the_log() {
        let what = end(exit(101), None, "1\n2\n3\n4\n5\n6").unasked().unwrap();
        assert_eq!(what, "exit status: 101; its last words: 2 | 3 | 4 | 5 | 6");
    }
}
