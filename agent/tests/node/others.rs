//! What people look at today, beside `oom_kills_total` and for the same kills: the kubelet's
//! `container_oom_events_total`, and what `kubectl` shows.
//!
//! Ours is asserted. Theirs is printed as a table, and asserted only where it is certain by design. With cgroup v2 the
//! kubelet has whole containers killed: there a killed child is no case of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::agents::{MANIFEST, Scraper, collector, deploy, kills_of};
use crate::cluster::Cluster;
use crate::pods::{self, HOG, IDLE, container, pod};
use oom_watcher_testkit::agent::NODE;
use oom_watcher_testkit::exposition::parse_exposition;
use oom_watcher_testkit::machine::kernel_kills;
use oom_watcher_testkit::needs::{needs, real_kills};
use oom_watcher_testkit::programs::Programs;

/// Containers in which something is killed at the same time.
const CROWD: usize = 20;
/// How often the kubelet has looked at a container since its last kill when its figure counts as final. It reads the
/// kernel log at once, but shows what it counted there only once it looks at the container, every 10 to 30 seconds:
/// <https://github.com/google/cadvisor/blob/v0.53.0/manager/container.go>.
const LOOKS: usize = 2;
/// A folder of the node and of each of the pods: the signals that they wait for, and what they leave.
const SIGNALS: &str = "/run/signals";

/// What is killed in each container of a case.
#[derive(Clone, Copy, PartialEq)]
enum Victim {
    /// The first process, and with it the container.
    First,
    /// The same, and then the container is started again.
    FirstOfTwoLives,
    /// So many children of the first process, one after the other. The container goes on.
    Children(usize),
    /// The same, and then the pod is deleted at once.
    ChildrenThenPod(usize),
}

/// Their names, how many containers, and what is killed. From the kills of one to those of the next it takes longer
/// than the five seconds for which the kernel log leaves lines out: pods are started meanwhile.
const CASES: [(&str, usize, Victim, &str); 6] = [
    ("again", 1, Victim::FirstOfTwoLives, "the first process of a container, which is started again"),
    ("child", 1, Victim::Children(1), "a child of the first process; the container goes on"),
    ("children", 1, Victim::Children(20), "20 children in one container, one after the other"),
    ("first", CROWD, Victim::First, "the first processes of 20 containers at the same time"),
    ("crowd", CROWD, Victim::Children(1), "a child in each of 20 containers at the same time"),
    ("deleted", 1, Victim::ChildrenThenPod(3), "3 children in one container, whose pod is deleted at once"),
];

#[test]
fn every_kill_is_counted_whatever_others_tell_of_it() {
    let _alone = needs!(real_kills());
    let cluster = needs!(Programs::find().and_then(Cluster::start));
    let _collector = collector(&cluster);
    deploy(&cluster, MANIFEST);
    let scraper = Scraper::forward(&cluster);
    fs::create_dir(cluster.path(SIGNALS)).unwrap();
    let before = kernel_kills();
    let told = CASES.map(|(case, size, victim, _)| kill(&cluster, &scraper, case, size, victim));
    let killed: u64 = told.iter().map(|told| told.killed).sum();
    let on_the_machine = kernel_kills() - before;
    println!(
        "| killed | by the kernel's count | `oom_kills_total` | kubelet, afterwards | kubelet, at most | `kubectl`: \
         `OOMKilled` | `kubectl`: restarts |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for ((.., what), Told { killed, ours, afterwards, most, oom_killed, restarts }) in CASES.iter().zip(&told) {
        let afterwards = afterwards.map_or("no series".to_owned(), |kills| kills.to_string());
        println!("| {what} | {killed} | {ours} | {afterwards} | {most} | {oom_killed} | {restarts} |");
    }
    println!("\nThe kernel's count of the whole machine grew by {on_the_machine}, {killed} of which are these.");
    assert!(on_the_machine >= killed);
}

