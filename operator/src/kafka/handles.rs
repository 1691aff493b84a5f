//! One Kafka handle per distinct connection, shared by every pipeline that uses it.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use runtime::kafka::KafkaConnection;

use super::admin::Admin;
use super::error::Error;
use crate::leadership::Leadership;

/// The cache of handles.
#[derive(Debug)]
pub struct Handles {
    timeout: Duration,
    leadership: Leadership,
    by_connection: Mutex<HashMap<KafkaConnection, Arc<Admin>>>,
}

impl Handles {
    /// An empty cache whose handles give up on a request after `timeout`, and change nothing while `leadership` is not held.
    #[must_use]
    pub fn new(timeout: Duration, leadership: Leadership) -> Self {
        Self { timeout, leadership, by_connection: Mutex::default() }
    }

    /// The handle for `connection`, made on first use. Making one does not connect yet.
    ///
    /// # Errors
    /// When librdkafka refuses the settings.
    pub fn get(&self, connection: &KafkaConnection) -> Result<Arc<Admin>, Error> {
        let mut handles = self.by_connection.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(admin) = handles.get(connection) {
            return Ok(Arc::clone(admin));
        }
        let admin = Arc::new(Admin::new(connection, self.timeout, self.leadership.clone())?);
        handles.insert(connection.clone(), Arc::clone(&admin));
        Ok(admin)
    }

    /// Drops the handle for `connection`, so that the next look is made with a new one: librdkafka can forget its brokers
    /// for ever (librdkafka#5301), and a handle costs nothing to make.
    pub fn forget(&self, connection: &KafkaConnection) {
        self.by_connection.lock().unwrap_or_else(PoisonError::into_inner).remove(connection);
    }

    /// Drops every handle whose connection no pipeline uses any more.
    pub fn retain(&self, used: &HashSet<KafkaConnection>) {
        self.by_connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|connection, _| used.contains(connection));
    }
}
