//! The choices of a step, turned from "experts of a row" to "rows of an expert".

use std::ops::Range;

/// How far the computation of an expert has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Slices computed, by bit.
    pub slices: u64,
    /// Gate and up are computed; the input of down is ready.
    pub inner: bool,
    /// Its output is there.
    pub done: bool,
}

/// Choices of all rows of a step, and their order by expert. All memory is reserved in [`Picks::new`].
#[derive(Debug)]
pub struct Picks {
    /// `[rows, top_k]`: id and weight, in router order.
    pub chosen: Vec<(u32, f32)>,
    /// Distinct experts, ascending: file order.
    pub needed: Vec<u32>,
    /// Place of the first row of each needed expert, and at the end the number of places.
    pub starts: Vec<usize>,
    /// Row that has this place.
    pub rows: Vec<u32>,
    /// `[rows, top_k]`: place of each choice.
    pub places: Vec<u32>,
    /// 0, 1, 2, ...
    pub identity: Vec<u32>,
    /// How far each needed expert has come.
    pub progress: Vec<Progress>,
    /// Next place of each expert, while sorting.
    next: Vec<u32>,
}

impl Picks {
    /// For at most `choices` choices (rows times top_k) among at most `experts` experts.
    pub fn new(choices: usize, experts: usize) -> Self {
        Picks {
            chosen: vec![(0, 0.0); choices],
            needed: Vec::with_capacity(experts),
            starts: Vec::with_capacity(experts + 1),
            rows: vec![0; choices],
            places: vec![0; choices],
            identity: (0..choices as u32).collect(),
            progress: Vec::with_capacity(experts),
            next: Vec::with_capacity(experts),
        }
    }

    /// Bytes that [`Picks::new`] takes.
    pub fn bytes(choices: u64, experts: u64) -> u64 {
        choices * 20 + experts * 32 + 8
    }

    /// Places of needed expert `i`: one for each row that chose it.
    pub fn places_of(&self, i: usize) -> Range<usize> {
        self.starts[i]..self.starts[i + 1]
    }

    /// Sorts the first `choices` entries of `chosen` (`top_k` a row) by expert, rows of one expert in order.
    pub fn sort(&mut self, experts: usize, choices: usize, top_k: usize) {
        let Picks { chosen, needed, starts, rows, places, next, progress, .. } = self;
        next.clear();
        next.resize(experts, 0);
        for (expert, _) in &chosen[..choices] {
            next[*expert as usize] += 1;
        }
        needed.clear();
        starts.clear();
        let mut place = 0;
        for (expert, count) in next.iter_mut().enumerate() {
            if *count > 0 {
                needed.push(expert as u32);
                starts.push(place as usize);
            }
            (*count, place) = (place, place + *count);
        }
        starts.push(place as usize);
        progress.clear();
        progress.resize(needed.len(), Progress::default());
        for (i, (expert, _)) in chosen[..choices].iter().enumerate() {
            let place = &mut next[*expert as usize];
            places[i] = *place;
            rows[*place as usize] = (i / top_k) as u32;
            *place += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_follow_experts_then_rows() {
        let mut picks = Picks::new(8, 10);
        for (slot, expert) in picks.chosen.iter_mut().zip([7, 2, /* */ 2, 9, /* */ 7, 0, /* */ 5, 5]) {
            slot.0 = expert;
        }
        picks.sort(10, 6, 2);
        assert_eq!(picks.needed, [0, 2, 7, 9]);
        assert_eq!(picks.starts, [0, 1, 3, 5, 6]);
        assert_eq!(picks.rows[..6], [2, 0, 1, 0, 2, 1]);
        assert_eq!(picks.places[..6], [3, 1, 2, 5, 4, 0]);
        picks.chosen[0].0 = 3;
        picks.sort(10, 1, 1);
        assert_eq!((&picks.needed[..], &picks.starts[..], picks.rows[0], picks.places[0]), (&[3][..], &[0, 1][..], 0, 0));
    }
}