/// What was told of all containers of a case together.
struct Told {
    killed: u64,
    ours: f64,
    /// By the kubelet's series that are left, if any is.
    afterwards: Option<f64>,
    /// By the kubelet's series when they were largest.
    most: f64,
    /// Containers of which `kubectl` shows this reason for their last end.
    oom_killed: usize,
    restarts: u64,
}

/// Makes the kills of a case, and waits until each has told all of it that it ever will.
fn kill(cluster: &Cluster, scraper: &Scraper<'_>, case: &str, size: usize, victim: Victim) -> Told {
    let names: Vec<_> = (0..size).map(|number| format!("{case}-{number}")).collect();
    cluster.text(&format!("mkfifo {SIGNALS}/{case}"));
    pods::apply(cluster, &names.iter().map(|name| waiting(case, name, victim)).collect::<Vec<_>>());
    cluster.text(&format!("kubectl wait -n shop --for=condition=Ready pod -l case={case} --timeout=120s"));
    let cgroups: Vec<_> = names.iter().map(|name| pods::container_cgroup(cluster, name)).collect();
    let ours = || {
        let metrics = scraper.metrics();
        names.iter().map(|name| kills_of(&metrics, name, "app")).collect::<Option<Vec<_>>>()
    };
    cluster.eventually("series of ours", || ours().filter(|kills| kills.iter().all(|kills| *kills == 0.0)));
    let mut kubelet = Kubelet::default();
    cluster.eventually("series of the kubelet", || (kubelet.look(cluster, case) == size).then_some(()));

    // Who waits for it goes on, and who comes later does not wait.
    let _signal = File::options().read(true).write(true).open(cluster.path(SIGNALS).join(case)).unwrap();
    let dies = matches!(victim, Victim::First | Victim::FirstOfTwoLives);
    if dies {
        // The counters of their cgroups go with them. SIGKILL is what nobody else sends.
        cluster.eventually("end of the first processes", || {
            kubelet.look(cluster, case);
            let codes: Vec<_> =
                statuses(cluster, case).iter().filter_map(|status| last_end(status)?["exitCode"].as_i64()).collect();
            (codes.len() == size).then(|| assert!(codes.iter().all(|code| *code == 137), "{codes:?}"))
        });
    } else {
        let ended = |name: &String| cluster.path(SIGNALS).join(format!("{name}.ended")).exists();
        cluster.eventually("end of the kills", || names.iter().all(ended).then_some(()));
    }
    let killed: Vec<_> = cgroups.iter().map(|cgroup| if dies { 1 } else { pods::kills_in(cgroup) }).collect();
    if let Victim::ChildrenThenPod(_) = victim {
        cluster.text(&format!("kubectl delete pods -n shop -l case={case} --grace-period=0 --force"));
    }
    let expected: Vec<_> = killed.iter().map(|kills| *kills as f64).collect();
    cluster.eventually(&format!("{expected:?} kills of {case} in our series"), || {
        kubelet.look(cluster, case);
        ours().filter(|kills| kills.iter().zip(&expected).all(|(kills, expected)| kills >= expected))
    });
    let alive = if matches!(victim, Victim::First | Victim::ChildrenThenPod(_)) { 0 } else { size };
    kubelet.await_last_word(cluster, case, alive);

    let statuses = statuses(cluster, case);
    let told = Told {
        killed: killed.iter().sum(),
        ours: ours().unwrap().iter().sum(),
        afterwards: kubelet.now.values().map(|(kills, _)| *kills).reduce(|all, kills| all + kills),
        most: kubelet.most.values().sum(),
        oom_killed: statuses.iter().filter_map(last_end).filter(|end| end["reason"] == "OOMKilled").count(),
        restarts: statuses.iter().filter_map(|status| status["restartCount"].as_u64()).sum(),
    };
    assert_eq!(ours().unwrap(), expected, "{case}");
    match victim {
        Victim::First | Victim::FirstOfTwoLives => {
            assert_eq!(told.restarts, u64::from(victim == Victim::FirstOfTwoLives))
        }
        Victim::Children(_) => assert_eq!((told.oom_killed, told.restarts), (0, 0), "of a child kubectl cannot tell"),
        Victim::ChildrenThenPod(_) => {
            assert_eq!((told.afterwards, statuses.len()), (None, 0), "of a deleted pod others cannot tell")
        }
    }
    told
}

