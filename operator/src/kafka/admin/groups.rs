//! Several groups of one cluster looked at together: two requests for all logs, one for all groups, one for the commits of each.

use std::collections::{BTreeMap, BTreeSet};

use futures::{StreamExt, future, stream};

use super::Admin;
use crate::kafka::groups::{GroupLook, GroupLooks, GroupQuery, LogEnd, Membership, PartitionLook, Place};
use crate::kafka::{Error, ffi};

/// Groups whose commits are asked for at a time: librdkafka asks for those of one group only in a request.
const COMMITS_AT_ONCE: usize = 8;

type Offsets<T> = Result<BTreeMap<Place, Result<T, Error>>, Error>;
type Memberships = Result<BTreeMap<String, Result<Membership, Error>>, Error>;

impl Admin {
    /// Looks at several groups at one time. Never fails as a whole: what could not be read of a group is an error in its place.
    ///
    /// Commits are read before the logs' ends, so that what was read meanwhile does not seem to lie beyond them.
    pub async fn look_at_groups(&self, queries: &[GroupQuery]) -> GroupLooks {
        let commits = stream::iter(queries)
            .map(|query| async move { (query, self.committed(query).await) })
            .buffer_unordered(COMMITS_AT_ONCE)
            .collect::<Vec<_>>();
        let (committed, memberships) = future::join(commits, self.memberships(queries)).await;
        let places: Vec<Place> =
            queries.iter().flat_map(places_of).collect::<BTreeSet<_>>().into_iter().collect();
        let (first, last) =
            future::join(self.ends(&places, LogEnd::First), self.ends(&places, LogEnd::Last)).await;
        let look = |(query, committed): (&GroupQuery, Offsets<Option<i64>>)| {
            let partition = |place: Place| PartitionLook {
                first: of(&first, &place),
                last: of(&last, &place),
                committed: of(&committed, &place),
            };
            let partitions = places_of(query).map(partition).collect();
            let membership = of(&memberships, &query.group);
            (query.clone(), GroupLook { membership, partitions })
        };
        committed.into_iter().map(look).collect()
    }

    async fn committed(&self, query: &GroupQuery) -> Offsets<Option<i64>> {
        let (group, places): (String, Vec<_>) = (query.group.clone(), places_of(query).collect());
        self.blocking("list committed offsets", move |client, timeout| {
            ffi::list_committed(client, &group, &places, timeout)
        })
        .await
    }

    async fn memberships(&self, queries: &[GroupQuery]) -> Memberships {
        let groups: Vec<String> =
            queries.iter().map(|query| query.group.clone()).collect::<BTreeSet<_>>().into_iter().collect();
        self.blocking("describe groups", move |client, timeout| {
            ffi::describe_groups(client, &groups, timeout)
        })
        .await
    }

    async fn ends(&self, places: &[Place], end: LogEnd) -> Offsets<i64> {
        let places = places.to_vec();
        self.blocking("list offsets", move |client, timeout| ffi::list_offsets(client, &places, end, timeout))
            .await
    }
}

fn places_of(query: &GroupQuery) -> impl Iterator<Item = Place> + use<'_> {
    (0..query.partitions).map(|partition| (query.topic.clone(), partition))
}

/// The answer for one of many; that there is none is an error too.
fn of<K: Ord, T: Clone>(answers: &Result<BTreeMap<K, Result<T, Error>>, Error>, key: &K) -> Result<T, Error> {
    match answers {
        Ok(answers) => {
            let none = || Error::Aborted { action: "look at a group".to_owned() };
            answers.get(key).cloned().unwrap_or_else(|| Err(none()))
        }
        Err(error) => Err(error.clone()),
    }
}
