//! Rendering in a process of its own, where memory and time have limits.
//!
//! A template can double a list forty times in a few instructions, so counting those bounds neither. The child is this same
//! program, started with [`ARGUMENT`]; it reads a request from standard input.

use super::{MAX_OUTPUT_BYTES, render as render_here};
use crate::error::{Error, Result};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

/// First argument of the child.
pub const ARGUMENT: &str = "--render-chat-template";
/// Address space of the child.
pub const MAX_MEMORY: u64 = 512 << 20;
/// Processor time of the child.
pub const MAX_CPU_SECONDS: u64 = 1;
/// Real time of the child: more than its processor time, for machines with other work.
const MAX_WALL: Duration = Duration::from_secs(20);
/// Longest error message taken from the child.
const MAX_MESSAGE: u64 = 4096;

/// What the child is asked to render.
#[derive(Serialize, Deserialize)]
struct Request {
    template: String,
    variables: Map<String, Value>,
}

/// As [`super::render`], in a child process with at most [`MAX_MEMORY`] and [`MAX_CPU_SECONDS`]. Only for programs whose
/// `main` calls [`child_main`] first.
///
/// # Errors
/// [`Error::Text`] when the template fails or exceeds a limit, [`Error::Io`] when the child cannot be started.
pub fn render(template: &str, variables: &Map<String, Value>) -> Result<String> {
    let request = Request { template: template.to_string(), variables: variables.clone() };
    let request = serde_json::to_vec(&request).map_err(|e| Error::Text(format!("chat template: {e}")))?;
    let program = program()?;
    let failed = |what: &'static str| {
        let file = program.clone();
        move |error| Error::Io { file, what: format!("rendering the chat template: {what}"), error }
    };
    let mut command = Command::new(&program);
    command.arg(ARGUMENT).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(failed("starting a process"))?;
    if let Some(mut input) = child.stdin.take() {
        // A child that dies before it has read everything says why in its exit status.
        let _ = input.write_all(&request);
    }
    let output = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut text = Vec::new();
        let read = output.map_or(Ok(0), |output| output.take(MAX_OUTPUT_BYTES as u64 + 1).read_to_end(&mut text));
        read.map(|_| text)
    });
    let finished = wait(&mut child).map_err(failed("waiting for it"))?;
    let text = reader.join().unwrap_or_else(|_| Ok(Vec::new())).map_err(failed("reading from it"))?;
    match finished {
        Some(status) if status.success() => {
            String::from_utf8(text).map_err(|_| Error::Text("chat template: the prompt is not UTF-8".into()))
        }
        Some(status) if status.code() == Some(1) => {
            let mut message = Vec::new();
            if let Some(errors) = child.stderr.take() {
                errors.take(MAX_MESSAGE).read_to_end(&mut message).map_err(failed("reading from it"))?;
            }
            Err(Error::Text(String::from_utf8_lossy(&message).trim_end().to_string()))
        }
        _ => Err(Error::Text(format!(
            "chat template: it needs more than {MAX_CPU_SECONDS} s or {} MiB; it is broken or hostile",
            MAX_MEMORY >> 20
        ))),
    }
}

/// This program. On Linux by the link that still works when the file has been replaced or deleted.
fn program() -> Result<PathBuf> {
    let link = PathBuf::from("/proc/self/exe");
    if link.exists() {
        return Ok(link);
    }
    let what = || "finding this program".to_string();
    std::env::current_exe().map_err(|error| Error::Io { file: PathBuf::from("."), what: what(), error })
}

/// Waits for the child; kills it when its time is up.
fn wait(child: &mut Child) -> std::io::Result<Option<std::process::ExitStatus>> {
    let start = Instant::now();
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if start.elapsed() > MAX_WALL {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// The child's `main`. Sets its limits, reads the request, writes the prompt; 1 with a message when the template fails.
pub fn child_main() -> ExitCode {
    match child() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(1)
        }
    }
}

fn child() -> Result<()> {
    let limits = [(Resource::As, MAX_MEMORY), (Resource::Cpu, MAX_CPU_SECONDS), (Resource::Core, 0)];
    for (resource, limit) in limits {
        let io = |error: rustix::io::Errno| Error::Io {
            file: PathBuf::from("."),
            what: "limiting the process that renders the chat template".into(),
            error: error.into(),
        };
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) }).map_err(io)?;
    }
    let io = |error| Error::Io { file: PathBuf::from("."), what: "talking to the parent".into(), error };
    let mut request = Vec::new();
    std::io::stdin().lock().read_to_end(&mut request).map_err(io)?;
    let request: Request = serde_json::from_slice(&request).map_err(|e| Error::Text(format!("chat template: {e}")))?;
    let prompt = render_here(&request.template, &request.variables)?;
    std::io::stdout().lock().write_all(prompt.as_bytes()).map_err(io)
}
