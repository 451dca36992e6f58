//! Pieces that wait their turn. How much is with the drive at once is a number ([`Lineup::set_pace`]), and who goes next is decided as late as
//! possible: what somebody waits for overtakes guesses until the moment when the drive gets them.

use std::collections::VecDeque;

use super::{DEPTH, Piece, Urgency};

/// With fewer pieces of guesses waiting, guesses get half of the pace, so that what somebody waits for stands behind less: with 1.8 MB in flight instead of 3.5 a token of the 35B-A3B
/// shape at 8 GiB, where one or two experts wait, spent 7 to 9 ms waiting instead of 9 to 12. Where more wait the drive is what is short, and gets what it needs.
const MANY: usize = 3;

/// See the module's text.
pub struct Lineup {
    /// By urgency, each oldest first.
    lists: [VecDeque<Piece>; 3],
    /// Bytes with the drive.
    in_flight: usize,
    /// Most bytes with the drive; one piece may always go.
    pace: usize,
}

impl Default for Lineup {
    /// Nothing waits, and everything may go at once.
    fn default() -> Lineup {
        Lineup { lists: std::array::from_fn(|_| VecDeque::with_capacity(DEPTH)), in_flight: 0, pace: usize::MAX }
    }
}

impl Lineup {
    /// At most `bytes` are with the drive at once from here on.
    pub fn set_pace(&mut self, bytes: usize) {
        self.pace = bytes;
    }

    /// Puts pieces at the end of their lists.
    pub fn push(&mut self, pieces: &[Piece]) {
        for &piece in pieces {
            self.list(piece.urgency).push_back(piece);
        }
    }

    fn list(&mut self, urgency: Urgency) -> &mut VecDeque<Piece> {
        &mut self.lists[match urgency {
            Urgency::Demand => 0,
            Urgency::Stream => 1,
            Urgency::Ahead => 2,
        }]
    }

    /// A piece waits and may go now.
    pub fn may_go(&self) -> bool {
        let next = self.lists.iter().find_map(|list| list.front().map(|piece| (piece, list.len())));
        next.is_some_and(|(piece, waiting)| {
            let room = if piece.urgency == Urgency::Ahead && waiting < MANY { self.pace / 2 } else { self.pace };
            self.in_flight == 0 || self.in_flight.saturating_add(piece.length) <= room
        })
    }

    /// The piece that goes to the drive now, if one may.
    pub fn send(&mut self) -> Option<Piece> {
        if !self.may_go() {
            return None;
        }
        let piece = self.lists.iter_mut().find_map(VecDeque::pop_front)?;
        self.in_flight += piece.length;
        Some(piece)
    }

    /// A piece of `length` bytes is back from the drive.
    pub fn landed(&mut self, length: usize) {
        self.in_flight -= length;
    }

    /// Takes back a piece that has not gone to the drive yet. False if there is none with this tag.
    pub fn recall(&mut self, tag: usize) -> bool {
        self.lists.iter_mut().any(|list| match list.iter().position(|p| p.tag == tag) {
            Some(at) => list.remove(at).is_some(),
            None => false,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(tag: usize, urgency: Urgency) -> Piece {
        Piece { tag, offset: 0, target: std::ptr::null_mut(), length: 10, urgency }
    }

    #[test]
    fn the_urgent_go_first_and_the_pace_holds() {
        let mut lineup = Lineup::default();
        lineup.set_pace(25);
        lineup.push(&[piece(1, Urgency::Ahead), piece(2, Urgency::Stream), piece(3, Urgency::Demand), piece(4, Urgency::Demand)]);
        assert_eq!([lineup.send().unwrap().tag, lineup.send().unwrap().tag], [3, 4]);
        assert!(lineup.send().is_none() && !lineup.may_go());
        lineup.landed(10);
        lineup.push(&[piece(5, Urgency::Demand)]);
        assert_eq!(lineup.send().unwrap().tag, 5);
        lineup.landed(10);
        assert_eq!(lineup.send().unwrap().tag, 2);
        assert!(lineup.recall(1) && !lineup.recall(1) && !lineup.recall(2));
        lineup.landed(10);
        lineup.landed(10);
        assert!(lineup.send().is_none());
    }

    #[test]
    fn a_few_guesses_leave_room() {
        let mut lineup = Lineup::default();
        lineup.set_pace(20);
        lineup.push(&[piece(1, Urgency::Ahead), piece(2, Urgency::Ahead)]);
        assert!(lineup.send().is_some() && lineup.send().is_none());
        lineup.push(&[piece(3, Urgency::Ahead), piece(4, Urgency::Ahead)]);
        assert!(lineup.send().is_some() && lineup.send().is_none());
        lineup.push(&[piece(5, Urgency::Demand)]);
        lineup.landed(10);
        assert_eq!(lineup.send().unwrap().tag, 5);
    }

    #[test]
    fn one_piece_may_always_go() {
        let mut lineup = Lineup::default();
        lineup.set_pace(0);
        lineup.push(&[piece(1, Urgency::Ahead), piece(2, Urgency::Ahead)]);
        assert!(lineup.send().is_some() && lineup.send().is_none());
    }
}
