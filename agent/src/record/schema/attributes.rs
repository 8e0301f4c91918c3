//! The attributes of log records and spans: keys, types, units, and when they are absent.
//!
//! One that is not known is absent, never 0 or empty; so "absent" is said only where there is a reason of its own.

/// The type of an attribute's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    /// True or false.
    Bool,
    /// 64 bits, signed. What the kernel counts beyond that is given as the greatest.
    Int,
    /// Text.
    String,
    /// A list of texts.
    Strings,
}

/// One attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attribute {
    /// Its key.
    pub key: &'static str,
    /// The type of its value.
    pub r#type: Type,
    /// The unit in UCUM.
    pub unit: Option<&'static str>,
    /// What it says, and when it is absent.
    pub help: &'static str,
}

/// Declares the attributes and the list of them; the help text is the documentation too.
macro_rules! attributes {
    ($($id:ident = $type:ident $key:literal $(in $unit:literal)?, $help:literal;)+) => {
        $(
            #[doc = $help]
            pub const $id: Attribute = Attribute {
                key: $key,
                r#type: Type::$type,
                unit: attributes!(@unit $($unit)?),
                help: $help,
            };
        )+

        /// All attributes, sorted by key.
        pub const ATTRIBUTES: &[Attribute] = &[$($id),+];
    };
    (@unit) => { None };
    (@unit $unit:literal) => { Some($unit) };
}

