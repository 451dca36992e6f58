//! The window of neuron groups: those that were wanted last stay (Alizadeh et al. 2023, "LLM in a flash", 3.1: the neurons of the last k tokens; here k follows
//! from the memory). Slots are one row of places without holes: what is held lies at the front, what is free at the end, so that new groups that are neighbours in
//! the file are neighbours in memory, and one request reads them. Whoever leaves is replaced by the last (their 3.3). A model has half a million groups and a
//! token a few thousand: nothing here but [`Recent::new`] takes time in proportion to all of them, or to the slots.

use super::policy::Shape;

/// No slot, no key, no neighbour.
const NONE: u32 = u32::MAX;
/// Of the slots of a window too small for one step, one in this many goes to groups that come in to stay, in every step. See [`Recent::insert`].
const RENEWED: u64 = 8;

/// What is in a slot, and its neighbours in the order of use.
#[derive(Clone, Copy)]
struct Cell {
    key: u32,
    /// Used after this one.
    newer: u32,
    /// Used before this one.
    older: u32,
    /// Step of the last use.
    step: u32,
    /// Visit to a layer at which it was used last.
    visit: u32,
}

/// Groups that were moved to the slot of one that left: bytes follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Slot that is free now.
    pub from: u32,
    /// Slot that was left.
    pub to: u32,
}

/// Which neuron groups are in which slots. See the module's text.
pub struct Recent {
    shape: Shape,
    /// By key: its slot, or NONE.
    slot_of: Vec<u32>,
    /// By slot; the first `used` hold a group.
    cells: Vec<Cell>,
    used: u32,
    newest: u32,
    oldest: u32,
    step: u32,
    visit: u32,
    /// Groups wanted in this step so far, and in all of the last one.
    wanted: [u64; 2],
    brought: u64,
    /// All older than this one are used by the layer being visited; NONE: not known.
    looked: u32,
}

impl Recent {
    /// `slots` empty slots.
    pub fn new(shape: Shape, slots: u32) -> Recent {
        let empty = Cell { key: NONE, newer: NONE, older: NONE, step: 0, visit: 0 };
        let (slot_of, cells) = (vec![NONE; shape.keys()], vec![empty; slots as usize]);
        Recent { shape, slot_of, cells, used: 0, newest: NONE, oldest: NONE, step: 0, visit: 0, wanted: [0; 2], brought: 0, looked: NONE }
    }

    /// Bytes that [`Recent::new`] allocates.
    pub fn bytes(groups: u64, slots: u64) -> u64 {
        groups.saturating_mul(size_of::<u32>() as u64).saturating_add(slots.saturating_mul(size_of::<Cell>() as u64))
    }

    /// Slots.
    pub fn slots(&self) -> usize {
        self.cells.len()
    }

    /// Slots that hold no group.
    pub fn free(&self) -> usize {
        self.cells.len() - self.used as usize
    }

    /// Groups of the model.
    pub fn groups(&self) -> usize {
        self.shape.keys()
    }

    /// A layer is about to be computed: the first of a step, or another.
    pub fn visit(&mut self, new_step: bool) {
        self.leave();
        if new_step {
            self.step = self.step.wrapping_add(1);
            self.wanted = [0, self.wanted[0]];
        }
    }

    /// The layer is computed: its groups may leave too.
    pub fn leave(&mut self) {
        self.visit = self.visit.wrapping_add(1);
        self.looked = NONE;
    }

    /// The slot of a group that is there.
    pub fn slot(&self, layer: u32, group: u32) -> Option<u32> {
        let key = self.shape.key(layer, group)?;
        self.slot_of.get(key as usize).copied().filter(|&s| s != NONE)
    }

    /// Uses a group of the layer that is being visited: its slot if it is there.
    pub fn touch(&mut self, layer: u32, group: u32, recent: bool) -> Option<u32> {
        self.wanted[0] += 1;
        let slot = self.slot(layer, group)?;
        let cell = self.cells.get_mut(slot as usize)?;
        (cell.step, cell.visit) = (self.step, self.visit);
        if recent {
            self.unlink(slot);
            self.link(slot, true);
        }
        Some(slot)
    }

