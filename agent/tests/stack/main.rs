//! Ring "stack": Prometheus, VictoriaLogs, Jaeger and Alertmanager behind the real Collector, with the configurations
//! of `otel-collector/`, and real kills. For `make test-stack` alone: these servers take long to build.
//!
//! Loki and Tempo are under the AGPL and no test runs them. VictoriaLogs and Jaeger stand for them: they take the same
//! OTLP and find a record by its attributes and a trace by its id. The Kubernetes API is a stand-in.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

mod alerts;
mod outages;
mod queries;
mod way;

use serde_json::{Value, json};

use oom_watcher_testkit::kills::report::Container;
use oom_watcher_testkit::kills::{Held, make, make_and_hold};

/// The pod that is killed in.
const POD: &str = "web-5d4f8c7b9d-x2b4q";

/// What oom-maker takes its names from, so that they are the same each time.
const SEED: u32 = 91;

/// The container that is killed in.
fn container() -> Container {
    make(&format!("burst 1 --seed {SEED}")).cgroups[0].container.clone().unwrap()
}

/// Kills in it.
fn kill() -> Held {
    make_and_hold(&format!("burst 1 --seed {SEED}"))
}

/// The pod with that container, as the API has it.
fn pod(container: &Container) -> Value {
    let (image, id) = ("registry.example/app:1.2", format!("containerd://{}", container.container_id));
    let app = json!({"name": "app", "image": image, "resources": {"limits": {"memory": "4Mi"}}});
    let status = json!({"name": "app", "image": image, "restartCount": 0, "containerID": id});
    json!({
        "metadata": {"namespace": "shop", "name": POD, "uid": container.pod_uid},
        "spec": {"containers": [app]},
        "status": {"containerStatuses": [status]},
    })
}
