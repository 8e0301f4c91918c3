//! What made a pod, told from the pod alone: no ReplicaSet and no Job is asked for, which would need permissions and
//! watches of their own.

use std::time::{Duration, UNIX_EPOCH};

use super::object::{Metadata, Owner};
use crate::kill::Workload;

/// The label that a Deployment gives to the pods of each of its ReplicaSets: the end of the ReplicaSet's name.
pub(super) const TEMPLATE_HASH: &str = "pod-template-hash";

/// How long after it was due a Job may have made its pod: deadlines and back-off are shorter. A name that ends in a
/// date is no time of these days.
const LATE: Duration = Duration::from_secs(7 * 24 * 3600);
/// How far the clock of who made the Job may be ahead of the API server's.
const EARLY: Duration = Duration::from_secs(3600);

/// The controller of the pod, or what that is made by if its name tells. Absent for a bare pod. The owner of a static
/// pod's mirror is the node: that made nothing.
pub(super) fn workload(metadata: &Metadata) -> Option<Workload> {
    let owner = metadata.owner_references.iter().find(|owner| owner.controller)?;
    let above = match owner.kind.as_str() {
        "Node" => return None,
        "ReplicaSet" => deployment(owner, metadata).map(|name| ("Deployment", name)),
        "Job" => cron_job(owner, metadata).map(|name| ("CronJob", name)),
        _ => None,
    };
    let own = (owner.kind.to_string(), owner.name.to_string());
    Some(match above {
        Some((kind, name)) => Workload { kind: kind.to_owned(), name: name.to_owned(), through: Some(own) },
        None => Workload { kind: own.0, name: own.1, through: None },
    })
}

fn deployment<'a>(owner: &'a Owner, metadata: &Metadata) -> Option<&'a str> {
    let (_, hash) = metadata.labels.iter().find(|(key, _)| key.as_str() == TEMPLATE_HASH)?;
    owner.name.strip_suffix(hash.as_str())?.strip_suffix('-').filter(|name| !name.is_empty())
}

/// A CronJob puts behind its own name when the Job was due: in minutes since 1970, before Kubernetes 1.21 in seconds.
fn cron_job<'a>(owner: &'a Owner, metadata: &Metadata) -> Option<&'a str> {
    let (name, due) = owner.name.rsplit_once('-').filter(|(name, _)| !name.is_empty())?;
    let due = Some(due).filter(|due| due.bytes().all(|byte| byte.is_ascii_digit()))?.parse::<u64>().ok()?;
    let created = metadata.creation_timestamp?.duration_since(UNIX_EPOCH).ok()?;
    let is_near = |due: u64| {
        due.saturating_sub(EARLY.as_secs()) <= created.as_secs()
            && created.as_secs() <= due.saturating_add(LATE.as_secs())
    };
    (is_near(due.saturating_mul(60)) || is_near(due)).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: &str, name: &str, hash: Option<&str>, expected: Option<(&str, &str)>) {
        let owner = Owner { kind: kind.into(), name: name.into(), controller: true };
        let labels = hash.map(|hash| (TEMPLATE_HASH.into(), hash.into())).into_iter().collect();
        // 29,350,000 minutes.
        let creation_timestamp = Some(UNIX_EPOCH + Duration::from_secs(1_761_000_000));
        let found =
            workload(&Metadata { owner_references: vec![owner], labels, creation_timestamp, ..Metadata::default() });
        assert_eq!(found.as_ref().map(|found| (found.kind.as_str(), found.name.as_str())), expected, "{kind} {name}");
        let through = expected.filter(|expected| expected.0 != kind).map(|_| (kind.to_owned(), name.to_owned()));
        assert_eq!(found.and_then(|found| found.through), through, "{kind} {name}");
    }

    #[test]
    fn workloads_are_told_without_asking_for_them() {
        check("ReplicaSet", "web-5d4f8", Some("5d4f8"), Some(("Deployment", "web")));
        check("ReplicaSet", "web-1-5d4f8", Some("5d4f8"), Some(("Deployment", "web-1")));
        check("ReplicaSet", "web-5d4f8", None, Some(("ReplicaSet", "web-5d4f8")));
        check("ReplicaSet", "web", Some("5d4f8"), Some(("ReplicaSet", "web")));
        check("ReplicaSet", "-5d4f8", Some("5d4f8"), Some(("ReplicaSet", "-5d4f8")));
        check("StatefulSet", "db", None, Some(("StatefulSet", "db")));
        check("DaemonSet", "agent", None, Some(("DaemonSet", "agent")));
        check("Job", "backup-29350000", None, Some(("CronJob", "backup")));
        check("Job", "every-day-29348560", None, Some(("CronJob", "every-day")));
        check("Job", "backup-1760999940", None, Some(("CronJob", "backup")));
        check("Job", "backup-29300000", None, Some(("Job", "backup-29300000")));
        check("Job", "backup-29350100", None, Some(("Job", "backup-29350100")));
        check("Job", "migrate-20251021", None, Some(("Job", "migrate-20251021")));
        check("Job", "-29350000", None, Some(("Job", "-29350000")));
        check("Job", "migrate-2", None, Some(("Job", "migrate-2")));
        check("Job", "migrate-00000002", None, Some(("Job", "migrate-00000002")));
        check("Job", "migrate", None, Some(("Job", "migrate")));
        check("Rollout", "canary", None, Some(("Rollout", "canary")));
        check("Node", "node-a", None, None);
    }

    #[test]
    fn who_does_not_control_a_pod_did_not_make_it() {
        let owner = |controller| Owner {
            kind: "StatefulSet".into(),
            name: format!("db-{controller}").as_str().into(),
            controller,
        };
        let found = |owners: &[bool]| {
            workload(&Metadata { owner_references: owners.iter().copied().map(owner).collect(), ..Metadata::default() })
                .map(|found| found.name)
        };
        assert_eq!((found(&[]), found(&[false]), found(&[false, true])), (None, None, Some("db-true".to_owned())));
    }
}
