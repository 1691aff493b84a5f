//! The world of one scenario: a namespace, topics with a prefix of their own, and the operator's context.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{Method, Request};
use k8s_openapi::api::core::v1::{Namespace, Secret};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, PostParams};
use kube::client::{Body, ClientBuilder};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::DeserializeGuard;
use kube::runtime::controller::Action;
use kube::runtime::wait::{await_condition, conditions};
use kube::runtime::watcher::Event;
use kube::{Api, Client, Config, ResourceExt};
use operator::context::{Context, Options};
use operator::crd::{self, OrderPipeline};
use operator::kafka::{Admin, NewTopic, ObservedTopic};
use operator::leadership::Leadership;
use operator::metrics::Metrics;
use operator::observe::{ObjectKind, topic_names};
use operator::reconcile::{self, reconcile};
use rdkafka::consumer::{BaseConsumer, Consumer};
use runtime::kafka::KafkaConnection;
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tower::util::MapRequestLayer;

/// The only cluster these tests touch.
const CONTEXT: &str = "kind-orderflow";

const DEADLINE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);
pub(crate) const KAFKA_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a comparison is made anew when other controllers wrote meanwhile.
const QUIET_ATTEMPTS: usize = 10;

static CRD_INSTALLED: OnceCell<()> = OnceCell::const_new();

