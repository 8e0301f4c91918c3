//! What is made of a kill: its owner, its incident, and with these its series, its log record and its span.

use std::time::SystemTime;

use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;
use tokio::sync::watch;
use tracing::{info_span, warn};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use super::backlog::Admitted;
use super::books::Books;
use crate::attribution;
use crate::diagnostics::HANDLING;
use crate::export::instruments::Recorder;
use crate::export::otlp::Otlp;
use crate::kill::{Kill, MissedKills, Owner};
use crate::kubernetes;
use crate::kubernetes::pod_logs::PodLogs;
use crate::record::ends::{self, End, Ends};
use crate::record::incident::Incidents;
use crate::record::log_record::log_record;
use crate::record::span;

/// The stages behind the door: attribution, record, export.
#[derive(Debug)]
pub(super) struct Handler {
    pub(super) node: String,
    /// This node's pods. Absent if they are not watched.
    pub(super) pods: Option<kubernetes::Store>,
    /// Where names come from that the API does not tell.
    pub(super) pod_logs: Option<PodLogs>,
    pub(super) incidents: Incidents,
    pub(super) ends: Ends,
    pub(super) recorders: Vec<Recorder>,
    pub(super) otlp: Otlp,
}

impl Handler {
    /// Carries one kill through attribution and record to the exports. Never waits. `freed` is when the memory of its
    /// victim was free, if that is known already. Returns the number of its log record, if that waits for the
    /// collector.
    pub(super) fn handle(&mut self, admitted: &Admitted, freed: Option<SystemTime>, books: &mut Books) -> Option<u64> {
        let kill = &*admitted.kill;
        // Signed: the layer makes a text of any other number.
        let handling = info_span!(target: HANDLING, "handle", "process.pid" = i64::from(kill.victim.pid));
        // Before it has children, which inherit its trace. Fails only where no spans are exported.
        let _ = handling
            .set_parent(Context::new().with_remote_span_context(span::context(self.incidents.id(kill), kill.id)));
        let owner = info_span!(target: HANDLING, parent: &handling, "attribute").in_scope(|| self.owner(kill));
        let (incident, record) = info_span!(target: HANDLING, parent: &handling, "record").in_scope(|| {
            let incident = self.incidents.assign(kill, &owner);
            if !admitted.is_counted {
                books.count(kill, &owner, &incident);
            }
            let record = log_record(kill, &owner, &incident, &self.node);
            (incident, record)
        });
        warn!(
            pid = kill.victim.pid,
            command = kill.victim.command,
            cgroup = kill.cgroup_path,
            trace_id = %record.context.trace_id(),
            sentence = record.body,
            "the OOM killer killed a process"
        );
        info_span!(target: HANDLING, parent: &handling, "hand_over").in_scope(|| {
            let number = self.otlp.log(record);
            let (span, now) = (span::span(kill, &owner, &incident, &self.node), SystemTime::now());
            let ended = if kill.victim.end_is_told {
                self.ends.wait(kill.sequence, span, now)
            } else {
                Some(ends::ended(span, now, End::Read))
            };
            ended.into_iter().for_each(|span| self.otlp.span(span));
            if let Some(time) = freed {
                self.freed(kill.sequence, time);
            }
            number
        })
    }

    fn owner(&self, kill: &Kill) -> Owner {
        let pods = self.pods.as_ref().map(kubernetes::Store::pods);
        self.with_names(attribution::attribute(kill, pods.as_deref()))
    }

    /// Whose processes were killed while nobody saw it.
    pub(super) fn owner_of_missed(&self, kills: &MissedKills) -> Owner {
        let pods = self.pods.as_ref().map(kubernetes::Store::pods);
        self.with_names(attribution::attribute_missed(kills, pods.as_deref()))
    }

    /// With names from the directories of the logs, if the API has told none.
    fn with_names(&self, owner: Owner) -> Owner {
        match &self.pod_logs {
            Some(logs) => logs.complete(owner),
            None => owner,
        }
    }

    /// Whether waiting would tell no more of a kill's owner.
    pub(super) fn is_whole(&self, kill: &Kill) -> bool {
        self.pods.as_ref().is_none_or(|pods| !pods.may_tell_more() || attribution::is_whole(kill, &pods.pods()))
    }

    /// The uid of the pod that a kill was in. Absent outside of Kubernetes, and where pods are not watched.
    pub(super) fn pod_uid(&self, kill: &Kill) -> Option<String> {
        attribution::pod_uid(kill, &self.pods.as_ref()?.pods())
    }

    /// Wakes when pods have changed. Absent if they are not watched.
    pub(super) fn changes(&self) -> Option<watch::Receiver<u64>> {
        self.pods.as_ref().map(kubernetes::Store::changes)
    }

    /// Ends the span of a kill: the memory of its victim is free.
    pub(super) fn freed(&mut self, sequence: u64, time: SystemTime) {
        if let Some((span, took)) = self.ends.freed(sequence, time) {
            self.recorders.iter().for_each(|recorder| recorder.reclaimed(took));
            self.otlp.span(span);
        }
    }

    /// Ends the spans that were late at `looked`.
    pub(super) fn expire_ends(&mut self, looked: SystemTime) {
        self.ends.expired(looked, SystemTime::now()).into_iter().for_each(|span| self.otlp.span(span));
    }

    /// Ends all spans.
    pub(super) fn give_up_ends(&mut self) {
        self.ends.give_up(SystemTime::now()).into_iter().for_each(|span| self.otlp.span(span));
    }
}
