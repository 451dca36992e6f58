//! Policies that keep queues: S3-FIFO and W-TinyLFU, the two that general-purpose caches have been moving to.

use super::policies::Cache;
use std::collections::VecDeque;

/// Where a key is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Out,
    Small,
    Main,
    Protected,
}

/// S3-FIFO (Yang et al., SOSP 2023): newcomers pass through a small queue of a tenth of the slots; those used again there, or remembered from a ghost queue as long
/// as the main one, enter the main queue, where a use buys another round, up to three.
pub struct S3Fifo {
    slots: usize,
    small: VecDeque<u32>,
    main: VecDeque<u32>,
    ghost: VecDeque<u32>,
    place: Vec<Place>,
    uses: Vec<u8>,
    /// Number of the entry in the ghost queue; 0 for none. Entries with an older number have left it.
    ghostly: Vec<u64>,
    ghosts: u64,
    pinned: Vec<bool>,
}

impl S3Fifo {
    pub fn new(keys: usize, slots: usize) -> S3Fifo {
        S3Fifo {
            slots,
            small: VecDeque::new(),
            main: VecDeque::new(),
            ghost: VecDeque::new(),
            place: vec![Place::Out; keys],
            uses: vec![0; keys],
            ghostly: vec![0; keys],
            ghosts: 0,
            pinned: vec![false; keys],
        }
    }

    /// Keys that are there.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.small.len() + self.main.len()
    }

    fn evict(&mut self) {
        // Pinned keys go round at most once in each queue: a visit never pins all slots.
        loop {
            let from_small = self.small.len() > self.slots / 10 && self.small.iter().any(|&k| !self.pinned[k as usize])
                || self.main.iter().all(|&k| self.pinned[k as usize]);
            let queue = if from_small { &mut self.small } else { &mut self.main };
            let Some(key) = queue.pop_back() else { return };
            let k = key as usize;
            if self.pinned[k] {
                queue.push_front(key);
            } else if from_small && self.uses[k] > 1 {
                (self.place[k], self.uses[k]) = (Place::Main, 0);
                self.main.push_front(key);
            } else if !from_small && self.uses[k] > 0 {
                self.uses[k] -= 1;
                self.main.push_front(key);
            } else {
                self.place[k] = Place::Out;
                if from_small {
                    self.remember(key);
                }
                return;
            }
        }
    }

    fn remember(&mut self, key: u32) {
        self.ghosts += 1;
        self.ghostly[key as usize] = self.ghosts;
        self.ghost.push_front(key);
        if self.ghost.len() > self.slots - self.slots / 10 {
            let number = self.ghosts + 1 - self.ghost.len() as u64;
            if let Some(key) = self.ghost.pop_back()
                && self.ghostly[key as usize] == number
            {
                self.ghostly[key as usize] = 0;
            }
        }
    }
}

impl Cache for S3Fifo {
    fn visit(&mut self, _layer: u32, keys: &[u32]) -> usize {
        let mut hits = 0;
        keys.iter().for_each(|&k| self.pinned[k as usize] = true);
        for &key in keys {
            let k = key as usize;
            if self.place[k] != Place::Out {
                hits += 1;
                self.uses[k] = (self.uses[k] + 1).min(3);
                continue;
            }
            if self.small.len() + self.main.len() >= self.slots {
                self.evict();
            }
            self.uses[k] = 0;
            if std::mem::take(&mut self.ghostly[k]) > 0 {
                self.place[k] = Place::Main;
                self.main.push_front(key);
            } else {
                self.place[k] = Place::Small;
                self.small.push_front(key);
            }
        }
        keys.iter().for_each(|&k| self.pinned[k as usize] = false);
        hits
    }
}

/// W-TinyLFU (Einziger, Friedman, Manes, 2017): a small LRU in front of a segmented LRU (a fifth on probation, the rest protected); what falls out of the front
/// replaces the probation's oldest only if it was used more often. Counts are exact here (the paper estimates them with a sketch) and halve every 10 x slots uses.
pub struct WTinyLfu {
    slots: usize,
    front: usize,
    small: VecDeque<u32>,
    probation: VecDeque<u32>,
    protected: VecDeque<u32>,
    place: Vec<Place>,
    counts: Vec<u32>,
    counted: usize,
    pinned: Vec<bool>,
}

impl WTinyLfu {
    /// The front holds a hundredth of the slots, but at least what one visit brings: that must be there all at once.
    pub fn new(keys: usize, slots: usize, top_k: usize) -> WTinyLfu {
        WTinyLfu {
            slots,
            front: (slots / 100).max(top_k),
            small: VecDeque::new(),
            probation: VecDeque::new(),
            protected: VecDeque::new(),
            place: vec![Place::Out; keys],
            counts: vec![0; keys],
            counted: 0,
            pinned: vec![false; keys],
        }
    }

    /// Keys that are there.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.small.len() + self.probation.len() + self.protected.len()
    }

    fn count(&mut self, key: u32) {
        self.counts[key as usize] += 1;
        self.counted += 1;
        if self.counted >= 10 * self.slots {
            self.counted /= 2;
            self.counts.iter_mut().for_each(|c| *c /= 2);
        }
    }

    fn touch(&mut self, key: u32) {
        let queue = match self.place[key as usize] {
            Place::Small => &mut self.small,
            Place::Main => &mut self.probation,
            _ => &mut self.protected,
        };
        queue.retain(|&k| k != key);
        if self.place[key as usize] == Place::Small {
            self.small.push_front(key);
            return;
        }
        self.place[key as usize] = Place::Protected;
        self.protected.push_front(key);
        if self.protected.len() > (self.slots - self.front) * 4 / 5
            && let Some(oldest) = self.protected.pop_back()
        {
            self.place[oldest as usize] = Place::Main;
            self.probation.push_front(oldest);
        }
    }

    fn insert(&mut self, key: u32) {
        self.place[key as usize] = Place::Small;
        self.small.push_front(key);
        if self.small.len() <= self.front {
            return;
        }
        let Some(candidate) = self.small.pop_back() else { return };
        self.place[candidate as usize] = Place::Main;
        if self.probation.len() + self.protected.len() < self.slots - self.front {
            self.probation.push_front(candidate);
            return;
        }
        let pinned = &self.pinned;
        let oldest = |queue: &VecDeque<u32>| queue.iter().rposition(|&k| !pinned[k as usize]);
        let (queue, at) = match oldest(&self.probation) {
            Some(at) => (&mut self.probation, Some(at)),
            None => {
                let at = oldest(&self.protected);
                (&mut self.protected, at)
            }
        };
        let victim = at.and_then(|at| queue.get(at).copied().map(|k| (at, k)));
        let stays = victim.filter(|&(_, v)| self.counts[candidate as usize] > self.counts[v as usize] || self.pinned[candidate as usize]);
        match stays {
            Some((at, victim)) => {
                queue.remove(at);
                self.place[victim as usize] = Place::Out;
                self.probation.push_front(candidate);
            }
            None => self.place[candidate as usize] = Place::Out,
        }
    }
}

impl Cache for WTinyLfu {
    fn visit(&mut self, _layer: u32, keys: &[u32]) -> usize {
        let mut hits = 0;
        keys.iter().for_each(|&k| self.pinned[k as usize] = true);
        for &key in keys {
            self.count(key);
            if self.place[key as usize] == Place::Out {
                self.insert(key);
            } else {
                hits += 1;
                self.touch(key);
            }
        }
        keys.iter().for_each(|&k| self.pinned[k as usize] = false);
        hits
    }
}
