//! Neuron groups: where the rows of a group's neurons are in its bundle. Pure arithmetic on sizes that [`GroupShape::new`] has checked.
//!
//! A bundle has two slices. Slice 0 holds the rows that decide whether a neuron fires, the *trigger*: gate rows, or up rows where there is no gate.
//! Slice 1 holds the rest: up rows if there is a gate, then the group's part of down.

use crate::error::FormatError;
use crate::layout::manifest::{NeuronDown, NeuronPlace};
use crate::model::GatedFfn;
use crate::quant::QuantType;
use crate::validate_pack::TENSOR_ALIGNMENT;
use std::ops::Range;

/// No bundle of neurons is longer: one is read, checked and moved as a whole.
pub const MAX_GROUP_BYTES: u64 = 8 << 20;

/// Sizes of the groups of one layer. All products of sizes fit 64 bits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupShape {
    /// Neurons of the layer.
    pub inner: u32,
    /// Width of the residual stream.
    pub hidden: u32,
    /// Neurons of a group; the last one may have fewer.
    pub group: u32,
    /// Type of the trigger rows (`hidden` values).
    pub trigger: QuantType,
    /// Bytes of a trigger row.
    pub trigger_row: u64,
    /// Type of the up rows in slice 1 (`hidden` values); `None` without a gate, where they are the trigger.
    pub up: Option<QuantType>,
    /// Bytes of an up row in slice 1; 0 without a gate.
    pub up_row: u64,
    /// Type of down.
    pub down: QuantType,
    /// How down is stored.
    pub down_order: NeuronDown,
    /// Start of the group's part of down in slice 1.
    pub down_offset: u64,
}

impl GroupShape {
    /// The shape of a layer's groups: `ffn` and `hidden` say what they hold, `place` how. Fails if the network has no neurons that are exactly zero, if types and
    /// order of down do not go together, if a group cuts a quant block, or if the parts overlap.
    pub fn new(place: &NeuronPlace, ffn: &GatedFfn, hidden: u32) -> Result<GroupShape, FormatError> {
        let bad = |why: String| FormatError::invalid("neuron groups", why);
        if !ffn.activation.is_sparse() {
            return Err(bad("the activation is never exactly zero, so no neuron can be left out".into()));
        }
        if place.group == 0 || place.group > ffn.inner {
            return Err(bad(format!("groups of {} of {} neurons", place.group, ffn.inner)));
        }
        let row = |qtype: QuantType, part: &str, cols: u32| {
            let bytes = qtype.row_bytes(cols as usize).filter(|&b| b > 0).map(|b| b as u64);
            bytes.ok_or_else(|| bad(format!("{part} rows of {cols} values are not whole {} blocks", qtype.name())))
        };
        let (trigger, up) = match (place.gate, ffn.ungated) {
            (Some(gate), false) => (gate, Some(place.up)),
            (None, true) => (place.up, None),
            _ => return Err(bad("place and spec disagree on whether there is a gate".into())),
        };
        match place.down_order {
            NeuronDown::Transposed if !place.down.is_float() => {
                return Err(bad(format!("down in {} cannot be transposed: a column has no bytes of its own", place.down.name())));
            }
            NeuronDown::Blocks if place.down.is_float() => {
                return Err(bad(format!("down in {} is stored transposed, not in blocks", place.down.name())));
            }
            NeuronDown::Blocks if !(place.group as usize).is_multiple_of(place.down.block_len()) => {
                let (name, len) = (place.down.name(), place.down.block_len());
                return Err(bad(format!("groups of {} neurons cut blocks of down: {name} has {len} values in a block", place.group)));
            }
            NeuronDown::Transposed | NeuronDown::Blocks => {}
        }
        row(place.down, "down", ffn.inner)?;
        row(place.down, "down", if place.down_order == NeuronDown::Transposed { hidden } else { place.group })?;
        let shape = GroupShape {
            inner: ffn.inner,
            hidden,
            group: place.group,
            trigger,
            trigger_row: row(trigger, "trigger", hidden)?,
            up,
            up_row: up.map_or(Ok(0), |q| row(q, "up", hidden))?,
            down: place.down,
            down_order: place.down_order,
            down_offset: place.down_offset,
        };
        // Rows and neurons are below 2^32 and a row of 2^32 values is below 2^35 bytes: only products can overflow.
        let used = shape.checked_used().filter(|[first, second]| *first <= MAX_GROUP_BYTES && *second <= MAX_GROUP_BYTES - first);
        if used.is_none() {
            return Err(bad(format!("a group of {} neurons is longer than {MAX_GROUP_BYTES} bytes", place.group)));
        }
        let rows = shape.up_row * shape.group as u64;
        if !place.down_offset.is_multiple_of(TENSOR_ALIGNMENT) || place.down_offset < rows || (up.is_none() && place.down_offset != 0) {
            return Err(bad(format!("down at {} of slice 1, behind {rows} bytes of up rows", place.down_offset)));
        }
        Ok(shape)
    }

