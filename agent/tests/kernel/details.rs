//! What is told of a kill only where the kernel gives it: exact sizes, when the memory was free, the command line.

use oom_watcher::record::ends::WAIT;

use crate::watch::{Watch, within};
use oom_watcher_testkit::agent::{Agent, settings};
use oom_watcher_testkit::collector::Collector;
use oom_watcher_testkit::kills::make_and_hold;
use oom_watcher_testkit::machine::{guest, kernel, reads_strings};
use oom_watcher_testkit::needs::{needs, real_kills};

#[test]
fn resident_sizes_are_exact_where_the_kernel_counts_them_for_each_cpu() {
    let _alone = needs!(real_kills());
    let mut watch = Watch::start();
    let made = watch.make("threads 32");
    let records = watch.told(&made);
    let [record] = records.as_slice() else { panic!("{records:?}") };
    // "mm: convert mm's rss stats into percpu_counter" (6.2). Before, only a helper could read them.
    let is_per_cpu = kernel() >= (6, 2);
    assert_eq!(
        record.flag("oom_watcher.memory.exact"),
        (is_per_cpu || reads_strings()).then_some(is_per_cpu && reads_strings())
    );
    assert_eq!(record.number("oom_watcher.memory.anon_rss").is_some(), is_per_cpu || reads_strings());
}

#[test]
fn a_span_lasts_until_the_memory_of_its_victim_is_free() {
    let _alone = needs!(real_kills());
    let mut watch = Watch::start();
    let mut end_of_one = || {
        let made = watch.make("one");
        let records = watch.told(&made);
        let [record] = records.as_slice() else { panic!("{records:?}") };
        let end = watch.collector.await_span_end(record);
        // Its memory is free before it has ended. So this is how long that took at most.
        let stood_still = made.done.seconds > WAIT.as_secs_f64();
        Some(end).filter(|end| end != "timeout" || !stood_still)
    };
    // A guest on a busy machine may stand still for as long as a span waits: then it is tried again.
    let end = (0..5).find_map(|_| end_of_one()).unwrap();
    // From 6.1 on the kernel has the tracepoint exit_mmap.
    assert_eq!(end, if kernel() >= (6, 1) { "memory_freed" } else { "read" });
    let reclaimed = watch.since(|sample| sample.name == "oom_reclaim_seconds_count");
    assert_eq!(reclaimed > 0, kernel() >= (6, 1), "{reclaimed}");
}

#[test]
fn a_command_line_is_told_only_if_it_is_asked_for() {
    let _alone = needs!(real_kills());
    let collector = Collector::start();
    // A start is slow in a guest, and what is not asked for is in no other kernel either.
    let cases = [("true", kernel() >= (5, 11) && reads_strings()), ("false", false)];
    for (wanted, is_told) in cases.into_iter().take(if guest() { 1 } else { 2 }) {
        let file = settings(&format!("probe:\n  arguments: {wanted}\n"));
        let _agent = Agent::start(&collector.environment(), &["--config", file.path().to_str().unwrap()]);
        let held = make_and_hold("one");
        let records = collector.await_records(1, within(&held.made));
        let told = records[0].texts("process.command_args").unwrap_or_default();
        assert_eq!(told.first().is_some_and(|program| program.contains("oom-maker")), is_told, "{told:?}");
        assert_eq!(told.last() == Some(&"one"), is_told, "{told:?}");
    }
}
