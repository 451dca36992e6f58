//! The budget: a limit on everything, and what is left for the window. Pure; printed as it is.
//!
//! Counted is all that the process holds, page cache of its own files included, as a control group counts it.

use forebay_format::model::Ffn;
use forebay_format::{Index, Kind, Manifest, Superblock};

use crate::error::{Error, Result};
use crate::io::{DEPTH, PIECE_BYTES};
use crate::memory::show_bytes;
use crate::trunk::TrunkMap;
use crate::window::arena::SPAN_ALIGNMENT;

const MIB: u64 = 1 << 20;
/// The program itself: pages of the binary and libc, allocator, stacks, rings, kernel memory of a handful of threads.
const PROCESS_BYTES: u64 = 24 * MIB;
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
}

/// Peak memory of a tokenizer built from `json_bytes` of `tokenizer.json`.
pub fn tokenizer_bytes(json_bytes: usize) -> u64 {
    json_bytes as u64 * 16
}

/// Who gets what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The limit on everything.
    pub limit: u64,
    /// The program, index and manifest, read buffers.
    pub overhead: u64,
    /// Trunk.
    pub trunk: u64,
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
    /// Experts of the model; more slots than that are never made.
    pub experts: u32,
    /// Slots below which nothing runs: the working set of one token in a layer, and of one layer ahead.
    pub floor_slots: u32,
    /// Smallest limit that works, in whole MiB.
    pub floor: u64,
}

impl MemoryPlan {
    /// Divides `limit`. The window gets what the rest leaves, up to all experts.
    ///
    /// Errors: [`Error::Budget`] with the breakdown and the smallest limit that works, if the window would be smaller than its floor.
    pub fn new(manifest: &Manifest, index: &Index, superblock: &Superblock, needs: &Needs, limit: u64) -> Result<MemoryPlan> {
        let experts = || index.records().iter().filter(|r| r.id.kind == Kind::Expert);
        let count = u32::try_from(experts().count()).unwrap_or(u32::MAX);
        let top_k = manifest.spec.layers.iter().filter_map(|l| if let Ffn::Routed(r) = &l.ffn { Some(r.top_k) } else { None }).max();
        let trunk =
            TrunkMap::bundles(manifest).filter_map(|id| index.get(id).ok()).map(|r| r.length.next_multiple_of(SPAN_ALIGNMENT as u64)).sum();
        // While the manifest is parsed its stored bytes, its JSON and its fields are there at once; afterwards the fields.
        let (stored, raw) = (superblock.manifest.stored, superblock.manifest.raw);
        let base = PROCESS_BYTES + superblock.index.stored.saturating_mul(INDEX_FACTOR) + (DEPTH * PIECE_BYTES) as u64 / 4;
        let startup = base.saturating_add(stored).saturating_add(raw.saturating_mul(2));
        let mut plan = MemoryPlan {
            limit,
            overhead: base.saturating_add(raw),
            trunk,
            kv: needs.kv,
            state: needs.state,
            scratch: needs.scratch,
            tokenizer: needs.tokenizer,
            margin: (limit / MARGIN_SHARE).max(MARGIN_BYTES),
            slot_bytes: experts().map(|r| r.length).max().unwrap_or(0).next_multiple_of(SPAN_ALIGNMENT as u64),
            slots: 0,
            experts: count,
            floor_slots: top_k.unwrap_or(0).saturating_mul(2).min(count),
            floor: 0,
        };
        let least = plan.fixed().saturating_add(plan.slot_bytes.saturating_mul(plan.floor_slots as u64)).max(startup);
        plan.floor = smallest_limit(least);
        if limit < plan.floor {
            return Err(Error::Budget(plan.refusal()));
        }
        let room = limit.saturating_sub(plan.margin).saturating_sub(plan.fixed());
        plan.slots = room.checked_div(plan.slot_bytes).map_or(0, |n| n.min(count as u64) as u32);
        Ok(plan)
    }

    /// Everything but window and margin.
    fn fixed(&self) -> u64 {
        [self.overhead, self.trunk, self.kv, self.state, self.scratch, self.tokenizer].iter().fold(0, |a, &b| a.saturating_add(b))
    }

    /// Bytes of the window.
    pub fn window(&self) -> u64 {
        self.slot_bytes.saturating_mul(self.slots as u64)
    }

    /// A table for people.
    pub fn breakdown(&self) -> String {
        self.table(self.slots)
    }

    fn table(&self, slots: u32) -> String {
        let window = format!("{slots} of {} experts, {} each", self.experts, show_bytes(self.slot_bytes));
        let rows = [
            ("trunk", self.trunk, "what every token needs"),
            ("window", self.slot_bytes.saturating_mul(slots as u64), window.as_str()),
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

    fn refusal(&self) -> String {
        format!(
            "a limit of {} is too low. At least this is needed:\n{}\nThe smallest limit that works is --ram {}M{}.",
            show_bytes(self.limit),
            self.table(self.floor_slots),
            self.floor / MIB,
            if self.kv > self.slot_bytes { " (less with a shorter context, -c)" } else { "" },
        )
    }
}

/// The smallest limit, in whole MiB, that leaves `needed` after its margin.
fn smallest_limit(needed: u64) -> u64 {
    let by_share = needed.saturating_add(needed.div_ceil(MARGIN_SHARE - 1)).saturating_add(1);
    let limit = by_share.max(needed.saturating_add(MARGIN_BYTES));
    limit.checked_next_multiple_of(MIB).unwrap_or(u64::MAX)
}
