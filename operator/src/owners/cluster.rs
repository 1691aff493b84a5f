//! Which pipelines are on one cluster, as far as their addresses tell.

use std::collections::BTreeSet;
use std::sync::Arc;

/// The addresses of a cluster. Two sets that share one are of the same cluster: whoever adds a broker to the list stays where it
/// was. The same cluster under other names can't be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cluster(Arc<BTreeSet<String>>);

impl Cluster {
    pub(super) fn of(bootstrap_servers: &str) -> Self {
        let addresses = bootstrap_servers
            .split(',')
            .map(|address| address.trim().to_ascii_lowercase())
            .filter(|address| !address.is_empty());
        Self(Arc::new(addresses.collect()))
    }

    /// Whether both are the same cluster.
    pub(super) fn meets(&self, other: &Self) -> bool {
        !self.0.is_disjoint(&other.0)
    }

    /// The addresses of both.
    pub(super) fn with(&self, other: &Self) -> Self {
        if other.0.is_subset(&self.0) { self.clone() } else { Self(Arc::new(&*self.0 | &*other.0)) }
    }
}

#[cfg(test)]
mod tests {
    use super::Cluster;

    #[test]
    fn clusters_that_share_an_address_are_the_same() {
        let meet = |one: &str, other: &str| Cluster::of(one).meets(&Cluster::of(other));
        assert!(meet("a:1,b:2", "B:2, c:3,"));
        assert!(!meet("a:1,b:2", "a:2"));
        assert!(!meet(",", ","), "no address is no cluster");
    }

    #[test]
    fn two_lists_of_addresses_together_meet_whatever_either_meets() {
        let both = Cluster::of("a:1").with(&Cluster::of("b:2"));
        assert_eq!(both, Cluster::of("b:2,a:1"));
        assert_eq!(both.with(&Cluster::of("a:1")), both);
    }
}
