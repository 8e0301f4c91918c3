//! The watches of a fleet at a real API server: the agent's own code for each node, in this process, and as many pods
//! as the nodes have.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oom_watcher::attribution::pods::Selection;
use oom_watcher::kubernetes::Store;
use oom_watcher::kubernetes::settings::Settings;
use oom_watcher::kubernetes::watch;
use tokio::task::JoinSet;

use super::Background;
use super::recorded::{CONTAINERS, name};
use crate::process::Usage;
use crate::report::{Cell, Report, Table, Unit};
use oom_watcher_testkit::cluster::Cluster;
use oom_watcher_testkit::cluster::client::{merge, post};
use oom_watcher_testkit::cluster::kubelet::{PODS, pair, running_pair};
use oom_watcher_testkit::programs::Programs;
use oom_watcher_testkit::wait::eventually_within;

/// Pods of two containers.
const PODS_OF_NODE: usize = CONTAINERS / 2;
/// An idle watch costs so little that it takes a while to see it.
const IDLE: Duration = Duration::from_secs(30);
const PATIENCE: Duration = Duration::from_secs(300);

pub(crate) fn measure(report: &mut Report, programs: Programs, nodes: usize) {
    let mut cluster = Cluster::start(programs, false);
    let begin = Instant::now();
    for node in 0..nodes {
        let names: Vec<_> =
            (0..PODS_OF_NODE).map(|pod| (node * PODS_OF_NODE + pod, format!("web-{node}-{pod}"))).collect();
        cluster.admin.all(names.iter().map(|(_, pod)| post(PODS, &pair(pod, &name(node)))));
        cluster.admin.all(
            names.iter().map(|(number, pod)| merge(&format!("{PODS}/{pod}/status"), &running_pair(*number as u64, 0))),
        );
    }
    eprintln!("fleet: {} pods in {:?}", nodes * PODS_OF_NODE, begin.elapsed());
    let mut table = Table::by(
        &format!("{nodes} nodes of {PODS_OF_NODE} pods, watched at one API server"),
        &format!("make fleet ONLY=watches WATCHED={nodes}"),
        &[
            ("all pods known after", Unit::Seconds),
            ("lines of its audit log, two for each watch", Unit::Count),
            ("of that, refused", Unit::Count),
            ("CPU of the API server", Unit::Seconds),
            ("for each node", Unit::Seconds),
            ("its resident memory", Unit::Bytes),
            ("its peak", Unit::Bytes),
        ],
    );
    let mut row = |cluster: &Cluster, name: &str, before: Usage, took: Option<Duration>, asked: usize| {
        let after = Usage::of(cluster.api_pid());
        let (cpu, requests) = ((after.cpu.saturating_sub(before.cpu)).as_secs_f64(), &cluster.asked()[asked..]);
        table.row(
            name,
            vec![
                took.and_then(|took| Cell::one(took.as_secs_f64())),
                Cell::one(requests.len() as f64),
                Cell::one(requests.iter().filter(|(.., code)| *code >= 400).count() as f64),
                Cell::one(cpu),
                Cell::one(cpu / nodes as f64),
                Cell::one(after.resident as f64),
                Cell::one(after.peak as f64),
            ],
        );
    };
    let kubeconfig = cluster.folder().join("fleet.kubeconfig");
    std::fs::write(&kubeconfig, cluster.kubeconfig_of("oom-watcher")).unwrap();
    let (before, begin) = (Usage::of(cluster.api_pid()), Instant::now());
    let fleet = Fleet::start(kubeconfig, nodes);
    fleet.await_pods();
    row(&cluster, "all agents start at once", before, Some(begin.elapsed()), 0);

    let (before, asked) = (Usage::of(cluster.api_pid()), cluster.asked().len());
    // What is measured is a rate: of a stretch of time.
    std::thread::sleep(IDLE);
    row(&cluster, &format!("idle, {} s", IDLE.as_secs()), before, None, asked);

    let (before, asked) = (Usage::of(cluster.api_pid()), cluster.asked().len());
    let begin = Instant::now();
    for node in 0..nodes {
        let number = node * PODS_OF_NODE;
        cluster.admin.all(std::iter::once(merge(
            &format!("{PODS}/web-{node}-0/status"),
            &running_pair((nodes * PODS_OF_NODE + number) as u64, 1),
        )));
    }
    eprintln!("fleet: a change on each node in {:?}", begin.elapsed());
    row(&cluster, "a pod of each node changes (the change itself is in it)", before, None, asked);

    let asked = cluster.asked().len();
    cluster.stop_api();
    eventually_within(PATIENCE, "all know that it is away", || fleet.all(|store| !store.is_synced()).then_some(()));
    let begin = Instant::now();
    cluster.start_api();
    fleet.await_pods();
    row(
        &cluster,
        "the API server is started again (its own start is in it)",
        Usage::default(),
        Some(begin.elapsed()),
        asked,
    );
    report.add(table);
}

/// Who watches.
struct Fleet {
    // Ends with it.
    _background: Background,
    stores: Arc<[Store]>,
    _watching: JoinSet<()>,
}

impl Fleet {
    fn start(kubeconfig: PathBuf, nodes: usize) -> Self {
        let background = Background::start();
        let stores: Arc<[Store]> = (0..nodes).map(|_| Store::default()).collect();
        let mut watching = JoinSet::new();
        for (node, store) in stores.iter().enumerate() {
            let settings = Settings {
                node: name(node),
                kubeconfig: Some(kubeconfig.clone()),
                selection: Selection::default(),
                daemonset: None,
            };
            watching.spawn_on(watch::run(settings, store.clone()), &background.handle);
        }
        Self { _background: background, stores, _watching: watching }
    }

    fn await_pods(&self) {
        eventually_within(PATIENCE, "all pods are known", || {
            self.all(|store| store.is_synced() && store.pods().len() == PODS_OF_NODE).then_some(())
        });
    }

    fn all(&self, is: impl Fn(&Store) -> bool) -> bool {
        self.stores.iter().all(is)
    }
}
