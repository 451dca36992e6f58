//! What `forebay bench` prints: a table of speeds, one of what bounds them, or one JSON object.

use super::engine::peak_memory;
use super::report;
use crate::bench::Phase;
use crate::bench::stats::{median, percentile};
use crate::bench::turns::Way;
use crate::engine::Engine;
use crate::memory::show_bytes;
use crate::store::Pace;
use serde_json::{Map, Value, json};

/// Phases of one run; `None` for those that were not asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    pub(super) prompt: Option<Phase>,
    pub(super) cold: Option<Phase>,
    pub(super) warm: Option<Phase>,
    /// By tokens of the sequence before.
    pub(super) deep: Vec<(u32, Phase)>,
    /// By how reading and computing shared time.
    pub(super) ways: Vec<(Way, Phase)>,
}

impl Run {
    fn by(&self, way: Way) -> Option<&Phase> {
        self.ways.iter().find(|(w, _)| *w == way).map(|(_, phase)| phase)
    }

    fn at(&self, depth: u32) -> Option<&Phase> {
        self.deep.iter().find(|(d, _)| *d == depth).map(|(_, phase)| phase)
    }
}

/// All runs.
pub(super) struct Report {
    runs: Vec<Run>,
    memory: Value,
    settings: Map<String, Value>,
    made_up: Option<String>,
    lossy: Option<String>,
}

/// Finds a phase of a run.
type Find<'a> = &'a dyn Fn(&Run) -> Option<&Phase>;
/// The two tables.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Table {
    Speed,
    Bounds,
}

