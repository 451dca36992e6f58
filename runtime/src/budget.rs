//! The budget: a limit on everything, and what is left for the window. Pure; printed as it is.
//!
//! Counted is all that the process holds, page cache of its own files included, as a control group counts it.

use forebay_format::model::Ffn;
use forebay_format::{Index, Kind, Manifest, Superblock};

use crate::error::{Error, Result};
use crate::io::{PIECE_BYTES, READERS};
use crate::memory::show_bytes;
use crate::window::arena::SPAN_ALIGNMENT;

mod groups;
mod trunk;
use crate::store::Resident;
use groups::Groups;
use trunk::{Runs, Share};

const MIB: u64 = 1 << 20;
/// The program itself: pages of the binary and libc, allocator, stacks, rings, kernel memory of a handful of threads. Measured: 4 MB at start, 7.5 MB
/// beside the arenas while reading with 16 reader threads, most of it pages of the binary; a larger binary and a compute pool double that.
const PROCESS_BYTES: u64 = 16 * MIB;
/// Page cache that reads through it hold at once: a piece for each reader thread. (Direct reads need none; which of the two is not known here.)
const READ_BYTES: u64 = READERS as u64 * PIECE_BYTES as u64;
/// Slots for guesses: two layers of most models.
const STAGING: u32 = 16;
/// See [`tokenizer_bytes`].
const TOKENIZER_BYTES: u64 = 4 * MIB;
/// See [`tokenizer_bytes`].
const TOKENIZER_BYTES_PER_QUOTE: u64 = 190;
/// Least distance kept from the limit; the other bound is 2% of it, which covers page tables (0.2% of the arenas without huge pages) and
/// what allocators lose. A cache sized to the last byte of RAM makes the kernel reclaim the program's own pages.
const MARGIN_BYTES: u64 = 16 * MIB;
/// See [`MARGIN_BYTES`].
const MARGIN_SHARE: u64 = 50;
/// A decoded record, layout or sum takes at most this many times its bytes in the file.
const INDEX_FACTOR: u64 = 2;

/// Memory that the forward pass needs beside weights, computed from the spec.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Keys and values of the whole context.
    pub kv: u64,
    /// Recurrent state.
    pub state: u64,
    /// Activations and logits of the largest step.
    pub scratch: u64,
    /// Tokenizer, see [`tokenizer_bytes`].
    pub tokenizer: u64,
    /// What of neuron groups stays in memory.
    pub resident: Resident,
}

/// Peak memory of a tokenizer built from a `tokenizer.json`, which holds about one string for each token and two for each merge. Measured as the
/// growth of the resident set while loading: 178 to 187 bytes per quotation mark for vocabularies of 32000, 50257 and 151936 tokens (57, 54 and 160 MiB),
/// of which three quarters stay; 12 MB for one of 8128 tokens, whose constant part is 3.3 MB.
pub fn tokenizer_bytes(json: &str) -> u64 {
    let quotes = json.bytes().filter(|&b| b == b'"').count() as u64;
    TOKENIZER_BYTES + quotes * TOKENIZER_BYTES_PER_QUOTE
}