    /// Puts a group that is not there into the first free slot, which is the one behind the group inserted before. With `recent` it leaves when all that is there
    /// now has left, else as the next. A window that holds less than one step wants would bring in everything and find nothing again (a cycle longer than the cache), so there
    /// most of what it brings in leaves as the next. What stays in spite of that, in a step, is a small part of the window: it pushes out as much of what stayed before.
    pub fn insert(&mut self, layer: u32, group: u32, recent: bool) -> Option<u32> {
        let key = self.shape.key(layer, group)?;
        let slot = self.used;
        let cell = self.cells.get_mut(slot as usize)?;
        *cell = Cell { key, newer: NONE, older: NONE, step: self.step, visit: self.visit };
        *self.slot_of.get_mut(key as usize)? = slot;
        self.used += 1;
        self.brought = self.brought.wrapping_add(1);
        let (wanted, slots) = (self.wanted[1].max(self.wanted[0]), self.cells.len() as u64);
        let stays = wanted <= slots || self.brought.is_multiple_of(wanted * RENEWED / slots);
        self.link(slot, recent && stays);
        Some(slot)
    }

    /// The group that leaves first, of those that the layer being visited does not use: its slot. Those that it uses may lie in the way, inserted as the next to leave or used without
    /// being moved; they are walked over once in a visit.
    pub fn oldest(&mut self) -> Option<u32> {
        let mut slot = if self.looked == NONE { self.oldest } else { self.looked };
        while let Some(cell) = self.cells.get(slot as usize) {
            if cell.visit != self.visit {
                self.looked = slot;
                return Some(slot);
            }
            slot = cell.newer;
        }
        None
    }

    /// Steps since the oldest group was used: the k of "the last k tokens".
    pub fn span(&self) -> u32 {
        self.cells.get(self.oldest as usize).map_or(0, |c| self.step.wrapping_sub(c.step))
    }

    /// Steps since any group was used; 0 if there is none.
    pub fn newest_span(&self) -> u32 {
        self.cells.get(self.newest as usize).map_or(0, |c| self.step.wrapping_sub(c.step))
    }

    /// Takes the group out of a slot. The last group takes its place; `None` if it was the last.
    pub fn remove(&mut self, slot: u32) -> Option<Move> {
        if slot >= self.used {
            return None;
        }
        self.unlink(slot);
        let last = self.used - 1;
        self.used = last;
        self.slot_of[self.cells[slot as usize].key as usize] = NONE;
        if slot == last {
            return None;
        }
        let moved = self.cells[last as usize];
        self.cells[slot as usize] = moved;
        if self.looked == last {
            self.looked = slot;
        }
        self.slot_of[moved.key as usize] = slot;
        match self.cells.get_mut(moved.newer as usize) {
            Some(newer) => newer.older = slot,
            None => self.newest = slot,
        }
        match self.cells.get_mut(moved.older as usize) {
            Some(older) => older.newer = slot,
            None => self.oldest = slot,
        }
        Some(Move { from: last, to: slot })
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        for cell in &self.cells[..self.used as usize] {
            self.slot_of[cell.key as usize] = NONE;
        }
        (self.used, self.newest, self.oldest, self.looked, self.wanted) = (0, NONE, NONE, NONE, [0; 2]);
    }

    fn link(&mut self, slot: u32, newest: bool) {
        let (newer, older) = if newest { (NONE, self.newest) } else { (self.oldest, NONE) };
        let cell = &mut self.cells[slot as usize];
        (cell.newer, cell.older) = (newer, older);
        match self.cells.get_mut(older as usize) {
            Some(cell) => cell.newer = slot,
            None => self.oldest = slot,
        }
        match self.cells.get_mut(newer as usize) {
            Some(cell) => cell.older = slot,
            None => self.newest = slot,
        }
    }

