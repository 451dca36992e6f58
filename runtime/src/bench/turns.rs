//! Ways of sharing time between reading and computing, in turns within one run. Runs of one program differ by a sixth within an hour where the host of a virtual machine has other guests,
//! and steps of a schedule by less; ways that take turns every few tokens meet the same minutes, the same window and, within chance, the same misses.

use super::measure::{Feed, Phase, Watch};
use crate::engine::Engine;
use crate::error::Result;
use crate::store::Schedule;

/// Tokens of a turn: long enough that what the way before has left in flight is soon forgotten.
const TURN: usize = 4;

/// What a token is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Every expert is said to be in memory: computing alone.
    Computing,
    /// Reading and computing share time like this.
    Reading(Schedule),
    /// As the product does, but the sums of what is read are not checked.
    Unchecked,
}

impl Way {
    /// In the order of their turns.
    pub const ALL: [Way; 7] = [
        Way::Computing,
        Way::Reading(Schedule::Turns),
        Way::Reading(Schedule::Queued),
        Way::Reading(Schedule::Arrival),
        Way::Reading(Schedule::Slices),
        Way::Reading(Schedule::Ahead),
        Way::Unchecked,
    ];

    /// As it is spelled on the command line, where it is.
    pub fn name(self) -> &'static str {
        match self {
            Way::Computing => "computing",
            Way::Reading(Schedule::Turns) => "turns",
            Way::Reading(Schedule::Queued) => "queued",
            Way::Reading(Schedule::Arrival) => "arrival",
            Way::Reading(Schedule::Slices) => "slices",
            Way::Reading(Schedule::Ahead) => "ahead",
            Way::Unchecked => "unchecked",
        }
    }

    fn set(self, engine: &mut Engine) {
        engine.pretend_resident(self == Way::Computing);
        engine.check_sums(self != Way::Unchecked);
        engine.set_schedule(if let Way::Reading(schedule) = self { schedule } else { Schedule::Ahead });
    }
}

/// Decodes `tokens` one by one, in all ways in turn; what each took, as far as it had a turn. Logits mean nothing. The engine is left as the product has it.
///
/// # Errors
/// Those of [`Feed::run`].
pub fn in_turns(engine: &mut Engine, tokens: &[u32], watch: Watch<'_>) -> Result<Vec<(Way, Phase)>> {
    let mut found: Vec<(Way, Phase)> = Vec::new();
    let fed = tokens.chunks(TURN).zip(Way::ALL.into_iter().cycle()).try_for_each(|(part, way)| {
        way.set(engine);
        let phase = Feed::Decode.run(engine, part, &mut *watch)?;
        match found.iter_mut().find(|(w, _)| *w == way) {
            Some((_, so_far)) => so_far.merge(phase),
            None => found.push((way, phase)),
        }
        Ok(())
    });
    Way::Reading(Schedule::default()).set(engine);
    fed.map(|()| found)
}
