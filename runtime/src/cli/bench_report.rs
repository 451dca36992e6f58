//! What `forebay bench` prints.

use super::engine::peak_memory;
use super::report;
use crate::bench::Phase;
use crate::bench::stats::{median, percentile};
use crate::engine::Engine;
use crate::memory::show_bytes;
use serde_json::{Map, Value, json};
use std::fmt::Write;

/// Phases of one run; `None` for those that were not asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Run {
    pub(super) prompt: Option<Phase>,
    pub(super) cold: Option<Phase>,
    pub(super) warm: Option<Phase>,
}

/// All runs.
pub(super) struct Report {
    runs: Vec<Run>,
    memory: Value,
    settings: Map<String, Value>,
}

/// Finds a phase of a run.
type Find = fn(&Run) -> Option<&Phase>;
/// Title of a column and how its numbers are shown.
type Column = (&'static str, fn(f64) -> String);

/// A number of a phase: its key in the JSON object, its column and how it is shown there, and how it is found.
struct Number {
    key: &'static str,
    column: Option<Column>,
    of: fn(&Phase) -> Option<f64>,
}

const NUMBERS: [Number; 11] = [
    Number { key: "tokens", column: None, of: |p| Some(p.tokens as f64) },
    Number { key: "seconds", column: None, of: |p| Some(p.time.as_secs_f64()) },
    Number { key: "tokens_per_second", column: Some(("tok/s", |x| format!("{x:.2}"))), of: |p| Some(p.rate()) },
    Number {
        key: "bytes_read_per_token",
        column: Some(("MB read/token", |x| format!("{:.1}", x / 1e6))),
        of: |p| Some(p.bytes_per_token()),
    },
    Number { key: "hit_rate", column: Some(("window hits", |x| format!("{:.1}%", x * 100.0))), of: Phase::hit_rate },
    Number { key: "stall_seconds", column: Some(("stall s", |x| format!("{x:.2}"))), of: |p| Some(p.stall.as_secs_f64()) },
    Number { key: "token_p50_seconds", column: Some(("p50 ms", milliseconds)), of: |p| token_time(p, 50.0) },
    Number { key: "token_p99_seconds", column: Some(("p99 ms", milliseconds)), of: |p| token_time(p, 99.0) },
    Number { key: "reads", column: None, of: |p| Some(p.requests as f64) },
    Number { key: "bytes_read", column: None, of: |p| Some(p.bytes as f64) },
    Number {
        key: "read_bytes_mean",
        column: Some(("KiB/read", |x| format!("{:.0}", x / 1024.0))),
        of: |p| (p.requests > 0).then(|| p.bytes as f64 / p.requests as f64),
    },
];

fn milliseconds(seconds: f64) -> String {
    format!("{:.1}", seconds * 1e3)
}

fn token_time(phase: &Phase, percent: f64) -> Option<f64> {
    percentile(&phase.token_times, percent).map(|t| t.as_secs_f64())
}

/// The phases: key in the JSON object, title, and where they are.
const PHASES: [(&str, &str, Find); 3] = [
    ("prompt", "prompt, cold", |run| run.prompt.as_ref()),
    ("cold", "decode, cold", |run| run.cold.as_ref()),
    ("warm", "decode, warm", |run| run.warm.as_ref()),
];

impl Report {
    /// Of no runs yet, with tokens of `source`.
    pub(super) fn new(activations: &str, source: &str) -> Report {
        let mut settings = Map::new();
        settings.insert("tokens".into(), source.into());
        settings.insert("activations".into(), activations.into());
        Report { runs: Vec::new(), memory: Value::Null, settings }
    }

    /// What the engine says about itself, after it has worked.
    pub(super) fn engine(&mut self, engine: &Engine) {
        self.memory = report::memory(engine);
        self.settings.insert("context".into(), engine.context().into());
        self.settings.insert("threads".into(), engine.threads().into());
        self.settings.insert("io".into(), engine.stats().backend.into());
        self.settings.insert("kernels".into(), engine.kernels().name().into());
    }

    /// One more run.
    pub(super) fn add(&mut self, run: Run) {
        self.runs.push(run);
    }

    /// Median over the runs of a number of a phase.
    fn median(&self, phase: Find, number: &Number) -> Option<f64> {
        let values: Vec<f64> = self.runs.iter().filter_map(|run| (number.of)(phase(run)?)).collect();
        median(&values)
    }

    /// The object of `-o json`; its keys are documented in the README.
    pub(super) fn object(&self) -> Value {
        let runs: Vec<Value> = self
            .runs
            .iter()
            .map(|run| {
                phases(|phase| {
                    let phase = phase(run)?;
                    Some(NUMBERS.iter().map(|n| (n.key.to_string(), json!((n.of)(phase)))).collect())
                })
            })
            .collect();
        let medians = phases(|phase| {
            self.runs
                .iter()
                .any(|run| phase(run).is_some())
                .then(|| NUMBERS.iter().map(|n| (n.key.to_string(), json!(self.median(phase, n)))).collect())
        });
        json!({"median": medians, "runs": runs, "memory": self.memory, "settings": self.settings})
    }

    /// Markdown.
    pub(super) fn table(&self) -> String {
        let columns: Vec<_> = NUMBERS.iter().filter_map(|n| n.column.map(|(title, show)| (n, title, show))).collect();
        let mut text = String::from("| phase | tokens |");
        columns.iter().for_each(|(_, title, _)| text += &format!(" {title} |"));
        text += &format!("\n|---|{}\n", "---:|".repeat(columns.len() + 1));
        for (_, title, phase) in PHASES {
            let Some(first) = self.runs.iter().find_map(phase) else { continue };
            // Writing into a string cannot fail.
            let _ = write!(text, "| {title} | {} |", first.tokens);
            for (number, _, show) in &columns {
                let _ = write!(text, " {} |", self.median(phase, number).map_or_else(|| "-".into(), show));
            }
            text.push('\n');
        }
        let setting =
            |key: &str| self.settings.get(key).map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_string)).unwrap_or_default();
        let memory = |key: &str| self.memory.get(key).and_then(Value::as_u64).unwrap_or(0);
        let _ = write!(
            text,
            "\nMedians of {} · {} threads · {} · {} · tokens: {} · {} of {} experts in the window · peak RAM {} of {}\n",
            self.runs.len(),
            setting("threads"),
            setting("io"),
            setting("kernels"),
            setting("tokens"),
            memory("slots"),
            memory("experts"),
            peak_memory().map_or_else(|| "?".into(), show_bytes),
            show_bytes(memory("limit")),
        );
        text
    }
}

