//! A pod as the Kubernetes API writes it, reduced to what is used here, and bounded: an object is what anybody in the
//! cluster may have made.
//!
//! What is missing, or `null`, or of a list more than its bound, is left out; texts are cut. Nothing but JSON of
//! another shape is an error.

use std::fmt;
use std::marker::PhantomData;
use std::time::SystemTime;

use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// Bytes of one text that are kept. Names have at most 253, values of labels 63; images with a registry and a digest
/// are the longest.
pub const MAX_TEXT: usize = 512;
/// Members of one list, or entries of one map, that are kept.
const MAX_MEMBERS: usize = 128;

/// A text of at most [`MAX_TEXT`] bytes, cut at the end of a character.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text(Box<str>);

impl Text {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::ops::Deref for Text {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        let end = (0..=text.len().min(MAX_TEXT)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
        Self(text.get(..end).unwrap_or_default().into())
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Cut;
        impl Visitor<'_> for Cut {
            type Value = Text;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Text, E> {
                Ok(text.into())
            }
            fn visit_unit<E: Error>(self) -> Result<Text, E> {
                Ok(Text::default())
            }
        }
        from.deserialize_any(Cut)
    }
}

/// A pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Object {
    /// Who it is.
    #[serde(deserialize_with = "or_default")]
    pub metadata: Metadata,
    /// What was asked for.
    #[serde(deserialize_with = "or_default")]
    pub(super) spec: Spec,
    /// What became of it.
    #[serde(deserialize_with = "or_default")]
    pub(super) status: Status,
}

/// Who a pod is.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metadata {
    /// `metadata.namespace`
    pub namespace: Text,
    /// `metadata.name`
    pub name: Text,
    /// `metadata.uid`
    pub uid: Text,
    /// What the next watch goes on from. Opaque.
    pub resource_version: Text,
    #[serde(deserialize_with = "time")]
    pub(super) creation_timestamp: Option<SystemTime>,
    #[serde(deserialize_with = "entries")]
    pub(super) labels: Vec<(Text, Text)>,
    #[serde(deserialize_with = "entries")]
    pub(super) annotations: Vec<(Text, Text)>,
    #[serde(deserialize_with = "members")]
    pub(super) owner_references: Vec<Owner>,
}

