//! What is known of a kill as attributes, the same for its log record and its span.
//!
//! What is not known has no attribute.

use opentelemetry::{Array, KeyValue, StringValue, Value};

use crate::kill::{Constraint, Incident, Kill, KubernetesOwner, Memory, Method, Owner, Scope};
use crate::record::iso_8601::iso_8601;
use crate::record::levels;
use crate::record::schema::{self, Attribute};

/// Everything known of a kill: typed, sorted by key, each key once. `node` is the node's name.
pub fn attributes(kill: &Kill, owner: &Owner, incident: &Incident, node: &str) -> Vec<KeyValue> {
    let mut known = Known(Vec::with_capacity(schema::ATTRIBUTES.len()));
    known.text(schema::K8S_NODE_NAME, Some(node));
    known.victim(kill);
    known.memory(&kill.victim.memory);
    known.cgroup(kill);
    known.trigger(kill);
    known.owner(owner);
    known.incident(incident);
    known.decision(kill);
    known.flag(schema::INCIDENT_GROUP_KILL, levels::is_group_kill(kill));
    known.flag(schema::CONTAINER_SURVIVED, container_survived(kill, owner));
    known.sorted()
}

/// Whether the container goes on without the victim. Absent outside of containers, and where nobody can tell.
///
/// A container ends with its first process, the one with pid 1 in the container's pid namespace. Where containers of a
/// pod share one (`shareProcessNamespace`) no first process has that pid: such a container is said to survive.
pub fn container_survived(kill: &Kill, owner: &Owner) -> Option<bool> {
    levels::container_id(owner)?;
    if levels::whole_container(kill, owner) {
        return Some(false);
    }
    if kill.victim.in_host_pid_namespace {
        return None;
    }
    kill.victim.namespace_pid.map(|pid| pid != 1)
}

/// Puts `attributes` in the order that the SDK wants them in.
pub(super) fn sort(attributes: &mut [KeyValue]) {
    attributes.sort_by(|a, b| a.key.cmp(&b.key));
}

fn texts(parts: Vec<String>) -> Array {
    Array::String(parts.into_iter().map(StringValue::from).collect())
}

/// The attributes so far.
#[derive(Default)]
pub(super) struct Known(pub(super) Vec<KeyValue>);

impl Known {
    fn victim(&mut self, kill: &Kill) {
        let victim = &kill.victim;
        self.int(schema::KILL_SEQUENCE, Some(kill.sequence));
        self.int(schema::PROCESS_PID, Some(victim.pid));
        self.int(schema::PROCESS_VPID, victim.namespace_pid);
        self.text(schema::PROCESS_COMMAND, Some(&victim.command));
        self.add(schema::PROCESS_COMMAND_ARGS, victim.arguments.clone().map(|parts| Value::Array(texts(parts))));
        self.int(schema::PROCESS_REAL_USER_ID, victim.user_id);
        self.text(schema::PROCESS_CREATION_TIME, victim.started.and_then(iso_8601).as_deref());
        self.int(schema::VICTIM_TID, Some(victim.tid));
        self.flag(schema::VICTIM_IN_HOST_PID_NAMESPACE, Some(victim.in_host_pid_namespace));
        self.flag(schema::VICTIM_ALREADY_DYING, Some(victim.already_dying));
        self.int(schema::VICTIM_OOM_SCORE_ADJ, victim.oom_score_adj);
    }

    fn memory(&mut self, memory: &Memory) {
        self.int(schema::MEMORY_RSS, memory.resident());
        self.int(schema::MEMORY_ANON_RSS, memory.anon_rss);
        self.int(schema::MEMORY_FILE_RSS, memory.file_rss);
        self.int(schema::MEMORY_SHMEM_RSS, memory.shmem_rss);
        self.int(schema::MEMORY_SWAP, memory.swap);
        self.int(schema::MEMORY_PGTABLES, memory.pgtables);
        self.int(schema::MEMORY_TOTAL_VM, memory.total_vm);
        self.flag(schema::MEMORY_EXACT, memory.anon_rss.map(|_| memory.is_exact));
    }