/// An object with the numbers of each phase that there is.
fn phases(numbers: impl Fn(Find) -> Option<Map<String, Value>>) -> Value {
    PHASES.iter().filter_map(|&(key, _, phase)| Some((key.to_string(), Value::Object(numbers(phase)?)))).collect::<Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn phase(milliseconds: u64) -> Phase {
        let time = Duration::from_millis(milliseconds);
        Phase { tokens: 2, time: 2 * time, token_times: vec![time, time], bytes: 6_000_000, requests: 3, hits: 3, misses: 1, stall: time }
    }

    fn report() -> Report {
        let mut report = Report::new("int8", "random, seed 1");
        for time in [100, 900, 200] {
            report.add(Run { prompt: None, cold: None, warm: Some(phase(time)) });
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
        assert_eq!(object["median"]["warm"]["read_bytes_mean"], json!(2e6));
        assert!(object["median"].get("prompt").is_none() && object["runs"][0].get("cold").is_none());
    }

    #[test]
    fn the_table_has_a_row_for_each_phase_that_there_is() {
        let table = report().table();
        let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| decode") || line.starts_with("| prompt")).collect();
        assert_eq!(rows, ["| decode, warm | 2 | 5.00 | 3.0 | 75.0% | 0.20 | 200.0 | 200.0 | 1953 |"], "{table}");
        let cells = |line: &str| line.matches('|').count();
        assert!(table.lines().take(3).all(|line| cells(line) == cells(rows[0])), "{table}");
    }
}
