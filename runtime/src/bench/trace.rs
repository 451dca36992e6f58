//! Traces: which experts the tokens of a run chose. `forebay bench --trace` writes them, `cargo x cache-sim` replays them.
//!
//! A trace is UTF-8 text, one item a line, fields separated by one space:
//!
//! ```text
//! forebay-trace 1                        version
//! pack 3f9a...                           the pack's id, 32 hexadecimal digits
//! tokens random, seed 1                  where the tokens came from, free text
//! layers 256:8 256:8 0:0                 experts:top_k of each layer, 0:0 for a layer without experts
//! d 17 2 201 5 90 33 7 12 64 250         d for a step of one token or p for a longer one (a prompt), position, layer, chosen experts in router order
//! ```
//!
//! Lines after the header come in the order in which the layers were visited; a step of many tokens has one line a token in each layer. A position
//! that is not larger than the one before begins a new sequence or a new layer.

use crate::error::{Error, Result};
use crate::forward::RouterSink;
use forebay_format::model::{Ffn, ModelSpec};
use std::cell::RefCell;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// First line of a trace.
const MAGIC: &str = "forebay-trace 1";
/// Longest trace that is read; a token of a large model takes about 15 kB.
const MAX_BYTES: u64 = 1 << 30;

/// What a trace says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Id of the pack, hexadecimal.
    pub pack: String,
    /// Where the tokens came from.
    pub tokens: String,
    /// By layer: experts and top_k; (0, 0) for a layer without experts.
    pub layers: Vec<(u32, u32)>,
}

impl Header {
    /// For a model. Line ends in `tokens` become spaces.
    pub fn new(pack_id: &[u8; 16], spec: &ModelSpec, tokens: &str) -> Header {
        let layers = spec.layers.iter().map(|layer| match &layer.ffn {
            Ffn::Routed(routed) => (routed.experts, routed.top_k),
            Ffn::Dense(_) => (0, 0),
        });
        let pack = pack_id.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
        Header { pack, tokens: tokens.replace(['\n', '\r'], " "), layers: layers.collect() }
    }

    fn text(&self) -> String {
        let layers: Vec<String> = self.layers.iter().map(|(experts, top_k)| format!("{experts}:{top_k}")).collect();
        format!("{MAGIC}\npack {}\ntokens {}\nlayers {}\n", self.pack, self.tokens, layers.join(" "))
    }
}

/// What one token chose in one layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visit {
    /// Part of a step of many tokens.
    pub prompt: bool,
    /// Position in the sequence.
    pub position: u32,
    /// Layer.
    pub layer: u32,
    /// Experts in router order.
    pub experts: Vec<u32>,
}

/// A whole trace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// What it says about itself.
    pub header: Header,
    /// In the order of the run.
    pub visits: Vec<Visit>,
}

/// Writes a trace while an engine runs.
#[derive(Clone)]
pub struct Recorder(Rc<RefCell<Output>>);

struct Output {
    file: BufWriter<File>,
    path: PathBuf,
    /// Steps are of many tokens now.
    prompt: bool,
    line: String,
    /// The first error: a router sink cannot return one.
    failed: Option<std::io::Error>,
}

impl Recorder {
    /// Creates the file and writes the header.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn create(path: &Path, header: &Header) -> Result<Recorder> {
        let io = |error| Error::Io { file: path.to_path_buf(), what: "creating the trace".into(), error };
        let mut file = BufWriter::new(File::create(path).map_err(io)?);
        file.write_all(header.text().as_bytes()).map_err(io)?;
        let output = Output { file, path: path.to_path_buf(), prompt: false, line: String::new(), failed: None };
        Ok(Recorder(Rc::new(RefCell::new(output))))
    }

    /// For [`crate::Engine::set_router_sink`].
    pub fn sink(&self) -> RouterSink {
        let output = Rc::clone(&self.0);
        Box::new(move |layer, position, chosen| output.borrow_mut().put(layer, position, chosen))
    }

    /// Whether the steps from here on are of many tokens.
    pub fn prompt(&self, prompt: bool) {
        self.0.borrow_mut().prompt = prompt;
    }

    /// Writes what is left.
    ///
    /// # Errors
    /// [`Error::Io`]: the first error since the start.
    pub fn finish(&self) -> Result<()> {
        let output = &mut *self.0.borrow_mut();
        let outcome = output.failed.take().map_or_else(|| output.file.flush(), Err);
        outcome.map_err(|error| Error::Io { file: output.path.clone(), what: "writing the trace".into(), error })
    }
}

impl Output {
    fn put(&mut self, layer: u32, position: usize, chosen: &[(u32, f32)]) {
        if self.failed.is_some() {
            return;
        }
        self.line.clear();
        // Writing into a string cannot fail.
        let _ = write!(self.line, "{} {position} {layer}", if self.prompt { 'p' } else { 'd' });
        for (expert, _) in chosen {
            let _ = write!(self.line, " {expert}");
        }
        self.line.push('\n');
        self.failed = self.file.write_all(self.line.as_bytes()).err();
    }
}

