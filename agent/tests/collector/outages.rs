//! Collectors that are killed, refuse or are away while kills happen: each kill arrives, and those that come twice are
//! known by their uid.

use std::collections::BTreeSet;

use crate::way::within;
use oom_watcher_testkit::agent::Agent;
use oom_watcher_testkit::collector::Collector;
use oom_watcher_testkit::exposition::total;
use oom_watcher_testkit::kills::{Held, make_and_hold};
use oom_watcher_testkit::needs::{needs, real_kills};
use oom_watcher_testkit::otelcol::Otelcol;
use oom_watcher_testkit::programs::Programs;
use oom_watcher_testkit::spooled;
use oom_watcher_testkit::wait::eventually;

const FAILURES: &str = "oom_watcher_export_failures_total";
const LOST: &str = "oom_watcher_export_lost_total";

/// Kills of one burst.
const KILLS: usize = 100;

fn burst() -> Held {
    make_and_hold(&format!("burst {KILLS} --names kubernetes"))
}

/// Waits until each kill of these bursts has its record, and no other uid came of them.
fn await_all(back_end: &Collector, bursts: &[Held]) {
    for burst in bursts {
        let is_own = within(&burst.made);
        let uids = || {
            back_end
                .records(&is_own)
                .iter()
                .map(|record| record.text("log.record.uid").unwrap().to_owned())
                .collect::<BTreeSet<_>>()
        };
        eventually("record of each kill", || (uids().len() >= KILLS).then_some(()));
        assert_eq!(uids().len(), KILLS);
    }
}

fn start(collector: &Otelcol, flags: &[&str], more: &[(&str, &str)]) -> Agent {
    let (name, endpoint) = collector.environment();
    Agent::start(&[&[(name, endpoint.as_str())], more].concat(), flags)
}

#[test]
fn a_collector_that_is_killed_and_comes_back_costs_no_record() {
    let _alone = needs!(real_kills());
    let programs = needs!(Programs::find());
    let back_end = Collector::start();
    let mut gateway = Otelcol::gateway(&programs, &back_end.address());
    let agent = start(&gateway, &[], &[]);
    let mut bursts = vec![burst()];
    gateway.kill();
    bursts.push(burst());
    eventually("failure of an export", || (total(&agent.metrics(), FAILURES) > 0.0).then_some(()));
    gateway.start();
    bursts.push(burst());
    await_all(&back_end, &bursts);
    assert_eq!(total(&agent.metrics(), LOST), 0.0);
}

#[test]
fn with_a_spool_neither_does_an_agent_that_is_killed_meanwhile() {
    let _alone = needs!(real_kills());
    let programs = needs!(Programs::find());
    let back_end = Collector::start();
    let mut gateway = Otelcol::gateway(&programs, &back_end.address());
    let spool = tempfile::tempdir().unwrap();
    let variables = [("OOM_WATCHER_SPOOL_DIR", spool.path().to_str().unwrap())];
    let mut agent = start(&gateway, &[], &variables);
    let mut bursts = vec![burst()];
    gateway.kill();
    bursts.push(burst());
    eventually("all of it in the spool", || spooled::is_whole(&agent, spool.path(), 200.0, KILLS as f64).then_some(()));
    agent.signal(libc::SIGKILL);
    eventually("end of the agent", || agent.ended());
    let agent = start(&gateway, &[], &variables);
    bursts.push(burst());
    gateway.start();
    await_all(&back_end, &bursts);
    assert_eq!(total(&agent.metrics(), LOST), 0.0);
    eventually("spool that is empty", || {
        (total(&agent.metrics(), "oom_watcher_export_spool_bytes") == 0.0).then_some(())
    });
}

#[test]
fn a_back_end_that_is_away_while_the_collector_is_killed_gets_all_of_it_later() {
    let _alone = needs!(real_kills());
    let programs = needs!(Programs::find());
    let back_end = Collector::start();
    let address = back_end.address();
    let mut gateway = Otelcol::gateway(&programs, &address);
    let agent = start(&gateway, &[], &[]);
    drop(back_end);
    let bursts = [burst()];
    eventually("delivery to the gateway", || {
        let samples = agent.metrics();
        let queued: f64 = samples
            .iter()
            .filter(|sample| sample.name == "oom_watcher_export_queue_items")
            .map(|sample| sample.value)
            .sum();
        let sent = samples
            .iter()
            .find(|sample| sample.name == "oom_watcher_export_items_total" && sample.label("signal") == "logs")
            .unwrap()
            .value;
        (queued == 0.0 && sent >= KILLS as f64).then_some(())
    });
    gateway.kill();
    gateway.start();
    let back_end = Collector::start_at(address.parse().unwrap());
    await_all(&back_end, &bursts);
}

#[test]
fn a_collector_that_has_no_memory_left_is_asked_until_it_has() {
    let _alone = needs!(real_kills());
    let programs = needs!(Programs::find());
    let back_end = Collector::start();
    let mut gateway = Otelcol::gateway(&programs, &back_end.address());
    gateway.kill();
    // It has more than that from its start, so it refuses everything.
    gateway.start_with(
        "processors: {memory_limiter: {check_interval: 100ms, limit_percentage: 0, spike_limit_percentage: 0, \
         limit_mib: 2, spike_limit_mib: 1}}\n",
    );
    let agent = start(&gateway, &[], &[]);
    let bursts = [burst()];
    eventually("refusals", || {
        let samples = agent.metrics();
        let failures =
            samples.iter().find(|sample| sample.name == FAILURES && sample.label("signal") == "logs").unwrap().value;
        (failures >= 3.0).then_some(())
    });
    assert_eq!(back_end.records(within(&bursts[0].made)).len(), 0);
    gateway.kill();
    gateway.start();
    await_all(&back_end, &bursts);
    assert_eq!(total(&agent.metrics(), LOST), 0.0);
}
