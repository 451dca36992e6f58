//! Reading what the user names.

use crate::error::{Error, Result};
use std::io::Read;
use std::path::Path;

/// A whole text file, at most `limit` bytes, UTF-8; `-` is standard input.
pub(super) fn read_text(path: &Path, limit: u64) -> Result<String> {
    let io = |what: &'static str| move |error| Error::Io { file: path.to_path_buf(), what: what.into(), error };
    let mut bytes = Vec::new();
    if path.as_os_str() == "-" {
        std::io::stdin().lock().take(limit + 1).read_to_end(&mut bytes).map_err(io("reading"))?;
    } else {
        let file = std::fs::File::open(path).map_err(io("opening"))?;
        file.take(limit + 1).read_to_end(&mut bytes).map_err(io("reading"))?;
    }
    if bytes.len() as u64 > limit {
        return Err(Error::Request(format!("{}: longer than {limit} bytes", path.display())));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Error::Request(format!("{}: not UTF-8 at byte {at}", path.display()))
    })
}

/// A file's name without directories, for messages.
pub(super) fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}
