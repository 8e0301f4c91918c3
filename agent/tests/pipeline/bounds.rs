//! What must not get worse unnoticed, where the machine's speed is of no matter: allocations and instructions of a
//! kill, bytes of what is sent, and of the table of counts. Each number is what was measured when it was recorded.
//! Whoever makes one better records the new one; whoever must make one worse says why.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::io::Write;
use std::process::Command;
use std::time::Duration;

use oom_watcher::kill::{KubernetesOwner, Owner, Pod, PodContainer};
use oom_watcher::record::incident::Incidents;
use oom_watcher::record::series::{FromZero, Limits, Table};
use prost::Message;

use crate::kills::{CONTAINER, POD, kill, stranger, time};
use crate::stage::{Stage, collector, received};

/// Counts for each thread: tests run beside each other.
struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
    static ALLOCATED: Cell<isize> = const { Cell::new(0) };
}

// SAFETY: all is the system's allocator's; the counts touch no memory of it, and need none themselves.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends may allocate when its counts are gone.
        let _ = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        let _ = ALLOCATED.try_with(|bytes| bytes.set(bytes.get() + layout.size().cast_signed()));
        // SAFETY: the caller's promise is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let _ = ALLOCATED.try_with(|bytes| bytes.set(bytes.get() - layout.size().cast_signed()));
        // SAFETY: the caller's promise is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Kills before those that are counted: tables that grow have grown, and what is made once is made.
const BEFORE: u32 = 64;
const KILLS: u32 = 100;
/// By this part of it a number may differ without a change of ours: another compiler, other crates of the same
/// versions' range.
const MARGIN: u64 = 20;
/// How many kills the test of allocations counts, if the test of instructions asks it.
const NUMBER: &str = "OOM_WATCHER_BOUNDS_KILLS";

/// Log record and spans are made, encoded and queued; the collector is asked for nothing meanwhile.
#[tokio::test]
async fn a_kill_takes_no_more_allocations_than_it_did() {
    let kills: u32 = std::env::var(NUMBER).map_or(KILLS, |number| number.parse().unwrap());
    let collector = collector();
    let mut stage = Stage::start(Some(collector.address()), &[("OTEL_METRICS_EXPORTER", "none")]);
    stage.kill((1..=BEFORE).map(stranger));
    let more: Vec<_> = (BEFORE + 1..=BEFORE + kills).map(stranger).collect();
    let before = ALLOCATIONS.get();
    stage.kill(more);
    check("allocations for a kill", (ALLOCATIONS.get() - before) / u64::from(kills), 239);
}

/// Those of the test above, as valgrind counts them, in this build: a release takes a fraction of them, which grows as
/// they do.
#[test]
fn a_kill_takes_no_more_instructions_than_it_did() {
    let count = |kills: u32| -> Option<u64> {
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(std::env::current_exe().unwrap());
        let output = command
            .args(["--exact", "bounds::a_kill_takes_no_more_allocations_than_it_did"])
            .env(NUMBER, kills.to_string())
            .output()
            .ok()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said.lines().find_map(|line| line.split_once("Collected : ")?.1.trim().parse().ok())
    };
    let Some(few) = count(KILLS) else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "valgrind is missing");
        let skipped = "skipped: bounds::a_kill_takes_no_more_instructions_than_it_did: valgrind is missing\n";
        return std::io::stderr().write_all(skipped.as_bytes()).unwrap();
    };
    let more = count(2 * KILLS).unwrap();
    check("thousands of instructions for a kill", (more - few) / u64::from(KILLS) / 1000, 1241);
}

#[tokio::test]
async fn what_is_sent_of_a_kill_is_no_larger_than_it_was() {
    let collector = collector();
    let mut stage = Stage::start(Some(collector.address()), &[]);
    stage.kill([kill(4242)]);
    let received = received(&collector, 1, 1).await;
    check("bytes of a log record", received.records().next().unwrap().encoded_len() as u64, 2466);
    check("bytes of a span", received.spans().next().unwrap().encoded_len() as u64, 2147);
}

#[test]
fn the_table_of_counts_takes_no_more_memory_than_it_did() {
    const ROWS: usize = 1000;
    let names: Vec<_> = (0..ROWS).map(|row| format!("web-7d4b9c6f5-{row:05}")).collect();
    let before = ALLOCATED.get();
    let mut table = Table::new(Limits { owners: ROWS, expiry: Duration::from_secs(3600), from_zero: FromZero::Kills });
    table.ensure(names.iter().map(|name| ("default", name.as_str(), "app")), time(0));
    let rows = |before: isize| (ALLOCATED.get() - before).cast_unsigned() as u64 / ROWS as u64;
    check("bytes of a container without kills", rows(before), 622);
    let mut incidents = Incidents::default();
    for (pid, name) in (1..).zip(&names) {
        let (kill, owner) = (kill(pid), owner(name));
        let incident = incidents.assign(&kill, &owner);
        table.record(&kill, &owner, &incident);
    }
    drop((incidents, table.changes()));
    check("bytes of a container with a kill", rows(before), 734);
}

fn owner(pod: &str) -> Owner {
    let container = PodContainer { name: "app".to_owned(), ..PodContainer::default() };
    let pod =
        Pod { namespace: "default".to_owned(), name: pod.to_owned(), container: Some(container), ..Pod::default() };
    Owner::Kubernetes(KubernetesOwner {
        pod_uid: POD.to_owned(),
        qos: None,
        runtime: None,
        container_id: Some(CONTAINER.to_owned()),
        why_no_container: None,
        pod: Some(Box::new(pod)),
    })
}

/// Fails where it got worse, and where it got so much better that a step back would go unnoticed.
#[track_caller]
fn check(what: &str, measured: u64, recorded: u64) {
    println!("{what}: {measured}");
    assert!(measured <= recorded + recorded / MARGIN, "{what}: {measured}, there were {recorded}");
    assert!(
        measured >= recorded - recorded * 2 / MARGIN,
        "{what}: {measured}, there were {recorded}: record the new number here"
    );
}
