//! What is kept of a pod: less than 3 KB each, made once from the object that the API gave.

use std::time::SystemTime;

use super::object::{Container as Specified, ContainerStatus, Object, Text};
use super::{quantity, workload};
use crate::kill::{Pod, PodContainer, Qos, Role, Workload};

/// The annotation by which the kubelet names the cgroup of a static pod: pkg/kubelet/config/common.go.
const CONFIG_HASH: &str = "kubernetes.io/config.hash";

/// Ids of one container that are kept: what it has now, and what it had before.
const MAX_IDS: usize = 4;

/// A container's id: 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Id([u8; 32]);

impl Id {
    /// Absent if it is no id of that form.
    pub fn parse(text: &str) -> Option<Self> {
        let mut id = [0; 32];
        if text.len() != 64 || !text.is_ascii() {
            return None;
        }
        for (byte, digits) in id.iter_mut().zip(text.as_bytes().chunks(2)) {
            // A sign would be taken for a part of the number.
            *byte = std::str::from_utf8(digits)
                .ok()
                .filter(|digits| !digits.starts_with('+'))
                .and_then(|digits| u8::from_str_radix(digits, 16).ok())?;
        }
        Some(Self(id))
    }

    /// `containerd://…`, `cri-o://…`, `docker://…`: the id behind the runtime's name.
    fn of_status(text: &str) -> Option<Self> {
        Self::parse(text.split_once("://").map_or(text, |(_, id)| id))
    }
}

/// Which labels and annotations of pods are kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Keys of labels.
    pub labels: Vec<String>,
    /// Keys of annotations.
    pub annotations: Vec<String>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub(super) namespace: Text,
    pub(super) name: Text,
    pub(super) uid: Text,
    /// What stands for the uid in the cgroups of a static pod.
    pub(super) config_hash: Option<Text>,
    pub(super) containers: Box<[Container]>,
    qos: Option<Qos>,
    started: Option<SystemTime>,
    workload: Option<Box<Workload>>,
    labels: Box<[(Text, Text)]>,
    annotations: Box<[(Text, Text)]>,
}

/// One of its containers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Container {
    pub(super) name: Text,
    role: Role,
    image: Text,
    image_id: Text,
    memory_limit: Option<u64>,
    memory_request: Option<u64>,
    /// The newest first, each with how often the container had been restarted before it was the one, if that is known.
    pub(super) ids: Vec<(Id, Option<u32>)>,
}

impl Known {
    /// Absent without a uid or a name: it is no pod then.
    pub fn of(object: &Object, selection: &Selection) -> Option<Self> {
        let (metadata, spec, status) = (&object.metadata, &object.spec, &object.status);
        if metadata.uid.is_empty() || metadata.name.is_empty() {
            return None;
        }
        let lists = [
            (&spec.containers, &status.container_statuses, Role::Regular),
            (&spec.init_containers, &status.init_container_statuses, Role::Init),
            (&spec.ephemeral_containers, &status.ephemeral_container_statuses, Role::Ephemeral),
        ];
        let containers =
            lists.into_iter().flat_map(|(specified, statuses, role)| containers(specified, statuses, role)).collect();
        let select = |from: &[(Text, Text)], keys: &[String]| {
            from.iter().filter(|(key, _)| keys.iter().any(|wanted| wanted == key.as_str())).cloned().collect()
        };
        Some(Self {
            namespace: metadata.namespace.clone(),
            name: metadata.name.clone(),
            uid: metadata.uid.clone(),
            config_hash: metadata
                .annotations
                .iter()
                .find(|(key, _)| key.as_str() == CONFIG_HASH)
                .map(|(_, hash)| hash.clone()),
            containers,
            qos: qos(&status.qos_class),
            started: status.start_time,
            workload: workload::workload(metadata).map(Box::new),
            labels: select(&metadata.labels, &selection.labels),
            annotations: select(&metadata.annotations, &selection.annotations),
        })
    }