/// Who gets what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The limit on everything.
    pub limit: u64,
    /// The program, index and manifest, read buffers.
    pub overhead: u64,
    /// What of the trunk stays in memory.
    pub trunk: u64,
    /// Layers whose runs are read anew for each step, ascending, because the trunk does not fit.
    pub streamed: Vec<u32>,
    /// Bytes of those runs: what a step reads.
    pub streamed_bytes: u64,
    /// Runs of those layers that are in memory at a time: one that is computed, the others on their way.
    pub ring_spans: u32,
    /// Bytes of the longest of those runs.
    pub ring_span_bytes: u64,
    /// Rows of the embedding read at a time; 0: all of the embedding stays in memory.
    pub row_slots: u32,
    /// Bytes read for a row: the chunks that hold it.
    pub row_slot_bytes: u64,
    /// Keys and values.
    pub kv: u64,
    /// Recurrent state.
    pub state: u64,
    /// Activations and logits.
    pub scratch: u64,
    /// Tokenizer.
    pub tokenizer: u64,
    /// Kept free.
    pub margin: u64,
    /// Bytes of a slot: the longest expert.
    pub slot_bytes: u64,
    /// Slots of the window.
    pub slots: u32,
    /// Slots beside them for experts that are read on a guess.
    pub staging: u32,
    /// Experts of the model; more slots than that are never made.
    pub experts: u32,
    /// Slots below which nothing runs: the working set of one token in a layer, and of one layer ahead.
    pub floor_slots: u32,
    /// What of neuron groups stays in memory.
    pub resident: Resident,
    /// Bytes of the triggers of neuron groups, if they stay.
    pub triggers: u64,
    /// Bytes of the sketches of neuron groups; `trunk` counts them.
    pub sketch: u64,
    /// Bytes of a slot for a neuron group, of the whole group or of what the triggers leave.
    pub group_slot_bytes: u64,
    /// Slots for neuron groups.
    pub group_slots: u32,
    /// Neuron groups of the model.
    pub groups: u32,
    /// Slots for neuron groups below which nothing runs: all groups of a layer, which a prompt may want.
    pub floor_group_slots: u32,
    /// Smallest limit that works, in whole MiB.
    pub floor: u64,
    /// Smallest limit with room for the triggers, where they do not fit and every neuron is read because nobody asked for anything else.
    pub triggers_floor: Option<u64>,
}

