//! The Secrets a pipeline refers to: whether they are there, and the Kafka connection they complete.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use runtime::kafka::{KafkaConnection, Sasl, Tls};

use super::Error;
use crate::crd::{KafkaSpec, OrderPipeline, SecretKeyRef};
use crate::hash;

/// Whether a referenced key is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretState {
    /// It is. The hash changes with the value; it is keyed by the Secret's uid, which only those can read who can
    /// read the Secret itself, so it tells nobody else anything about the value.
    Present {
        /// Hash of the value.
        hash: String,
    },
    /// The Secret is not there.
    SecretMissing,
    /// The Secret lacks the key.
    KeyMissing,
}

impl SecretState {
    /// What is missing and how to mend it; nothing when all is there.
    #[must_use]
    pub fn complaint(&self, reference: &SecretKeyRef) -> Option<String> {
        let SecretKeyRef { name, key } = reference;
        match self {
            Self::Present { .. } => None,
            Self::SecretMissing => Some(format!("Secret {name} is missing: create it with key {key}")),
            Self::KeyMissing => Some(format!("Secret {name} has no key {key}: add it")),
        }
    }
}

/// A state together with the value. It never leaves this step, and is not printable.
pub(super) struct SeenSecret {
    pub(super) state: SecretState,
    value: Option<String>,
}

/// One read per Secret, not per key.
pub(super) async fn observe(
    client: &Client,
    namespace: &str,
    references: &BTreeSet<SecretKeyRef>,
) -> Result<BTreeMap<SecretKeyRef, SeenSecret>, Error> {
    let api: Api<Secret> = Api::namespaced(client.clone(), namespace);
    let mut by_name: BTreeMap<&str, Option<Secret>> = BTreeMap::new();
    for name in references.iter().map(|reference| reference.name.as_str()).collect::<BTreeSet<_>>() {
        let secret = api.get_opt(name).await.map_err(|source| Error::Read {
            what: format!("Secret {namespace}/{name}"),
            source: Box::new(source),
        })?;
        by_name.insert(name, secret);
    }
    Ok(references
        .iter()
        .map(|reference| {
            let secret = by_name.get(reference.name.as_str()).and_then(Option::as_ref);
            (reference.clone(), look_up(secret, &reference.key))
        })
        .collect())
}

fn look_up(secret: Option<&Secret>, key: &str) -> SeenSecret {
    let Some(secret) = secret else { return SeenSecret { state: SecretState::SecretMissing, value: None } };
    match secret.data.as_ref().and_then(|data| data.get(key)) {
        None => SeenSecret { state: SecretState::KeyMissing, value: None },
        Some(value) => {
            let uid = secret.metadata.uid.as_deref().unwrap_or_default();
            let hash = hash::of([uid.as_bytes(), &value.0]);
            let value = Some(String::from_utf8_lossy(&value.0).into_owned());
            SeenSecret { state: SecretState::Present { hash }, value }
        }
    }
}

/// The connection that a pipeline's spec and its Secrets describe; for those that need nothing else.
///
/// # Errors
/// With a message when a Secret is missing or can't be read.
pub async fn connection(
    client: &Client,
    namespace: &str,
    pipeline: &OrderPipeline,
) -> Result<KafkaConnection, String> {
    let references = super::secret_refs(pipeline);
    let seen = observe(client, namespace, &references).await.map_err(|error| error.to_string())?;
    connect(&pipeline.spec.kafka, &seen)
}

pub(super) fn connect(
    spec: &KafkaSpec,
    secrets: &BTreeMap<SecretKeyRef, SeenSecret>,
) -> Result<KafkaConnection, String> {
    let value = |reference: &SecretKeyRef| {
        let seen = secrets.get(reference);
        seen.and_then(|seen| seen.value.clone()).ok_or_else(|| {
            let state = seen.map_or(SecretState::SecretMissing, |seen| seen.state.clone());
            state.complaint(reference).unwrap_or_default()
        })
    };
    let tls = match &spec.tls {
        None => None,
        Some(tls) => Some(Tls { ca_pem: tls.ca_secret_ref.as_ref().map(value).transpose()? }),
    };
    let sasl = match &spec.sasl {
        None => None,
        Some(sasl) => Some(Sasl {
            mechanism: sasl.mechanism.name().to_owned(),
            username: value(&sasl.username_secret_ref)?,
            password: value(&sasl.password_secret_ref)?.into(),
        }),
    };
    Ok(KafkaConnection { bootstrap_servers: spec.bootstrap_servers.clone(), tls, sasl })
}
