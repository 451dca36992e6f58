//! Ctrl-C: the first stops the answer, the second the program. SIGTERM counts as one too.

use crate::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// Nothing is running: a signal ends the program.
const IDLE: u8 = 0;
/// A prompt is read: a signal stops the engine between layers (the sequence is lost).
const PROMPT: u8 = 1;
/// An answer is made: a signal stops it after the current token (the sequence stays).
const ANSWER: u8 = 2;

/// What signals do now.
#[derive(Clone, Default)]
pub(super) struct Interrupt {
    /// Stops the engine inside a step; for [`crate::engine::Options`].
    pub(super) cancel: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    phase: Arc<AtomicU8>,
}

impl Interrupt {
    /// Installs the handler. Once in a program.
    pub(super) fn install() -> Interrupt {
        let interrupt = Interrupt::default();
        let (cancel, stop, phase) = (interrupt.cancel.clone(), interrupt.stop.clone(), interrupt.phase.clone());
        let handler = move || {
            let phase = phase.load(Ordering::SeqCst);
            if phase == IDLE || stop.swap(true, Ordering::SeqCst) {
                std::process::exit(i32::from(Error::Interrupted.exit_code()));
            }
            if phase == PROMPT {
                cancel.store(true, Ordering::SeqCst);
            }
        };
        if let Err(error) = ctrlc::set_handler(handler) {
            eprintln!("Ctrl-C will end the program at once: {error}");
        }
        interrupt
    }

    /// From now on a signal stops the reading of a prompt.
    pub(super) fn prompt(&self) {
        self.cancel.store(false, Ordering::SeqCst);
        self.stop.store(false, Ordering::SeqCst);
        self.phase.store(PROMPT, Ordering::SeqCst);
    }

    /// From now on a signal stops the answer.
    pub(super) fn answer(&self) {
        self.phase.store(ANSWER, Ordering::SeqCst);
    }

    /// From now on a signal ends the program.
    pub(super) fn idle(&self) {
        self.phase.store(IDLE, Ordering::SeqCst);
    }

    /// A signal has come since [`Interrupt::prompt`].
    pub(super) fn stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }
}