impl MemoryPlan {
    /// Divides `limit`. What every token needs stays in memory if it can, and the window gets what the rest leaves, up to all experts. Where not everything
    /// fits, rows of the embedding are read as tokens come; where even that leaves less than the window's floor, layers pass through a ring: as few of
    /// them as possible, evenly spread among those that stay, so that the disk reads on while those are computed.
    ///
    /// Errors: [`Error::Budget`] with the breakdown and the smallest limit that works, if the window would be smaller than its floor.
    pub fn new(manifest: &Manifest, index: &Index, superblock: &Superblock, needs: &Needs, limit: u64) -> Result<MemoryPlan> {
        let experts = || index.records().iter().filter(|r| r.id.kind == Kind::Expert);
        let count = u32::try_from(experts().count()).unwrap_or(u32::MAX);
        let top_k = manifest.spec.layers.iter().filter_map(|l| if let Ffn::Routed(r) = &l.ffn { Some(r.top_k) } else { None }).max();
        let runs = Runs::new(manifest, index, superblock);
        let groups = Groups::new(manifest, index, needs.resident);
        // While the manifest is parsed its stored bytes, its JSON and its fields are there at once; afterwards the fields.
        let (stored, raw) = (superblock.manifest.stored, superblock.manifest.raw);
        let base = (PROCESS_BYTES + READ_BYTES)
            .saturating_add(superblock.index.stored.saturating_mul(INDEX_FACTOR))
            .saturating_add(groups.books());
        let startup = base.saturating_add(stored).saturating_add(raw.saturating_mul(2));
        let mut plan = MemoryPlan {
            limit,
            overhead: base.saturating_add(raw),
            trunk: 0,
            streamed: Vec::new(),
            streamed_bytes: 0,
            ring_spans: 0,
            ring_span_bytes: 0,
            row_slots: 0,
            row_slot_bytes: 0,
            kv: needs.kv,
            state: needs.state,
            scratch: needs.scratch,
            tokenizer: needs.tokenizer,
            margin: (limit / MARGIN_SHARE).max(MARGIN_BYTES),
            slot_bytes: experts().map(|r| r.length).max().unwrap_or(0).next_multiple_of(SPAN_ALIGNMENT as u64),
            slots: 0,
            staging: 0,
            experts: count,
            floor_slots: top_k.unwrap_or(0).saturating_mul(2).min(count),
            resident: needs.resident,
            triggers: 0,
            sketch: 0,
            group_slot_bytes: 0,
            group_slots: 0,
            groups: 0,
            floor_group_slots: 0,
            floor: 0,
            triggers_floor: None,
        };
        groups.place(needs.resident, &mut plan);
        let least = |plan: &MemoryPlan, slots: u32, group_slots: u32| {
            let groups = plan.group_slot_bytes.saturating_mul(group_slots as u64);
            let window = plan.slot_bytes.saturating_mul(slots as u64).saturating_add(groups);
            smallest_limit(plan.fixed().saturating_add(window).max(startup))
        };
        plan.take(&runs, &Share::ALL);
        let all = least(&plan, count, plan.groups);
        let shares = runs.shares();
        let floors = shares.iter().map(|share| {
            plan.take(&runs, share);
            least(&plan, plan.floor_slots, plan.floor_group_slots)
        });
        let floors: Vec<u64> = floors.collect();
        plan.floor = floors.iter().copied().min().unwrap_or(u64::MAX);
        let fits = |most: u64| floors.iter().position(|&floor| floor <= most).and_then(|i| shares.get(i));
        let share = if all <= limit { Some(&Share::ALL) } else { fits(limit.max(plan.floor)) };
        plan.take(&runs, share.unwrap_or(&Share::ALL));
        if limit < plan.floor {
            let whole = Needs { resident: Resident::Nothing, ..*needs };
            let other = (plan.triggers > 0).then(|| MemoryPlan::new(manifest, index, superblock, &whole, u64::MAX)).and_then(Result::ok);
            return Err(Error::Budget(plan.refusal(other.map(|other| other.floor))));
        }
        let room = limit.saturating_sub(plan.margin).saturating_sub(plan.fixed());
        // Beside experts, which few models have as well, groups get what experts leave them at their floor, up to half.
        let floor = plan.floor_group_slots as u64 * plan.group_slot_bytes;
        let share =
            if count == 0 { room } else { (room / 2).max(floor).min(room.saturating_sub(plan.slot_bytes * plan.floor_slots as u64)) };
        plan.group_slots = share.checked_div(plan.group_slot_bytes).map_or(0, |n| n.min(plan.groups as u64) as u32);
        let room = room.saturating_sub(plan.group_window());
        plan.slots = room.checked_div(plan.slot_bytes).map_or(0, |n| n.min(count as u64) as u32);
        if plan.slots < count {
            plan.staging = STAGING.min(plan.slots - plan.floor_slots);
            plan.slots -= plan.staging;
        }
        Ok(plan)
    }

    /// Everything but window and margin.
    fn fixed(&self) -> u64 {
        let parts = [self.overhead, self.trunk, self.triggers, self.ring(), self.rows(), self.kv, self.state, self.scratch, self.tokenizer];
        parts.iter().fold(0, |a, &b| a.saturating_add(b))
    }

    /// Bytes of the ring that streamed layers pass through.
    pub fn ring(&self) -> u64 {
        self.ring_span_bytes.saturating_mul(self.ring_spans as u64)
    }

    /// Bytes of the buffer for rows of the embedding.
    pub fn rows(&self) -> u64 {
        self.row_slot_bytes.saturating_mul(self.row_slots as u64)
    }

    /// A run of the trunk stays in memory. Runs are numbered in execution order: embedding, layers, head.
    pub(crate) fn holds_run(&self, run: usize) -> bool {
        match run.checked_sub(1) {
            None => self.row_slots == 0,
            Some(layer) => !self.streamed.iter().any(|&l| l as usize == layer),
        }
    }

    /// Gives the trunk its share.
    fn take(&mut self, runs: &Runs, share: &Share) {
        runs.place(share, self);
    }

