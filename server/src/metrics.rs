//! What is counted, and its text as OpenMetrics, which Prometheus reads.
//!
//! Counters grow where things happen; gauges are set when somebody asks. Labels are few: routes as the
//! router has them, refusals by their public names, runs, never clients.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use gossamer_protocol::problem::ProblemType;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::coordinator::RunView;
use crate::store::RoundRow;

/// The content type of what `/metrics` answers.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Float = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answered {
    listener: &'static str,
    method: &'static str,
    route: String,
    status: u16,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Route {
    listener: &'static str,
    route: String,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Reason {
    reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Listener {
    listener: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Run {
    run: String,
    name: String,
}

/// A request that was answered.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// `clients` or `admin`.
    pub(crate) listener: &'static str,
    /// Its method, where that is one that some route takes.
    pub(crate) method: &'static str,
    /// Its route as the router has it.
    pub(crate) route: String,
    /// The answer's status.
    pub(crate) status: u16,
    /// From its head to its answer's head.
    pub(crate) took: Duration,
    /// Bytes of its body that were read.
    pub(crate) bytes_in: u64,
    /// Bytes of its answer's body.
    pub(crate) bytes_out: u64,
}

/// Everything that is counted.
pub struct Metrics {
    registry: Registry,
    requests: Family<Answered, Counter>,
    seconds: Family<Route, Histogram>,
    bytes_in: Family<Route, Counter>,
    bytes_out: Family<Route, Counter>,
    refusals: Family<Reason, Counter>,
    connections: Family<Listener, Gauge>,
    connected: Family<Listener, Counter>,
    turned_away: Family<Listener, Counter>,
    pub(crate) accepted: Counter,
    pub(crate) update_bytes: Counter,
    pub(crate) closed: Counter,
    pub(crate) abandoned: Counter,
    pub(crate) close_seconds: Histogram,
    pub(crate) tick_failures: Counter,
    pub(crate) removed_objects: Counter,
    pub(crate) removed_bytes: Counter,
    clients: Family<State, Gauge>,
    runs: RunGauges,
    disk_free: Float,
    resident: Gauge,
    open_files: Gauge,
    cpu_seconds: Counter<f64, AtomicU64>,
}

#[derive(Default)]
struct RunGauges {
    status: Family<State, Gauge>,
    round: Family<Run, Gauge>,
    rounds: Family<Run, Gauge>,
    asked: Family<Run, Gauge>,
    accepted: Family<Run, Gauge>,
    goal: Family<Run, Gauge>,
    loss: Family<Run, Float>,
    held_out: Family<Run, Float>,
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

/// 1 ms to about 16 s.
fn seconds() -> Histogram {
    Histogram::new(exponential_buckets(0.001, 2.0, 15))
}

impl Default for Metrics {
    #[rustfmt::skip]
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::default(),
            requests: Family::default(),
            seconds: Family::new_with_constructor(seconds),
            bytes_in: Family::default(),
            bytes_out: Family::default(),
            refusals: Family::default(),
            connections: Family::default(),
            connected: Family::default(),
            turned_away: Family::default(),
            accepted: Counter::default(),
            update_bytes: Counter::default(),
            closed: Counter::default(),
            abandoned: Counter::default(),
            close_seconds: seconds(),
            tick_failures: Counter::default(),
            removed_objects: Counter::default(),
            removed_bytes: Counter::default(),
            clients: Family::default(),
            runs: RunGauges::default(),
            disk_free: Float::default(),
            resident: Gauge::default(),
            open_files: Gauge::default(),
            cpu_seconds: Counter::default(),
        };
        let mut registry = Registry::with_prefix("gossamer");
        registry.register("build", "This server", Info::new([("version", env!("CARGO_PKG_VERSION"))]));
        registry.register("http_requests", "Requests answered", metrics.requests.clone());
        registry.register("http_request_seconds", "From a request's head to its answer's", metrics.seconds.clone());
        registry.register("http_request_bytes", "Bytes of requests' bodies", metrics.bytes_in.clone());
        registry.register("http_response_bytes", "Bytes of answers' bodies", metrics.bytes_out.clone());
        registry.register("refusals", "Requests refused, by the name of the problem", metrics.refusals.clone());
        registry.register("connections_open", "Connections that are served now", metrics.connections.clone());
        registry.register("connections", "Connections accepted", metrics.connected.clone());
        registry.register("connections_turned_away", "Connections told to come back", metrics.turned_away.clone());
        registry.register("updates_accepted", "Updates accepted", metrics.accepted.clone());
        registry.register("update_bytes", "Bytes of the updates in closed rounds", metrics.update_bytes.clone());
        registry.register("rounds_closed", "Rounds closed", metrics.closed.clone());
        registry.register("rounds_abandoned", "Attempts that ended with too few updates", metrics.abandoned.clone());
        registry.register("round_close_seconds", "From a frozen round to its published snapshot", metrics.close_seconds.clone());
        registry.register("tick_failures", "Ticks that failed", metrics.tick_failures.clone());
        registry.register("removed_objects", "Snapshots and states removed since nobody needs them", metrics.removed_objects.clone());
        registry.register("removed_bytes", "Their bytes", metrics.removed_bytes.clone());
        registry.register("clients", "Clients, by state; here: heard of in the last five minutes", metrics.clients.clone());
        registry.register("runs", "Runs, by status", metrics.runs.status.clone());
        registry.register("run_round", "The round that is on", metrics.runs.round.clone());
        registry.register("run_rounds", "Rounds there are", metrics.runs.rounds.clone());
        registry.register("run_asked", "Clients asked in the open round", metrics.runs.asked.clone());
        registry.register("run_accepted", "Updates accepted in the open round", metrics.runs.accepted.clone());
        registry.register("run_goal", "Updates that end the round", metrics.runs.goal.clone());
        registry.register("run_loss", "Mean training loss of the last closed round, nats", metrics.runs.loss.clone());
        registry.register("run_held_out_loss", "Mean loss on what clients hold out, of the last snapshot that some told of, nats", metrics.runs.held_out.clone());
        registry.register("disk_free_bytes", "Bytes free where the store is", metrics.disk_free.clone());
        registry.register("process_resident_bytes", "Memory of this process", metrics.resident.clone());
        registry.register("process_open_files", "Files that this process has open", metrics.open_files.clone());
        registry.register("process_cpu_seconds", "Processor time of this process", metrics.cpu_seconds.clone());
        metrics.registry = registry;
        metrics
    }
}

/// What gauges are set to.
#[derive(Debug)]
pub(crate) struct Now<'a> {
    /// Each with what came of the last round that closed.
    pub(crate) runs: &'a [(RunView, Option<RoundRow>)],
    pub(crate) enrolled: usize,
    pub(crate) revoked: usize,
    pub(crate) here: usize,
    pub(crate) disk_free: Option<u64>,
}

