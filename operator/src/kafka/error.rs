//! What Kafka's refusals mean to the operator: worth another try soon, or not.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::leadership::NotLeading;

/// Whether trying again soon can help.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// Kafka is away, busy or moving leaders: try again with backoff.
    Transient,
    /// Kafka refused the request itself: a person must change something.
    Permanent,
}

/// A request to Kafka that failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The broker answered with an error, or did not answer.
    #[error("failed to {action}: {message} ({code})")]
    Refused {
        /// What was asked for.
        action: String,
        /// The broker's own words where it has any.
        message: String,
        /// Kafka's error code.
        code: RDKafkaErrorCode,
    },
    /// librdkafka failed before the request was sent.
    #[error("failed to {action}: {source}")]
    Client {
        /// What was asked for.
        action: String,
        /// Why.
        #[source]
        source: KafkaError,
    },
    /// A name or value holds a NUL byte, which no request can carry.
    #[error("failed to {action}: text with a NUL byte")]
    Nul {
        /// What was asked for.
        action: String,
    },
    /// The thread that spoke to Kafka ended early.
    #[error("failed to {action}: the worker thread ended early")]
    Aborted {
        /// What was asked for.
        action: String,
    },
    /// The request was not made.
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
}

impl Error {
    /// A failure of librdkafka's own.
    pub(crate) fn client(action: impl Into<String>, source: KafkaError) -> Self {
        let action = action.into();
        match source {
            KafkaError::AdminOp(code) => Self::Refused { action, message: code.to_string(), code },
            source => Self::Client { action, source },
        }
    }

    /// Whether the topic in question does not exist.
    #[must_use]
    pub const fn is_unknown_topic(&self) -> bool {
        matches!(
            self,
            Self::Refused {
                code: RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic,
                ..
            }
        )
    }

    /// Whether the topic in question exists already.
    #[must_use]
    pub const fn is_topic_exists(&self) -> bool {
        matches!(self, Self::Refused { code: RDKafkaErrorCode::TopicAlreadyExists, .. })
    }

    /// Whether no broker answered at all, as far as this side can tell.
    #[must_use]
    pub fn is_silence(&self) -> bool {
        let code = match self {
            Self::Refused { code, .. } => Some(*code),
            Self::Client { source, .. } => source.rdkafka_error_code(),
            Self::Nul { .. } | Self::Aborted { .. } | Self::NotLeading(_) => None,
        };
        matches!(
            code,
            Some(
                RDKafkaErrorCode::OperationTimedOut
                    | RDKafkaErrorCode::BrokerTransportFailure
                    | RDKafkaErrorCode::AllBrokersDown
                    | RDKafkaErrorCode::Resolve
            )
        )
    }

    /// Whether trying again soon can help. Unknown codes count as transient: giving up is the worse mistake.
    #[must_use]
    pub const fn severity(&self) -> Severity {
        match self {
            Self::Nul { .. }
            // The settings themselves are wrong: a certificate that is none, say.
            | Self::Client { source: KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_), .. } => {
                Severity::Permanent
            }
            Self::Client { .. } | Self::Aborted { .. } | Self::NotLeading(_) => Severity::Transient,
            Self::Refused { code, .. } => match code {
                RDKafkaErrorCode::InvalidConfig
                | RDKafkaErrorCode::InvalidTopic
                | RDKafkaErrorCode::InvalidPartitions
                | RDKafkaErrorCode::InvalidReplicationFactor
                | RDKafkaErrorCode::InvalidReplicaAssignment
                | RDKafkaErrorCode::InvalidRequest
                | RDKafkaErrorCode::InvalidArgument
                | RDKafkaErrorCode::PolicyViolation
                | RDKafkaErrorCode::UnsupportedVersion
                | RDKafkaErrorCode::TopicAuthorizationFailed
                | RDKafkaErrorCode::ClusterAuthorizationFailed
                | RDKafkaErrorCode::TopicDeletionDisabled => Severity::Permanent,
                _ => Severity::Transient,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(code: RDKafkaErrorCode) -> Error {
        Error::Refused { action: "create topic t".into(), message: "why".into(), code }
    }

    #[test]
    fn a_refused_configuration_is_for_a_person_and_a_timeout_is_not() {
        assert_eq!(refused(RDKafkaErrorCode::InvalidConfig).severity(), Severity::Permanent);
        assert_eq!(refused(RDKafkaErrorCode::OperationTimedOut).severity(), Severity::Transient);
    }

    #[test]
    fn a_silence_is_told_from_a_refusal_whoever_noticed_it() {
        assert!(refused(RDKafkaErrorCode::OperationTimedOut).is_silence());
        let source = KafkaError::MetadataFetch(RDKafkaErrorCode::BrokerTransportFailure);
        assert!(Error::client("describe topics", source).is_silence());
        assert!(!refused(RDKafkaErrorCode::TopicAuthorizationFailed).is_silence());
    }

    #[test]
    fn settings_that_librdkafka_refuses_are_for_a_person_who_is_told_why() {
        let source = KafkaError::ClientCreation("ssl.ca.pem failed".into());
        let error = Error::client("make a Kafka handle", source);
        assert_eq!(error.severity(), Severity::Permanent);
        assert!(error.to_string().contains("ssl.ca.pem failed"), "{error}");
    }

    #[test]
    fn the_message_says_what_was_asked_and_what_the_broker_said() {
        let message = refused(RDKafkaErrorCode::InvalidConfig).to_string();
        assert!(message.starts_with("failed to create topic t: why (InvalidConfig"), "{message}");
    }
}