    /// Bytes of the window, slots for guesses included.
    pub fn window(&self) -> u64 {
        self.slot_bytes.saturating_mul(self.slots as u64 + self.staging as u64)
    }

    /// Bytes of the window of neuron groups.
    pub fn group_window(&self) -> u64 {
        self.group_slot_bytes.saturating_mul(self.group_slots as u64)
    }

    /// A table for people.
    pub fn breakdown(&self) -> String {
        self.table(self.slots, self.staging, self.group_slots)
    }

    fn table(&self, slots: u32, staging: u32, group_slots: u32) -> String {
        let window = format!("{slots} of {} experts, {} each", self.experts, show_bytes(self.slot_bytes));
        let guesses = format!("{staging} experts read ahead");
        let stays = match self.streamed.len() {
            0 => "what every token needs".to_string(),
            n => format!("stays in memory; {n} layers, {}, are read for each step", show_bytes(self.streamed_bytes)),
        };
        let ring = format!("{} of those layers, {} each", self.ring_spans, show_bytes(self.ring_span_bytes));
        let neurons = format!("{group_slots} of {} neuron groups, {} each", self.groups, show_bytes(self.group_slot_bytes));
        let rows = [
            ("trunk", self.trunk.saturating_sub(self.sketch), stays.as_str()),
            ("sketch", self.sketch, "low-bit copies of the triggers, streamed where their layers are"),
            ("triggers", self.triggers, "rows that tell which neurons fire"),
            ("ring", self.ring(), ring.as_str()),
            ("embedding rows", self.rows(), "read as tokens come"),
            ("window", self.slot_bytes.saturating_mul(slots as u64), window.as_str()),
            ("neuron window", self.group_slot_bytes.saturating_mul(group_slots as u64), neurons.as_str()),
            ("read-ahead", self.slot_bytes.saturating_mul(staging as u64), guesses.as_str()),
            ("keys and values", self.kv, "grows with -c"),
            ("state", self.state, "recurrent layers"),
            ("scratch", self.scratch, "activations, logits"),
            ("tokenizer", self.tokenizer, ""),
            ("overhead", self.overhead, "program, index, read buffers"),
            ("margin", self.margin, "kept free"),
        ];
        let mut text = String::new();
        for (name, bytes, note) in rows.into_iter().filter(|&(_, bytes, _)| bytes > 0) {
            let note = if note.is_empty() { String::new() } else { format!("   {note}") };
            text += &format!("  {name:<16}{:>12}{note}\n", show_bytes(bytes));
        }
        text + &format!("  {:<16}{:>12}", "limit", show_bytes(self.limit))
    }

    /// `predicted`: the smallest limit without resident triggers.
    fn refusal(&self, predicted: Option<u64>) -> String {
        let predicted = predicted.map(|floor| {
            let mib = floor / MIB;
            format!(" With --sparsity predicted, which keeps no triggers in memory and is not exact, --ram {mib}M works; --sparsity off is exact there and reads every neuron.")
        });
        format!(
            "a limit of {} is too low. At least this is needed:\n{}\nThe smallest limit that works is --ram {}M{}.{}",
            show_bytes(self.limit),
            self.table(self.floor_slots, 0, self.floor_group_slots),
            self.floor / MIB,
            if self.kv > self.slot_bytes { " (less with a shorter context, -c)" } else { "" },
            predicted.unwrap_or_default(),
        )
    }
}

