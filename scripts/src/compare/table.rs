//! The table of a comparison: rows in the order in which they first came, each number as the median of its runs with their spread.

use crate::measure::{Measured, median, spread};

#[derive(Default)]
pub struct Table {
    rows: Vec<(String, Row)>,
}

#[derive(Default)]
struct Row {
    speed: Vec<f64>,
    megabytes: Vec<f64>,
    hits: Vec<f64>,
    /// Bytes a second over the whole run.
    rate: Vec<f64>,
    /// What fio got at the same size and depth.
    fio: Vec<f64>,
    efficiency: Vec<f64>,
    peak: Vec<f64>,
}

impl Table {
    fn row(&mut self, name: &str) -> &mut Row {
        let at = self.rows.iter().position(|(n, _)| n == name).unwrap_or_else(|| {
            self.rows.push((name.to_string(), Row::default()));
            self.rows.len() - 1
        });
        &mut self.rows[at].1
    }

    /// A run of which only the speed is known, and perhaps its peak memory in bytes.
    pub fn speed(&mut self, name: &str, tokens_per_second: f64, peak: Option<f64>) {
        let row = self.row(name);
        row.speed.push(tokens_per_second);
        row.peak.extend(peak);
    }

    /// A phase of a run of `forebay bench`, and what fio got after it.
    pub fn forebay(&mut self, name: &str, run: &Measured, phase: &str, fio: &[f64]) {
        let number = |key: &str| run.number(&format!("/median/{phase}/{key}"));
        let row = self.row(&format!("forebay, {name}"));
        row.speed.extend(number("tokens_per_second"));
        row.megabytes.extend(number("bytes_read_per_token").map(|n| n / 1e6));
        row.hits.extend(number("hit_rate"));
        row.rate.extend(number("bytes_read").zip(number("seconds")).map(|(bytes, seconds)| bytes / seconds / 1e9));
        row.fio.extend(fio.iter().map(|n| n / 1e9));
        row.efficiency.extend(number("efficiency"));
        row.peak.extend(run.peak);
    }

    /// The same tokens with everything said to be in memory, nothing read.
    pub fn computing_alone(&mut self, work: &str, run: &Measured, phase: &str) {
        let number = |key: &str| run.number(&format!("/median/{phase}/{key}"));
        let speed = number("tokens").zip(number("compute_only_seconds")).map(|(tokens, seconds)| tokens / seconds);
        self.row(&format!("forebay computing alone, {work}")).speed.extend(speed);
    }

    /// Markdown; the ratio is to the first row with the same work.
    pub fn text(self, runs: usize) -> String {
        let mut text = format!(
            "Medians of {runs} alternating runs (least to most).\n\n| | tokens/s | of llama.cpp in RAM | MB a token | hits | GB/s | fio, same size and depth | efficiency | peak GB |\n|---|---|---|---|---|---|---|---|---|\n"
        );
        let base = |name: &str| {
            let work = name.split(", ").find(|part| part.starts_with("decode") || part.starts_with("prompt"))?;
            let row = self.rows.iter().find(|(n, _)| *n == format!("llama.cpp in RAM, {work}"))?;
            median(row.1.speed.clone())
        };
        for (name, row) in &self.rows {
            let ratio = median(row.speed.clone()).zip(base(name)).map_or("-".into(), |(ours, theirs)| format!("{:.2}x", ours / theirs));
            let peak = spread(row.peak.iter().map(|n| n / 1e9).collect());
            let lists = [&row.megabytes, &row.hits, &row.rate, &row.fio, &row.efficiency].map(|list| spread(list.clone())).join(" | ");
            text += &format!("| {name} | {} | {ratio} | {lists} | {peak} |\n", spread(row.speed.clone()));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_compared_with_the_same_work() {
        let mut table = Table::default();
        for speed in [2.0, 4.0, 3.0] {
            table.speed("llama.cpp in RAM, decode", speed, None);
        }
        table.speed("forebay, decode, 8G", 6.0, Some(2e9));
        table.speed("forebay, prompt of 64, cold, 8G", 6.0, None);
        let report = serde_json::json!({"median": {"warm": {"tokens": 8, "compute_only_seconds": 2.0}}});
        table.computing_alone("decode", &Measured { report, peak: None }, "warm");
        let text = table.text(3);
        assert!(text.contains("| llama.cpp in RAM, decode | 3.00 (2.00 to 4.00) | 1.00x |"), "{text}");
        assert!(text.contains("| forebay, decode, 8G | 6.00 | 2.00x |") && text.contains("| 2.00 |\n"), "{text}");
        assert!(text.contains("| forebay, prompt of 64, cold, 8G | 6.00 | - |"), "{text}");
        assert!(text.contains("| forebay computing alone, decode | 4.00 | 1.33x |"), "{text}");
    }
}
