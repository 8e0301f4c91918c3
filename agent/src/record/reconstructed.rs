//! The log record of a kill that nobody saw: whose it was, between which moments, and that nothing else is known.
//!
//! It belongs to no span: nobody knows when it happened.

use std::time::SystemTime;

use opentelemetry::trace::SpanContext;
use uuid::Uuid;

use crate::kill::{Missed, MissedKills, Owner};
use crate::record::attributes::Known;
use crate::record::iso_8601::iso_8601;
use crate::record::log_record::LogRecord;
use crate::record::schema;
use crate::record::sentence::{of_owner, printable};

/// When kills that nobody saw happened: between two looks at the kernel's counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The last look that found nothing missing. Absent if there was none since the machine was booted.
    pub after: Option<SystemTime>,
    /// The look that found them.
    pub found: SystemTime,
}

/// The log record of one of `kills`, with its `place` among them, from 0. The same kill gives a record with the same
/// `log.record.uid`, whenever it is found.
pub fn log_record(kills: &MissedKills, place: u64, owner: &Owner, window: Window, boot: Uuid, node: &str) -> LogRecord {
    let mut known = Known::default();
    known.text(schema::K8S_NODE_NAME, Some(node));
    known.text(schema::LOG_RECORD_UID, Some(&kills.id(boot, place).0.to_string()));
    known.flag(schema::KILL_RECONSTRUCTED, Some(true));
    known.text(schema::KILL_MISSED_REASON, Some(kills.why.as_str()));
    known.text(schema::KILL_NOT_BEFORE, window.after.and_then(iso_8601).as_deref());
    known.text(schema::KILL_NOT_AFTER, iso_8601(window.found).as_deref());
    if kills.removed {
        known.text(schema::CGROUP_REMAINING, Some(&kills.cgroup_path));
    } else {
        known.int(schema::CGROUP_ID, Some(kills.cgroup_id));
        known.text(schema::PROCESS_LINUX_CGROUP, Some(&kills.cgroup_path));
    }
    known.owner(owner);
    LogRecord {
        time: window.found,
        body: sentence(kills, owner, window),
        attributes: known.sorted(),
        context: SpanContext::NONE,
    }
}

fn sentence(kills: &MissedKills, owner: &Owner, window: Window) -> String {
    let path = Some(kills.cgroup_path.as_str()).filter(|_| !kills.removed);
    let gone = if kills.removed {
        format!(", in a cgroup below {} that is gone,", printable(&kills.cgroup_path))
    } else {
        String::new()
    };
    let whose = match owner {
        Owner::Unknown { .. } if kills.removed => String::new(),
        _ => of_owner(owner, path),
    };
    let unseen = match kills.why {
        Missed::Away => "while no probe was attached",
        Missed::Dropped => "and its event was lost on the way to the agent",
        Missed::Unexplained => "and the probe did not see it",
    };
    let when = match (window.after.and_then(iso_8601), iso_8601(window.found)) {
        (Some(after), Some(found)) => format!("between {after} and {found}"),
        (None, Some(found)) => format!("before {found}"),
        _ => "at an unknown time".to_owned(),
    };
    let repeat = if kills.may_repeat {
        "; if it was a group kill, the kernel may have counted its first victim twice"
    } else {
        ""
    };
    format!(
        "The OOM killer killed a process{whose}{gone} {when}, {unseen}; this is reconstructed from the kernel's \
         counter: which process it was, when exactly and how much memory it used is not known{repeat}"
    )
}

#[cfg(test)]
mod tests {
    use opentelemetry::Value;

    use super::*;
    use crate::kill::{KubernetesOwner, Why};
    use crate::record::sample::{self, POD_UID};
    use crate::record::schema::Type;

    fn kills() -> MissedKills {
        let path = sample::kill().cgroup_path.unwrap_or_default();
        MissedKills {
            cgroup_id: 77,
            cgroup_path: path,
            removed: false,
            first: 4,
            number: 2,
            why: Missed::Away,
            may_repeat: false,
        }
    }

    const BOOT: Uuid = Uuid::from_u128(9);

    fn window() -> Window {
        Window { after: Some(sample::time(0)), found: sample::time(60) }
    }

    fn of(kills: &MissedKills, owner: &Owner) -> LogRecord {
        log_record(kills, 1, owner, window(), BOOT, "node-a")
    }

    fn attribute(record: &LogRecord, key: &str) -> Option<Value> {
        record
            .attributes
            .iter()
            .find(|attribute| attribute.key.as_str() == key)
            .map(|attribute| attribute.value.clone())
    }

