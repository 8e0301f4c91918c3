//! Sends what the Collectors of many nodes would, as they do: a connection of each, compressed, each request answered
//! within their limit of time or sent again.

use std::time::{Duration, SystemTime};

use oom_watcher::export::otlp::send_grpc;
use oom_watcher::stats::Signal;
use prost::bytes::Bytes;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// For so long a Collector waits for an answer: the default `timeout` of its exporters.
const ANSWER: Duration = Duration::from_secs(5);
/// Before what was refused or not answered is sent again: the defaults of a Collector's `retry_on_failure`, each half
/// as long or up to one and a half times.
const FIRST_PAUSE: Duration = Duration::from_secs(5);
const PAUSE_GROWTH: f64 = 1.5;
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// What has not come through by then is told as missing.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// Of one signal, each sent once the one before is taken.
pub(super) type Lane = (Signal, Vec<Bytes>);

/// What each node sends, one node after the other over so much time. Encoded before the clock starts.
pub(super) struct Messages {
    over: Duration,
    of_nodes: Vec<Vec<Lane>>,
    /// No message says that it was made earlier.
    pub(super) since: SystemTime,
}

impl Messages {
    /// `make`: what a node sends, and when it says that it was made.
    pub(super) fn new(nodes: usize, over: Duration, make: impl Fn(usize, SystemTime) -> Vec<Lane>) -> Self {
        let (since, pause) = (SystemTime::now(), over / nodes as u32);
        Self { over, of_nodes: (0..nodes).map(|node| make(node, since + pause * node as u32)).collect(), since }
    }
}

/// What was answered to one request, at last.
pub(super) struct Answered {
    pub(super) took: Duration,
    pub(super) refused: usize,
    /// How often there was no answer in time.
    pub(super) late: usize,
    pub(super) taken: bool,
}

/// The connections.
pub(super) struct Fleet {
    runtime: Runtime,
    nodes: Vec<Channel>,
}

impl Fleet {
    pub(super) fn connect(endpoint: &str, nodes: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let endpoint = Endpoint::from_shared(endpoint.to_owned()).unwrap();
        let nodes = runtime.block_on(async {
            let mut connecting = JoinSet::new();
            for _ in 0..nodes {
                let endpoint = endpoint.clone();
                connecting.spawn(async move { endpoint.connect().await.unwrap() });
            }
            connecting.join_all().await
        });
        Self { runtime, nodes }
    }

    pub(super) fn send(&self, messages: Messages) -> Vec<Answered> {
        let pause = messages.over / self.nodes.len() as u32;
        self.runtime.block_on(async {
            let (begin, mut sending) = (Instant::now(), JoinSet::new());
            for (node, (channel, lanes)) in self.nodes.iter().zip(messages.of_nodes).enumerate() {
                for lane in lanes {
                    let channel = channel.clone();
                    let due = begin + pause * node as u32;
                    sending.spawn(async move {
                        // The nodes of a fleet do not send at the same moment.
                        tokio::time::sleep_until(due).await;
                        one_after_the_other(&channel, lane, due).await
                    });
                }
            }
            sending.join_all().await.into_iter().flatten().collect()
        })
    }
}

/// Sends each once the one before is taken; not those behind one that is not.
async fn one_after_the_other(channel: &Channel, (signal, messages): Lane, mut due: Instant) -> Vec<Answered> {
    let mut answered: Vec<Answered> = Vec::new();
    for message in messages {
        answered.push(tell(channel, signal, message, due).await);
        due = Instant::now();
        if answered.last().is_some_and(|answered| !answered.taken) {
            break;
        }
    }
    answered
}

/// Sends it until it is taken, as the Collector of a node does; that has no end of its attempts.
/// `due`: from when on it waits.
async fn tell(channel: &Channel, signal: Signal, message: Bytes, due: Instant) -> Answered {
    let mut pause = FIRST_PAUSE;
    let mut answered = Answered { took: Duration::ZERO, refused: 0, late: 0, taken: false };
    loop {
        let metadata = MetadataMap::new();
        let answer =
            tokio::time::timeout(ANSWER, send_grpc(channel.clone(), signal, true, &metadata, message.clone())).await;
        answered.took = due.elapsed();
        match answer {
            Ok(Ok(_)) => return Answered { taken: true, ..answered },
            Err(_) => answered.late += 1,
            Ok(Err(status)) if may_be_repeated(&status) => answered.refused += 1,
            Ok(Err(status)) => {
                eprintln!("fleet: the gateway refuses for good: {status}");
                return answered;
            }
        }
        if answered.took > PATIENCE {
            return answered;
        }
        // Random enough, and no dependency: what is behind the microsecond.
        let part = 0.5 + f64::from(due.elapsed().subsec_nanos() % 1000) / 1000.0;
        tokio::time::sleep(pause.mul_f64(part)).await;
        pause = pause.mul_f64(PAUSE_GROWTH).min(LONGEST_PAUSE);
    }
}

/// What a client may send again: <https://opentelemetry.io/docs/specs/otlp/#failures>.
fn may_be_repeated(status: &Status) -> bool {
    match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        Code::ResourceExhausted => status.get_details_retry_info().is_some(),
        _ => false,
    }
}
