//! The `OrderPipeline` resource: its types, its rules, and the manifest that installs it.

#[expect(unreachable_pub, reason = "the schema macro repeats each struct where none can reach it")]
mod spec;
#[expect(unreachable_pub, reason = "the schema macro repeats each struct where none can reach it")]
mod workload;
#[expect(unreachable_pub, reason = "the schema macro repeats each struct where none can reach it")]
mod autoscaling;
#[expect(unreachable_pub, reason = "the schema macro repeats each struct where none can reach it")]
mod env;
#[expect(unreachable_pub, reason = "the schema macro repeats each struct where none can reach it")]
mod status;
mod manifest;

pub use autoscaling::{GroupAutoscaling, OrderServiceAutoscaling, ScalingMode};
pub use env::{EnvSetting, SecretKeyRef};
pub use manifest::{NAME, NAME_MAX, definition, yaml};
pub use spec::{
    AdoptionPolicy, DeletionPolicy, GrowthPolicy, KafkaSpec, Mode, OrderPipeline, OrderPipelineSpec,
    SaslMechanism, SaslSpec, TlsSpec, TopicSpec,
};
pub use status::{ConsumerGroupStatus, OrderPipelineStatus, OrderServiceStatus, TopicStatus};
pub use workload::{
    ConsumerGroupSpec, DatabaseSpec, DeadLetterSpec, Delivery, HttpSink, OrderServiceSpec, PostgresSink,
    PullPolicy, Resources, RetrySpec, ServiceSpec, ServiceType, Sink, StartFrom,
};