/// One of `metadata.ownerReferences`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Owner {
    pub(super) kind: Text,
    pub(super) name: Text,
    #[serde(deserialize_with = "or_default")]
    pub(super) controller: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Spec {
    #[serde(deserialize_with = "members")]
    pub(super) containers: Vec<Container>,
    #[serde(deserialize_with = "members")]
    pub(super) init_containers: Vec<Container>,
    #[serde(deserialize_with = "members")]
    pub(super) ephemeral_containers: Vec<Container>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Container {
    pub(super) name: Text,
    pub(super) image: Text,
    pub(super) restart_policy: Text,
    #[serde(deserialize_with = "or_default")]
    pub(super) resources: Resources,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Resources {
    #[serde(deserialize_with = "or_default")]
    pub(super) limits: Quantities,
    #[serde(deserialize_with = "or_default")]
    pub(super) requests: Quantities,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Quantities {
    pub(super) memory: Text,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Status {
    pub(super) qos_class: Text,
    #[serde(deserialize_with = "time")]
    pub(super) start_time: Option<SystemTime>,
    #[serde(deserialize_with = "members")]
    pub(super) container_statuses: Vec<ContainerStatus>,
    #[serde(deserialize_with = "members")]
    pub(super) init_container_statuses: Vec<ContainerStatus>,
    #[serde(deserialize_with = "members")]
    pub(super) ephemeral_container_statuses: Vec<ContainerStatus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct ContainerStatus {
    pub(super) name: Text,
    pub(super) image: Text,
    #[serde(rename = "imageID")]
    pub(super) image_id: Text,
    #[serde(deserialize_with = "or_default")]
    pub(super) restart_count: i64,
    #[serde(rename = "containerID")]
    pub(super) container_id: Text,
    /// A terminated container has its id here as well.
    #[serde(deserialize_with = "or_default")]
    pub(super) state: State,
    #[serde(deserialize_with = "or_default")]
    pub(super) last_state: State,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct State {
    #[serde(deserialize_with = "or_default")]
    pub(super) terminated: Terminated,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Terminated {
    #[serde(rename = "containerID")]
    pub(super) container_id: Text,
}

/// `null` is as good as nothing.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Option::deserialize(from).map(Option::unwrap_or_default)
}

/// RFC 3339. What is no time is left out: nothing depends on it.
fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SystemTime>, D::Error> {
    let text = Text::deserialize(from)?;
    Ok(text.parse::<jiff::Timestamp>().ok().map(SystemTime::from))
}

/// The first members of a list.
fn members<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Vec<T>, D::Error> {
    struct First<T>(PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for First<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }
        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Vec<T>, A::Error> {
            let mut kept = Vec::new();
            while kept.len() < MAX_MEMBERS {
                match list.next_element()? {
                    Some(member) => kept.push(member),
                    None => return Ok(kept),
                }
            }
            while list.next_element::<IgnoredAny>()?.is_some() {}
            Ok(kept)
        }
        fn visit_unit<E: Error>(self) -> Result<Vec<T>, E> {
            Ok(Vec::new())
        }
    }
    from.deserialize_any(First(PhantomData))
}

/// The first entries of a map of texts.
fn entries<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<(Text, Text)>, D::Error> {
    struct First;
    impl<'de> Visitor<'de> for First {
        type Value = Vec<(Text, Text)>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut kept = Vec::new();
            while kept.len() < MAX_MEMBERS {
                match map.next_entry()? {
                    Some(entry) => kept.push(entry),
                    None => return Ok(kept),
                }
            }
            while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
            Ok(kept)
        }
        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }
    }
    from.deserialize_any(First)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]

    use super::*;

    fn read(json: &str) -> Result<Object, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_missing_or_null_is_left_out() {
        for json in [
            "{}",
            r#"{"metadata": null, "spec": null, "status": null}"#,
            r#"{"metadata": {"name": null, "labels": null, "annotations": null, "ownerReferences": null,
                "creationTimestamp": null}}"#,
            r#"{"spec": {"containers": null},
                "status": {"containerStatuses": null, "startTime": null, "qosClass": null}}"#,
            r#"{"metadata": {"creationTimestamp": "yesterday"}, "status": {"startTime": ""}}"#,
        ] {
            let object = read(json).unwrap();
            assert!(
                object.metadata.name.is_empty()
                    && object.spec.containers.is_empty()
                    && object.status.start_time.is_none(),
                "{json}"
            );
        }
        let status = r#"{"status": {"containerStatuses": [
            {"name": "a", "state": null, "lastState": {"terminated": null}, "restartCount": null}, {}
        ]}}"#;
        assert_eq!(read(status).unwrap().status.container_statuses.len(), 2);
    }

    #[test]
    fn what_is_too_much_is_cut() {
        let list = |member: &str, count: usize| vec![member; count].join(",");
        let json = format!(
            r#"{{"metadata": {{"name": "{}", "labels": {{{}}}}}, "spec": {{"containers": [{}]}}}}"#,
            "ü".repeat(100_000),
            (0..10_000).map(|number| format!(r#""key{number}": "value""#)).collect::<Vec<_>>().join(","),
            list(r#"{"name": "a"}"#, 10_000)
        );
        let object = read(&json).unwrap();
        assert_eq!(object.metadata.name.as_str(), "ü".repeat(MAX_TEXT / 2));
        assert_eq!((object.metadata.labels.len(), object.spec.containers.len()), (MAX_MEMBERS, MAX_MEMBERS));
    }

    #[test]
    fn another_shape_is_an_error_and_no_panic() {
        for json in [
            "",
            "1",
            r#"{"metadata": 1}"#,
            r#"{"metadata": {"name": {}}}"#,
            r#"{"spec": {"containers": {}}}"#,
            r#"{"status": ""}"#,
        ] {
            assert!(read(json).is_err(), "{json}");
        }
    }
}
