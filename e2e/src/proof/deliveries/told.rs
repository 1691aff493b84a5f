//! What members say in their logs of the partitions that they get.

use jiff::Timestamp;
use serde::Deserialize;

/// What a member says when it has begun with partitions, with their list.
const ASSIGNED: &str = "partitions assigned";
/// The list of none: the group has changed, and it got nothing by that.
const NONE: &str = "[]";

/// A line, as far as it matters.
#[derive(Deserialize)]
struct Line {
    timestamp: Timestamp,
    message: String,
    partitions: String,
}

/// When it got partitions, in milliseconds since 1970.
#[must_use]
pub fn assignments(log: &str) -> Vec<i64> {
    let lines = log.lines().filter(|line| line.contains(ASSIGNED));
    lines
        // Who was killed may have left half a line.
        .filter_map(|line| serde_json::from_str::<Line>(line).ok())
        .filter(|line| line.message == ASSIGNED && line.partitions != NONE)
        .map(|line| line.timestamp.as_millisecond())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_assignment_of_something_counts_and_half_a_line_is_none() {
        let assigned = |second: u32, partitions: &str| {
            format!(
                r#"{{"timestamp":"1970-01-01T00:00:0{second}.250000Z","level":"INFO","message":"partitions assigned","group":"g","partitions":"{partitions}","target":"consumer::poll_loop"}}"#
            )
        };
        let revoked = assigned(3, "[1]").replace(ASSIGNED, "partitions revoked");
        let log = [assigned(1, "[]"), assigned(2, "[0, 4]"), revoked, assigned(4, "[2]"), assigned(5, "[3]")];
        let whole = log.join("\n");
        assert_eq!(assignments(&whole), [2_250, 4_250, 5_250]);
        assert_eq!(assignments(&whole[..whole.len() - 9]), [2_250, 4_250]);
    }
}
