//! One look after another at topic, groups and fence, and what each leads to; by whoever leads shard 0.

use std::fmt;
use std::sync::Arc;

use rdkafka::error::KafkaError;
use runtime::kafka::KafkaConnection;
use sqlx::PgPool;

use super::clients::{self, Groups, Standings, Topic};
use super::fence::{self, Standing};
use super::{Mapping, Obstacle, Step};
use crate::config::{PartitionGrowth, RelayConfig};
use crate::relay::error::RelayError;

/// Records that a group may have to read when the fence goes up: a consumer reads them in a second or two.
const NEAR: i64 = 2_000;

/// What is needed for one look.
pub(super) struct Asked {
    pub(super) pool: PgPool,
    pub(super) kafka: KafkaConnection,
    pub(super) config: Arc<RelayConfig>,
    pub(super) mapping: Mapping,
}

/// The clients of whoever drives the growth, kept from one look to the next; those for the groups only while a topic grows.
#[derive(Default)]
pub(in super::super) struct Driver {
    topic: Option<Arc<Topic>>,
    groups: Option<Arc<Groups>>,
    /// How the groups stood at the last look with no fence up.
    before: Vec<Standings>,
}

impl fmt::Debug for Driver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Driver").finish_non_exhaustive()
    }
}

impl Driver {
    /// One look, and what it leads to. The driver comes back; after a failure without its clients.
    pub(super) async fn step(mut self, asked: Asked) -> (Self, Result<Step, RelayError>) {
        let step = self.look(&asked).await;
        match step {
            Err(_) => self = Self::default(),
            Ok(Step::Even) => (self.groups, self.before) = (None, Vec::new()),
            Ok(_) => {}
        }
        (self, step)
    }

    async fn look(&mut self, asked: &Asked) -> Result<Step, RelayError> {
        let Asked { pool, config, mapping, .. } = asked;
        if let Some(to) = mapping.growing_to {
            return self.look_behind_fence(asked, to).await;
        }
        let topic = self.topic(asked)?;
        let actual = blocking(move || topic.partitions()).await?;
        let Some(to) = actual.filter(|actual| *actual > mapping.partitions) else {
            return Ok(Step::Even);
        };
        match config.partition_growth {
            PartitionGrowth::OrderSafe => self.try_to_fence(asked, to).await,
            PartitionGrowth::Immediate => {
                let terms = config.growth_terms();
                match fence::obstacle(pool, &terms).await? {
                    None | Some(Obstacle::Doubtful) => {}
                    Some(member) => return Ok(Step::Waits(member)),
                }
                let counts = (mapping.epoch, to);
                let switched = fence::switch_at_once(pool, &config.topic, counts, &terms).await?;
                Ok(if switched { Step::Switched(to) } else { Step::Stale })
            }
        }
    }

    async fn try_to_fence(&mut self, asked: &Asked, to: i32) -> Result<Step, RelayError> {
        let Asked { pool, config, mapping, .. } = asked;
        if config.consumer_groups.is_none() {
            return Ok(Step::Waits(Obstacle::GroupsUnknown));
        }
        let terms = config.growth_terms();
        if let Some(obstacle) = fence::obstacle(pool, &terms).await? {
            return Ok(Step::Waits(obstacle));
        }
        let found = self.standings(asked, to).await?;
        let before = std::mem::replace(&mut self.before, found);
        if let Some(obstacle) =
            clients::obstacle(&self.before, NEAR).or_else(|| clients::at_rest(&before, &self.before))
        {
            return Ok(Step::Waits(obstacle));
        }
        let within = config.growth_drain_timeout;
        let up = fence::put_up(pool, &config.topic, (mapping.epoch, to), &terms, within).await?;
        Ok(if up { Step::PutUp(to) } else { Step::Stale })
    }

    async fn look_behind_fence(&mut self, asked: &Asked, to: i32) -> Result<Step, RelayError> {
        let Asked { pool, config, mapping, .. } = asked;
        let (topic, epoch) = (&config.topic, mapping.epoch);
        match fence::standing(pool, topic, epoch).await? {
            Standing::Gone => return Ok(Step::Stale),
            Standing::Awaits(missing) => return Ok(Step::Fenced(Obstacle::InFlight(missing))),
            Standing::Broken => {
                let why =
                    "a shard has changed hands or has no leader, or the database is served by another server";
                fence::take_down(pool, topic, epoch, why).await?;
                return Ok(Step::Broken);
            }
            Standing::Acknowledged => {}
        }
        // Only now: what was acknowledged is below the ends that are looked up from here on.
        if let Some(obstacle) = clients::obstacle(&self.standings(asked, to).await?, 0) {
            return Ok(Step::Fenced(obstacle));
        }
        let switched = fence::switch(pool, topic, epoch).await?;
        Ok(if switched { Step::Switched(to) } else { Step::Stale })
    }

    async fn standings(&mut self, asked: &Asked, to: i32) -> Result<Vec<Standings>, RelayError> {
        let (topic, groups, counts) =
            (self.topic(asked)?, self.groups(asked)?, (asked.mapping.partitions, to));
        blocking(move || groups.standings(&topic, counts)).await
    }

    fn topic(&mut self, Asked { kafka, config, .. }: &Asked) -> Result<Arc<Topic>, RelayError> {
        if let Some(topic) = &self.topic {
            return Ok(topic.clone());
        }
        let topic = Topic::new(kafka, &config.pod_name, &config.topic).map_err(RelayError::Growth)?;
        Ok(self.topic.insert(Arc::new(topic)).clone())
    }

    fn groups(&mut self, Asked { kafka, config, .. }: &Asked) -> Result<Arc<Groups>, RelayError> {
        if let Some(groups) = &self.groups {
            return Ok(groups.clone());
        }
        let names = config.consumer_groups.iter().flat_map(|groups| groups.0.clone());
        let groups = Groups::new(kafka, &config.pod_name, names).map_err(RelayError::Growth)?;
        Ok(self.groups.insert(Arc::new(groups)).clone())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
) -> Result<T, RelayError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done.map_err(RelayError::Growth),
        // The closure does not panic; it may be cancelled with the runtime.
        Err(_) => Err(RelayError::Growth(KafkaError::Canceled)),
    }
}
