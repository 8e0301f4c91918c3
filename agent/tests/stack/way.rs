//! One kill in all back ends, with the same names everywhere, and the ids by which one finds it from one in another.

use serde_json::Value;

use crate::{POD, container, kill, pod};
use oom_watcher_testkit::api_server::ApiServer;
use oom_watcher_testkit::needs::{needs, real_kills};
use oom_watcher_testkit::programs::Programs;
use oom_watcher_testkit::stack::Stack;
use oom_watcher_testkit::wait::eventually;

/// The series of the pod's container, without what tells how it came: by a scrape, then by the Collector.
fn both(stack: &Stack, value: &str) -> Option<[Value; 2]> {
    let series = stack.prometheus(&format!(r#"oom_kills_total{{namespace="shop", pod="{POD}", container="app"}}"#));
    let of_instance = |is_scraped: bool| {
        let found = series.iter().find(|series| {
            series["metric"]["instance"].as_str().is_some_and(|instance| instance.contains(':')) == is_scraped
        })?;
        (found["value"][1] == value).then(|| {
            let mut labels = found["metric"].clone();
            labels.as_object_mut().unwrap().remove("instance");
            labels
        })
    };
    Some([of_instance(true)?, of_instance(false)?])
}

#[test]
fn one_kill_is_in_every_back_end_and_leads_from_one_to_the_other() {
    let _alone = needs!(real_kills());
    let programs = needs!(Programs::find_stack());
    let (stack, api) = (Stack::start(&programs, "groups: []"), ApiServer::start());
    api.apply(pod(&container()));
    let _agent = stack.agent(&api, &[]);
    // At 0 before, by both ways; and the same labels.
    let [scraped, sent] = eventually("series at 0", || both(&stack, "0"));
    assert_eq!(scraped, sent);
    let _held = kill();
    eventually("count of the kill", || both(&stack, "1"));

    // VictoriaLogs: in the stream of the victim's container. The gateway has moved its names to the resource.
    let record = eventually("log record", || {
        stack
            .records(&format!(r#"{{service.name="oom-watcher", k8s.namespace.name="shop", k8s.pod.name="{POD}"}}"#))
            .pop()
    });
    assert_eq!((&record["k8s.container.name"], &record["severity_text"]), (&"app".into(), &"ERROR".into()), "{record}");
    assert_eq!(record["k8s.node.name"], scraped["node"], "{record}");
    let line = record["_msg"].as_str().unwrap();
    assert!(line.starts_with("The OOM killer killed ") && line.contains(POD), "{line}");
    // By the trace's id, which leads to the trace, which leads back.
    let trace = record["trace_id"].as_str().unwrap();
    assert_eq!(stack.records(&format!(r#"{{service.name="oom-watcher"}} trace_id:="{trace}""#)).len(), 1);
    let spans = eventually("the trace", || {
        Some(stack.spans(trace)).filter(|spans| spans.iter().any(|span| span["name"] == "oom_kill"))
    });
    let kill = spans.iter().find(|span| span["name"] == "oom_kill").unwrap();
    assert_eq!(kill["spanId"], record["span_id"], "{kill}");
    let attributes = kill["attributes"].as_array().unwrap();
    assert!(attributes.iter().any(|attribute| attribute["key"] == "process.pid"), "{kill}");
    eventually("the agent's own spans", || {
        stack.spans(trace).iter().any(|span| span["name"] == "attribute").then_some(())
    });
}