impl Trace {
    /// Reads a trace.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Request`] naming file and line for what is not a trace, or names layers or experts that its header does not have.
    pub fn read(path: &Path) -> Result<Trace> {
        let io = |error| Error::Io { file: path.to_path_buf(), what: "reading the trace".into(), error };
        let file = File::open(path).map_err(io)?;
        if file.metadata().map_err(io)?.len() > MAX_BYTES {
            return Err(Error::Request(format!("{}: a trace has at most {MAX_BYTES} bytes", path.display())));
        }
        Trace::parse(BufReader::new(file.take(MAX_BYTES))).map_err(|failure| match failure {
            Failure::Io(error) => io(error),
            Failure::Line(number, why) => Error::Request(format!("{}: line {number}: {why}", path.display())),
        })
    }

    fn parse(text: impl BufRead) -> std::result::Result<Trace, Failure> {
        let mut lines = (1..).zip(text.lines());
        let mut header = |what: &str| match lines.next() {
            Some((number, line)) => {
                let line = line.map_err(Failure::Io)?;
                let rest = line.strip_prefix(what).ok_or_else(|| Failure::Line(number, format!("expected {what:?}")))?;
                Ok(rest.to_string())
            }
            None => Err(Failure::Line(1, "the header is not complete".into())),
        };
        header(MAGIC)?;
        let (pack, tokens, layers) = (header("pack ")?, header("tokens ")?, header("layers ")?);
        let layers: Option<Vec<(u32, u32)>> = layers.split(' ').map(layer).collect();
        let layers = layers.ok_or_else(|| Failure::Line(4, "expected experts:top_k for each layer".into()))?;
        let header = Header { pack, tokens, layers };
        let mut visits = Vec::new();
        for (number, line) in lines {
            let line = line.map_err(Failure::Io)?;
            visits.push(visit(&line, &header.layers).map_err(|why| Failure::Line(number, why.into()))?);
        }
        Ok(Trace { header, visits })
    }
}

enum Failure {
    Io(std::io::Error),
    Line(usize, String),
}

fn layer(text: &str) -> Option<(u32, u32)> {
    let (experts, top_k) = text.split_once(':')?;
    let (experts, top_k) = (experts.parse().ok()?, top_k.parse().ok()?);
    (top_k <= experts).then_some((experts, top_k))
}

fn visit(line: &str, layers: &[(u32, u32)]) -> std::result::Result<Visit, &'static str> {
    let mut fields = line.split(' ');
    let prompt = match fields.next() {
        Some("p") => true,
        Some("d") => false,
        _ => return Err("expected p or d"),
    };
    let mut number = |what: &'static str| fields.next().and_then(|f| f.parse::<u32>().ok()).ok_or(what);
    let (position, layer) = (number("expected a position")?, number("expected a layer")?);
    let &(count, top_k) = layers.get(layer as usize).ok_or("the header has no such layer")?;
    let experts: std::result::Result<Vec<u32>, _> = fields.map(str::parse).collect();
    let experts = experts.map_err(|_| "expected numbers of experts")?;
    if experts.len() != top_k as usize || experts.iter().any(|&e| e >= count) {
        return Err("the experts do not fit the layer");
    }
    Ok(Visit { prompt, position, layer, experts })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { pack: "00ff".repeat(8), tokens: "random, seed 1".into(), layers: vec![(8, 2), (0, 0), (300, 3)] }
    }

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace");
        let recorder = Recorder::create(&path, &header()).unwrap();
        let mut sink = recorder.sink();
        recorder.prompt(true);
        sink(0, 0, &[(7, 0.5), (1, 0.5)]);
        sink(0, 1, &[(0, 0.5), (1, 0.5)]);
        recorder.prompt(false);
        sink(2, 0, &[(299, 0.5), (1, 0.3), (0, 0.2)]);
        recorder.finish().unwrap();
        let visit = |prompt, position, layer, experts: &[u32]| Visit { prompt, position, layer, experts: experts.to_vec() };
        let want = Trace {
            header: header(),
            visits: vec![visit(true, 0, 0, &[7, 1]), visit(true, 1, 0, &[0, 1]), visit(false, 0, 2, &[299, 1, 0])],
        };
        assert_eq!(Trace::read(&path).unwrap(), want);
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().last(), Some("d 0 2 299 1 0"));
    }

    #[test]
    fn what_is_not_a_trace_is_refused_with_its_line() {
        let start = header().text();
        let cases = [
            (String::new(), "line 1"),
            ("forebay-trace 2\n".into(), "line 1"),
            ("forebay-trace 1\npack 0\n".into(), "header"),
            ("forebay-trace 1\npack 0\ntokens x\nlayers 8\n".into(), "line 4"),
            ("forebay-trace 1\npack 0\ntokens x\nlayers 8:9\n".into(), "line 4"),
            (format!("{start}x 0 0 1 2\n"), "line 5: expected p or d"),
            (format!("{start}d 0 0 1 2\nd 0\n"), "line 6: expected a layer"),
            (format!("{start}d 0 3 1 2\n"), "no such layer"),
            (format!("{start}d 0 0 1\n"), "do not fit"),
            (format!("{start}d 0 0 1 8\n"), "do not fit"),
            (format!("{start}d 0 0 1 y\n"), "expected numbers"),
            (format!("{start}d 99999999999 0 1 1\n"), "expected a position"),
        ];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace");
        for (text, part) in cases {
            std::fs::write(&path, &text).unwrap();
            let error = Trace::read(&path).unwrap_err().to_string();
            assert!(error.contains(part), "{text:?}: {error}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_full_disk_is_reported() {
        let recorder = Recorder::create(Path::new("/dev/full"), &header()).unwrap();
        assert!(matches!(recorder.finish(), Err(Error::Io { .. })));
    }
}
