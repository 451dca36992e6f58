//! A warm start: which experts the last session used most, in a small file beside the pack, and reading them while the drive has nothing better to do.
//!
//! The file is `PACK.warm`: the 8 bytes `FBYWARM1`, the pack's id (16), a count (u32), that many pairs of key (u32, experts counted over all layers) and frequency (f32),
//! all little-endian, and the BLAKE3 of everything before. It is written whole or not at all, and safe to delete; one that is damaged or of another pack counts for nothing.

use std::io;
use std::path::{Path, PathBuf};

use forebay_format::BundleId;

use super::{NONE, Store};
use crate::error::Result;
use crate::io::Urgency;
use crate::kernels::Pool;
use crate::sidecar;
use crate::window::policy::Key;

const MAGIC: &[u8; 8] = b"FBYWARM1";
const HEAD_BYTES: usize = 28;
const PAIR_BYTES: usize = 8;
const HASH_BYTES: usize = 32;
/// Experts that are read at a time.
const AT_A_TIME: usize = 8;

/// The file for a pack.
pub fn path(pack: &Path) -> PathBuf {
    sidecar::path(pack, "warm")
}

/// Experts with their frequencies, from a file for the pack with this id and number of experts; `None` if there is none or it is of no use.
pub fn read(path: &Path, pack_id: &[u8; 16], experts: usize) -> Option<Vec<(Key, f32)>> {
    let most = HEAD_BYTES + PAIR_BYTES * experts + HASH_BYTES;
    let bytes = sidecar::read(path, most as u64)?;
    let (body, hash) = bytes.split_at_checked(bytes.len().checked_sub(HASH_BYTES)?)?;
    let (head, pairs) = body.split_at_checked(HEAD_BYTES)?;
    let count = u32::from_le_bytes(head.get(24..28)?.try_into().ok()?) as usize;
    let whole = pairs.len() == count.checked_mul(PAIR_BYTES)?;
    if !whole || head.get(..8)? != MAGIC || head.get(8..24)? != pack_id || blake3::hash(body).as_bytes() != hash {
        return None;
    }
    let pair = |&[a, b, c, d, e, f, g, h]: &[u8; PAIR_BYTES]| (u32::from_le_bytes([a, b, c, d]), f32::from_le_bytes([e, f, g, h]));
    let good = |&(key, frequency): &(Key, f32)| (key as usize) < experts && (0.0..=1.0).contains(&frequency);
    Some(pairs.as_chunks().0.iter().map(pair).filter(good).collect())
}

/// Writes the file for the pack with this id.
pub fn write(path: &Path, pack_id: &[u8; 16], hot: &[(Key, f32)]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + hot.len() * PAIR_BYTES + HASH_BYTES);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(pack_id);
    bytes.extend_from_slice(&(hot.len() as u32).to_le_bytes());
    for (key, frequency) in hot {
        bytes.extend_from_slice(&key.to_le_bytes());
        bytes.extend_from_slice(&frequency.to_le_bytes());
    }
    let hash = blake3::hash(&bytes);
    bytes.extend_from_slice(hash.as_bytes());
    sidecar::replace(path, &bytes)
}

impl Store {
    /// Experts in the window with their frequencies, the most frequent first.
    pub fn hot(&self) -> Vec<(Key, f32)> {
        let shape = self.state.shape();
        let keys = self.state.held().filter_map(|(layer, expert, _)| shape.key(layer, expert));
        let mut hot: Vec<(Key, f32)> = keys.map(|key| (key, self.state.policy().frequency(key))).collect();
        hot.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        hot
    }

    /// Takes over what another session knew, the most frequent first, and has the experts that fit read into free slots, in file order, whenever nothing
    /// that is wanted waits to be read.
    pub fn warm_up(&mut self, hot: &[(Key, f32)]) {
        for &(key, frequency) in hot {
            self.state.policy_mut().remember(key, frequency);
        }
        self.warm = hot.iter().take(self.state.free_slots()).map(|h| h.0).collect();
        // Keys are in file order; the list is used from its end.
        self.warm.sort_unstable_by(|a, b| b.cmp(a));
        self.warm.dedup();
    }

    /// Goes on warming up, without waiting; false when there is nothing left to do. [`Store::advance`] does this too.
    ///
    /// Errors: as [`Store::advance`].
    pub fn idle(&mut self, pool: &Pool) -> Result<bool> {
        self.advance(pool, false)?;
        Ok(!self.warm.is_empty() || self.warming > 0)
    }