    fn cgroup(&mut self, kill: &Kill) {
        self.text(schema::PROCESS_LINUX_CGROUP, kill.cgroup_path.as_deref());
        self.flag(schema::CGROUP_FROM_FILES, kill.cgroups_from_files.then_some(true));
        self.flag(schema::CGROUP_PATH_CUT, kill.cgroup_path.as_ref().map(|_| kill.path_cut));
        if let Some(cgroup) = kill.cgroups.first() {
            self.int(schema::CGROUP_ID, cgroup.id);
            self.int(schema::CGROUP_USAGE, cgroup.usage);
            self.int(schema::CGROUP_LIMIT, cgroup.limit);
            self.int(schema::CGROUP_SWAP_USAGE, cgroup.swap_usage);
            self.int(schema::CGROUP_SWAP_LIMIT, cgroup.swap_limit);
            self.flag(schema::CGROUP_OOM_GROUP, cgroup.oom_group);
        }
    }

    fn trigger(&mut self, kill: &Kill) {
        let trigger = &kill.trigger;
        self.int(schema::TRIGGER_PID, Some(trigger.pid));
        self.int(schema::TRIGGER_TID, Some(trigger.tid));
        self.text(schema::TRIGGER_COMMAND, Some(&trigger.command));
        self.text(schema::TRIGGER_CGROUP, trigger.cgroup_path.as_deref());
    }

    pub(super) fn owner(&mut self, owner: &Owner) {
        let kind = match owner {
            Owner::Kubernetes(owner) => {
                self.kubernetes(owner);
                "kubernetes"
            }
            Owner::Container { runtime, id } => {
                self.text(schema::CONTAINER_ID, Some(id));
                self.text(schema::CONTAINER_RUNTIME_NAME, runtime.map(|runtime| runtime.as_str()));
                "container"
            }
            Owner::Unit { name } => {
                self.text(schema::OWNER_UNIT, Some(name));
                "unit"
            }
            Owner::Unknown { why } => {
                self.text(schema::OWNER_UNKNOWN_REASON, Some(why.as_str()));
                "unknown"
            }
        };
        self.text(schema::OWNER_TYPE, Some(kind));
    }

    fn kubernetes(&mut self, owner: &KubernetesOwner) {
        // The API server gives the mirror of a static pod a uid of its own: the kubelet's would be looked for in vain.
        let (uid, hash) =
            if owner.pod_uid.contains('-') { (Some(&owner.pod_uid), None) } else { (None, Some(&owner.pod_uid)) };
        self.text(schema::K8S_POD_UID, uid.or(owner.pod.as_ref().and_then(|pod| pod.uid.as_ref())).map(String::as_str));
        self.text(schema::POD_CONFIG_HASH, hash.map(String::as_str));
        let qos = owner.pod.as_ref().and_then(|pod| pod.qos).or(owner.qos);
        self.text(schema::POD_QOS_CLASS, qos.map(|qos| qos.as_str()));
        self.text(schema::CONTAINER_ID, owner.container_id.as_deref());
        self.text(schema::CONTAINER_RUNTIME_NAME, owner.runtime.map(|runtime| runtime.as_str()));
        self.text(schema::OWNER_UNKNOWN_REASON, owner.why_no_container.map(|why| why.as_str()));
        if let Some(pod) = &owner.pod {
            self.pod(pod);
        }
    }

    fn incident(&mut self, incident: &Incident) {
        self.text(schema::INCIDENT_ID, Some(&incident.id.0.to_string()));
        self.int(schema::INCIDENT_KILL, Some(incident.kills));
        if incident.scope != Scope::Unknown {
            self.text(schema::SCOPE_TYPE, Some(incident.scope.as_str()));
        }
        self.text(schema::SCOPE_METHOD, incident.method.map(Method::as_str));
        if let Some(hit) = &incident.limit {
            self.text(schema::LIMIT_CGROUP, hit.cgroup_path.as_deref());
            self.int(schema::LIMIT_CGROUP_ID, hit.cgroup_id);
            self.int(schema::LIMIT_SIZE, hit.limit);
            self.int(schema::LIMIT_USAGE, hit.usage);
        }
    }

