//! The key rule: which partition a key belongs to.

/// Seed of Kafka's murmur2 (`org.apache.kafka.common.utils.Utils.murmur2`).
const SEED: u32 = 0x9747_b28c;
/// Multiplier of murmur2.
const M: u32 = 0x5bd1_e995;

/// The partition Java's default partitioner chooses for `key`: `toPositive(murmur2(key)) mod partitions`
/// (`org.apache.kafka.clients.producer.internals.BuiltInPartitioner.partitionForKey`). Computed here, and sent
/// explicitly, so that a producer in Java and ours put a key on the same partition.
///
/// # Panics
/// When `partitions` is not positive: a topic has at least one.
#[must_use]
pub fn partition_for(key: &[u8], partitions: i32) -> i32 {
    assert!(partitions > 0, "a topic has at least one partition, not {partitions}");
    let positive = murmur2(key) & 0x7fff_ffff;
    (positive % partitions.unsigned_abs()).cast_signed()
}

/// Kafka's murmur2 over `data`.
#[must_use]
pub fn murmur2(data: &[u8]) -> u32 {
    // The length enters the hash as a 32-bit integer, as in Java; keys are far below that.
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut hash = SEED ^ length;
    let mut words = data.chunks_exact(4);
    for word in &mut words {
        let mut k = u32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        k = k.wrapping_mul(M);
        k ^= k >> 24;
        k = k.wrapping_mul(M);
        hash = hash.wrapping_mul(M) ^ k;
    }
    let rest = words.remainder();
    if !rest.is_empty() {
        for (index, byte) in rest.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * index);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of Kafka's own `UtilsTest.testMurmur2`.
    #[test]
    fn murmur2_gives_what_kafka_gives() {
        for (key, expected) in [
            ("21", -973_932_308_i32),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()).cast_signed(), expected, "key {key}");
        }
    }

    #[test]
    fn every_partition_is_within_the_topic() {
        for partitions in 1..50 {
            for key in 0..200 {
                let partition = partition_for(format!("order-{key}").as_bytes(), partitions);
                assert!((0..partitions).contains(&partition));
            }
        }
    }
}