    /// Tops up what is being read for the warm start.
    pub(super) fn pump(&mut self) -> Result<()> {
        let mut queued = false;
        while self.warming < AT_A_TIME
            && let Some(key) = self.warm.pop()
        {
            let Some((layer, expert)) = self.state.shape().place(key) else { continue };
            if self.state.slot(layer, expert).is_some() {
                continue;
            }
            let Some(slot) = self.state.fill(layer, expert) else {
                // The window is full without our help.
                self.warm.clear();
                break;
            };
            self.read_plan.pin(slot);
            self.fetch(BundleId::expert(layer, expert), slot, Urgency::Ahead)?;
            self.slots[slot as usize].warm = true;
            self.warming += 1;
            queued = true;
        }
        if queued { self.start() } else { Ok(()) }
    }

    /// Gives up what has not been started of the warm start and waits for the rest.
    pub(super) fn end_warm_start(&mut self) -> Result<()> {
        self.warm.clear();
        let pool = Pool::new(1);
        while self.warming > 0 && self.advance(&pool, true)? {}
        Ok(())
    }

    /// A fetch for the warm start has ended: whole, given up, or failed.
    pub(super) fn end_warm(&mut self, id: BundleId, slot: usize, whole: bool) {
        let Some(entry) = self.slots.get_mut(slot).filter(|s| s.warm) else { return };
        (entry.warm, entry.fetch) = (false, NONE);
        self.warming -= 1;
        self.read_plan.unpin(slot as u32);
        if !whole {
            self.state.forget(id.layer, id.ordinal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::IoBackend;
    use crate::testing::TinyPack;

    #[test]
    fn files_survive_and_damage_counts_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let at = path(&dir.path().join("a.fby"));
        assert!(at.ends_with("a.fby.warm"));
        let (id, hot) = ([7; 16], vec![(3, 0.5), (0, 0.25), (9, 1.0)]);
        assert_eq!(read(&at, &id, 10), None);
        write(&at, &id, &hot).unwrap();
        assert_eq!(read(&at, &id, 10), Some(hot.clone()));
        assert_eq!(read(&at, &[8; 16], 10), None);
        assert_eq!(read(&at, &id, 2), None, "more experts than the model has");
        let good = std::fs::read(&at).unwrap();
        for i in 0..good.len() {
            let mut bad = good.clone();
            bad[i] ^= 1;
            std::fs::write(&at, &bad).unwrap();
            assert_eq!(read(&at, &id, 10), None, "byte {i}");
            std::fs::write(&at, &good[..i]).unwrap();
            assert_eq!(read(&at, &id, 10), None, "{i} bytes");
        }
        write(&at, &id, &[(3, f32::NAN), (4, 2.0), (5, 0.5)]).unwrap();
        assert_eq!(read(&at, &id, 10), Some(vec![(5, 0.5)]));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "no drafts are left");
    }

    #[test]
    fn a_warm_start_brings_back_what_was_hot() {
        let tiny = TinyPack::new();
        let pool = Pool::new(1);
        let mut store = tiny.store(6, IoBackend::Pread);
        for _ in 0..5 {
            for layer in [0, 2] {
                store.request(layer, &[1, 4], false).unwrap();
                while ![1, 4].iter().all(|&e| store.is_whole(layer, e)) {
                    store.advance(&pool, true).unwrap();
                }
            }
        }
        let hot = store.hot();
        assert_eq!(hot.len(), 4);
        let mut store = tiny.store(6, IoBackend::Pread);
        store.warm_up(&hot);
        while store.idle(&pool).unwrap() {}
        for layer in [0, 2] {
            store.request(layer, &[1, 4], false).unwrap();
            assert!([1, 4].iter().all(|&e| store.expert(layer, e).is_some()));
        }
        assert_eq!((store.stats().hits, store.stats().misses), (4, 0));
    }

    #[test]
    fn warming_gives_way_to_what_is_wanted_and_evicts_nothing() {
        let tiny = TinyPack::new();
        let pool = Pool::new(1);
        for seed in 0..10 {
            let mut store = tiny.faulty(5, crate::io::fake::Faults { delay: 30, ..Default::default() }, seed).unwrap();
            store.warm_up(&(0..16).map(|key| (key, 0.5)).collect::<Vec<_>>());
            for (layer, experts) in [(2u32, [9, 8, 7]), (0, [0, 1, 2]), (2, [9, 3, 4]), (0, [5, 4, 3])] {
                store.idle(&pool).unwrap();
                store.request(layer, &experts, false).unwrap();
                while !experts.iter().all(|&e| store.expert(layer, e).is_some()) {
                    assert!(store.advance(&pool, true).unwrap());
                }
            }
            while store.idle(&pool).unwrap() {}
            assert!(store.state.held().count() <= 5);
        }
    }
}