/// A column: where, its title, and how its numbers are shown.
type Column = (Table, &'static str, fn(f64) -> String);

/// A number of a phase: its key in the JSON object, its column, and how it is found.
struct Number {
    key: &'static str,
    column: Option<Column>,
    of: fn(&Phase) -> Option<f64>,
}

const NUMBERS: [Number; 24] = [
    number("tokens", None, |p| Some(p.tokens as f64)),
    number("seconds", None, |p| Some(p.time.as_secs_f64())),
    number("tokens_per_second", speed("tok/s", |x| format!("{x:.2}")), |p| Some(p.rate())),
    number("bytes_read", None, |p| Some(p.bytes as f64)),
    number("bytes_read_per_token", speed("MB read/token", |x| format!("{:.1}", x / 1e6)), |p| Some(p.bytes_per_token())),
    number("hit_rate", speed("window hits", percent), Phase::hit_rate),
    number("active_neurons", speed("active neurons", percent), |p| p.neurons.active_share()),
    number("groups_per_token", speed("groups/token", |x| format!("{x:.0}")), groups),
    number("group_read_seconds", speed("group ms/token", milliseconds), |p| {
        groups(p).map(|_| p.group_time.as_secs_f64() / p.tokens as f64)
    }),
    number("guesses", None, |p| Some(p.guesses as f64)),
    number("guesses_used", None, |p| Some(p.guesses_used as f64)),
    number("stall_seconds", speed("stall s", |x| format!("{x:.2}")), |p| Some(p.stall.as_secs_f64())),
    number("token_p50_seconds", speed("token p50 ms", milliseconds), |p| token_time(p, 50.0)),
    number("token_p99_seconds", speed("p99 ms", milliseconds), |p| token_time(p, 99.0)),
    number("reads", None, |p| Some(p.requests as f64)),
    number("read_bytes_p50", speed("read KiB", |x| format!("{:.0}", x / 1024.0)), |p| p.sizes.percentile(50.0).map(|n| n as f64)),
    number("read_bytes_p99", None, |p| p.sizes.percentile(99.0).map(|n| n as f64)),
    number("read_latency_p50_seconds", speed("read p50 ms", milliseconds), |p| latency(p, 50.0)),
    number("read_latency_p99_seconds", speed("p99 ms", milliseconds), |p| latency(p, 99.0)),
    number("compute_only_seconds", bound("computing only s", |x| format!("{x:.2}")), |p| Some(p.bounds?.compute.as_secs_f64())),
    number("io_only_seconds", bound("reading only s", |x| format!("{x:.2}")), |p| Some(p.bounds?.io.as_secs_f64())),
    number("io_only_bytes", None, |p| Some(p.bounds?.io_bytes as f64)),
    number("io_only_bytes_per_second", bound("GB/s reading only", |x| format!("{:.2}", x / 1e9)), io_speed),
    number("efficiency", bound("efficiency", percent), Phase::efficiency),
];

const fn number(key: &'static str, column: Option<Column>, of: fn(&Phase) -> Option<f64>) -> Number {
    Number { key, column, of }
}

const fn speed(title: &'static str, show: fn(f64) -> String) -> Option<Column> {
    Some((Table::Speed, title, show))
}

const fn bound(title: &'static str, show: fn(f64) -> String) -> Option<Column> {
    Some((Table::Bounds, title, show))
}

/// Neuron groups that a token wants; `None` without neuron groups.
fn groups(phase: &Phase) -> Option<f64> {
    (phase.neurons.groups > 0 && phase.tokens > 0).then(|| phase.neurons.asked as f64 / phase.tokens as f64)
}

fn percent(share: f64) -> String {
    format!("{:.1}%", share * 100.0)
}

fn latency(phase: &Phase, percent: f64) -> Option<f64> {
    phase.latencies.percentile(percent).map(|microseconds| microseconds as f64 / 1e6)
}

fn io_speed(phase: &Phase) -> Option<f64> {
    let bounds = phase.bounds.filter(|b| !b.io.is_zero())?;
    Some(bounds.io_bytes as f64 / bounds.io.as_secs_f64())
}

fn milliseconds(seconds: f64) -> String {
    format!("{:.1}", seconds * 1e3)
}

fn token_time(phase: &Phase, percent: f64) -> Option<f64> {
    percentile(&phase.token_times, percent).map(|t| t.as_secs_f64())
}

/// What is called with key in the JSON object, title, and where a phase is.
type EachPhase<'a> = &'a mut dyn FnMut(&str, &str, Find<'_>);

impl Report {
    /// Of no runs yet, with tokens of `source`.
    pub(super) fn new(activations: &str, source: &str) -> Report {
        let mut settings = Map::new();
        settings.insert("tokens".into(), source.into());
        settings.insert("activations".into(), activations.into());
        Report { runs: Vec::new(), memory: Value::Null, settings, made_up: None, lossy: None }
    }

    /// What the engine says about itself, after it has worked.
    pub(super) fn engine(&mut self, engine: &Engine) {
        self.memory = report::memory(engine);
        self.settings.insert("context".into(), engine.context().into());
        self.settings.insert("threads".into(), engine.threads().into());
        let stats = engine.stats();
        self.settings.insert("io".into(), stats.backend.into());
        let pace = |p: Pace| json!({"request_bytes": p.request, "in_flight_bytes": p.in_flight});
        self.settings.insert("pace".into(), pace(stats.pace));
        let curve = stats.curve.iter().map(|s| json!({"pace": pace(s.pace), "bytes_per_second": s.rate.round()}));
        self.settings.insert("drive".into(), curve.collect());
        self.settings.insert("kernels".into(), engine.kernels().name().into());
        self.settings.insert("kv_type".into(), engine.kv_type().name().into());
        self.settings.extend(report::made_up(engine.manifest()));
        self.made_up = report::made_up_line(engine.manifest());
        self.lossy = report::lossy(engine);
        self.settings.extend(report::sparsity(engine));
    }

    /// One more run.
    pub(super) fn add(&mut self, run: Run) {
        self.runs.push(run);
    }

    /// The phases that a run may have.
    fn each_phase(&self, f: EachPhase<'_>) {
        f("prompt", "prompt, cold", &|run| run.prompt.as_ref());
        f("cold", "decode, cold", &|run| run.cold.as_ref());
        f("warm", "decode, warm", &|run| run.warm.as_ref());
        for &(depth, _) in self.runs.first().map_or(&[][..], |run| &run.deep) {
            f(&format!("depth_{depth}"), &format!("decode at {depth}"), &|run| run.at(depth));
        }
        for way in Way::ALL {
            f(&format!("way_{}", way.name()), &format!("decode, {}", way.name()), &|run| run.by(way));
        }
    }

    /// An object with the numbers of each phase that there is.
    fn phases(&self, numbers: impl Fn(Find<'_>) -> Option<Map<String, Value>>) -> Value {
        let mut object = Map::new();
        self.each_phase(&mut |key, _, phase| {
            if let Some(numbers) = numbers(phase) {
                object.insert(key.to_string(), Value::Object(numbers));
            }
        });
        object.into()
    }

    /// Median over the runs of a number of a phase.
    fn median(&self, phase: Find<'_>, number: &Number) -> Option<f64> {
        let values: Vec<f64> = self.runs.iter().filter_map(|run| (number.of)(phase(run)?)).collect();
        median(&values)
    }

    /// The object of `-o json`; its keys are documented in the README.
    pub(super) fn object(&self) -> Value {
        let runs: Vec<Value> = self
            .runs
            .iter()
            .map(|run| {
                self.phases(|phase| {
                    let phase = phase(run)?;
                    Some(NUMBERS.iter().map(|n| (n.key.to_string(), json!((n.of)(phase)))).collect())
                })
            })
            .collect();
        let medians = self.phases(|phase| {
            self.runs
                .iter()
                .any(|run| phase(run).is_some())
                .then(|| NUMBERS.iter().map(|n| (n.key.to_string(), json!(self.median(phase, n)))).collect())
        });
        json!({"median": medians, "runs": runs, "memory": self.memory, "settings": self.settings})
    }

    /// Markdown.
    pub(super) fn table(&self) -> String {
        let setting =
            |key: &str| self.settings.get(key).map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_string)).unwrap_or_default();
        let memory = |key: &str| self.memory.get(key).and_then(Value::as_u64).unwrap_or(0);
        let size = |key: &str| self.settings.get("pace").and_then(|p| p.get(key)?.as_u64()).map_or_else(|| "?".into(), show_bytes);
        let made_up: String = self.made_up.iter().chain(&self.lossy).map(|line| format!("{line}\n")).collect();
        let window = match (memory("experts"), memory("groups")) {
            (0, groups) if groups > 0 => format!("{} of {groups} neuron groups", memory("group_slots")),
            (experts, _) => format!("{} of {experts} experts", memory("slots")),
        };
        format!(
            "{}\n{}\nMedians of {} · {} threads · {}, {} requests, {} in flight · {} · keys and values in {} · tokens: {} · {window} in the window · peak RAM {} of {}\n{made_up}",
            self.part(Table::Speed),
            self.part(Table::Bounds),
            self.runs.len(),
            setting("threads"),
            setting("io"),
            size("request_bytes"),
            size("in_flight_bytes"),
            setting("kernels"),
            setting("kv_type"),
            setting("tokens"),
            peak_memory().map_or_else(|| "?".into(), show_bytes),
            show_bytes(memory("limit")),
        )
    }

    /// One of the tables: a row for each phase that has a number in it.
    fn part(&self, table: Table) -> String {
        let of_neurons = ["active_neurons", "groups_per_token", "group_read_seconds"];
        let mut grouped = false;
        self.each_phase(&mut |_, _, phase| grouped |= self.runs.iter().filter_map(phase).any(|p| p.neurons.groups > 0));
        let shown = |n: &Number| grouped || !of_neurons.contains(&n.key);
        let columns = NUMBERS.iter().filter(|n| shown(n)).filter_map(|n| Some((n, n.column.filter(|c| c.0 == table)?)));
        let columns: Vec<(&Number, Column)> = columns.collect();
        let mut text = String::from("| phase | tokens |");
        columns.iter().for_each(|(_, column)| text += &format!(" {} |", column.1));
        text += &format!("\n|---|{}\n", "---:|".repeat(columns.len() + 1));
        self.each_phase(&mut |_, title, phase| {
            let medians: Vec<Option<f64>> = columns.iter().map(|(number, _)| self.median(phase, number)).collect();
            let Some(first) = self.runs.iter().find_map(phase).filter(|_| medians.iter().any(Option::is_some)) else { return };
            text += &format!("| {title} | {} |", first.tokens);
            for ((_, column), median) in columns.iter().zip(medians) {
                text += &format!(" {} |", median.map_or_else(|| "-".into(), column.2));
            }
            text.push('\n');
        });
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::Bounds;
    use std::time::Duration;

    fn phase(milliseconds: u64) -> Phase {
        let time = Duration::from_millis(milliseconds);
        let mut phase =
            Phase { tokens: 2, time: 2 * time, token_times: vec![time, time], bytes: 6_000_000, requests: 3, ..Phase::default() };
        (phase.hits, phase.misses, phase.stall) = (3, 1, time);
        (0..3).for_each(|_| phase.sizes.add(7 << 10));
        phase.bounds = Some(Bounds { compute: time, io: time / 2, io_bytes: milliseconds * 1_000_000 });
        phase
    }

    fn report() -> Report {
        let mut report = Report::new("int8", "random, seed 1");
        for time in [100, 900, 200] {
            report.add(Run { warm: Some(phase(time)), deep: vec![(4096, phase(2 * time))], ..Run::default() });
        }
        report
    }

    #[test]
    fn medians_and_runs() {
        let object = report().object();
        assert_eq!(object["median"]["warm"]["tokens_per_second"], json!(5.0));
        assert_eq!(object["median"]["warm"]["token_p99_seconds"], json!(0.2));
        assert_eq!(object["median"]["warm"]["hit_rate"], json!(0.75));
        assert_eq!(object["runs"][1]["warm"]["seconds"], json!(1.8));
        assert_eq!(object["median"]["warm"]["efficiency"], json!(0.5));
        assert_eq!(object["median"]["warm"]["io_only_bytes_per_second"], json!(2e9));
        assert_eq!(object["median"]["warm"]["read_latency_p50_seconds"], Value::Null);
        assert_eq!(object["median"]["depth_4096"]["token_p50_seconds"], json!(0.4));
        assert!(object["median"].get("prompt").is_none() && object["runs"][0].get("cold").is_none());
    }

    #[test]
    fn the_table_has_a_row_for_each_phase_that_there_is() {
        let table = report().table();
        let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| decode") || line.starts_with("| prompt")).collect();
        let want = [
            "| decode, warm | 2 | 5.00 | 3.0 | 75.0% | 0.20 | 200.0 | 200.0 | 7 | - | - |",
            "| decode at 4096 | 2 | 2.50 | 3.0 | 75.0% | 0.40 | 400.0 | 400.0 | 7 | - | - |",
            "| decode, warm | 2 | 0.20 | 0.10 | 2.00 | 50.0% |",
            "| decode at 4096 | 2 | 0.40 | 0.20 | 2.00 | 50.0% |",
        ];
        assert_eq!(rows, want, "{table}");
        let cells = |line: &str| line.matches('|').count();
        assert!(table.lines().take(4).all(|line| cells(line) == cells(rows[0])), "{table}");
        assert!(table.lines().skip(5).take(4).all(|line| cells(line) == cells(rows[2])), "{table}");
    }
}
