//! Traces: what arrives, and what goes wrong, second by second.

/// Partitions of the topic.
pub(crate) const PARTITIONS: usize = 12;
/// Records per second that a pod reads when nothing hinders it.
pub(crate) const CAPACITY: f64 = 400.0;
/// Offset of every partition when a trace begins: a topic that has lived.
pub(crate) const FIRST_OFFSET: i64 = 1_000_000;
/// Length of every trace, in seconds.
pub(crate) const SECONDS: usize = 3600;

/// One course of things.
pub(crate) struct Trace {
    /// As files are named.
    pub(crate) name: &'static str,
    /// What happens, in words.
    pub(crate) title: &'static str,
    /// Records per second that arrive in a partition in a second.
    pub(crate) arrivals: fn(usize, usize) -> f64,
    /// What goes wrong.
    pub(crate) trouble: Trouble,
}

impl Trace {
    /// Records per second that arrive in all partitions, whether or not the broker is there.
    pub(crate) fn offered(&self, second: usize) -> f64 {
        (0..PARTITIONS).map(|partition| (self.arrivals)(partition, second)).sum()
    }
}

/// What goes wrong.
pub(crate) enum Trouble {
    Nothing,
    /// Records of one partition have one key, and are read one after the other: so many per second.
    Key {
        partition: usize,
        rate: f64,
    },
    /// Nobody gets on with a partition, from a second to another.
    Poison {
        partition: usize,
        from: usize,
        until: usize,
    },
    /// All pods together read so many records per second, and less by a part for each pod beyond the third.
    Sink {
        total: f64,
        loss: f64,
    },
    /// The broker is away; what is to be published waits, and comes at so many records per second on top afterwards.
    Away {
        from: usize,
        until: usize,
        after: f64,
    },
    /// The group is new and reads from the earliest record on; the log's start has moved to its end.
    New,
}

/// Every trace, in the order of the table.
pub(crate) fn all() -> [Trace; 8] {
    [
        Trace {
            name: "step",
            title: "100 records/s, from minute 5 to 25 2,000",
            arrivals: |_, second| even(if (300..1500).contains(&second) { 2000.0 } else { 100.0 }),
            trouble: Trouble::Nothing,
        },
        Trace {
            name: "sine",
            title: "between 100 and 2,100 records/s every 20 minutes",
            arrivals: |_, second| {
                let turn = second as f64 / 1200.0 * std::f64::consts::TAU;
                even(1100.0 - 1000.0 * turn.cos())
            },
            trouble: Trouble::Nothing,
        },
        Trace {
            name: "spike",
            title: "200 records/s, and for one minute 4,000",
            arrivals: |_, second| even(if (600..660).contains(&second) { 4000.0 } else { 200.0 }),
            trouble: Trouble::Nothing,
        },
        Trace {
            name: "hot-key",
            title: "480 records/s, from minute 5 to 15 one key brings 250 where 150 are read one by one",
            arrivals: |partition, second| match partition {
                5 if (300..900).contains(&second) => 250.0,
                _ => 40.0,
            },
            trouble: Trouble::Key { partition: 5, rate: 150.0 },
        },
        Trace {
            name: "stalled-partition",
            title: "720 records/s, from minute 5 to 25 a poison record stops one partition",
            arrivals: |_, _| 60.0,
            trouble: Trouble::Poison { partition: 4, from: 300, until: 1500 },
        },
        Trace {
            name: "saturated-sink",
            title: "300 records/s, from minute 5 to 20 1,400, and the sink takes at most 1,000",
            arrivals: |_, second| even(if (300..1200).contains(&second) { 1400.0 } else { 300.0 }),
            trouble: Trouble::Sink { total: 1000.0, loss: 0.03 },
        },
        Trace {
            name: "broker-restart",
            title: "1,000 records/s, the broker away for two minutes at minute 10",
            arrivals: |_, _| even(1000.0),
            trouble: Trouble::Away { from: 600, until: 720, after: 4000.0 },
        },
        Trace {
            name: "no-commits",
            title: "a new group: 120 records/s into half of the partitions, the log's start moved up to its end",
            arrivals: |partition, _| if partition % 2 == 0 { 20.0 } else { 0.0 },
            trouble: Trouble::New,
        },
    ]
}

/// The part of one of all partitions.
fn even(total: f64) -> f64 {
    total / PARTITIONS as f64
}