    fn decision(&mut self, kill: &Kill) {
        if let Some(decision) = &kill.decision {
            self.text(schema::INCIDENT_CONSTRAINT, decision.constraint.map(Constraint::as_str));
            self.int(schema::INCIDENT_GFP_MASK, Some(decision.gfp_mask));
            self.int(schema::INCIDENT_ORDER, decision.order);
            self.flag(schema::INCIDENT_REQUESTED, Some(decision.by_hand));
        }
    }

    pub(super) fn text(&mut self, attribute: Attribute, value: Option<&str>) {
        self.add(attribute, value.filter(|text| !text.is_empty()).map(|text| text.to_owned().into()));
    }

    // A number beyond 63 bits is given as the greatest: OTLP has no unsigned numbers.
    pub(super) fn int<T: TryInto<i64>>(&mut self, attribute: Attribute, value: Option<T>) {
        self.add(attribute, value.map(|number| number.try_into().unwrap_or(i64::MAX).into()));
    }

    pub(super) fn flag(&mut self, attribute: Attribute, value: Option<bool>) {
        self.add(attribute, value.map(Value::Bool));
    }

    pub(super) fn add(&mut self, attribute: Attribute, value: Option<Value>) {
        self.0.extend(value.map(|value| KeyValue::new(attribute.key, value)));
    }

