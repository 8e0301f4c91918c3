//! In what two renders differ, as lines that a test can list.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::renders::{Objects, id};

/// What Helm puts on everything, and kustomize on nothing.
const OF_HELM: [&str; 4] =
    ["app.kubernetes.io/instance", "app.kubernetes.io/managed-by", "app.kubernetes.io/version", "helm.sh/chart"];

/// A line for each place that is not the same in both: `KIND NAME PLACE: OLD -> NEW`, in order. Items of a list that
/// have names are found by them, in whatever order; other lists are one value.
pub(crate) fn differences(old: &Objects, new: &Objects) -> Vec<String> {
    let by_id =
        |objects: &Objects| -> BTreeMap<_, _> { objects.0.iter().map(|object| (id(object), object.clone())).collect() };
    let mut lines = Vec::new();
    compare_items(&by_id(old), &by_id(new), &str::to_owned, &mut lines);
    lines
}

/// The same, without the labels that Helm puts on everything.
pub(crate) fn differences_from_chart(old: &Objects, chart: &Objects) -> Vec<String> {
    let mut chart = chart.clone();
    for object in &mut chart.0 {
        remove_labels(&mut object["metadata"]["labels"]);
        if object["spec"]["template"].is_object() {
            remove_labels(&mut object["spec"]["template"]["metadata"]["labels"]);
        }
    }
    differences(old, &chart)
}

fn remove_labels(labels: &mut Value) {
    if let Some(labels) = labels.as_object_mut() {
        labels.retain(|name, _| !OF_HELM.contains(&name.as_str()));
    }
}

fn compare(place: &str, old: Option<&Value>, new: Option<&Value>, lines: &mut Vec<String>) {
    if old == new {
        return;
    }
    let keyed = |value: Option<&Value>| Some(value?.as_object()?.clone().into_iter().collect());
    let named = |value: Option<&Value>| {
        value?.as_array()?.iter().map(|item| Some((item["name"].as_str()?.to_owned(), item.clone()))).collect()
    };
    if let (Some(old), Some(new)) = (keyed(old), keyed(new)) {
        compare_items(&old, &new, &|key| format!("{place} {key}"), lines);
    } else if let (Some(old), Some(new)) = (named(old), named(new)) {
        compare_items(&old, &new, &|name| format!("{place} [{name}]"), lines);
    } else {
        let [old, new] = [old, new].map(|value| value.map_or("none".to_owned(), Value::to_string));
        lines.push(format!("{place}: {old} -> {new}"));
    }
}

fn compare_items(
    old: &BTreeMap<String, Value>,
    new: &BTreeMap<String, Value>,
    place: &dyn Fn(&str) -> String,
    lines: &mut Vec<String>,
) {
    for key in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
        compare(&place(key), old.get(key), new.get(key), lines);
    }
}

#[test]
fn a_difference_is_told_once_and_where_it_is() {
    let parse = |spec: &str| Objects::parse(&format!("{{kind: Pod, metadata: {{name: a}}, spec: {spec}}}"));
    let old = parse("{hostPID: true, containers: [{name: x, image: 1, args: [a]}, {name: y}]}");
    let new = parse("{containers: [{name: y, tty: true}, {name: x, image: 2, args: [a, b]}], tolerations: []}");
    assert_eq!(differences(&old, &old), [""; 0]);
    assert_eq!(
        differences(&old, &new),
        [
            r#"Pod a spec containers [x] args: ["a"] -> ["a","b"]"#,
            "Pod a spec containers [x] image: 1 -> 2",
            "Pod a spec containers [y] tty: none -> true",
            "Pod a spec hostPID: true -> none",
            "Pod a spec tolerations: none -> []",
        ]
    );
    assert_eq!(differences(&old, &Objects(Vec::new())).len(), 1, "an object that is missing is one difference");
}
