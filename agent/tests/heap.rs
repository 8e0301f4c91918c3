//! What the agent keeps of a pod: bytes of heap, counted by the allocator. Exact, and the same on each run.

#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};
use std::time::{Duration, SystemTime};

use oom_watcher::attribution::pods::object::Object;
use oom_watcher::attribution::pods::{Known, Pods, REMEMBERED, Selection};
use serde_json::Value;

/// Counts what is allocated now.
struct Counting;

static ALLOCATED: AtomicIsize = AtomicIsize::new(0);

// SAFETY: all is the system's allocator's; the count touches no memory of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size().cast_signed(), Relaxed);
        // SAFETY: the caller's promise is the system's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size().cast_signed(), Relaxed);
        // SAFETY: the caller's promise is the system's.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const PODS: isize = 500;
const COME_AND_GO: u32 = 10_000;
/// The goal, for a pod with an init container and two containers, one of them restarted.
const EACH: isize = 3 << 10;
/// The same where each of the three was restarted so often that no more ids are remembered.
const EACH_RESTARTED: isize = 3500;

/// As the API server gave it, with the uid and the ids of another one.
fn known(pod: &Value, number: u32, restarts: u32) -> Known {
    let mut pod = pod.clone();
    pod["metadata"]["uid"] = format!("{number:08x}-0000-4000-8000-000000000000").into();
    pod["metadata"]["name"] = format!("web-7d4b9c6f5-{number:05}").into();
    for list in ["initContainerStatuses", "containerStatuses"] {
        for (index, status) in pod["status"][list].as_array_mut().unwrap().iter_mut().enumerate() {
            status["containerID"] =
                format!("containerd://{number:032x}{:032x}", restarts * 8 + u32::try_from(index + list.len()).unwrap())
                    .into();
        }
    }
    let object: Object = serde_json::from_value(pod).unwrap();
    let selection = Selection { labels: vec!["team".to_owned()], annotations: Vec::new() };
    Known::of(&object, &selection).unwrap()
}

#[test]
fn a_pod_takes_less_than_3_kib_and_what_has_gone_gives_it_back() {
    let pod: Value = serde_json::from_str(include_str!("data/pod.json")).unwrap();
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000);
    let mut pods = Pods::default();
    let begin = ALLOCATED.load(Relaxed);
    let taken = || ALLOCATED.load(Relaxed) - begin;
    (0..PODS as u32).for_each(|number| pods.apply(known(&pod, number, 0)));
    let first = taken() / PODS;
    // Each was restarted nine times, and the ids that it had are remembered: up to a bound.
    for restarts in 1..10 {
        (0..PODS as u32).for_each(|number| pods.apply(known(&pod, number, restarts)));
    }
    let (restarted, there) = (taken() / PODS, taken());
    for number in 0..COME_AND_GO {
        let known = known(&pod, 1000 + number, 0);
        pods.apply(known);
        pods.remove(&format!("{:08x}-0000-4000-8000-000000000000", 1000 + number), now);
    }
    let remembered = taken() - there;
    pods.expire(now + REMEMBERED + Duration::from_secs(1));
    let after = taken() - there;
    println!(
        "heap of a pod: {first} bytes, {restarted} after 9 restarts; {remembered} of those remembered, {after} when \
         they are forgotten"
    );
    assert!(first < EACH && restarted < EACH_RESTARTED, "{first} {restarted}");
    assert!(remembered < 1024 * EACH, "{remembered}");
    assert!(pods.len() == 500 && after < remembered / 8, "what is left is the room of the maps: {after} bytes");
}
