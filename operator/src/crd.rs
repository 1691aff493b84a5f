//! The `OrderPipeline` resource: its types, its rules, and the manifest that installs it.

mod spec;
mod workload;
mod env;
mod status;
mod manifest;

pub use env::{EnvSetting, SecretKeyRef};
pub use manifest::{NAME, definition, yaml};
pub use spec::{
    AdoptionPolicy, DeletionPolicy, GrowthPolicy, KafkaSpec, Mode, OrderPipeline, OrderPipelineSpec, SaslMechanism,
    SaslSpec, TlsSpec, TopicSpec,
};
pub use status::{ConsumerGroupStatus, OrderPipelineStatus, OrderServiceStatus, OwnedConfig, TopicStatus};
pub use workload::{
    ConsumerGroupSpec, DatabaseSpec, DeadLetterSpec, Delivery, GroupAutoscaling, HttpSink, OrderServiceAutoscaling,
    OrderServiceSpec, PostgresSink, PullPolicy, Resources, RetrySpec, ServiceSpec, ServiceType, Sink, StartFrom,
};
