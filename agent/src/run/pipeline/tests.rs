//! What waits, and what must not be done meanwhile: without a probe.

use opentelemetry_sdk::trace::SpanData;

use super::super::{Agent, bind};
use super::*;
use crate::config::{Flags, load};
use crate::record::sample;

#[expect(clippy::unwrap_used, reason = "a failed test panics")]
fn pipeline() -> Pipeline {
    let flags =
        Flags { node_name: Some("node-a".to_owned()), listen: Some("127.0.0.1:0".to_owned()), ..Flags::default() };
    let config = load(&flags, &|_| None).unwrap().config;
    let listener = bind(&config).unwrap();
    Agent::build(config, listener).unwrap().into_parts(|| {}).0
}

fn waiting() -> SpanData {
    let (kill, owner) = (sample::kill(), sample::container("app"));
    span::span(&kill, &owner, &sample::incident(&kill, &owner), "node-a")
}

#[tokio::test]
async fn a_span_is_not_given_up_while_its_end_waits_behind_a_kill() {
    let (mut pipeline, late) = (pipeline(), sample::time(3600));
    pipeline.ends.wait(1, waiting(), sample::time(0));
    let freed = Waits { told: Told::Freed { sequence: 1, time: sample::time(1) }, counted: false };
    pipeline.waiting.push(freed, Instant::now() + Duration::from_secs(3600));
    pipeline.expire_ends(late, late);
    assert!(!pipeline.ends.is_empty(), "it was free in time");
    pipeline.wait_no_longer();
    assert!(pipeline.ends.is_empty());
    pipeline.ends.wait(2, waiting(), sample::time(0));
    pipeline.expire_ends(late, late);
    assert!(pipeline.ends.is_empty(), "of this one nothing is told");
}
