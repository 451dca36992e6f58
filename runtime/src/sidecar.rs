//! Small files beside a pack that one session leaves for the next ones: written whole or not at all, bounded when they are read, safe to delete.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// The file of this kind for a pack, `PACK.kind`.
pub fn path(pack: &Path, kind: &str) -> PathBuf {
    let mut name = pack.as_os_str().to_owned();
    name.push(".");
    name.push(kind);
    name.into()
}

/// All bytes of a file; `None` if it cannot be read or has more than `most`.
pub fn read(path: &Path, most: u64) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).ok()?.take(most.saturating_add(1)).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= most).then_some(bytes)
}

/// Gives a file this content; readers see what was there before or all of it.
///
/// # Errors
/// Those of writing a draft beside it and of renaming that. No draft is left then.
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let draft = self::path(path, &std::process::id().to_string());
    let written = std::fs::File::create(&draft).and_then(|mut file| file.write_all(bytes)).and_then(|()| std::fs::rename(&draft, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&draft);
    }
    written
}
