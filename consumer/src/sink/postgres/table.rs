//! A table that the sink makes before its first use, unless somebody made it for it.

use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::{Executor, PgPool};

/// Key of the advisory lock under which tables are made: "order_ev" in ASCII. `CREATE TABLE IF NOT EXISTS` alone fails when two
/// sessions run it at once.
const LOCK: i64 = 0x6f72_6465_725f_6576;

/// One of the sink's tables.
#[derive(Debug)]
pub(super) struct Table {
    name: &'static str,
    create: &'static str,
    /// Whether it was there when last looked for.
    exists: AtomicBool,
}

impl Table {
    /// The table `name`, which `create` makes.
    pub(super) const fn new(name: &'static str, create: &'static str) -> Self {
        Self { name, create, exists: AtomicBool::new(false) }
    }

    /// Makes sure of it, once.
    pub(super) async fn ensure(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        if !self.exists.load(Ordering::Relaxed) {
            self.make(pool).await?;
            self.exists.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// From now on it may be another, empty database that answers.
    pub(super) fn doubt(&self) {
        self.exists.store(false, Ordering::Relaxed);
    }

    async fn make(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        let look = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL").bind(self.name);
        // Where the table was made beforehand, the sink's role needs no right to create it.
        if look.fetch_one(pool).await? {
            return Ok(());
        }
        let mut transaction = pool.begin().await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(LOCK).execute(&mut *transaction).await?;
        transaction.execute(self.create).await?;
        transaction.commit().await
    }
}
