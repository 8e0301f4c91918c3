//! Collectors that are not as they should be: the agent sees kills all the same, says what is wrong once, and ends when
//! it is told to.

use std::fs;
use std::net::{SocketAddr, TcpListener};

use oom_watcher::export::otlp::{Answer, Receiver};
use serde_json::Value;
use tonic::Code;
use tonic::transport::{Identity, Server, ServerTlsConfig};

use crate::program::{Agent, get, may_attach};
use oom_watcher_testkit::exposition::parse_exposition;
use oom_watcher_testkit::kills::make;
use oom_watcher_testkit::needs::{needs, real_kills};
use oom_watcher_testkit::wait::eventually;

/// Data points only: others may kill on this machine, and what came of that could not be delivered.
const DATA_POINTS: [(&str, &str); 3] =
    [("OTEL_LOGS_EXPORTER", "none"), ("OTEL_TRACES_EXPORTER", "none"), ("OTEL_METRIC_EXPORT_INTERVAL", "100")];

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().unwrap()
}

/// Requests of data points that failed.
fn failures(address: SocketAddr) -> f64 {
    let samples = parse_exposition(&get(address, "/metrics").1);
    let failures = samples
        .iter()
        .find(|sample| sample.name == "oom_watcher_export_failures_total" && sample.label("signal") == "metrics");
    failures.unwrap().value
}