impl Metrics {
    pub(crate) fn answered(&self, request: Request) {
        let Request { listener, method, route, status, took, bytes_in, bytes_out } = request;
        let answered = Answered { listener, method, route: route.clone(), status };
        self.requests.get_or_create(&answered).inc();
        let route = Route { listener, route };
        self.seconds.get_or_create(&route).observe(took.as_secs_f64());
        self.bytes_in.get_or_create(&route).inc_by(bytes_in);
        self.bytes_out.get_or_create(&route).inc_by(bytes_out);
    }

    pub(crate) fn refused(&self, reason: ProblemType) {
        let name = reason.uri().rsplit(':').next().unwrap_or_default();
        self.refusals.get_or_create(&Reason { reason: name }).inc();
    }

    /// Counts a connection, and that it is open until what is given is dropped.
    pub(crate) fn connected(&self, listener: &'static str) -> Open {
        let listener = Listener { listener };
        self.connected.get_or_create(&listener).inc();
        let open = self.connections.get_or_create_owned(&listener);
        open.inc();
        Open(open)
    }

    pub(crate) fn turned_away(&self, listener: &'static str) {
        self.turned_away.get_or_create(&Listener { listener }).inc();
    }

    /// Everything, as OpenMetrics text.
    pub(crate) fn text(&self, now: &Now<'_>) -> String {
        self.set(now);
        let mut out = String::new();
        text::encode(&mut out, &self.registry).expect("a string takes what is written");
        out
    }

    fn set(&self, now: &Now<'_>) {
        let int = |value: usize| i64::try_from(value).unwrap_or(i64::MAX);
        let clients = [("enrolled", now.enrolled), ("revoked", now.revoked), ("here", now.here)];
        for (state, count) in clients {
            self.clients.get_or_create(&State { state }).set(int(count));
        }
        for status in crate::status::Status::ALL {
            let count = now.runs.iter().filter(|(run, _)| run.status == status).count();
            self.runs.status.get_or_create(&State { state: status.name() }).set(int(count));
        }
        for (view, closed) in now.runs {
            let run = Run { run: view.run.to_string(), name: view.name.clone() };
            let long = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
            self.runs.round.get_or_create(&run).set(long(view.round.0));
            self.runs.rounds.get_or_create(&run).set(long(view.rounds));
            self.runs.asked.get_or_create(&run).set(int(view.asked));
            self.runs.accepted.get_or_create(&run).set(int(view.accepted));
            self.runs.goal.get_or_create(&run).set(view.goal.into());
            if let Some(loss) = closed.and_then(|row| row.loss) {
                self.runs.loss.get_or_create(&run).set(loss);
            }
            if let Some(evaluated) = closed.and_then(|row| row.evaluation) {
                self.runs.held_out.get_or_create(&run).set(evaluated.loss);
            }
        }
        self.disk_free.set(now.disk_free.map_or(f64::NAN, |free| free as f64));
        let process = process();
        self.resident.set(process.resident);
        self.open_files.set(process.open_files);
        let grown = process.cpu_seconds - self.cpu_seconds.get();
        self.cpu_seconds.inc_by(grown.max(0.0));
    }
}

/// A connection that is open until this is dropped.
#[derive(Debug)]
pub(crate) struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[derive(Default)]
struct Process {
    resident: i64,
    open_files: i64,
    cpu_seconds: f64,
}

/// What Linux tells of this process; zeros elsewhere.
fn process() -> Process {
    let mut process = Process::default();
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<i64>().ok());
        process.resident = kib.unwrap_or(0) * 1_024;
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        process.open_files = files.count() as i64;
    }
    if let Ok(stat) = std::fs::read_to_string("/proc/self/stat") {
        // Behind the name, which may have blanks: fields 14 and 15, in hundredths on every Linux.
        let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        let ticks = rest.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok());
        process.cpu_seconds = ticks.sum::<u64>() as f64 / 100.0;
    }
    process
}
