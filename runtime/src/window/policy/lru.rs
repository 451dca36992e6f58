//! Least recently used: what everybody has, and what fails on a cyclic walk. Kept to measure against.

use super::{Key, Shape, Use};

/// See the module's text.
pub struct Lru {
    now: u64,
    /// Time of the last use, by key; 0 for never.
    used: Vec<u64>,
}

impl Lru {
    /// Nothing used yet.
    pub fn new(shape: &Shape) -> Lru {
        Lru { now: 0, used: vec![0; shape.keys()] }
    }

    pub(super) fn visit(&mut self, uses: impl Iterator<Item = Use>) {
        for Use { key, .. } in uses {
            self.now += 1;
            if let Some(used) = self.used.get_mut(key as usize) {
                *used = self.now;
            }
        }
    }

    pub(super) fn wait(&self, key: Key) -> f32 {
        // Exact below 2^24 uses of difference, which is more than any window lets a slot wait.
        self.used.get(key as usize).map_or(f32::INFINITY, |&used| (self.now - used) as f32)
    }
}