/// An agent with that endpoint becomes ready, warns once with that cause, counts each failure and ends as it should.
fn check(endpoint: &str, variables: &[(&str, &str)], message: &str, cause: &str) {
    let (mut agent, address) =
        Agent::ready(&[&DATA_POINTS[..], &[("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)], variables].concat(), &[]);
    agent.wait_for(message);
    eventually("third failure", || (failures(address) >= 3.0).then_some(()));
    assert_eq!(get(address, "/readyz").1, "ready\n", "the pipeline does not need the collector");
    assert_eq!(agent.stop(), Some(0));
    let warnings = agent.warnings();
    let [warning] = warnings[..] else { panic!("{endpoint}: not told once: {warnings:#?}") };
    assert_eq!(
        (&warning["level"], &warning["message"], &warning["signal"]),
        (&"WARN".into(), &message.into(), &"metrics".into())
    );
    assert!(warning["cause"].as_str().is_some_and(|text| text.contains(cause)), "{endpoint}: {warning}");
}

#[test]
fn a_collector_that_does_not_answer_well_is_told_once_and_counted() {
    needs!(may_attach());
    const FAILS: &str = "export fails, the agent goes on trying";
    // An address that was free a moment ago, of those that no other test asks for.
    let refusing = TcpListener::bind("127.9.9.9:0").unwrap().local_addr().unwrap();
    check(&format!("http://{refusing}"), &[], FAILS, "Connection refused");

    let hanging = TcpListener::bind(loopback()).unwrap();
    check(
        &format!("http://{}", hanging.local_addr().unwrap()),
        &[("OTEL_EXPORTER_OTLP_TIMEOUT", "100")],
        FAILS,
        "no answer within 100ms",
    );

    let collector = Receiver::start(loopback()).unwrap();
    collector.answer(Answer::Refuse(Code::Unavailable));
    check(&format!("http://{}", collector.address()), &[], FAILS, "gRPC code: Unavailable");
    collector.answer(Answer::Refuse(Code::InvalidArgument));
    check(
        &format!("http://{}", collector.address()),
        &[],
        "the collector refuses what the agent sends, it is lost",
        "gRPC code: InvalidArgument",
    );
}

#[test]
fn a_collector_that_comes_back_is_told_once() {
    needs!(may_attach());
    let collector = Receiver::start(loopback()).unwrap();
    collector.answer(Answer::Refuse(Code::Unavailable));
    let endpoint = format!("http://{}", collector.address());
    let (mut agent, _) = Agent::ready(&[&DATA_POINTS[..], &[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)]].concat(), &[]);
    agent.wait_for("export fails, the agent goes on trying");
    collector.answer(Answer::Ok);
    agent.wait_for("export works again");
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn an_expired_certificate_is_told_and_the_agent_goes_on() {
    needs!(may_attach());
    let folder = tempfile::tempdir().unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
    (params.not_before, params.not_after) = (rcgen::date_time_ymd(2001, 1, 1), rcgen::date_time_ymd(2020, 3, 4));
    let certificate = params.self_signed(&key).unwrap().pem();
    let path = folder.path().join("expired.pem");
    fs::write(&path, &certificate).unwrap();
    let tls = ServerTlsConfig::new().identity(Identity::from_pem(&certificate, key.serialize_pem()));
    let collector = Receiver::start_with(loopback(), Server::builder().tls_config(tls).unwrap()).unwrap();

    let endpoint = format!("https://localhost:{}", collector.address().port());
    let path = path.display().to_string();
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_EXPORTER_OTLP_CERTIFICATE", &path)];
    let (mut agent, _) = Agent::ready(&[&DATA_POINTS[..], &variables].concat(), &[]);
    let cause = agent.wait_for("export fails, the agent goes on trying");
    assert!(cause["cause"].as_str().is_some_and(|cause| cause.contains("expired")), "{cause}");
    let problem = Value::from(format!("{path:?}: the certificate in it expired on 2020-03-04"));
    assert!(agent.warnings().iter().any(|line| line["problem"] == problem), "{problem}: {:#?}", agent.log);
    assert_eq!(agent.stop(), Some(0));
}

#[test]
fn a_spool_that_cannot_be_used_is_told() {
    needs!(may_attach());
    let collector = Receiver::start(loopback()).unwrap();
    let endpoint = format!("http://{}", collector.address());
    let folder = tempfile::tempdir().unwrap();
    let check = |spool: &str, message: &str| {
        let spool = folder.path().join(spool).display().to_string();
        let (mut agent, _) =
            Agent::ready(&[("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint), ("OOM_WATCHER_SPOOL_DIR", &spool)], &[]);
        let line = agent.wait_for(message);
        assert_eq!(line["level"], "WARN", "{line}");
        assert_eq!(agent.stop(), Some(0));
    };
    fs::write(folder.path().join("taken"), "").unwrap();
    check("taken", "no spool there: what waits for the collector is lost if the agent ends");
    fs::create_dir_all(folder.path().join("spool/logs")).unwrap();
    fs::write(folder.path().join("spool/logs/00000000000000000001.spool"), "something else").unwrap();
    check("spool", "a file of the spool is damaged: what is behind the damage is lost");
}

#[test]
fn a_second_signal_ends_the_agent_at_once() {
    needs!(may_attach());
    let hanging = TcpListener::bind(loopback()).unwrap();
    let endpoint = format!("http://{}", hanging.local_addr().unwrap());
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_EXPORTER_OTLP_TIMEOUT", "600000")];
    for second in [libc::SIGTERM, libc::SIGINT] {
        let (mut agent, _) = Agent::ready(&[&DATA_POINTS[..], &variables].concat(), &[]);
        agent.signal(libc::SIGTERM);
        agent.wait_for("ending: delivering queued records");
        agent.signal(second);
        assert_eq!(agent.end(), Some(1));
        let says = "oom-watcher: a second signal ended the agent before everything was delivered";
        assert!(agent.log.iter().any(|line| line["message"] == says), "{:#?}", agent.log);
    }
}

#[test]
fn what_was_not_delivered_within_the_grace_period_is_told() {
    needs!(may_attach());
    let _alone = needs!(real_kills());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("config.yaml").display().to_string();
    fs::write(&file, "shutdown_grace: 1s\n").unwrap();
    let hanging = TcpListener::bind(loopback()).unwrap();
    let endpoint = format!("http://{}", hanging.local_addr().unwrap());
    let variables = [("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.as_str()), ("OTEL_EXPORTER_OTLP_TIMEOUT", "600000")];
    let (mut agent, _) = Agent::ready(&variables, &["--config", &file]);
    make("one");
    agent.wait_for("the OOM killer killed a process");
    assert_eq!(agent.stop(), Some(0));
    // Others may kill on this machine.
    let lost = |line: &&Value| line["signal"] == "logs" && line["lost"].as_u64().is_some_and(|lost| lost > 0);
    let told = agent.warnings().into_iter().find(lost).map(|line| &line["message"]);
    assert_eq!(told, Some(&"the agent ends before the collector took everything".into()), "{:#?}", agent.log);
}