    pub(super) fn sorted(mut self) -> Vec<KeyValue> {
        sort(&mut self.0);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::kill::{Runtime, Victim, Why};
    use crate::record::incident::Incidents;
    use crate::record::sample::{self, CONTAINER_ID, MIB, POD_UID};
    use crate::record::schema::Type;

    fn of(kill: &Kill, owner: &Owner) -> BTreeMap<String, Value> {
        let list = attributes(kill, owner, &sample::incident(kill, owner), "node-a");
        assert!(list.is_sorted_by(|a, b| a.key < b.key), "sorted, no key twice: {list:?}");
        list.into_iter().map(|attribute| (attribute.key.to_string(), attribute.value)).collect()
    }

    /// Nothing but what a kill must have.
    fn bare() -> Kill {
        let mut kill = sample::kill();
        kill.victim = Victim {
            namespace_pid: None,
            user_id: None,
            started: None,
            oom_score_adj: None,
            command: String::new(),
            memory: Memory::default(),
            ..kill.victim
        };
        (kill.cgroup_path, kill.trigger.cgroup_path) = (None, None);
        kill.trigger.command.clear();
        kill.cgroups.clear();
        kill
    }

    #[test]
    fn everything_known_is_there_with_its_type() {
        let known = of(&sample::kill(), &sample::container("app"));
        let id = sample::id(4242).0.to_string();
        let rows: &[(&str, Value)] = &[
            ("container.id", CONTAINER_ID.into()),
            ("container.runtime.name", "containerd".into()),
            ("k8s.container.name", "app".into()),
            ("k8s.namespace.name", "shop".into()),
            ("k8s.node.name", "node-a".into()),
            ("k8s.pod.name", "web-1".into()),
            ("k8s.pod.uid", POD_UID.into()),
            ("oom_watcher.cgroup.path_cut", false.into()),
            ("oom_watcher.cgroup.swap_usage", 0.into()),
            ("oom_watcher.container.survived", true.into()),
            ("oom_watcher.incident.group_kill", false.into()),
            ("oom_watcher.incident.id", id.into()),
            ("oom_watcher.incident.kill", 1.into()),
            ("oom_watcher.limit.cgroup", sample::kill().cgroup_path.unwrap_or_default().into()),
            ("oom_watcher.limit.size", (256 * MIB as i64).into()),
            ("oom_watcher.limit.usage", (256 * MIB as i64 - 4096).into()),
            ("oom_watcher.memory.rss", (204 * MIB as i64).into()),
            ("oom_watcher.memory.swap", 0.into()),
            ("oom_watcher.owner.type", "kubernetes".into()),
            ("oom_watcher.pod.qos_class", "Burstable".into()),
            ("oom_watcher.scope.method", "headroom".into()),
            ("oom_watcher.scope.type", "container".into()),
            ("oom_watcher.trigger.command", "worker-3".into()),
            ("oom_watcher.trigger.tid", 4250.into()),
            ("oom_watcher.victim.oom_score_adj", 985.into()),
            ("process.command", "python3".into()),
            ("process.creation.time", "2026-09-21T14:11:49.500Z".into()),
            ("process.pid", 4242.into()),
            ("process.real_user.id", 1000.into()),
            ("process.vpid", 17.into()),
        ];
        for (key, value) in rows {
            assert_eq!(known.get(*key), Some(value), "{key}");
        }
    }

    #[test]
    fn a_decision_and_a_command_line_are_told_if_they_are_known() {
        let mut kill = sample::kill();
        kill.victim.arguments = Some(["sh", "-c", ""].map(str::to_owned).to_vec());
        kill.decision = Some(sample::decision(1, None));
        let known = of(&kill, &sample::container("app"));
        let rows: &[(&str, Value)] = &[
            ("oom_watcher.incident.constraint", "none".into()),
            ("oom_watcher.incident.gfp_mask", 0xcc0.into()),
            ("oom_watcher.incident.order", 0.into()),
            ("oom_watcher.incident.requested", false.into()),
            ("oom_watcher.scope.method", "oom_control".into()),
            ("oom_watcher.scope.type", "node".into()),
            ("process.command_args", Value::Array(Array::String(vec!["sh".into(), "-c".into(), "".into()]))),
        ];
        for (key, value) in rows {
            assert_eq!(known.get(*key), Some(value), "{key}");
        }
    }

    #[test]
    fn each_attribute_is_declared_with_its_type() {
        let owners = [
            sample::container("app"),
            Owner::Container { runtime: Some(Runtime::Docker), id: CONTAINER_ID.to_owned() },
            Owner::Unit { name: "nginx.service".to_owned() },
            Owner::Unknown { why: Why::RootCgroup },
        ];
        let mut kill = sample::kill();
        kill.victim.arguments = Some(vec!["python3".to_owned()]);
        kill.decision = Some(sample::decision(1, None));
        for (key, value) in owners.iter().flat_map(|owner| of(&kill, owner)) {
            let r#type = match value {
                Value::Bool(_) => Some(Type::Bool),
                Value::I64(_) => Some(Type::Int),
                Value::String(_) => Some(Type::String),
                Value::Array(Array::String(_)) => Some(Type::Strings),
                _ => None,
            };
            assert!(r#type.is_some(), "{key}");
            assert_eq!(
                schema::ATTRIBUTES.iter().find(|known| known.key == key).map(|known| known.r#type),
                r#type,
                "{key}"
            );
        }
    }

    #[test]
    fn names_and_limits_from_files_are_told_from_those_of_the_kernel() {
        let mut kill = sample::kill();
        let told = |kill: &Kill| of(kill, &sample::container("app")).get("oom_watcher.cgroup.from_files").cloned();
        assert_eq!(told(&kill), None);
        kill.cgroups_from_files = true;
        assert_eq!(told(&kill), Some(true.into()));
    }

    #[test]
    fn what_is_not_known_has_no_attribute() {
        let known = of(&bare(), &Owner::Unknown { why: Why::NoPath });
        let keys: Vec<&str> = known.keys().map(String::as_str).collect();
        assert_eq!(
            keys,
            [
                "k8s.node.name",
                "oom_watcher.incident.id",
                "oom_watcher.incident.kill",
                "oom_watcher.kill.sequence",
                "oom_watcher.owner.type",
                "oom_watcher.owner.unknown_reason",
                "oom_watcher.trigger.pid",
                "oom_watcher.trigger.tid",
                "oom_watcher.victim.already_dying",
                "oom_watcher.victim.in_host_pid_namespace",
                "oom_watcher.victim.tid",
                "process.pid",
            ]
        );
    }

    #[test]
    fn a_figure_too_large_for_otlp_is_the_greatest_there_is() {
        let mut kill = sample::kill();
        kill.victim.memory.total_vm = Some(u64::MAX);
        kill.victim.memory.anon_rss = Some(u64::MAX);
        let known = of(&kill, &sample::container("app"));
        assert_eq!(known.get("oom_watcher.memory.total_vm"), Some(&i64::MAX.into()));
        assert_eq!(known.get("oom_watcher.memory.rss"), Some(&i64::MAX.into()));
    }

    #[test]
    fn a_negative_score_stays_negative() {
        let mut kill = sample::kill();
        kill.victim.oom_score_adj = Some(-998);
        assert_eq!(of(&kill, &sample::container("app")).get("oom_watcher.victim.oom_score_adj"), Some(&(-998).into()));
    }

    #[test]
    fn the_hash_of_a_static_pod_is_not_given_as_its_uid() {
        let hash = "b53dfa9e2dc9b890f7fadb2770857b03";
        let known = of(
            &sample::kill(),
            &Owner::Kubernetes(KubernetesOwner { pod_uid: hash.to_owned(), ..sample::kubernetes() }),
        );
        assert_eq!((known.get("k8s.pod.uid"), known.get("oom_watcher.pod.config_hash")), (None, Some(&hash.into())));
    }

    #[test]
    fn a_container_ends_with_its_first_process_or_with_all_of_them() {
        let app = sample::container("app");
        let check = |change: fn(&mut Kill), owner: &Owner, expected: Option<bool>| {
            let mut kill = sample::kill();
            change(&mut kill);
            assert_eq!(container_survived(&kill, owner), expected, "{:?}", kill.victim);
        };
        check(|_| (), &app, Some(true));
        check(|kill| kill.victim.namespace_pid = Some(1), &app, Some(false));
        check(|kill| kill.victim.namespace_pid = None, &app, None);
        check(|kill| (kill.victim.namespace_pid, kill.victim.in_host_pid_namespace) = (Some(1), true), &app, None);
        check(|kill| kill.cgroups[0].oom_group = Some(true), &app, Some(false));
        check(
            |kill| {
                kill.cgroups.insert(0, sample::level("worker", 256 * MIB, Some(256 * MIB)));
                kill.cgroups[0].oom_group = Some(true);
            },
            &app,
            Some(true),
        );
        check(|kill| kill.victim.namespace_pid = Some(1), &Owner::Unit { name: "nginx.service".to_owned() }, None);
    }

    #[test]
    fn a_later_kill_of_a_group_says_so() {
        let (mut incidents, owner) = (Incidents::default(), sample::container("app"));
        let kills = [1, 2].map(|pid| {
            let mut kill = sample::kill_of(pid, 0);
            kill.cgroups[0].oom_group = Some(true);
            kill
        });
        incidents.assign(&kills[0], &owner);
        let known = attributes(&kills[1], &owner, &incidents.assign(&kills[1], &owner), "node-a");
        let get = |key: &str| {
            known.iter().find(|attribute| attribute.key.as_str() == key).map(|attribute| attribute.value.clone())
        };
        assert_eq!(get("oom_watcher.incident.id"), Some(sample::id(1).0.to_string().into()));
        assert_eq!(get("oom_watcher.incident.kill"), Some(2.into()));
        assert_eq!(get("oom_watcher.incident.group_kill"), Some(true.into()));
    }
}
