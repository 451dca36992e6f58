//! A calibration in a file beside the pack, `PACK.neurons`: a line with the BLAKE3 of what follows, a line with the pack's id, and the calibration as JSON. It is written whole or
//! not at all, and safe to delete; one that is damaged or of another pack counts for nothing.

use super::Calibration;
use crate::sidecar;
use forebay_format::layout::superblock::hex;
use std::io;
use std::path::{Path, PathBuf};

/// First words of the file's second line.
const MAGIC: &str = "forebay neurons 2";
/// Bytes of a file, and for each threshold in it: a number is written with at most 25.
const HEAD_BYTES: u64 = 16 << 10;
const LAYER_BYTES: u64 = 1 << 10;

/// The file for a pack.
pub fn path(pack: &Path) -> PathBuf {
    sidecar::path(pack, "neurons")
}

/// The calibration in a file for the pack with this id and number of layers; `None` if there is none or it is of no use.
pub fn read(path: &Path, pack_id: &[u8; 16], layers: usize) -> Option<Calibration> {
    let most = HEAD_BYTES + LAYER_BYTES * layers as u64;
    let text = String::from_utf8(sidecar::read(path, most)?).ok()?;
    let (hash, body) = text.split_once('\n')?;
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
    sidecar::replace(path, format!("{}\n{body}", hex(blake3::hash(body.as_bytes()).as_bytes())).as_bytes())
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