    /// Takes over the ids that the containers of the same name had in an earlier object of the same pod: a kill of long
    /// ago may still be read.
    pub(super) fn remember(&mut self, earlier: &Self) {
        for container in &mut self.containers {
            let before =
                earlier.containers.iter().find(|before| before.name == container.name && before.role == container.role);
            for (id, restarts) in before.into_iter().flat_map(|before| &before.ids) {
                let is_known = container.ids.iter().any(|(known, _)| known == id);
                if !is_known && container.ids.len() < MAX_IDS {
                    container.ids.push((*id, *restarts));
                }
            }
        }
    }

    /// The number of its only container.
    pub(super) fn only_container(&self) -> Option<usize> {
        (self.containers.len() == 1).then_some(0)
    }

    /// All that is known of it, and of that one of its containers, by number and id.
    pub(super) fn describe(&self, container: Option<(usize, Id)>) -> Pod {
        let texts =
            |list: &[(Text, Text)]| list.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        Pod {
            namespace: self.namespace.to_string(),
            name: self.name.to_string(),
            uid: Some(self.uid.to_string()),
            container: container.and_then(|(number, id)| Some(self.containers.get(number)?.describe(id))),
            qos: self.qos,
            started: self.started,
            workload: self.workload.as_deref().cloned(),
            labels: texts(&self.labels),
            annotations: texts(&self.annotations),
        }
    }
}

impl Container {
    fn describe(&self, id: Id) -> PodContainer {
        let text = |text: &Text| Some(text.to_string()).filter(|text| !text.is_empty());
        // The status tells the image of the newest only.
        let is_newest = self.ids.first().is_some_and(|(newest, _)| *newest == id);
        PodContainer {
            name: self.name.to_string(),
            role: Some(self.role),
            image: text(&self.image),
            image_id: text(&self.image_id).filter(|_| is_newest),
            restart_count: self.ids.iter().find(|(known, _)| *known == id).and_then(|(_, restarts)| *restarts),
            memory_limit: self.memory_limit,
            memory_request: self.memory_request,
        }
    }
}

/// Those of one list. One that only has a status counts too: the specification of a pod may be newer than its status.
fn containers<'a>(
    specified: &'a [Specified],
    statuses: &'a [ContainerStatus],
    role: Role,
) -> impl Iterator<Item = Container> + 'a {
    let with_spec = specified.iter().map(|spec| (&spec.name, Some(spec)));
    let others = statuses
        .iter()
        .filter(|status| !specified.iter().any(|spec| spec.name == status.name))
        .map(|status| (&status.name, None));
    with_spec.chain(others).filter(|(name, _)| !name.is_empty()).map(move |(name, spec)| {
        let status = statuses.iter().find(|status| status.name == *name);
        container(name, spec, status, role)
    })
}

fn container(name: &Text, spec: Option<&Specified>, status: Option<&ContainerStatus>, role: Role) -> Container {
    let is_sidecar = role == Role::Init && spec.is_some_and(|spec| spec.restart_policy.as_str() == "Always");
    let restarts = status.and_then(|status| u32::try_from(status.restart_count).ok());
    let mut ids: Vec<(Id, Option<u32>)> = Vec::new();
    if let Some(status) = status {
        let newest =
            [&status.container_id, &status.state.terminated.container_id].into_iter().find_map(|id| Id::of_status(id));
        ids.extend(newest.map(|id| (id, restarts)));
        // The one before: restarted once less often.
        let before = Id::of_status(&status.last_state.terminated.container_id).filter(|id| Some(*id) != newest);
        ids.extend(before.map(|id| (id, restarts.map(|restarts| restarts.saturating_sub(1)))));
    }
    let of_status = |text: fn(&ContainerStatus) -> &Text| status.map(text).filter(|text| !text.is_empty());
    Container {
        name: name.clone(),
        role: if is_sidecar { Role::Sidecar } else { role },
        image: of_status(|status| &status.image).or(spec.map(|spec| &spec.image)).cloned().unwrap_or_default(),
        image_id: of_status(|status| &status.image_id).cloned().unwrap_or_default(),
        memory_limit: spec.and_then(|spec| quantity::bytes(&spec.resources.limits.memory)),
        memory_request: spec.and_then(|spec| quantity::bytes(&spec.resources.requests.memory)),
        ids,
    }
}

fn qos(class: &str) -> Option<Qos> {
    [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort].into_iter().find(|qos| qos.as_str() == class)
}
