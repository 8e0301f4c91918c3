//! What kubectl's kustomize and Helm make of the manifests.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::Value;

use crate::OVERLAYS;
use oom_watcher_testkit::programs::Programs;

/// What Helm is told to be installed on. Its own default is that of the library it was built with.
const KUBERNETES: &str = "1.35";
/// What makes OpenShift of a cluster, to the chart.
pub(crate) const OPENSHIFT: [&str; 2] = ["--api-versions", "security.openshift.io/v1"];

/// The programs that render, and everything that they render here.
pub(crate) struct Renders {
    programs: Programs,
    all: OnceLock<Vec<(String, Objects)>>,
}

/// Objects, in the order of the render.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Objects(pub(crate) Vec<Value>);

impl Renders {
    /// The same for all tests; or why there are no programs.
    pub(crate) fn find() -> Result<&'static Self, &'static String> {
        static RENDERS: OnceLock<Result<Renders, String>> = OnceLock::new();
        RENDERS.get_or_init(|| Programs::find().map(|programs| Self { programs, all: OnceLock::new() })).as_ref()
    }

    pub(crate) fn program(&self, name: &str) -> Command {
        Command::new(self.programs.path(name))
    }

    /// What `kubectl apply -k` would apply, of a folder by its path from the root.
    pub(crate) fn kustomize(&self, folder: &str) -> Objects {
        Objects::parse(
            &run(self.program("kubectl").arg("kustomize").arg(root().join(folder)))
                .unwrap_or_else(|error| panic!("{folder}: {error}")),
        )
    }

    pub(crate) fn base(&self) -> Objects {
        self.kustomize("k8s/base")
    }

    pub(crate) fn overlay(&self, name: &str) -> Objects {
        self.kustomize(&format!("k8s/overlays/{name}"))
    }

    /// What Helm would install, as text, or what it says instead.
    pub(crate) fn helm(&self, release: &str, namespace: &str, arguments: &[&str]) -> Result<String, String> {
        let command = &mut self.program("helm");
        command
            .args(["template", release])
            .arg(chart())
            .args(["--namespace", namespace, "--kube-version", KUBERNETES])
            .args(arguments);
        run(command)
    }

    /// The same for what gives objects.
    pub(crate) fn release(&self, arguments: &[&str]) -> Objects {
        Objects::parse(
            &self
                .helm("oom-watcher", "kube-system", arguments)
                .unwrap_or_else(|error| panic!("{arguments:?}: {error}")),
        )
    }

    /// What an example of the chart gives.
    pub(crate) fn example(&self, name: &str) -> String {
        let values = chart().join("examples").join(name).join("values.yaml");
        let mut arguments = vec!["--values", values.to_str().unwrap()];
        if name == "openshift" {
            arguments.extend(OPENSHIFT);
        }
        self.helm("oom-watcher", "monitoring", &arguments).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Everything that somebody may apply, with a name for it.
    pub(crate) fn all(&self) -> &[(String, Objects)] {
        self.all.get_or_init(|| self.render_all())
    }

    fn render_all(&self) -> Vec<(String, Objects)> {
        let overlays = OVERLAYS.map(|name| (name.to_owned(), self.overlay(name)));
        let examples =
            examples().into_iter().map(|name| (format!("chart-{name}"), Objects::parse(&self.example(&name))));
        let files = ["servicemonitor", "podmonitor", "prometheusrule", "networkpolicy"]
            .map(|name| (name.to_owned(), Objects::of_file(name)));
        let chart = [("chart".to_owned(), self.release(&[]))];
        [("base".to_owned(), self.base())]
            .into_iter()
            .chain(overlays)
            .chain(chart)
            .chain(examples)
            .chain(files)
            .collect()
    }
}

impl Objects {
    pub(crate) fn parse(text: &str) -> Self {
        let documents = serde_yaml::Deserializer::from_str(text).map(|document| Value::deserialize(document).unwrap());
        Self(documents.filter(|document| !document.is_null()).collect())
    }

    /// Of `k8s/NAME.yaml`, as it is.
    pub(crate) fn of_file(name: &str) -> Self {
        Self::parse(&fs::read_to_string(root().join(format!("k8s/{name}.yaml"))).unwrap())
    }

    pub(crate) fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        self.0.iter().find(|object| id(object) == format!("{kind} {name}"))
    }

    pub(crate) fn get(&self, kind: &str, name: &str) -> &Value {
        self.find(kind, name)
            .unwrap_or_else(|| panic!("no {kind} {name} in {:?}", self.0.iter().map(id).collect::<Vec<_>>()))
    }

    /// Those that make pods.
    pub(crate) fn workloads(&self) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(|object| !object["spec"]["template"]["spec"].is_null())
    }
}

/// `KIND NAME`
pub(crate) fn id(object: &Value) -> String {
    format!("{} {}", text(&object["kind"]), text(&object["metadata"]["name"]))
}

#[track_caller]
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// The items of a list; none if there is no list.
pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

/// What it printed, or what it said instead.
pub(crate) fn run(command: &mut Command) -> Result<String, String> {
    let output = command.output().unwrap();
    let [out, error] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    if output.status.success() { Ok(out) } else { Err(format!("{out}{error}")) }
}

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

pub(crate) fn chart() -> PathBuf {
    root().join("k8s/chart")
}

/// The names of the chart's examples.
pub(crate) fn examples() -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(chart().join("examples"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert!(!names.is_empty());
    names
}
