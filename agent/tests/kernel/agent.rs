//! The agent's start and its end.

use std::process::Command;

use crate::once_in_a_guest;
use crate::watch::{KILLS_PER_NODE, grace, start_alone, within};
use oom_watcher_testkit::agent::{Agent, settings};
use oom_watcher_testkit::collector::Collector;
use oom_watcher_testkit::exposition::total;
use oom_watcher_testkit::kills::{make, make_and_hold};
use oom_watcher_testkit::machine::kernel_kills;
use oom_watcher_testkit::needs::{needs, real_kills};
use oom_watcher_testkit::wait::eventually;

#[test]
fn the_first_scrape_of_a_node_says_0_and_an_ordinary_sigkill_leaves_it_there() {
    let _alone = needs!(real_kills());
    let quiet = (0..5).any(|_| {
        let before = kernel_kills();
        let (agent, collector) = start_alone();
        let first = agent.metrics();
        assert_eq!(first.iter().filter(|sample| sample.name == KILLS_PER_NODE).count(), 1);
        let mut sleeper = Command::new("sleep").arg("600").spawn().unwrap();
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        // What would have been told of the sleeper would have been told before this.
        let held = make_and_hold("one");
        collector.await_records(1, within(&held.made));
        let second = eventually("count of the kill", || {
            Some(agent.metrics()).filter(|samples| total(samples, KILLS_PER_NODE) > 0.0)
        });
        // Nobody else may have killed: else it is tried again.
        let quiet = kernel_kills() == before + 1;
        assert!(!quiet || (total(&first, KILLS_PER_NODE), total(&second, KILLS_PER_NODE)) == (0.0, 1.0));
        quiet
    });
    assert!(quiet, "somebody else made the OOM killer kill during each of five attempts");
}

#[test]
fn a_sigterm_right_after_the_last_kill_loses_nothing() {
    needs!(once_in_a_guest());
    let _alone = needs!(real_kills());
    let collector = Collector::start();
    let file = settings(grace());
    let mut agent = Agent::start(&collector.environment(), &["--config", file.path().to_str().unwrap()]);
    let made = make("burst 50");
    assert_eq!(agent.stop(), Some(0), "{}", agent.log());
    assert_eq!(collector.records(within(&made)).len(), 50);
}

#[test]
fn a_second_sigterm_ends_the_agent_though_its_collector_hangs() {
    needs!(once_in_a_guest());
    let _alone = needs!(real_kills());
    let collector = Collector::start();
    collector.hang();
    // It would go on far longer than a test waits.
    let file = settings("shutdown_grace: 10m\n");
    let environment = [
        &collector.environment()[..],
        &[("OTEL_EXPORTER_OTLP_TIMEOUT", "600000"), ("OTEL_METRIC_EXPORT_INTERVAL", "100")],
    ]
    .concat();
    let mut agent = Agent::start(&environment, &["--config", file.path().to_str().unwrap()]);
    make("one");
    // A log record, a span, data points.
    collector.await_requests(3);
    // So the thread that exports these sees all of the end.
    agent.let_its_other_threads_go_first();
    // Signals of one kind that come too close together are one to the process: so more than two, until it has ended.
    let status = eventually("end of the agent", || {
        agent.signal(libc::SIGTERM);
        agent.ended()
    });
    assert_eq!(status.code(), Some(1), "not everything was sent: {}", agent.log());
    // Nobody has answered, and no time was up: only a thread that is left without its runtime, where it may panic,
    // hears of a failure.
    assert!(!agent.log().contains("export fails"), "{}", agent.log());
}