/// The smallest limit, in whole MiB, that leaves `needed` after its margin.
fn smallest_limit(needed: u64) -> u64 {
    let by_share = needed.saturating_add(needed.div_ceil(MARGIN_SHARE - 1));
    let limit = by_share.max(needed.saturating_add(MARGIN_BYTES));
    limit.checked_next_multiple_of(MIB).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pack::Pack;
    use crate::testing::TinyPack;
    use proptest::prelude::*;

    fn plan(pack: &Pack, needs: &Needs, limit: u64) -> Result<MemoryPlan> {
        MemoryPlan::new(&pack.manifest, &pack.index, &pack.superblock, needs, limit)
    }

    /// The limit that a refusal names.
    fn named(error: &Error) -> u64 {
        let text = error.to_string();
        let digits: String = text.split("--ram ").nth(1).unwrap().chars().take_while(char::is_ascii_digit).collect();
        digits.parse::<u64>().unwrap() * MIB
    }

    #[test]
    fn with_room_for_all_the_window_holds_all_and_no_more() {
        let plan = plan(&TinyPack::new().open(), &Needs::default(), 1 << 40).unwrap();
        assert_eq!((plan.slots, plan.experts, plan.floor_slots), (16, 16, 4));
        assert!(plan.slot_bytes > 0 && plan.slot_bytes.is_multiple_of(4096));
        assert!(plan.breakdown().contains("16 of 16 experts"), "{}", plan.breakdown());
    }

    #[test]
    fn a_tokenizer_costs_what_was_measured() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/models/q35-moe-45m/tokenizer.json");
        let shared = std::env::var("FOREBAY_SHARED").map(|s| s + "/models/q35-moe-45m/tokenizer.json");
        let Ok(json) = std::fs::read_to_string(shared.as_deref().unwrap_or(path)) else {
            drop(std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("SKIP: no {path}\n")));
            return;
        };
        let estimate = tokenizer_bytes(&json) as f64;
        assert!((1.0..1.2).contains(&(estimate / 12.04e6)), "{estimate}");
    }

    #[test]
    fn the_refusal_has_the_breakdown_and_a_limit_that_works() {
        let pack = TinyPack::new().open();
        let needs = Needs { kv: 100 * MIB, state: MIB, scratch: 7 * MIB, tokenizer: 3 * MIB, ..Needs::default() };
        let error = plan(&pack, &needs, 1 << 20).unwrap_err();
        assert_eq!(error.exit_code(), 5);
        let text = error.to_string();
        for part in
            ["trunk", "4 of 16 experts", "keys and values", "100.0 MiB", "state", "scratch", "7.0 MiB", "tokenizer", "overhead", "margin"]
        {
            assert!(text.contains(part), "{part} in {text}");
        }
        let smallest = named(&error);
        assert!(plan(&pack, &needs, smallest).unwrap().slots >= 4);
        assert_eq!(named(&plan(&pack, &needs, smallest - 1).unwrap_err()), smallest);
    }

    proptest! {
        /// For any needs and limit: the parts never exceed the limit less its margin, the floor is kept, and a refusal names the smallest limit in MiB.
        #[test]
        fn the_parts_fit_the_limit(kv in 0u64..1 << 36, state in 0u64..1 << 30, scratch in 0u64..1 << 30, tokenizer in 0u64..1 << 28, limit in 0u64..1 << 38, huge in any::<bool>()) {
            let pack = TinyPack::new().open();
            let needs = Needs { kv: if huge { u64::MAX - kv } else { kv }, state, scratch, tokenizer, ..Needs::default() };
            match plan(&pack, &needs, limit) {
                Ok(p) => {
                    let parts = p.overhead + p.trunk + p.ring() + p.rows() + p.kv + p.state + p.scratch + p.tokenizer + p.window();
                    prop_assert!(parts + p.margin <= limit && p.margin >= MARGIN_BYTES && p.margin >= limit / MARGIN_SHARE);
                    prop_assert!(p.slots >= p.floor_slots && p.slots <= p.experts && p.floor <= limit);
                }
                Err(e) if huge => prop_assert!(matches!(e, Error::Budget(_))),
                Err(e) => {
                    let smallest = named(&e);
                    prop_assert!(smallest > limit);
                    prop_assert!(plan(&pack, &needs, smallest).is_ok());
                    prop_assert!(plan(&pack, &needs, smallest - MIB).is_err());
                }
            }
        }
    }
}
