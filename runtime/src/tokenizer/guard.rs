//! Calls into the `tokenizers` crate. It panics on some documents and texts; here that is an error.

use crate::error::{Error, Result};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind, set_hook, take_hook};
use std::sync::Once;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `f`, whose panics and errors become [`Error::Text`] with `what` was being done. Nothing is printed.
pub(super) fn call<T>(what: &str, f: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = take_hook();
        set_hook(Box::new(move |info| {
            if !GUARDED.get() {
                others(info);
            }
        }));
    });
    GUARDED.set(true);
    // Whatever a panic leaves behind is dropped or, for a loaded tokenizer, only ever read.
    let outcome = catch_unwind(AssertUnwindSafe(f));
    GUARDED.set(false);
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Error::Text(format!("tokenizer: {what}: {error}"))),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
            Err(Error::Text(format!("tokenizer: {what}: its document is malformed ({})", text.unwrap_or("no reason given"))))
        }
    }
}
