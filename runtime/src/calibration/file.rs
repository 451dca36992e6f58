//! A calibration in a file beside the pack, `PACK.neurons`: a line with the BLAKE3 of what follows, a line with the pack's id, and the calibration as JSON. It is written whole or
//! not at all, and safe to delete; one that is damaged or of another pack counts for nothing.

use super::Calibration;
use forebay_format::layout::superblock::hex;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

/// First words of the file's second line.
const MAGIC: &str = "forebay neurons 2";
/// Bytes of a file, and for each threshold in it: a number is written with at most 25.
const HEAD_BYTES: u64 = 16 << 10;
const LAYER_BYTES: u64 = 1 << 10;

/// The file for a pack.
pub fn path(pack: &Path) -> PathBuf {
    let mut name = pack.as_os_str().to_owned();
    name.push(".neurons");
    name.into()
}

/// The calibration in a file for the pack with this id and number of layers; `None` if there is none or it is of no use.
pub fn read(path: &Path, pack_id: &[u8; 16], layers: usize) -> Option<Calibration> {
    let most = HEAD_BYTES + LAYER_BYTES * layers as u64;
    let mut text = String::new();
    std::fs::File::open(path).ok()?.take(most + 1).read_to_string(&mut text).ok()?;
    let (hash, body) = text.split_once('\n').filter(|_| text.len() as u64 <= most)?;
    let (head, json) = body.split_once('\n')?;
    if hash != hex(blake3::hash(body.as_bytes()).as_bytes()) || head != format!("{MAGIC} {}", hex(pack_id)) {
        return None;
    }
    serde_json::from_str::<Calibration>(json).ok().filter(|c| c.is_sound(layers))
}

/// Writes the file for the pack with this id.
///
/// # Errors
/// Those of writing.
pub fn write(path: &Path, pack_id: &[u8; 16], calibration: &Calibration) -> io::Result<()> {
    let body = format!("{MAGIC} {}\n{}\n", hex(pack_id), serde_json::to_string(calibration)?);
    let text = format!("{}\n{body}", hex(blake3::hash(body.as_bytes()).as_bytes()));
    let mut draft = path.as_os_str().to_owned();
    draft.push(format!(".{}", std::process::id()));
    let draft = PathBuf::from(draft);
    let written =
        std::fs::File::create(&draft).and_then(|mut file| file.write_all(text.as_bytes())).and_then(|()| std::fs::rename(&draft, path));
    if written.is_err() {
        let _ = std::fs::remove_file(&draft);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::super::{Firing, Layer, Row};
    use super::*;

    #[test]
    fn files_survive_and_damage_counts_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let at = path(&dir.path().join("a.fby"));
        assert!(at.ends_with("a.fby.neurons"));
        let made = Calibration {
            tokens: 7,
            scored: 3,
            firing: Firing { groups: 0.2, again: 0.5, bytes: 3 },
            table: vec![Row { recall: 0.9, read: 0.25, bytes: 4, kl: 0.001, perplexity_change: -1e-5 }],
            layers: vec![Layer { active: 0.1, thresholds: vec![-0.123_456_79] }],
        };
        assert_eq!(read(&at, &[7; 16], 1), None);
        write(&at, &[7; 16], &made).unwrap();
        assert_eq!(read(&at, &[7; 16], 1), Some(made));
        assert_eq!((read(&at, &[8; 16], 1), read(&at, &[7; 16], 2)), (None, None));
        let good = std::fs::read(&at).unwrap();
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 1;
            std::fs::write(&at, &bad).unwrap();
            assert_eq!(read(&at, &[7; 16], 1), None, "byte {i}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no drafts are left");
    }
}
