//! The way of a kill through both Collectors: that nothing it says is lost, and that what Prometheus gets is what a
//! scrape has.

use std::collections::{BTreeMap, BTreeSet};

use oom_watcher::export::otlp::Received;
use oom_watcher::record::schema::METRICS;
use opentelemetry_proto::tonic::common::v1::KeyValue;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::metrics::v1::number_data_point;

use oom_watcher_testkit::agent::{Agent, NODE};
use oom_watcher_testkit::collector::Collector;
use oom_watcher_testkit::exposition::total;
use oom_watcher_testkit::kills::{Made, make_and_hold};
use oom_watcher_testkit::needs::{needs, real_kills};
use oom_watcher_testkit::otelcol::Otelcol;
use oom_watcher_testkit::programs::Programs;
use oom_watcher_testkit::wait::{eventually, patience, try_within};

/// Whether a path is below the root of that run of oom-maker.
pub(crate) fn within(made: &Made) -> impl Fn(&str) -> bool + use<> {
    let root = format!("/{}/", made.cgroups[0].path.split('/').nth(1).unwrap());
    move |path| path.starts_with(&root)
}

fn keys(attributes: &[KeyValue]) -> BTreeSet<&str> {
    attributes.iter().map(|attribute| attribute.key.as_str()).collect()
}

#[test]
fn a_kill_goes_through_both_with_all_that_it_says() {
    let _alone = needs!(real_kills());
    let programs = needs!(Programs::find());
    let back_end = Collector::start();
    let gateway = Otelcol::gateway(&programs, &back_end.address());
    let node = Otelcol::agent(&programs, &gateway.address());
    let direct = Collector::start();
    let environment = [node.environment()];
    let agent = Agent::start(&environment.each_ref().map(|(name, value)| (*name, value.as_str())), &[]);
    let beside = Agent::start(&direct.environment(), &[]);
    let made = make_and_hold("burst 2 --names kubernetes");
    let expected = direct.await_records(2, within(&made.made));
    let records = back_end.await_records(2, within(&made.made));
    drop((agent, beside));
    for record in &records {
        let same = expected.iter().find(|other| {
            other.text("log.record.uid").is_some() && other.number("process.pid") == record.number("process.pid")
        });
        let direct = same.unwrap();
        // The victim's identity is on the resource now, beside the agent's own; all else is where it was.
        let moved: BTreeSet<_> = keys(direct.attributes()).difference(&keys(record.attributes())).copied().collect();
        assert_eq!(moved, BTreeSet::from(["container.id", "k8s.pod.uid"]));
        let resource = back_end.resource_of(record);
        for key in moved {
            assert_eq!(
                resource.iter().find(|attribute| attribute.key == key),
                direct.attributes().iter().find(|attribute| attribute.key == key)
            );
        }
        assert!(
            keys(&resource).is_superset(&BTreeSet::from(["service.name", "k8s.node.name", "service.instance.id"])),
            "{resource:?}"
        );
        // Its span is in the trace that it names.
        back_end.await_span_end(record);
    }
}

/// A Collector answers in the compression in which it was asked, which a client has to understand.
#[test]
fn what_is_compressed_is_taken_at_the_first_attempt() {
    let _alone = needs!(real_kills());
    let programs = needs!(Programs::find());
    let back_end = Collector::start();
    let gateway = Otelcol::gateway(&programs, &back_end.address());
    let (name, endpoint) = gateway.environment();
    for protocol in [vec![(name, endpoint)], gateway.http_environment().into()] {
        let compressed = [("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"), ("OTEL_METRIC_EXPORT_INTERVAL", "100")];
        let environment: Vec<_> =
            protocol.iter().map(|(name, value)| (*name, value.as_str())).chain(compressed).collect();
        let agent = Agent::start(&environment, &[]);
        let made = make_and_hold("burst 1 --names kubernetes");
        back_end.await_span_end(&back_end.await_records(1, within(&made.made))[0]);
        let sent = |signal: &str| {
            let page = agent.metrics();
            let of_signal = page
                .iter()
                .filter(|sample| sample.name == "oom_watcher_export_items_total" && sample.label("signal") == signal);
            of_signal.map(|sample| sample.value).sum::<f64>()
        };
        eventually("all signals counted as sent", || {
            ["logs", "traces", "metrics"].iter().all(|signal| sent(signal) > 0.0).then_some(())
        });
        let page = agent.metrics();
        let bad = ["oom_watcher_export_failures_total", "oom_watcher_export_lost_total"].map(|name| total(&page, name));
        assert_eq!(bad, [0.0, 0.0], "{protocol:?}: {}", agent.log());
    }
}

/// The labels of each series, by its name; empty ones are none.
type Series = BTreeSet<(String, BTreeMap<String, String>)>;

/// What the data points of the last export are in Prometheus: those of numbers.
fn received(received: &Received) -> Series {
    let mut series = Series::new();
    for (metric, point) in received.data_points() {
        // Those of others (the SDK's) have no place here.
        let Some(known) = METRICS.iter().find(|known| known.name == metric.name) else { continue };
        assert!(matches!(
            point.value,
            Some(number_data_point::Value::AsInt(_) | number_data_point::Value::AsDouble(_))
        ));
        let labels = point.attributes.iter().map(|attribute| {
            let Some(Value::StringValue(text)) = attribute.value.as_ref().and_then(|value| value.value.clone()) else {
                panic!("{attribute:?}")
            };
            (attribute.key.clone(), text)
        });
        series.insert((known.prometheus.to_owned(), labels.collect()));
    }
    series
}

#[test]
fn what_prometheus_gets_over_otlp_has_the_names_and_labels_of_a_scrape() {
    let _alone = needs!(real_kills());
    let programs = needs!(Programs::find());
    let back_end = Collector::start();
    let gateway = Otelcol::gateway(&programs, &back_end.address());
    let (name, endpoint) = gateway.environment();
    let agent = Agent::start(&[(name, &endpoint), ("OTEL_METRIC_EXPORT_INTERVAL", "100")], &[]);
    let _made = make_and_hold("burst 2 --names kubernetes");
    // A scrape and an export are not of one moment, so it is looked at more than once.
    let compared = try_within(patience(), || {
        let samples =
            agent.metrics().into_iter().filter(|sample| METRICS.iter().any(|metric| metric.prometheus == sample.name));
        let scraped: Series = samples
            .map(|sample| (sample.name, sample.labels.into_iter().filter(|(_, value)| !value.is_empty()).collect()))
            .collect();
        let received = back_end.look(received);
        if scraped == received { Ok(scraped) } else { Err((&scraped - &received, &received - &scraped)) }
    });
    let series = compared
        .unwrap_or_else(|(scraped, received)| panic!("scraped alone: {scraped:#?}\nreceived alone: {received:#?}"));
    let is_kill = |labels: &BTreeMap<String, String>| labels["node"] == NODE && labels.contains_key("container");
    assert!(series.iter().any(|(name, labels)| name == "oom_kills_total" && is_kill(labels)), "{series:#?}");
}
