//! The attributes that the Kubernetes API tells: of a pod, its workload and its container.

use opentelemetry::{Array, KeyValue, StringValue, Value};

use super::attributes::Known;
use super::iso_8601::iso_8601;
use super::schema::{self, Attribute};
use crate::kill::{Pod, PodContainer, Workload};

/// Where the key of a label or annotation stands in an attribute's key.
const KEY: &str = "<key>";

impl Known {
    pub(super) fn pod(&mut self, pod: &Pod) {
        self.text(schema::K8S_NAMESPACE_NAME, Some(&pod.namespace));
        self.text(schema::K8S_POD_NAME, Some(&pod.name));
        self.text(schema::K8S_POD_START_TIME, pod.started.and_then(iso_8601).as_deref());
        if let Some(workload) = &pod.workload {
            self.workload(workload);
        }
        if let Some(container) = &pod.container {
            self.container(container);
        }
        for (attribute, pairs) in [(schema::K8S_POD_LABEL, &pod.labels), (schema::K8S_POD_ANNOTATION, &pod.annotations)]
        {
            pairs.iter().for_each(|(key, value)| self.keyed(attribute, key, value));
        }
    }

    fn workload(&mut self, workload: &Workload) {
        self.text(schema::WORKLOAD_KIND, Some(&workload.kind));
        self.text(schema::WORKLOAD_NAME, Some(&workload.name));
        let own = Some((workload.kind.as_str(), workload.name.as_str()));
        let through = workload.through.as_ref().map(|(kind, name)| (kind.as_str(), name.as_str()));
        for (kind, name) in own.into_iter().chain(through) {
            let attribute = match kind {
                "CronJob" => schema::K8S_CRONJOB_NAME,
                "DaemonSet" => schema::K8S_DAEMONSET_NAME,
                "Deployment" => schema::K8S_DEPLOYMENT_NAME,
                "Job" => schema::K8S_JOB_NAME,
                "ReplicaSet" => schema::K8S_REPLICASET_NAME,
                "StatefulSet" => schema::K8S_STATEFULSET_NAME,
                _ => continue,
            };
            self.text(attribute, Some(name));
        }
    }

    fn container(&mut self, container: &PodContainer) {
        self.text(schema::K8S_CONTAINER_NAME, Some(&container.name));
        self.int(schema::K8S_CONTAINER_RESTART_COUNT, container.restart_count);
        self.text(schema::CONTAINER_ROLE, container.role.map(|role| role.as_str()));
        self.int(schema::CONTAINER_MEMORY_LIMIT, container.memory_limit);
        self.int(schema::CONTAINER_MEMORY_REQUEST, container.memory_request);
        self.text(schema::CONTAINER_IMAGE_ID, container.image_id.as_deref());
        let (name, tag) = container.image.as_deref().map_or(("", None), name_and_tag);
        self.text(schema::CONTAINER_IMAGE_NAME, Some(name));
        let tags = tag.map(|tag| Value::Array(Array::String(vec![StringValue::from(tag.to_owned())])));
        self.add(schema::CONTAINER_IMAGE_TAGS, tags);
    }

    /// Also without a value: a label without one says something by its key.
    fn keyed(&mut self, attribute: Attribute, key: &str, value: &str) {
        self.0.push(KeyValue::new(attribute.key.replace(KEY, key), value.to_owned()));
    }
}

/// `registry:5000/shop/cart:1.2@sha256:…` is `registry:5000/shop/cart` with the tag `1.2`.
fn name_and_tag(image: &str) -> (&str, Option<&str>) {
    let image = image.split_once('@').map_or(image, |(image, _)| image);
    match image.rsplit_once(':') {
        // A port.
        Some((_, tag)) if tag.contains('/') => (image, None),
        Some((name, tag)) => (name, Some(tag).filter(|tag| !tag.is_empty())),
        None => (image, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_have_a_name_and_perhaps_a_tag() {
        for (image, expected) in [
            ("cart", ("cart", None)),
            ("cart:1.2", ("cart", Some("1.2"))),
            ("registry:5000/shop/cart", ("registry:5000/shop/cart", None)),
            ("registry:5000/shop/cart:1.2@sha256:abc", ("registry:5000/shop/cart", Some("1.2"))),
            ("cart@sha256:abc", ("cart", None)),
            ("sha256:abc", ("sha256", Some("abc"))),
            ("cart:", ("cart", None)),
            ("", ("", None)),
        ] {
            assert_eq!(name_and_tag(image), expected, "{image}");
        }
    }
}
