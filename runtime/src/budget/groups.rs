//! Neuron groups in the budget: what of them must stay, and how large a place in the window is.

use forebay_format::{Index, Kind, Manifest};

use super::MemoryPlan;
use crate::store::Resident;
use crate::window::arena::SPAN_ALIGNMENT;
use crate::window::recent::Recent;
use forebay_format::model::Role;

/// The neuron groups of a pack; all zero if it has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Groups {
    /// Bytes of the triggers that stay.
    triggers: u64,
    /// Groups of all layers, and of the layer that has most: a prompt may want all of those.
    count: u32,
    layer: u32,
    slot_bytes: u64,
    sketch: u64,
}

impl Groups {
    pub fn new(manifest: &Manifest, index: &Index, resident: Resident) -> Groups {
        let mut groups = Groups::default();
        let aligned = |bytes: u64| bytes.next_multiple_of(SPAN_ALIGNMENT as u64);
        for record in index.records().iter().filter(|r| r.id.kind == Kind::NeuronGroup) {
            let first = index.layout(record).slices.first().copied().unwrap_or(0);
            let in_window = match resident {
                Resident::Triggers => record.length.saturating_sub(first),
                Resident::Nothing => record.length,
            };
            groups.count = groups.count.saturating_add(1);
            groups.layer = groups.layer.max(record.id.ordinal.saturating_add(1));
            groups.slot_bytes = groups.slot_bytes.max(aligned(in_window));
            if resident == Resident::Triggers {
                groups.triggers = groups.triggers.saturating_add(aligned(first));
            }
        }
        let sketches = manifest.trunk.iter().flatten().filter(|p| p.role == Role::NeuronSketch);
        let bytes = sketches.filter_map(|p| (p.qtype.row_bytes(p.cols as usize)? as u64).checked_mul(p.rows as u64));
        groups.sketch = bytes.fold(0, u64::saturating_add);
        groups
    }

    /// Bytes of the window's books.
    pub fn books(&self) -> u64 {
        Recent::bytes(self.count as u64, self.count as u64)
    }

    /// Writes into `plan` what does not depend on the limit.
    pub fn place(&self, resident: Resident, plan: &mut MemoryPlan) {
        plan.resident = resident;
        plan.triggers = self.triggers;
        plan.sketch = self.sketch;
        plan.groups = self.count;
        plan.group_slot_bytes = self.slot_bytes;
        plan.floor_group_slots = self.layer;
    }
}