    #[test]
    fn the_record_says_that_it_is_reconstructed_and_what_is_unknown() {
        let record = of(&kills(), &sample::container("app"));
        let expected = "The OOM killer killed a process of container app in pod shop/web-1 between \
            2026-09-21T14:13:20.000Z and 2026-09-21T14:14:20.000Z, while no probe was attached; this is \
            reconstructed from the kernel's counter: which process it was, when exactly and how much memory it used is \
            not known";
        assert_eq!((record.body.as_str(), record.time), (expected, sample::time(60)));
        assert!(!record.context.is_valid());
        let keys: Vec<&str> = record.attributes.iter().map(|attribute| attribute.key.as_str()).collect();
        assert_eq!(
            keys,
            [
                "container.id",
                "container.runtime.name",
                "k8s.container.name",
                "k8s.namespace.name",
                "k8s.node.name",
                "k8s.pod.name",
                "k8s.pod.uid",
                "log.record.uid",
                "oom_watcher.cgroup.id",
                "oom_watcher.container.role",
                "oom_watcher.kill.missed_reason",
                "oom_watcher.kill.not_after",
                "oom_watcher.kill.not_before",
                "oom_watcher.kill.reconstructed",
                "oom_watcher.owner.type",
                "oom_watcher.pod.qos_class",
                "process.linux.cgroup",
            ]
        );
        assert_eq!(attribute(&record, "log.record.uid"), Some(kills().id(BOOT, 1).0.to_string().into()));
        assert_eq!(attribute(&record, "oom_watcher.kill.reconstructed"), Some(true.into()));
        assert_eq!(attribute(&record, "oom_watcher.kill.missed_reason"), Some("away".into()));
    }

    #[test]
    fn each_attribute_is_declared_with_its_type() {
        for kills in [kills(), MissedKills { removed: true, ..kills() }] {
            for attribute in of(&kills, &sample::container("app")).attributes {
                let known = schema::ATTRIBUTES
                    .iter()
                    .find(|known| known.key == attribute.key.as_str())
                    .map(|known| known.r#type);
                let found = match attribute.value {
                    Value::Bool(_) => Some(Type::Bool),
                    Value::I64(_) => Some(Type::Int),
                    Value::String(_) => Some(Type::String),
                    _ => None,
                };
                assert!(known.is_some() && known == found, "{}", attribute.key);
            }
        }
    }

    #[test]
    fn of_a_cgroup_that_is_gone_only_what_was_above_it_is_known() {
        let removed =
            MissedKills { removed: true, cgroup_path: "/kubepods/pod1".to_owned(), why: Missed::Dropped, ..kills() };
        let pod = KubernetesOwner { container_id: None, why_no_container: Some(Why::Removed), ..sample::kubernetes() };
        let record = of(&removed, &Owner::Kubernetes(pod));
        let whose = format!(
            "killed a process in the pod with uid {POD_UID}, in a cgroup below /kubepods/pod1 that is gone, between "
        );
        assert!(
            record.body.contains(&whose) && record.body.contains(", and its event was lost on the way to the agent; "),
            "{}",
            record.body
        );
        assert_eq!(attribute(&record, "oom_watcher.cgroup.remaining"), Some("/kubepods/pod1".into()));
        assert_eq!(
            (attribute(&record, "process.linux.cgroup"), attribute(&record, "oom_watcher.cgroup.id")),
            (None, None)
        );
        assert_eq!(attribute(&record, "oom_watcher.owner.unknown_reason"), Some("removed".into()));
        let record = of(&removed, &Owner::Unknown { why: Why::Removed });
        assert!(
            record
                .body
                .starts_with("The OOM killer killed a process, in a cgroup below /kubepods/pod1 that is gone, between"),
            "{}",
            record.body
        );
    }

    #[test]
    fn what_is_uncertain_is_said() {
        let body = |kills: &MissedKills, after| {
            let unit = Owner::Unit { name: "nginx.service".to_owned() };
            log_record(kills, 0, &unit, Window { after, ..window() }, BOOT, "node-a").body
        };
        let text = body(&MissedKills { may_repeat: true, why: Missed::Unexplained, ..kills() }, None);
        assert!(
            text.starts_with(
                "The OOM killer killed a process of nginx.service before 2026-09-21T14:14:20.000Z, and \
                the probe did not see it; "
            ),
            "{text}"
        );
        assert!(
            text.ends_with("; if it was a group kill, the kernel may have counted its first victim twice"),
            "{text}"
        );
    }
}
