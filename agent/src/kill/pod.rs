//! What the Kubernetes API says of a pod and of the container in it.

use std::time::SystemTime;

use super::Qos;

/// A pod, as the Kubernetes API knew it last; or by the directories of its logs, of which only names are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    /// `metadata.namespace`
    pub namespace: String,
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`. That of a static pod is its mirror's, and not in its cgroup's path. Absent if the API has not
    /// told of it.
    pub uid: Option<String>,
    /// The container. Absent if the id is in no status of the pod, which has others too, or there is none.
    pub container: Option<PodContainer>,
    /// `status.qosClass`
    pub qos: Option<Qos>,
    /// `status.startTime`
    pub started: Option<SystemTime>,
    /// Who made the pod. Absent for a bare pod, and for a static one.
    pub workload: Option<Workload>,
    /// Labels that the configuration allows, by key.
    pub labels: Vec<(String, String)>,
    /// Annotations that the configuration allows, by key.
    pub annotations: Vec<(String, String)>,
}

/// A container of a pod, as specified and as it was last seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodContainer {
    /// Its name in the pod.
    pub name: String,
    /// In which of the pod's lists it is. Absent if the API has not told of it.
    pub role: Option<Role>,
    /// `status.…Statuses[].image`; that of the specification until it has a status.
    pub image: Option<String>,
    /// `status.…Statuses[].imageID`
    pub image_id: Option<String>,
    /// How often it was restarted before the container that the id is of.
    pub restart_count: Option<u32>,
    /// `resources.limits.memory`, bytes.
    pub memory_limit: Option<u64>,
    /// `resources.requests.memory`, bytes.
    pub memory_request: Option<u64>,
}

/// In which list of its pod a container is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// `spec.containers`
    #[default]
    Regular,
    /// `spec.initContainers`, runs to its end before the others start.
    Init,
    /// `spec.initContainers` with `restartPolicy: Always`, runs beside the others (KEP-753).
    Sidecar,
    /// `spec.ephemeralContainers`, made by `kubectl debug`.
    Ephemeral,
}

impl Role {
    /// The value in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Regular => "regular",
            Self::Init => "init",
            Self::Sidecar => "sidecar",
            Self::Ephemeral => "ephemeral",
        }
    }
}

/// What made a pod, as far as the pod itself tells.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Workload {
    /// Its kind, such as `Deployment`.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// What it made that made the pod, if there is something in between: a ReplicaSet, a Job.
    pub through: Option<(String, String)>,
}