attributes! {
    CONTAINER_ID = String "container.id",
        "The container's full id. Absent outside of containers";
    CONTAINER_IMAGE_ID = String "container.image.id",
        "The id of the container's image, as the runtime gives it. Absent as k8s.pod.name is, and for a container that \
         was replaced since";
    CONTAINER_IMAGE_NAME = String "container.image.name",
        "The container's image without tag and digest. Absent as k8s.container.name is";
    CONTAINER_IMAGE_TAGS = Strings "container.image.tags",
        "The tag of the container's image. Absent as k8s.container.name is, and if it has none";
    CONTAINER_RUNTIME_NAME = String "container.runtime.name",
        "What runs the container: containerd, cri-o, docker, podman, kata or ecs. Absent if its cgroup's name does not \
         tell";
    K8S_CONTAINER_NAME = String "k8s.container.name",
        "The container's name in the pod. Absent outside of Kubernetes, or if the Kubernetes API was not asked or does \
         not know it";
    K8S_CONTAINER_RESTART_COUNT = Int "k8s.container.restart_count",
        "How often the container had been restarted before. Absent as k8s.container.name is";
    K8S_CRONJOB_NAME = String "k8s.cronjob.name",
        "The CronJob that the pod is of, by the name of its Job. Absent for all others";
    K8S_DAEMONSET_NAME = String "k8s.daemonset.name",
        "The DaemonSet that the pod is of. Absent for all others";
    K8S_DEPLOYMENT_NAME = String "k8s.deployment.name",
        "The Deployment that the pod is of, by the name of its ReplicaSet. Absent for all others";
    K8S_JOB_NAME = String "k8s.job.name",
        "The Job that the pod is of. Absent for all others";
    K8S_NAMESPACE_NAME = String "k8s.namespace.name",
        "The pod's namespace. Absent as k8s.pod.name is";
    K8S_NODE_NAME = String "k8s.node.name",
        "The node the process was killed on";
    K8S_POD_ANNOTATION = String "k8s.pod.annotation.<key>",
        "An annotation of the pod. Absent unless kubernetes.annotations names it, and as k8s.pod.name is";
    K8S_POD_LABEL = String "k8s.pod.label.<key>",
        "A label of the pod. Absent unless kubernetes.labels names it, and as k8s.pod.name is";
    K8S_POD_NAME = String "k8s.pod.name",
        "The pod's name. Absent outside of Kubernetes, or if the Kubernetes API was not asked or does not know the pod";
    K8S_POD_START_TIME = String "k8s.pod.start_time",
        "When the kubelet took up the pod, ISO 8601 in UTC. Absent as k8s.pod.name is";
    K8S_POD_UID = String "k8s.pod.uid",
        "The pod's uid. Absent outside of Kubernetes. That of a static pod is its mirror's, absent as k8s.pod.name is: \
         see oom_watcher.pod.config_hash";
    K8S_REPLICASET_NAME = String "k8s.replicaset.name",
        "The ReplicaSet that the pod is of. Absent for all others";
    K8S_STATEFULSET_NAME = String "k8s.statefulset.name",
        "The StatefulSet that the pod is of. Absent for all others";
    LOG_RECORD_UID = String "log.record.uid",
        "Identifies the kill: a UUID, the same in every copy of the record. Log records only";
    CGROUP_FROM_FILES = Bool "oom_watcher.cgroup.from_files",
        "Names and limits of cgroups are from their files right after the kill, and what they used is absent \
         (lockdown=confidentiality). Absent if not";
    CGROUP_ID = Int "oom_watcher.cgroup.id",
        "The inode number of the directory of the victim's memory cgroup";
    CGROUP_LIMIT = Int "oom_watcher.cgroup.limit" in "By",
        "The limit of the victim's own cgroup, whether it was hit or not. Absent if it has none";
    CGROUP_OOM_GROUP = Bool "oom_watcher.cgroup.oom_group",
        "memory.oom.group of the victim's own cgroup";
    CGROUP_PATH_CUT = Bool "oom_watcher.cgroup.path_cut",
        "process.linux.cgroup lacks its beginning, because the cgroup is deeper than the probe reads, or only a part \
         is mounted. Absent if there is no path";
    CGROUP_REMAINING = String "oom_watcher.cgroup.remaining",
        "The path of the nearest cgroup above the victim's that is left: its own is gone, and its path not known. \
         Reconstructed kills only";
    CGROUP_SWAP_LIMIT = Int "oom_watcher.cgroup.swap_limit" in "By",
        "Swap limit of the victim's own cgroup; of memory and swap together with cgroup v1. Absent if it has none";
    CGROUP_SWAP_USAGE = Int "oom_watcher.cgroup.swap_usage" in "By",
        "Swap charged to the victim's own cgroup; memory and swap together with cgroup v1";
    CGROUP_USAGE = Int "oom_watcher.cgroup.usage" in "By",
        "Memory charged to the victim's own cgroup";
    CONTAINER_MEMORY_LIMIT = Int "oom_watcher.container.memory_limit" in "By",
        "resources.limits.memory of the container's specification. Absent as k8s.container.name is, and if it has none";
    CONTAINER_MEMORY_REQUEST = Int "oom_watcher.container.memory_request" in "By",
        "resources.requests.memory of the container's specification. Absent as k8s.container.name is, and if it has \
         none";
    CONTAINER_ROLE = String "oom_watcher.container.role",
        "In which of its pod's lists the container is: regular, init, sidecar (init with restartPolicy Always) or \
         ephemeral. Absent as k8s.container.name is";
    CONTAINER_SURVIVED = Bool "oom_watcher.container.survived",
        "Whether the container goes on without the process: not if it was its first process, or all were killed. \
         Absent outside of containers, and where the first process cannot be told (host pid namespace)";
    INCIDENT_CONSTRAINT = String "oom_watcher.incident.constraint",
        "What bounded the memory that could be given: memcg, cpuset, memory_policy or none (the machine). \
         Absent where the kernel's decision cannot be read";
    INCIDENT_GFP_MASK = Int "oom_watcher.incident.gfp_mask",
        "How memory was asked for, the kernel's gfp_t. Absent as oom_watcher.incident.constraint is";
    INCIDENT_GROUP_KILL = Bool "oom_watcher.incident.group_kill",
        "Whether the kernel killed all processes of a cgroup at once (memory.oom.group)";
    INCIDENT_ID = String "oom_watcher.incident.id",
        "Identifies the decision of the OOM killer: the log.record.uid of its first kill";
    INCIDENT_KILL = Int "oom_watcher.incident.kill",
        "Which kill of the incident this is, from 1";
    INCIDENT_ORDER = Int "oom_watcher.incident.order",
        "2 to this power pages were asked for at once. Absent as oom_watcher.incident.constraint is, and if a person \
         asked for the kill";
    INCIDENT_REQUESTED = Bool "oom_watcher.incident.requested",
        "A person asked for the kill (sysrq-f). Absent as oom_watcher.incident.constraint is";
    KILL_MISSED_REASON = String "oom_watcher.kill.missed_reason",
        "Why nobody saw the kill: away, dropped or unexplained. Reconstructed kills only";
    KILL_NOT_AFTER = String "oom_watcher.kill.not_after",
        "When the kill was found in the kernel's counters, ISO 8601 in UTC. Reconstructed kills only";
    KILL_NOT_BEFORE = String "oom_watcher.kill.not_before",
        "When the kernel's counters were last seen without the kill, ISO 8601 in UTC. Reconstructed kills only; absent \
         if they never were since the boot";
    KILL_RECONSTRUCTED = Bool "oom_watcher.kill.reconstructed",
        "True: nobody saw the kill, a counter of the kernel tells of it, and what is absent is not known. Absent for \
         all others";
    KILL_SEQUENCE = Int "oom_watcher.kill.sequence",
        "Counts the kills that one attached probe saw, from 1: a gap is a kill that could not be recorded";
    LIMIT_CGROUP = String "oom_watcher.limit.cgroup",
        "The path of the cgroup whose limit was hit. Absent if the machine ran out, and where names cannot be read";
    LIMIT_CGROUP_ID = Int "oom_watcher.limit.cgroup_id",
        "The inode number of the directory of the cgroup whose limit was hit. Absent if the machine ran out";
    LIMIT_SIZE = Int "oom_watcher.limit.size" in "By",
        "The limit that was hit. Absent if the machine ran out";
    LIMIT_USAGE = Int "oom_watcher.limit.usage" in "By",
        "What the cgroup used whose limit was hit. Absent if the machine ran out";
    MEMORY_ANON_RSS = Int "oom_watcher.memory.anon_rss" in "By",
        "The victim's resident anonymous memory";
    MEMORY_EXACT = Bool "oom_watcher.memory.exact",
        "Whether the resident sizes and swap are sums over all CPUs. If not, they are the kernel's approximate \
         counters, as in its own log";
    MEMORY_FILE_RSS = Int "oom_watcher.memory.file_rss" in "By",
        "The victim's resident file pages";
    MEMORY_PGTABLES = Int "oom_watcher.memory.pgtables" in "By",
        "The victim's page tables";
    MEMORY_RSS = Int "oom_watcher.memory.rss" in "By",
        "The victim's resident memory: anonymous, file and shared";
    MEMORY_SHMEM_RSS = Int "oom_watcher.memory.shmem_rss" in "By",
        "The victim's resident shared memory";
    MEMORY_SWAP = Int "oom_watcher.memory.swap" in "By",
        "What of the victim was swapped out";
    MEMORY_TOTAL_VM = Int "oom_watcher.memory.total_vm" in "By",
        "The victim's address space";
    OWNER_TYPE = String "oom_watcher.owner.type",
        "Whose process it was: kubernetes, container, unit or unknown";
    OWNER_UNIT = String "oom_watcher.owner.unit",
        "The systemd unit. Absent for all but units";
    OWNER_UNKNOWN_REASON = String "oom_watcher.owner.unknown_reason",
        "Why the owner, or the container of a known pod, could not be named. Absent if it was";
    POD_CONFIG_HASH = String "oom_watcher.pod.config_hash",
        "The annotation kubernetes.io/config.hash of a static pod, which the kubelet uses instead of its uid. Absent \
         for other pods";
    POD_QOS_CLASS = String "oom_watcher.pod.qos_class",
        "The pod's quality-of-service class: Guaranteed, Burstable or BestEffort";
    SCOPE_METHOD = String "oom_watcher.scope.method",
        "How it was found whose limit was hit: oom_control (the kernel's own word), oom_lock (its mark on the cgroup) \
         or headroom (the cgroup with the least room below its limit, while the machine had memory left). Absent if it \
         was not found";
    SCOPE_TYPE = String "oom_watcher.scope.type",
        "Whose limit was hit: container, pod, kubepods, cgroup (any other) or node (nobody's: the machine ran out)";
    SPAN_END = String "oom_watcher.span.end",
        "When the span ends: memory_freed (the victim's memory is free), timeout (it was not within 10 s, or the agent \
         ended) or read (the agent read the kill; the kernel does not tell when memory is free). Spans only";
    TRIGGER_CGROUP = String "oom_watcher.trigger.cgroup",
        "The memory cgroup of the task whose allocation started it. Lacks its beginning if it is very deep";
    TRIGGER_COMMAND = String "oom_watcher.trigger.command",
        "The name of the thread whose allocation started it";
    TRIGGER_PID = Int "oom_watcher.trigger.pid",
        "The pid of the process whose allocation started it; often the victim's";
    TRIGGER_TID = Int "oom_watcher.trigger.tid",
        "The id of the thread whose allocation started it";
    VICTIM_ALREADY_DYING = Bool "oom_watcher.victim.already_dying",
        "The victim was dying already when the kernel chose it";
    VICTIM_IN_HOST_PID_NAMESPACE = Bool "oom_watcher.victim.in_host_pid_namespace",
        "The victim lived in the host's pid namespace";
    VICTIM_OOM_SCORE_ADJ = Int "oom_watcher.victim.oom_score_adj",
        "/proc/PID/oom_score_adj of the victim, -1000 to 1000";
    VICTIM_TID = Int "oom_watcher.victim.tid",
        "The thread that was signalled; another than process.pid if the main thread was gone";
    WORKLOAD_KIND = String "oom_watcher.workload.kind",
        "The kind of what made the pod, such as Deployment or a custom resource. Absent for bare and static pods, and \
         as k8s.pod.name is";
    WORKLOAD_NAME = String "oom_watcher.workload.name",
        "The name of what made the pod. Absent as oom_watcher.workload.kind is";
    PROCESS_COMMAND = String "process.command",
        "The victim's command name as in /proc/PID/comm, 15 bytes at most";
    PROCESS_COMMAND_ARGS = Strings "process.command_args",
        "The victim's command line, 256 bytes at most. Absent unless probe.arguments is set, if another process \
         triggered the kill, before kernel 5.11, and under lockdown=confidentiality";
    PROCESS_CREATION_TIME = String "process.creation.time",
        "When the victim was started, ISO 8601 in UTC";
    PROCESS_LINUX_CGROUP = String "process.linux.cgroup",
        "The path of the victim's memory cgroup. Absent where names cannot be read (lockdown=confidentiality) and it \
         is not found by its id";
    PROCESS_PID = Int "process.pid",
        "The victim's pid, as the host sees it";
    PROCESS_REAL_USER_ID = Int "process.real_user.id",
        "The victim's real user id, as the host sees it";
    PROCESS_VPID = Int "process.vpid",
        "The victim's pid in its own pid namespace";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_and_none_is_the_namespace_of_another() {
        assert!(ATTRIBUTES.is_sorted_by(|a, b| a.key < b.key));
        for attribute in ATTRIBUTES {
            let namespace = format!("{}.", attribute.key);
            assert!(!ATTRIBUTES.iter().any(|other| other.key.starts_with(&namespace)), "{}", attribute.key);
        }
    }

    #[test]
    fn sizes_are_whole_bytes() {
        for attribute in ATTRIBUTES.iter().filter(|attribute| attribute.unit.is_some()) {
            assert_eq!((attribute.r#type, attribute.unit), (Type::Int, Some("By")), "{}", attribute.key);
        }
    }
}
