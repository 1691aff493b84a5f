//! The fail points of the order service: the places between two steps at which the campaign kills or delays it.

use serde::Serialize;

/// Every fail point, by the part that has it. A point that the service does not have is never hit, which `proof --short`
/// reports as a failure.
pub const POINTS: [&str; 10] = [
    "writer::before_write",
    "writer::before_commit",
    "writer::after_commit",
    "change::before_commit",
    "change::after_commit",
    "relay::after_lease",
    "relay::after_read",
    "relay::after_produce",
    "relay::before_delete",
    "relay::after_delete",
];

/// Most visits that may pass at a point if it is still to act within a run: leases are kept a few times only.
#[must_use]
pub fn most_passes(name: &str) -> u32 {
    if name == "relay::after_lease" { 3 } else { u32::MAX }
}

/// The point stands in what the writer's lanes do: where each order has a transaction of its own, nobody comes by it.
#[must_use]
pub fn needs_lanes(name: &str) -> bool {
    name.starts_with("writer::")
}

/// What is done at a point.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Act {
    /// The process ends there and then, as by SIGKILL: the service's panic hook aborts it.
    Die,
    /// The thread sleeps, as long as this in milliseconds: the step after it comes late.
    Sleep(u64),
}

/// One point, armed at the start of a process.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Point {
    /// One of [`POINTS`].
    pub name: &'static str,
    /// Visits that pass before.
    pub after: u32,
    /// What is then done, once.
    pub act: Act,
}

impl Point {
    /// The value of `FAILPOINTS` that arms it. After a sleep the next visit says so in the service's log: that is how it
    /// is known to have happened.
    #[must_use]
    pub fn spec(&self) -> String {
        let Self { name, after, act } = self;
        match act {
            Act::Die => format!("{name}={after}*off->1*panic->off"),
            Act::Sleep(millis) => {
                format!("{name}={after}*off->1*sleep({millis})->1*print({})->off", self.trace())
            }
        }
    }

    /// What a panic at it says, by which the service's hook knows that it is to abort.
    #[must_use]
    pub fn last_words(&self) -> String {
        format!("failpoint {} panic", self.name)
    }

    /// What the service's log says once a sleep is over.
    #[must_use]
    pub fn trace(&self) -> String {
        format!("slept at {}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_passes_some_visits_then_acts_once() {
        let die = Point { name: POINTS[1], after: 7, act: Act::Die };
        assert_eq!(die.spec(), "writer::before_commit=7*off->1*panic->off");
        let sleep = Point { act: Act::Sleep(300), ..die };
        assert_eq!(
            sleep.spec(),
            "writer::before_commit=7*off->1*sleep(300)->1*print(slept at writer::before_commit)->off"
        );
    }
}
