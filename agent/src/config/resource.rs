//! The attributes of the OpenTelemetry resource: the agent, never a victim.

use std::collections::BTreeMap;

use opentelemetry::KeyValue;
use opentelemetry_sdk::resource::{ResourceDetector, TelemetryResourceDetector};

use super::origin::Origin;
use super::pairs;
use super::resolver::Resolver;

/// What belongs to a victim. On the resource it names the agent's own pod, and back ends prefer it to what the record
/// says.
const VICTIMS: &[&str] = &["container.id", "k8s.container.name", "k8s.namespace.name", "k8s.pod.name", "k8s.pod.uid"];

/// Our defaults, then `OTEL_RESOURCE_ATTRIBUTES`, then `OTEL_SERVICE_NAME`, in the order of their names.
pub(super) fn resolve(r: &mut Resolver<'_>, node: &str) -> Vec<KeyValue> {
    let mut attributes = BTreeMap::new();
    for (name, value) in defaults(node) {
        attributes.insert(name, (value, Origin::Default));
    }
    let variable = [r.variable("OTEL_RESOURCE_ATTRIBUTES")];
    if let Some((pairs, origin)) = r.choose(variable, pairs::pairs) {
        for (name, value) in pairs {
            if VICTIMS.contains(&name.as_str()) {
                r.warn(
                    origin.name(),
                    format!("{name} names the agent's own pod, and back ends take it for the victim's: leave it out"),
                );
            }
            attributes.insert(name, (value, origin.clone()));
        }
    }
    if let Some(name) = r.variable("OTEL_SERVICE_NAME") {
        attributes.insert("service.name".to_owned(), (name.text, name.origin));
    }
    let attribute = |(name, (value, origin)): (String, (String, Origin))| {
        r.record(format!("otlp.resource.{name}"), &value, origin);
        KeyValue::new(name, value)
    };
    attributes.into_iter().map(attribute).collect()
}

fn defaults(node: &str) -> Vec<(String, String)> {
    // The names of the Go architectures, as the semantic conventions have them.
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let ours = [
        ("service.name", "oom-watcher"),
        ("service.version", env!("CARGO_PKG_VERSION")),
        // Also what keeps the streams of two nodes apart in Loki.
        ("service.instance.id", node),
        ("k8s.node.name", node),
        // Not the host's own name: in a pod that is the pod's.
        ("host.name", node),
        ("host.arch", arch),
        ("os.type", "linux"),
    ];
    let ours = ours.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let sdk = TelemetryResourceDetector.detect();
    ours.into_iter().chain(sdk.iter().map(|(name, value)| (name.to_string(), value.to_string()))).collect()
}
