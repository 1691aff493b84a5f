//! Exactly once: the group's places, kept beside its rows and moved in the statement that inserts them.

use super::{PostgresSink, Rows};
use crate::sink::{Applied, Claimed, Decoded, SinkError};

/// One row per partition. `epoch` counts claims; `next_offset` is Kafka's notion of a place: the offset that comes next.
pub(super) const CREATE_TABLE: &str = r#"
CREATE TABLE IF NOT EXISTS order_events_place (
    "group"     text   NOT NULL,
    topic       text   NOT NULL,
    partition   int    NOT NULL,
    next_offset bigint NOT NULL,
    epoch       bigint NOT NULL,
    PRIMARY KEY ("group", topic, partition)
)"#;

const CLAIM: &str = r#"
INSERT INTO order_events_place AS place ("group", topic, partition, next_offset, epoch) VALUES ($1, $2, $3, $4, 1)
ON CONFLICT ("group", topic, partition) DO UPDATE SET epoch = place.epoch + 1
RETURNING epoch, next_offset"#;

/// One statement is one transaction: the rows are there if and only if the place moved, and it moves only from where the claim
/// says. A claimant that comes meanwhile waits for the row's lock, or makes this statement find another epoch.
const APPLY: &str = r#"
WITH moved AS (
    UPDATE order_events_place SET next_offset = $4
     WHERE "group" = $1 AND topic = $2 AND partition = $3 AND epoch = $5 AND next_offset = $6
    RETURNING 1
), inserted AS (
    INSERT INTO order_events ("group", topic, partition, "offset", order_id, version, type, event_id, payload)
    SELECT $1, $2, $3, "offset", order_id, version, type, event_id, payload::json
      FROM UNNEST($7::bigint[], $8::uuid[], $9::bigint[], $10::text[], $11::uuid[], $12::text[])
           AS row ("offset", order_id, version, type, event_id, payload)
     WHERE EXISTS (SELECT FROM moved)
     ORDER BY "offset"
    ON CONFLICT DO NOTHING
)
SELECT EXISTS (SELECT FROM moved)"#;

const LOOK: &str = r#"
SELECT epoch, next_offset FROM order_events_place WHERE "group" = $1 AND topic = $2 AND partition = $3"#;

impl PostgresSink {
    pub(super) async fn take_place(&self, partition: i32, begin: i64) -> Result<Claimed, SinkError> {
        let query = sqlx::query_as(CLAIM).bind(&self.group).bind(&self.topic);
        let claim = query.bind(partition).bind(begin).fetch_one(&self.pool);
        let (epoch, place) = self.with([&self.places], claim).await?;
        Ok(Claimed { partition, epoch, place })
    }

    pub(super) async fn move_place(
        &self,
        Claimed { partition, epoch, place }: Claimed,
        batch: &[Decoded],
        until: i64,
    ) -> Result<Applied, SinkError> {
        let rows = Rows::of(batch)?;
        let apply = sqlx::query_scalar(APPLY)
            .bind(&self.group)
            .bind(&self.topic)
            .bind(partition)
            .bind(until)
            .bind(epoch)
            .bind(place)
            .bind(rows.offsets)
            .bind(rows.order_ids)
            .bind(rows.versions)
            .bind(rows.types)
            .bind(rows.event_ids)
            .bind(rows.payloads)
            .fetch_one(&self.pool);
        if self.with([&self.events, &self.places], apply).await? {
            return Ok(Applied::Moved);
        }
        let query = sqlx::query_as::<_, (i64, i64)>(LOOK).bind(&self.group).bind(&self.topic);
        Ok(match self.with([&self.places], query.bind(partition).fetch_optional(&self.pool)).await? {
            Some((current, found)) if current == epoch => Applied::Found(found),
            // A row that is gone was taken away by a person, who wants the group to begin anew.
            Some(_) | None => Applied::Fenced,
        })
    }
}
