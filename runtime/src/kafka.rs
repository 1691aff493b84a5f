//! How every program connects to Kafka: one description of a cluster, from flags or environment, with TLS and SASL.

use std::fmt;
use std::path::PathBuf;

use anyhow::{Context, bail};
use rdkafka::ClientConfig;

/// Environment variables that [`KafkaArgs`] reads; whoever starts a program sets these.
pub mod env {
    /// `host:port[,host:port…]`.
    pub const BOOTSTRAP_SERVERS: &str = "KAFKA_BOOTSTRAP_SERVERS";
    /// `true` to speak TLS.
    pub const TLS: &str = "KAFKA_TLS";
    /// PEM file with the authorities to trust instead of the system's.
    pub const TLS_CA_FILE: &str = "KAFKA_TLS_CA_FILE";
    /// `PLAIN`, `SCRAM-SHA-256` or `SCRAM-SHA-512`.
    pub const SASL_MECHANISM: &str = "KAFKA_SASL_MECHANISM";
    /// User name for SASL.
    pub const SASL_USERNAME: &str = "KAFKA_SASL_USERNAME";
    /// Password for SASL.
    pub const SASL_PASSWORD: &str = "KAFKA_SASL_PASSWORD";
}

/// SASL mechanisms that are supported.
pub const SASL_MECHANISMS: [&str; 3] = ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"];

/// Connection flags, to be flattened into a program's own.
#[derive(Clone, Debug, clap::Args)]
pub struct KafkaArgs {
    /// Kafka's bootstrap servers, `host:port[,host:port…]`.
    #[arg(long, env = env::BOOTSTRAP_SERVERS)]
    pub kafka_bootstrap_servers: String,
    /// Speak TLS to the brokers.
    #[arg(long, env = env::TLS, default_value_t = false, action = clap::ArgAction::Set)]
    pub kafka_tls: bool,
    /// PEM file with the certificate authorities to trust, instead of the system's.
    #[arg(long, env = env::TLS_CA_FILE)]
    pub kafka_tls_ca_file: Option<PathBuf>,
    /// SASL mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
    #[arg(long, env = env::SASL_MECHANISM)]
    pub kafka_sasl_mechanism: Option<String>,
    /// SASL user name.
    #[arg(long, env = env::SASL_USERNAME)]
    pub kafka_sasl_username: Option<String>,
    /// SASL password; give it through the environment, not as a flag.
    #[arg(long, env = env::SASL_PASSWORD, hide_env_values = true)]
    pub kafka_sasl_password: Option<Secret>,
}

impl KafkaArgs {
    /// The connection these flags describe.
    ///
    /// # Errors
    /// When the CA file can't be read, or SASL is given in part.
    pub fn connection(&self) -> anyhow::Result<KafkaConnection> {
        let ca_pem = match &self.kafka_tls_ca_file {
            Some(path) => Some(
                std::fs::read_to_string(path)
                    .with_context(|| format!("failed to read {} ({})", env::TLS_CA_FILE, path.display()))?,
            ),
            None => None,
        };
        let sasl = match (&self.kafka_sasl_mechanism, &self.kafka_sasl_username, &self.kafka_sasl_password) {
            (None, None, None) => None,
            (Some(mechanism), Some(username), Some(password)) => Some(Sasl {
                mechanism: mechanism.clone(),
                username: username.clone(),
                password: password.clone(),
            }),
            _ => bail!(
                "failed to read the SASL settings: set all of {}, {} and {}, or none",
                env::SASL_MECHANISM,
                env::SASL_USERNAME,
                env::SASL_PASSWORD
            ),
        };
        Ok(KafkaConnection {
            bootstrap_servers: self.kafka_bootstrap_servers.clone(),
            tls: (self.kafka_tls || ca_pem.is_some()).then_some(Tls { ca_pem }),
            sasl,
        })
    }
}

/// One way to reach one Kafka cluster. Two equal values can share a client.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct KafkaConnection {
    /// `host:port[,host:port…]`.
    pub bootstrap_servers: String,
    /// TLS, if spoken.
    pub tls: Option<Tls>,
    /// SASL, if asked for.
    pub sasl: Option<Sasl>,
}

/// TLS settings.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Tls {
    /// Authorities to trust, PEM; the system's when absent.
    pub ca_pem: Option<String>,
}

/// SASL settings.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Sasl {
    /// One of [`SASL_MECHANISMS`].
    pub mechanism: String,
    /// User name.
    pub username: String,
    /// Password.
    pub password: Secret,
}

impl KafkaConnection {
    /// A client configuration for this cluster, to which the caller adds what its client needs.
    ///
    /// `allow.auto.create.topics` is off on every client: librdkafka's producers and admin clients have it on, and
    /// a mere look at a topic's metadata could then create it with the broker's defaults.
    #[must_use]
    pub fn client_config(&self, client_id: &str) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap_servers)
            .set("client.id", client_id)
            .set("allow.auto.create.topics", "false")
            .set("socket.keepalive.enable", "true");
        config.set("security.protocol", self.security_protocol());
        if let Some(Tls { ca_pem: Some(pem) }) = &self.tls {
            config.set("ssl.ca.pem", pem);
        }
        if let Some(sasl) = &self.sasl {
            config
                .set("sasl.mechanism", &sasl.mechanism)
                .set("sasl.username", &sasl.username)
                .set("sasl.password", sasl.password.expose());
        }
        config
    }

    const fn security_protocol(&self) -> &'static str {
        match (self.tls.is_some(), self.sasl.is_some()) {
            (false, false) => "PLAINTEXT",
            (true, false) => "SSL",
            (false, true) => "SASL_PLAINTEXT",
            (true, true) => "SASL_SSL",
        }
    }
}

/// Text that must not be printed: its `Debug` shows nothing of it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret(String);

impl Secret {
    /// The text itself, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connection() -> KafkaConnection {
        KafkaConnection { bootstrap_servers: "kafka:9092".to_owned(), tls: None, sasl: None }
    }

    #[test]
    fn no_client_creates_topics_by_looking_at_them() {
        assert_eq!(connection().client_config("test").get("allow.auto.create.topics"), Some("false"));
    }

    #[test]
    fn the_security_protocol_follows_from_what_is_given() {
        let sasl = Sasl { mechanism: "PLAIN".into(), username: "user".into(), password: "secret".into() };
        let tls = Tls { ca_pem: None };
        for (tls, sasl, expected) in [
            (None, None, "PLAINTEXT"),
            (Some(tls.clone()), None, "SSL"),
            (None, Some(sasl.clone()), "SASL_PLAINTEXT"),
            (Some(tls), Some(sasl), "SASL_SSL"),
        ] {
            let config = KafkaConnection { tls, sasl, ..connection() }.client_config("test");
            assert_eq!(config.get("security.protocol"), Some(expected));
        }
    }

    #[test]
    fn a_password_is_not_printed() {
        assert!(!format!("{:?}", Secret::from("hunter2")).contains("hunter2"));
    }
}