/// A handle whose broker has answered: one that was only just started may stay silent for longer than a request waits.
async fn answered_admin() -> Admin {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let admin = Admin::new(&connection(), KAFKA_TIMEOUT, Leadership::unshared()).unwrap();
        match admin.describe(&BTreeSet::from(["any".to_owned()])).await {
            Ok(_) => return admin,
            Err(error) => assert!(Instant::now() < deadline, "no broker, run lab/up: {error}"),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Namespace, clients and the operator's context of one scenario.
pub(crate) struct World {
    pub(crate) client: Client,
    pub(crate) context: Arc<Context>,
    pub(crate) namespace: String,
    pub(crate) admin: Admin,
    writes: Arc<AtomicUsize>,
}

/// Where the tests reach the broker.
pub(crate) fn kafka() -> String {
    std::env::var("TEST_KAFKA_HOST").unwrap_or_else(|_| "127.0.0.1:9094".to_owned())
}

pub(crate) fn connection() -> KafkaConnection {
    KafkaConnection { bootstrap_servers: kafka(), tls: None, sasl: None }
}

/// Runs `scenario` in a world of its own and clears the world away, whatever became of it.
pub(crate) async fn scenario<F, Fut>(finalizer_timeout: Duration, scenario: F)
where
    F: FnOnce(Arc<World>) -> Fut,
    Fut: Future<Output = ()> + Send + 'static,
{
    let world = Arc::new(World::new(finalizer_timeout).await);
    let result = tokio::spawn(scenario(Arc::clone(&world))).await;
    world.clear().await;
    if let Err(error) = result {
        std::panic::resume_unwind(error.into_panic());
    }
}

impl World {
    async fn new(finalizer_timeout: Duration) -> Self {
        runtime::tls::install_provider();
        let kubeconfig = Kubeconfig::read().expect("a kubeconfig: run lab/up");
        assert_eq!(
            kubeconfig.current_context.as_deref(),
            Some(CONTEXT),
            "these tests run against the lab only"
        );
        let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        let client = Client::try_from(config.clone()).unwrap();
        CRD_INSTALLED.get_or_init(|| install(&client)).await;

        let namespace = format!("rt-{}", &uuid::Uuid::new_v4().simple().to_string()[..10]);
        let labels = json!({"pod-security.kubernetes.io/enforce": "restricted"});
        let object = json!({"metadata": {"name": namespace, "labels": labels}});
        let namespaces: Api<Namespace> = Api::all(client.clone());
        namespaces.create(&PostParams::default(), &serde_json::from_value(object).unwrap()).await.unwrap();

        let writes = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&writes);
        let count = MapRequestLayer::new(move |request: Request<Body>| {
            if request.method() != Method::GET {
                counted.fetch_add(1, Ordering::SeqCst);
            }
            request
        });
        let watched = ClientBuilder::try_from(config).unwrap().with_layer(&count).build();
        let options = Options {
            default_image: "orderflow/none:none".to_owned(),
            pod_name: Some("reconcile-test".to_owned()),
            kafka_timeout: KAFKA_TIMEOUT,
            finalizer_timeout,
        };
        let context = Arc::new(Context::new(watched, options, Metrics::default()));
        Self { client, context, namespace, admin: answered_admin().await, writes }
    }

    /// A topic name that no other scenario has.
    pub(crate) fn topic(&self, name: &str) -> String {
        format!("{}.{name}", self.namespace)
    }

    /// A pipeline's manifest; `spec` is laid over the least that works here, with no pods.
    pub(crate) fn manifest(&self, name: &str, spec: &Value) -> Value {
        let least = json!({
            "kafka": {"bootstrapServers": kafka()},
            "topic": {"name": self.topic(name), "partitions": 2},
        });
        json!({
            "apiVersion": "orderflow.dev/v1alpha1",
            "kind": "OrderPipeline",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": crate::patch::merged(&least, spec),
        })
    }

    pub(crate) fn pipelines(&self) -> Api<OrderPipeline> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// What `kubectl apply --server-side` does.
    pub(crate) async fn apply(&self, name: &str, spec: &Value) -> OrderPipeline {
        let params = PatchParams::apply("test").force();
        self.pipelines().patch(name, &params, &Patch::Apply(self.manifest(name, spec))).await.unwrap()
    }

    pub(crate) async fn get(&self, name: &str) -> OrderPipeline {
        self.pipelines().get(name).await.unwrap()
    }

    /// One reconciliation, as the controller would start it.
    pub(crate) async fn reconcile(&self, name: &str) -> Result<Action, reconcile::Error> {
        self.pass(self.get(name).await).await
    }

    async fn pass(&self, pipeline: OrderPipeline) -> Result<Action, reconcile::Error> {
        self.show().await;
        let result = reconcile(Arc::new(DeserializeGuard(Ok(pipeline))), Arc::clone(&self.context)).await;
        // They are published beside the passes, and count among the requests of this one.
        self.context.events.flush().await;
        result
    }

    /// Shows the operator what its watch would have shown by now. Other scenarios have groups of the same names: each operator
    /// watches its own namespace.
    async fn show(&self) {
        let scope = Some(self.namespace.clone());
        let listed = self.pipelines().list(&ListParams::default()).await.unwrap();
        let objects = listed.items.into_iter().map(|object| Event::InitApply(DeserializeGuard(Ok(object))));
        for event in [Event::Init].into_iter().chain(objects).chain([Event::InitDone]) {
            self.context.freshness.saw(&event);
            self.context.owners.saw(&scope, &event);
        }
    }

    /// Reconciles until the condition is as wanted.
    pub(crate) async fn until(&self, name: &str, type_: &str, status: &str) -> OrderPipeline {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let result = self.reconcile(name).await;
            let pipeline = self.get(name).await;
            if condition(&pipeline, type_).0 == status {
                return pipeline;
            }
            assert!(
                Instant::now() < deadline,
                "{type_} is not {status}: {result:?}, {:?}",
                pipeline.status.map(|status| status.conditions)
            );
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Reconciles until the pipeline is ready, and shows that one more reconciliation writes nothing.
    pub(crate) async fn converge(&self, name: &str) -> OrderPipeline {
        self.until(name, "Ready", "True").await;
        self.writes_nothing(name).await;
        self.get(name).await
    }

    /// Reconciles once more: no request but reads, and nothing differs afterwards.
    pub(crate) async fn writes_nothing(&self, name: &str) {
        let topics = self.topics(name).await;
        let mut differences = String::new();
        for _ in 0..QUIET_ATTEMPTS {
            let before = self.versions().await;
            let writes = self.writes.load(Ordering::SeqCst);
            // What is refused or unreachable is an outcome too; what counts is that nothing is written.
            let conditions = async || self.get(name).await.status.map(|status| status.conditions);
            let said = conditions().await;
            let _ = self.reconcile(name).await;
            let written = self.writes.load(Ordering::SeqCst) - writes;
            let says = conditions().await;
            assert_eq!(written, 0, "requests that write, with nothing to do:\n{said:?}\n{says:?}");
            assert_eq!(self.topics(name).await, topics, "topics changed");
            let after = self.versions().await;
            if before == after {
                return;
            }
            // Kubernetes' own controllers may still be writing the status of what was just made.
            differences = format!("{before:?}\n{after:?}");
            tokio::time::sleep(PAUSE).await;
        }
        panic!("objects keep changing:\n{differences}");
    }

    /// Requests so far that could write.
    pub(crate) fn writes(&self) -> usize {
        self.writes.load(Ordering::SeqCst)
    }

    /// resourceVersions of everything in the namespace that the operator could have written.
    async fn versions(&self) -> BTreeMap<String, String> {
        let events = ApiResource::erase::<k8s_openapi::api::events::v1::Event>(&());
        let resources = ObjectKind::ALL.map(ObjectKind::resource).into_iter();
        let mut versions = BTreeMap::new();
        for resource in resources.chain([ApiResource::erase::<OrderPipeline>(&()), events]) {
            let api: Api<DynamicObject> =
                Api::namespaced_with(self.client.clone(), &self.namespace, &resource);
            for object in api.list(&ListParams::default()).await.unwrap() {
                let theirs = object.data["reportingController"]
                    .as_str()
                    .is_some_and(|who| who != "orderflow-operator");
                if !theirs {
                    let key = format!("{} {}", resource.kind, object.name_any());
                    versions.insert(key, object.resource_version().unwrap_or_default());
                }
            }
        }
        versions
    }

    /// The pipeline's topics as Kafka shows them.
    pub(crate) async fn topics(&self, name: &str) -> BTreeMap<String, ObservedTopic> {
        let names = topic_names(&self.get(name).await);
        self.admin.describe(&names).await.expect("a broker: run lab/up")
    }

    /// One topic as Kafka shows it.
    pub(crate) async fn described(&self, topic: &str) -> Option<ObservedTopic> {
        let names = BTreeSet::from([topic.to_owned()]);
        self.admin.describe(&names).await.expect("a broker: run lab/up").remove(topic)
    }

    /// A topic made by somebody else.
    pub(crate) async fn foreign_topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        let config = config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let topic = NewTopic { name: name.to_owned(), partitions, replication_factor: Some(1), config };
        self.admin.create(&topic).await.unwrap();
    }

    pub(crate) async fn delete_topic(&self, name: &str) {
        let id = self.described(name).await.unwrap().id;
        assert!(self.admin.delete(name, &id).await.unwrap());
        let deadline = Instant::now() + DEADLINE;
        while self.described(name).await.is_some() {
            assert!(Instant::now() < deadline, "topic {name} does not go");
            tokio::time::sleep(PAUSE).await;
        }
    }

    pub(crate) async fn secret(&self, name: &str, key: &str, value: &str) {
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &self.namespace);
        let object = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": {key: value},
        });
        api.patch(name, &PatchParams::apply("test").force(), &Patch::Apply(&object)).await.unwrap();
    }

    /// An object of the pipeline's namespace, if it is there.
    pub(crate) async fn object(&self, kind: ObjectKind, name: &str) -> Option<Value> {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &kind.resource());
        api.get_opt(name).await.unwrap().map(|object| serde_json::to_value(object).unwrap())
    }

    /// Changes an object as somebody else would.
    pub(crate) async fn meddle(&self, kind: ObjectKind, name: &str, patch: &Value) {
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &self.namespace, &kind.resource());
        api.patch(name, &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
    }

    /// Reasons of the Events that the operator published.
    pub(crate) async fn events(&self) -> BTreeMap<String, String> {
        self.context.events.flush().await;
        let api: Api<k8s_openapi::api::events::v1::Event> =
            Api::namespaced(self.client.clone(), &self.namespace);
        let ours = |event: &k8s_openapi::api::events::v1::Event| {
            event.reporting_controller.as_deref() == Some("orderflow-operator")
        };
        let events = api.list(&ListParams::default()).await.unwrap().items;
        events
            .into_iter()
            .filter(ours)
            .map(|event| (event.reason.unwrap_or_default(), event.note.unwrap_or_default()))
            .collect()
    }

    /// Deletes the pipeline and reconciles until it is gone.
    pub(crate) async fn delete(&self, name: &str) {
        self.pipelines().delete(name, &DeleteParams::default()).await.unwrap();
        self.gone(name, &[]).await;
    }

    /// Reconciles a pipeline that is being deleted, and its heirs, until it is gone.
    pub(crate) async fn gone(&self, name: &str, heirs: &[&str]) {
        let deadline = Instant::now() + DEADLINE;
        while let Some(pipeline) = self.pipelines().get_opt(name).await.unwrap() {
            let result = self.pass(pipeline).await;
            for heir in heirs {
                let _ = self.reconcile(heir).await;
            }
            assert!(Instant::now() < deadline, "{name} does not go: {result:?}");
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn clear(&self) {
        let released = json!({"metadata": {"finalizers": null}});
        for pipeline in self.pipelines().list(&ListParams::default()).await.unwrap() {
            let patch = Patch::Merge(&released);
            let _ = self.pipelines().patch(&pipeline.name_any(), &PatchParams::default(), &patch).await;
        }
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let _ = namespaces.delete(&self.namespace, &DeleteParams::default()).await;
        let prefix = format!("{}.", self.namespace);
        let names = tokio::task::spawn_blocking(move || {
            all_topics().into_iter().filter(move |name| name.starts_with(&prefix))
        });
        for name in names.await.unwrap() {
            if let Some(topic) = self.described(&name).await {
                let _ = self.admin.delete(&name, &topic.id).await;
            }
        }
    }
}

fn all_topics() -> Vec<String> {
    let consumer: BaseConsumer = connection().client_config("reconcile-test").create().unwrap();
    let metadata = consumer.fetch_metadata(None, KAFKA_TIMEOUT).expect("a broker: run lab/up");
    metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
}

async fn install(client: &Client) {
    let api: Api<CustomResourceDefinition> = Api::all(client.clone());
    let params = PatchParams::apply("test").force();
    api.patch(crd::NAME, &params, &Patch::Apply(&crd::definition())).await.unwrap();
    let established = await_condition(api, crd::NAME, conditions::is_crd_established());
    tokio::time::timeout(DEADLINE, established)
        .await
        .expect("the definition is established in time")
        .unwrap();
}

/// Status, reason and message of a condition; empty when it is not there.
pub(crate) fn condition(pipeline: &OrderPipeline, type_: &str) -> (String, String, String) {
    let conditions = pipeline.status.iter().flat_map(|status| &status.conditions);
    let found = conditions.into_iter().find(|condition| condition.type_ == type_);
    found.map(|found| (found.status.clone(), found.reason.clone(), found.message.clone())).unwrap_or_default()
}

/// The bound of deletions for scenarios that are not about it.
pub(crate) const AMPLE: Duration = Duration::from_secs(600);
