//! Loading the triggers that stay in memory, slice 0 of every group. In the file they lie between the slices that do not stay. Where those are short, neighbours are read whole
//! with one request, in the order of the file, through the window, which is empty then; where they are long, each slice is read by itself.

use forebay_format::{BundleId, FormatError};

use super::neurons::{Resident, neighbours};
use super::{Store, lost, to_usize};
use crate::error::{Error, Result};
use crate::kernels::Pool;

/// Bytes between two triggers that cost less than a request of their own: a drive that gives 1.5 GB/s and 30,000 requests a second takes as long for 50 KiB.
const GAP_BYTES: u64 = 64 << 10;

impl Store {
    /// Reads the triggers that stay.
    pub(super) fn load_triggers(&mut self, pool: &Pool) -> Result<()> {
        if self.neurons.resident != Resident::Triggers {
            return Ok(());
        }
        (0..self.pack.index.layers()).try_for_each(|layer| {
            let Some((groups, first_slice)) = self.neurons.trigger_slices(layer) else { return Ok(()) };
            // All groups of a layer are alike but for the last, which is not longer.
            let length = neighbours(&self.pack, layer, 0..groups, 1)?.0.length;
            let fits = self.neurons.window.bytes(0).is_some_and(|room| room.len() as u64 >= length);
            if fits && length - first_slice as u64 <= GAP_BYTES {
                self.read_triggers_whole(layer, groups, pool)
            } else {
                self.read_triggers_alone(layer, groups, first_slice, pool)
            }
        })
    }

    /// Reads the triggers of a layer by runs of whole groups.
    fn read_triggers_whole(&mut self, layer: u32, groups: u32, pool: &Pool) -> Result<()> {
        let room = self.neurons.window.bytes(0).map_or(0, <[u8]>::len);
        let most = self.io.pace.request.min(room) as u64;
        let (mut group, mut at) = (0, 0);
        while group < groups {
            let (record, count) = neighbours(&self.pack, layer, group..groups, most)?;
            let bytes = record.length * u64::from(count);
            let end = to_usize(bytes).map(|bytes| at + bytes).map_err(|error| self.format(error))?;
            if end > room {
                self.take_in_all(pool, |store, arrival| store.neurons.keep_triggers(arrival))?;
                at = 0;
                continue;
            }
            let read = self.io.read_groups(&mut self.neurons.window, (0, at), record, count, 0..bytes);
            read.ok_or_else(|| lost(&self.pack, BundleId::neurons(layer, group)))?;
            (at, group) = (end, group + count);
        }
        self.take_in_all(pool, |store, arrival| store.neurons.keep_triggers(arrival))
    }

    /// Reads the triggers of a layer slice by slice, to where they stay.
    fn read_triggers_alone(&mut self, layer: u32, groups: u32, first_slice: usize, pool: &Pool) -> Result<()> {
        for group in 0..groups {
            let (record, _) = neighbours(&self.pack, layer, group..groups, 1)?;
            let slice = self.pack.index.layout(record).slices.first().copied().unwrap_or(0);
            let place = (layer as usize, first_slice * group as usize);
            let read = self.io.read_groups(&mut self.neurons.triggers, place, record, 1, 0..slice);
            read.ok_or_else(|| lost(&self.pack, record.id))?;
        }
        self.take_in_all(pool, |store, arrival| {
            store.neurons.triggers.restore(arrival.lease);
            arrival.result
        })
    }

    fn format(&self, error: FormatError) -> Error {
        Error::Format { file: self.pack.path.clone(), error }
    }
}
