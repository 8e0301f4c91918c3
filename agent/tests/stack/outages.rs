//! Kills while the Collector is killed, away and restarted, and the agent is killed meanwhile: each is in the log
//! store.

use std::thread;
use std::time::Duration;

use oom_watcher_testkit::agent::Agent;
use oom_watcher_testkit::api_server::ApiServer;
use oom_watcher_testkit::exposition::total;
use oom_watcher_testkit::kills::{Held, make_and_hold};
use oom_watcher_testkit::needs::{needs, real_kills};
use oom_watcher_testkit::programs::Programs;
use oom_watcher_testkit::spooled;
use oom_watcher_testkit::stack::Stack;
use oom_watcher_testkit::wait::{eventually, eventually_within};

/// Kills of one burst.
const KILLS: u64 = 100;
/// How long the Collector is away.
const AWAY: Duration = Duration::from_secs(60);
/// After that the agent asks again within seconds, then everything that waited goes.
const CATCHING_UP: Duration = Duration::from_secs(60);

fn burst() -> Held {
    make_and_hold(&format!("burst {KILLS}"))
}

/// The root of its cgroups.
fn root(burst: &Held) -> String {
    format!("/{}/", burst.made.cgroups[0].path.split('/').nth(1).unwrap())
}

/// The number of kills of these bursts in VictoriaLogs. It counts uids, so that a record that came twice counts once.
fn stored(stack: &Stack, bursts: &[Held]) -> u64 {
    let roots: Vec<_> = bursts.iter().map(root).collect();
    let of_bursts = format!(r#"{{service.name="oom-watcher"}} process.linux.cgroup:~"^({})""#, roots.join("|"));
    stack.records_number(&format!("{of_bursts} | stats count_uniq(log.record.uid) kills")).unwrap().unwrap_or(0.0)
        as u64
}

fn size_of_spool(agent: &Agent) -> f64 {
    total(&agent.metrics(), "oom_watcher_export_spool_bytes")
}

#[test]
fn three_hundred_kills_while_the_collector_is_killed_and_away_are_all_stored() {
    let _alone = needs!(real_kills());
    let programs = needs!(Programs::find_stack());
    let (mut stack, api) = (Stack::start(&programs, "groups: []"), ApiServer::start());
    let agent = stack.agent(&api, &[]);
    let mut bursts = vec![burst()];
    stack.gateway.kill();
    bursts.push(burst());
    // It is what is asked: nobody tells when the time has come.
    thread::sleep(AWAY);
    bursts.push(burst());
    stack.gateway.start();
    eventually_within(CATCHING_UP, "300 kills", || (stored(&stack, &bursts) >= 300).then_some(()));
    assert_eq!(stored(&stack, &bursts), 300);
    assert_eq!(total(&agent.metrics(), "oom_watcher_export_lost_total"), 0.0);
    // What Prometheus has is right at once.
    eventually("the node's count", || stack.prometheus("max by (node) (oom_kills_per_node_total) >= 300").pop());
}

#[test]
fn so_are_those_of_an_agent_that_was_killed_if_it_had_a_spool() {
    let _alone = needs!(real_kills());
    let programs = needs!(Programs::find_stack());
    let (mut stack, api) = (Stack::start(&programs, "groups: []"), ApiServer::start());
    let spool = tempfile::tempdir().unwrap();
    let variables = [("OOM_WATCHER_SPOOL_DIR", spool.path().to_str().unwrap())];
    let mut agent = stack.agent(&api, &variables);
    let mut bursts = vec![burst()];
    stack.gateway.kill();
    bursts.push(burst());
    eventually("all of it in the spool", || spooled::is_whole(&agent, spool.path(), 200.0, KILLS as f64).then_some(()));
    agent.signal(libc::SIGKILL);
    eventually("end of the agent", || agent.ended());
    let agent = stack.agent(&api, &variables);
    bursts.push(burst());
    stack.gateway.start();
    eventually_within(CATCHING_UP, "300 kills", || (stored(&stack, &bursts) >= 300).then_some(()));
    assert_eq!(stored(&stack, &bursts), 300);
    eventually("spool that is empty", || (size_of_spool(&agent) == 0.0).then_some(()));
}