/// A pod whose container waits for the signal of its case before anything of it is killed.
fn waiting(case: &str, name: &str, victim: Victim) -> Value {
    let wait = format!(": <{SIGNALS}/{case}");
    let command = match victim {
        Victim::First => format!("{wait}; exec {HOG}"),
        Victim::FirstOfTwoLives => {
            format!("[ -e {SIGNALS}/{name}.first ] && exec {IDLE}; : >{SIGNALS}/{name}.first; {wait}; exec {HOG}")
        }
        Victim::Children(count) | Victim::ChildrenThenPod(count) => {
            format!("{wait}; for child in $(seq {count}); do {HOG}; done; : >{SIGNALS}/{name}.ended; {IDLE}")
        }
    };
    let mut app = container("app", &command, "32Mi");
    app["volumeMounts"] = json!([{"name": "signals", "mountPath": SIGNALS}]);
    let mut pod = pod(name, &[app]);
    pod["metadata"]["labels"] = json!({"case": case});
    pod["spec"]["volumes"] = json!([{"name": "signals", "hostPath": {"path": SIGNALS}}]);
    if victim == Victim::FirstOfTwoLives {
        pod["spec"]["restartPolicy"] = "Always".into();
    }
    pod
}

/// What `kubectl` shows of the containers of a case.
fn statuses(cluster: &Cluster, case: &str) -> Vec<Value> {
    let list: Value =
        serde_json::from_str(&cluster.text(&format!("kubectl get pods -n shop -l case={case} -o json"))).unwrap();
    list["items"].as_array().unwrap().iter().map(|pod| pod["status"]["containerStatuses"][0].clone()).collect()
}

/// How the container ended, the last time that it did.
fn last_end(status: &Value) -> Option<&Value> {
    ["state", "lastState"].map(|state| &status[state]["terminated"]).into_iter().find(|end| end.is_object())
}

/// What the kubelet tells of the containers of a case, which it knows by their cgroups.
#[derive(Default)]
struct Kubelet {
    /// What it told last, and when it had looked at the container, in milliseconds.
    now: BTreeMap<String, (f64, u128)>,
    /// The most that it ever told.
    most: BTreeMap<String, f64>,
}

impl Kubelet {
    /// Asks it. Of how many containers it tells.
    fn look(&mut self, cluster: &Cluster, case: &str) -> usize {
        self.now.clear();
        let text = cluster.text(&format!("kubectl get --raw /api/v1/nodes/{NODE}/proxy/metrics/cadvisor"));
        for line in text.lines().filter(|line| line.starts_with("container_oom_events_total{")) {
            let sample = parse_exposition(line).remove(0);
            let is_of_case = sample.label("pod").rsplit_once('-').is_some_and(|(name, _)| name == case);
            if is_of_case && sample.label("container") == "app" {
                let cgroup = sample.label("id").to_owned();
                let most = self.most.entry(cgroup.clone()).or_default();
                *most = most.max(sample.value);
                self.now.insert(cgroup, (sample.value, line.rsplit(' ').next().unwrap().parse().unwrap()));
            }
        }
        self.now.len()
    }

    /// Waits until it has looked often enough at those containers that are alive, and tells of no other.
    fn await_last_word(&mut self, cluster: &Cluster, case: &str, alive: usize) {
        let from = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis();
        let mut looks: BTreeMap<String, BTreeSet<u128>> = BTreeMap::new();
        cluster.eventually("last word of the kubelet", || {
            let told = self.look(cluster, case);
            for (cgroup, (_, time)) in self.now.iter().filter(|(_, (_, time))| *time > from) {
                looks.entry(cgroup.clone()).or_default().insert(*time);
            }
            let is_last = |cgroup| looks.get(cgroup).is_some_and(|times| times.len() >= LOOKS);
            (told == alive && self.now.keys().all(is_last)).then_some(())
        });
    }
}