    fn unlink(&mut self, slot: u32) {
        let Cell { newer, older, .. } = self.cells[slot as usize];
        if self.looked == slot {
            self.looked = newer;
        }
        match self.cells.get_mut(newer as usize) {
            Some(cell) => cell.older = older,
            None => self.newest = older,
        }
        match self.cells.get_mut(older as usize) {
            Some(cell) => cell.newer = newer,
            None => self.oldest = newer,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Random;

    fn window(groups: u32, slots: u32) -> Recent {
        Recent::new(Shape::new([(groups, 1), (groups, 1)]).unwrap(), slots)
    }

    /// Wants groups of a layer, making room where there is none.
    fn want(w: &mut Recent, layer: u32, groups: &[u32]) -> usize {
        w.visit(layer == 0);
        let missing: Vec<u32> = groups.iter().copied().filter(|&g| w.touch(layer, g, true).is_none()).collect();
        while w.free() < missing.len() {
            let slot = w.oldest().expect("a group that is not wanted now");
            w.remove(slot);
        }
        for &group in &missing {
            w.insert(layer, group, true).unwrap();
        }
        missing.len()
    }

    /// Slots, keys and the order of use agree.
    fn check(w: &Recent) {
        let (mut slot, mut seen, mut newer) = (w.oldest, 0, NONE);
        let mut previous = NONE;
        while slot != NONE {
            let cell = w.cells[slot as usize];
            assert_eq!((cell.older, w.slot_of[cell.key as usize]), (previous, slot));
            (previous, slot, newer, seen) = (slot, cell.newer, slot, seen + 1);
        }
        assert_eq!((w.newest, seen), (newer, w.used));
        assert_eq!(w.slot_of.iter().filter(|&&s| s != NONE).count(), w.used as usize);
    }

    #[test]
    fn the_last_tokens_stay_and_the_increment_is_read() {
        let mut w = window(100, 60);
        assert_eq!(want(&mut w, 0, &[1, 2, 3]) + want(&mut w, 1, &[1, 2, 3]), 6);
        assert_eq!(want(&mut w, 0, &[2, 3, 4]) + want(&mut w, 1, &[3, 50]), 2);
        check(&w);
        assert_eq!(w.span(), 1, "what was wanted a step ago is still there");
        // New groups lie side by side.
        assert_eq!([1, 2, 3].map(|g| w.slot(0, g).unwrap()), [0, 1, 2]);
        for step in 0..40u32 {
            let now: Vec<u32> = (0..10).map(|i| step * 5 % 90 + i).collect();
            want(&mut w, 0, &now);
            want(&mut w, 1, &now);
            check(&w);
        }
        assert!((2..8).contains(&w.span()), "{}", w.span());
        w.clear();
        check(&w);
        assert_eq!((w.free(), w.slot(0, 1)), (60, None));
    }

    #[test]
    fn a_cycle_longer_than_the_window_still_hits() {
        // 8 x 10 groups in every step, room for 50: least recently used would read all 80 each time.
        let mut w = Recent::new(Shape::new([(10, 1); 8]).unwrap(), 50);
        let all: Vec<u32> = (0..10).collect();
        let mut read = 0;
        for step in 0..50 {
            let now: usize = (0..8).map(|layer| want(&mut w, layer, &all)).sum();
            check(&w);
            if step >= 25 {
                read += now;
            }
        }
        assert!(read / 25 < 55, "{} a step", read / 25);
    }

    #[test]
    fn a_cycle_many_times_the_window_hits_as_far_as_the_window_goes() {
        // As `--sparsity off` at half of a model's size: 16 x 64 groups in every step, room for two layers. Of what is not the layer being computed most should stay.
        let mut w = Recent::new(Shape::new([(64, 1); 16]).unwrap(), 128 + 8);
        let all: Vec<u32> = (0..64).collect();
        let mut found = 0;
        for step in 0..60 {
            for layer in 0..16 {
                let missed = want(&mut w, layer, &all);
                found += if step >= 40 { 64 - missed } else { 0 };
                // What the store does between layers.
                w.leave();
                while w.free() < 8 {
                    let slot = w.oldest().unwrap();
                    w.remove(slot);
                }
                check(&w);
            }
        }
        assert!(found / 20 > 40, "{} a step", found / 20);
    }

    #[test]
    fn any_order_of_uses_keeps_the_books() {
        let (mut w, mut random) = (window(30, 33), Random(5));
        for _ in 0..2000 {
            for layer in 0..2 {
                let mut groups: Vec<u32> = (0..30).filter(|_| random.below(3) == 0).collect();
                groups.truncate(30);
                want(&mut w, layer, &groups);
                assert!(groups.iter().all(|&g| w.slot(layer, g).is_some()));
                check(&w);
            }
            if random.below(9) == 0
                && let Some(slot) = w.oldest()
            {
                w.remove(slot);
            }
        }
        assert_eq!(w.remove(33), None);
        assert_eq!(w.touch(7, 0, true), None);
        assert_eq!(w.insert(0, 99, true), None);
    }
}
