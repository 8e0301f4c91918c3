#![expect(clippy::unwrap_used, clippy::panic, reason = "a failed test panics")]

use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use super::*;
use crate::kill::{PodContainer, Qos, Role, Workload};

const WEB: &str = "11111111-2222-3333-4444-555555555555";
const OTHER: &str = "99999999-2222-3333-4444-555555555555";

fn time(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_225_600 + seconds)
}

/// An id of 64 hexadecimal digits.
fn id(number: u32) -> String {
    format!("{number:064x}")
}

fn status(name: &str, container: u32, restarts: i32, before: Option<u32>) -> Value {
    let containerd = |number: u32| format!("containerd://{}", id(number));
    json!({
        "name": name, "restartCount": restarts, "containerID": containerd(container),
        "image": format!("registry.example/{name}:1"),
        "imageID": format!("registry.example/{name}@sha256:{container}"),
        "lastState": before.map_or(json!({}), |before| json!({"terminated": {"containerID": containerd(before)}})),
    })
}

fn pod(uid: &str, statuses: &[Value]) -> Value {
    json!({
        "metadata": {
            "namespace": "shop", "name": "web-5d4f8-abcde", "uid": uid,
            "creationTimestamp": "2026-01-01T00:00:00Z", "managedFields": [{}],
            "labels": {"pod-template-hash": "5d4f8", "team": "cart", "app": "web"},
            "annotations": {"note": "yes", "secret": "no"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web-5d4f8", "controller": true}],
        },
        "spec": {
            "containers": [
                {
                    "name": "app", "image": "app:1",
                    "resources": {"limits": {"memory": "256Mi"}, "requests": {"memory": "128Mi"}},
                },
                {"name": "log", "image": "log:1"},
            ],
            "initContainers": [
                {"name": "setup", "image": "setup:1"},
                {"name": "proxy", "image": "proxy:1", "restartPolicy": "Always"},
            ],
            "ephemeralContainers": [{"name": "debugger", "image": "debug:1"}],
        },
        "status": {"qosClass": "Burstable", "startTime": "2026-01-01T00:00:01Z", "containerStatuses": statuses},
    })
}

fn known(object: &Value) -> Known {
    let selection =
        Selection { labels: vec!["team".to_owned(), "absent".to_owned()], annotations: vec!["note".to_owned()] };
    Known::of(&serde_json::from_value(object.clone()).unwrap(), &selection).unwrap()
}

fn pods(objects: &[Value]) -> Pods {
    let mut pods = Pods::default();
    objects.iter().for_each(|object| pods.apply(known(object)));
    pods
}

/// The name of the container, `-` for a pod alone, `only` before one whose id is not known, nothing for nothing.
fn name(pods: &Pods, uid: &str, container: Option<u32>) -> Option<String> {
    match pods.find(uid, container.map(id).as_deref()) {
        Found::Whole(found) => Some(found.describe().container.map_or("whole".to_owned(), |container| container.name)),
        Found::PodAlone(found) => {
            Some(found.describe().container.map_or("-".to_owned(), |container| format!("only {}", container.name)))
        }
        Found::Nothing => None,
    }
}

#[test]
fn a_container_is_told_with_everything_that_is_known_of_it() {
    let pods = pods(&[pod(WEB, &[status("app", 1, 3, Some(9))])]);
    let Found::Whole(found) = pods.find("another uid", Some(&id(1))) else { panic!("not by its id") };
    let found = found.describe();
    let container = PodContainer {
        name: "app".to_owned(),
        role: Some(Role::Regular),
        image: Some("registry.example/app:1".to_owned()),
        image_id: Some("registry.example/app@sha256:1".to_owned()),
        restart_count: Some(3),
        memory_limit: Some(256 << 20),
        memory_request: Some(128 << 20),
    };
    let through = Some(("ReplicaSet".to_owned(), "web-5d4f8".to_owned()));
    let expected = Pod {
        namespace: "shop".to_owned(),
        name: "web-5d4f8-abcde".to_owned(),
        uid: Some(WEB.to_owned()),
        container: Some(container.clone()),
        qos: Some(Qos::Burstable),
        started: Some(time(1)),
        workload: Some(Workload { kind: "Deployment".to_owned(), name: "web".to_owned(), through }),
        labels: vec![("team".to_owned(), "cart".to_owned())],
        annotations: vec![("note".to_owned(), "yes".to_owned())],
    };
    assert_eq!(found, expected);
    // The one before it, of whose image nothing is known.
    let Found::Whole(before) = pods.find(WEB, Some(&id(9))) else { panic!("not by its last id") };
    let before = before.describe();
    assert_eq!(before.container, Some(PodContainer { image_id: None, restart_count: Some(2), ..container }));
}

#[test]
fn every_kind_of_container_is_found() {
    let mut object = pod(WEB, &[status("app", 1, 0, None), status("log", 2, 0, None)]);
    object["status"]["initContainerStatuses"] = json!([status("setup", 3, 0, None), status("proxy", 4, 0, None)]);
    object["status"]["ephemeralContainerStatuses"] = json!([status("debugger", 5, 0, None)]);
    // What has ended has its id in its state as well, and may have it there alone.
    object["status"]["initContainerStatuses"][0]["containerID"] = Value::Null;
    object["status"]["initContainerStatuses"][0]["state"] =
        json!({"terminated": {"containerID": format!("cri-o://{}", id(3))}});
    let pods = pods(&[object]);
    let expected = [
        ("app", Role::Regular),
        ("log", Role::Regular),
        ("setup", Role::Init),
        ("proxy", Role::Sidecar),
        ("debugger", Role::Ephemeral),
    ];
    for (number, (name, role)) in (1..).zip(expected) {
        let Found::Whole(found) = pods.find(WEB, Some(&id(number))) else { panic!("{name} is not found") };
        let container = found.describe().container.unwrap();
        assert_eq!((container.name.as_str(), container.role), (name, Some(role)));
    }
    assert_eq!(pods.containers().count(), 5);
}

#[test]
fn a_container_whose_id_is_in_no_status_is_not_guessed() {
    let mut single = pod(WEB, &[]);
    single["spec"] = json!({"containers": [{"name": "app"}]});
    let mut several = pod(OTHER, &[]);
    several["spec"] = json!({"containers": [{"name": "app"}], "initContainers": [{"name": "prepare"}]});
    let pods = pods(&[single, several]);
    assert_eq!(name(&pods, WEB, Some(1)), Some("only app".to_owned()), "there is no other one");
    assert_eq!(name(&pods, OTHER, Some(1)), Some("-".to_owned()), "it may be either");
    assert_eq!(name(&pods, WEB, None), Some("whole".to_owned()), "the pod's own cgroup");
    assert_eq!(name(&pods, "no uid", Some(1)), None);
    assert!(matches!(pods.find(WEB, Some("no id")), Found::PodAlone(_)));
}

#[test]
fn a_static_pod_is_found_by_the_hash_of_its_configuration() {
    let mut object = pod(WEB, &[]);
    object["metadata"]["annotations"] = json!({"kubernetes.io/config.hash": "b53dfa9e2dc9b890f7fadb2770857b03"});
    object["metadata"]["ownerReferences"] = json!([{"kind": "Node", "name": "node-a", "controller": true}]);
    let pods = pods(&[object]);
    let Found::PodAlone(found) = pods.find("b53dfa9e2dc9b890f7fadb2770857b03", Some(&id(1))) else {
        panic!("not by its hash")
    };
    let found = found.describe();
    assert_eq!((found.uid.as_deref(), found.workload), (Some(WEB), None));
}

#[test]
fn ids_of_before_stay_while_the_pod_does() {
    let mut pods = pods(&[pod(WEB, &[status("app", 1, 0, None)])]);
    for restarts in 1..20 {
        pods.apply(known(&pod(WEB, &[status("app", restarts + 1, restarts.cast_signed(), Some(restarts))])));
    }
    let restarts = |container| match pods.find(WEB, Some(&id(container))) {
        Found::Whole(found) => found.describe().container.unwrap().restart_count,
        _ => None,
    };
    assert_eq!((17..=20).map(restarts).collect::<Vec<_>>(), (16..20).map(Some).collect::<Vec<_>>());
    assert_eq!((restarts(16), pods.by_id.len()), (None, 4), "bounded");
}

#[test]
fn a_pod_that_is_gone_is_remembered_for_a_while() {
    let mut pods = pods(&[pod(WEB, &[status("app", 1, 0, None)])]);
    pods.remove(WEB, time(0));
    pods.remove(WEB, time(500));
    pods.remove(OTHER, time(0));
    assert_eq!((name(&pods, WEB, Some(1)), pods.len(), pods.containers().count()), (Some("app".to_owned()), 0, 0));
    pods.expire(time(600));
    assert_eq!(name(&pods, WEB, Some(1)), Some("app".to_owned()));
    pods.expire(time(601));
    assert_eq!(name(&pods, WEB, Some(1)), None);
    assert!(pods.by_id.is_empty() && pods.by_uid.is_empty() && pods.gone == 0);
}

#[test]
fn a_pod_of_the_same_name_is_another_one() {
    let mut pods = pods(&[pod(WEB, &[status("app", 1, 0, None)])]);
    pods.remove(WEB, time(0));
    pods.apply(known(&pod(OTHER, &[status("app", 2, 0, None)])));
    let uid = |container| match pods.find("", Some(&id(container))) {
        Found::Whole(found) => found.describe().uid.unwrap_or_default(),
        _ => String::new(),
    };
    assert_eq!((uid(1).as_str(), uid(2).as_str(), pods.len()), (WEB, OTHER, 1));
}

#[test]
fn a_new_list_says_who_is_gone() {
    let mut pods = pods(&[pod(WEB, &[status("app", 1, 0, None)]), pod(OTHER, &[status("app", 2, 0, None)])]);
    pods.replace(vec![known(&pod(OTHER, &[status("app", 3, 1, None)]))], time(0));
    assert_eq!(
        (pods.len(), name(&pods, WEB, Some(1)), name(&pods, OTHER, Some(2))),
        (1, Some("app".to_owned()), Some("app".to_owned()))
    );
    // It was only not seen.
    pods.replace(vec![known(&pod(WEB, &[]))], time(1));
    assert_eq!((pods.len(), pods.gone, name(&pods, WEB, Some(1))), (1, 1, Some("app".to_owned())));
}

#[test]
fn what_is_kept_is_bounded() {
    let mut pods = Pods::default();
    let uid = |number: usize| format!("{number:08x}-2222-3333-4444-555555555555");
    for number in 0..MAX_PODS + 10 {
        pods.apply(known(&pod(&uid(number), &[status("app", u32::try_from(number).unwrap() + 1, 0, None)])));
    }
    assert_eq!((pods.len(), pods.left_out()), (MAX_PODS, 10));
    (0..MAX_PODS).for_each(|number| pods.remove(&uid(number), time(number as u64)));
    assert_eq!((pods.len(), pods.gone, pods.by_uid.len(), pods.by_id.len()), (0, MAX_GONE, MAX_GONE, MAX_GONE));
    assert_eq!(name(&pods, &uid(MAX_PODS - MAX_GONE - 1), None), None, "those that left first are forgotten first");
}

#[test]
fn ids_have_64_hexadecimal_digits() {
    assert!(Id::parse(&id(7)).is_some() && Id::parse(&id(7).replace('0', "A")).is_some());
    for bad in [
        "",
        "7",
        &id(7)[1..],
        &format!("{}0", id(7)),
        &id(7).replace("00", "+0"),
        &id(7).replace("00", "g0"),
        &"ü".repeat(32),
    ] {
        assert_eq!(Id::parse(bad), None, "{bad}");
    }
}