    fn checked_used(&self) -> Option<[u64; 2]> {
        let first = self.trigger_row.checked_mul(self.group as u64)?;
        self.up_row.checked_mul(self.group as u64)?;
        let down = self.down_row(self.group).checked_mul(self.down_rows(self.group) as u64)?;
        Some([first, self.down_offset.checked_add(down)?])
    }

    /// Number of groups.
    pub fn groups(&self) -> u32 {
        self.inner.div_ceil(self.group)
    }

    /// Neurons of a group; empty beyond the last.
    pub fn neurons(&self, ordinal: u32) -> Range<u32> {
        let first = ordinal.saturating_mul(self.group).min(self.inner);
        first..first.saturating_add(self.group).min(self.inner)
    }

    /// Rows of down that a group of `neurons` has: one a neuron if transposed, else one for each of `hidden`.
    pub fn down_rows(&self, neurons: u32) -> u32 {
        match self.down_order {
            NeuronDown::Transposed => neurons,
            NeuronDown::Blocks => self.hidden,
        }
    }

    /// Bytes of such a row: `hidden` values, or the blocks of `neurons` values.
    pub fn down_row(&self, neurons: u32) -> u64 {
        let values = match self.down_order {
            NeuronDown::Transposed => self.hidden,
            NeuronDown::Blocks => neurons,
        };
        // `new` has seen that whole rows and groups are whole blocks, so that what is left for the last group is too.
        self.down.row_bytes(values as usize).map_or(0, |b| b as u64)
    }

    /// Bytes of the two slices of a group of `neurons`, without padding.
    pub fn used(&self, neurons: u32) -> [u64; 2] {
        let down = self.down_row(neurons) * self.down_rows(neurons) as u64;
        [self.trigger_row * neurons as u64, self.down_offset + down]
    }

    /// Puts a group's part of down (from [`GroupShape::down_offset`] on) back into the matrix: `down` is all of it, `[hidden, inner]` row after row.
    /// `None` if a length does not fit.
    pub fn restore_down(&self, ordinal: u32, part: &[u8], down: &mut [u8]) -> Option<()> {
        let neurons = self.neurons(ordinal);
        let count = neurons.end - neurons.start;
        let whole = self.down.row_bytes(self.inner as usize)?;
        let first = self.down.row_bytes(neurons.start as usize)?;
        let length = self.down.row_bytes(count as usize)?;
        let size = self.down.block_bytes();
        let stored = self.down_row(count) as usize;
        let part = part.get(..stored.checked_mul(self.down_rows(count) as usize)?)?;
        for (h, row) in down.chunks_exact_mut(whole).enumerate() {
            let to = row.get_mut(first..first + length)?;
            match self.down_order {
                NeuronDown::Blocks => to.copy_from_slice(part.get(h * stored..(h + 1) * stored)?),
                NeuronDown::Transposed => {
                    for (value, column) in to.chunks_exact_mut(size).zip(part.chunks_exact(stored)) {
                        value.copy_from_slice(column.get(h * size..(h + 1) * size)?);
                    }
                }
            }
        }
        Some(())
    }
}
