//! Products with a matrix whose columns lie as rows: the down matrix of a network that is stored neuron by neuron, so that the columns of neurons that do not
//! fire need not be there.
//!
//! The law asks for more than the same sum: the same bits as the matrix with its rows in place, as [`Kernels::matmul`] computes them. That product adds value `i` of a row to
//! running sum `i % 8`, in order, and then adds the 8 sums as a tree (`strip`). So here each lane is taken by itself: its columns in order, each added to the sums of a block of
//! outputs at once; lanes follow each other in the order in which the tree has the fewest sums waiting, which are four. A column whose factor is zero would add
//! zeros, and is left out.

use super::ops::TypeOps;
use super::strip::NARROW as LANES;
use super::{Kernels, Matrix, Pool};
use std::ops::Range;

/// Most outputs of a block: a kilobyte for each sum, and half of that for each column in 16 bits.
const BLOCK: usize = 256;
/// Activation rows that meet a column while it is decoded.
const GROUP: usize = 8;
/// Bits of a lane's number.
const LANE_BITS: u32 = LANES.trailing_zeros();
/// Sums that wait for their partners in the tree of all lanes, and the one in work.
const WAITING: usize = LANE_BITS as usize + 1;

/// Columns by the lane that they are added to. All memory is reserved in [`Lanes::new`].
#[derive(Debug)]
pub struct Lanes {
    /// Numbers of columns (as rows of the transposed matrix), lane after lane, ascending in each.
    order: Vec<u32>,
    /// Start of each lane in `order`, and the end.
    starts: [u32; LANES + 1],
}

impl Lanes {
    /// For at most `columns` columns.
    pub fn new(columns: usize) -> Lanes {
        Lanes { order: vec![0; columns], starts: [0; LANES + 1] }
    }

    /// Bytes that [`Lanes::new`] allocates.
    pub fn bytes(columns: u64) -> u64 {
        columns.saturating_mul(size_of::<u32>() as u64)
    }

    /// For columns with these places in the whole matrix, ascending.
    ///
    /// # Panics
    /// If there are more than was said.
    pub fn sort(&mut self, places: &[u32]) {
        assert!(places.len() <= self.order.len(), "{} columns, room for {}", places.len(), self.order.len());
        let lane = |place: u32| place as usize % LANES;
        self.starts = [0; LANES + 1];
        places.iter().for_each(|&p| self.starts[lane(p) + 1] += 1);
        (0..LANES).for_each(|l| self.starts[l + 1] += self.starts[l]);
        let mut next = self.starts;
        for (i, &place) in (0..).zip(places) {
            let at = &mut next[lane(place)];
            self.order[*at as usize] = i;
            *at += 1;
        }
    }

    fn of(&self, lane: usize) -> &[u32] {
        &self.order[self.starts[lane] as usize..self.starts[lane + 1] as usize]
    }
}

impl Default for Lanes {
    fn default() -> Self {
        Lanes::new(0)
    }
}

/// Sums of a block of outputs of some activation rows.
type Block<const G: usize> = [[f32; BLOCK]; G];

impl Kernels {
    /// `out[i][r] = sum over c of w[c][r] * a[i][c]`, summed as if `w` were the columns of a matrix with its rows in place, at the places that `lanes` was sorted
    /// for, and all its other columns met zeros. `a` is `[n, w.rows]`, `out` is `[n, w.cols]`; for float types of weights, of which the result is the bits of
    /// [`Kernels::matmul`].
    ///
    /// # Panics
    /// If sizes do not agree, or the weights are of another type.
    pub fn matmul_transposed(&self, pool: &Pool, w: &Matrix<'_>, lanes: &Lanes, a: &[f32], out: &mut [f32]) {
        let (columns, outputs) = (w.rows, w.cols);
        let n = out.len() / outputs.max(1);
        assert!(w.qtype.is_float(), "columns of {} cannot be taken one by one", w.qtype.name());
        assert_eq!(out.len(), n * outputs, "{n} x {outputs} results");
        assert_eq!(a.len(), n * columns, "{n} x {columns} activations");
        assert_eq!(lanes.starts[LANES] as usize, columns, "columns in lanes");
        let row_bytes = w.checked_row_bytes();
        let job = Transposed { w, lanes, a, row_bytes, of: (self.ops.of)(w.qtype), axpy: self.ops.axpy };
        // Blocks of outputs: enough of them for the threads, of whole vectors.
        let block = (outputs / (4 * pool.threads())).next_multiple_of(LANES).clamp(LANES, BLOCK);
        let (blocks, groups) = (outputs.div_ceil(block), n.div_ceil(GROUP));
        let results = Columns::new(out, outputs);
        pool.run(blocks * groups, &|chunk, _| {
            let (first, rows) = (chunk % blocks * block, chunk / blocks * GROUP);
            let range = first..(first + block).min(outputs);
            let rows = rows..(rows + GROUP).min(n);
            // SAFETY: a chunk is handed out once, and chunks differ in their rows or in their outputs.
            let put = |row: usize, values: &[f32]| unsafe { results.put(row, range.start, values) };
            match rows.len() {
                1 => job.block::<1>(rows, range.clone(), put),
                _ => job.block::<GROUP>(rows, range.clone(), put),
            }
        });
    }
}

/// A product, as the threads see it.
struct Transposed<'a> {
    w: &'a Matrix<'a>,
    lanes: &'a Lanes,
    a: &'a [f32],
    row_bytes: usize,
    of: &'static TypeOps,
    axpy: unsafe fn(f32, &[f32], &mut [f32]),
}

impl Transposed<'_> {
    /// The outputs `range` of the activation rows `rows`, at most `G`.
    fn block<const G: usize>(&self, rows: Range<usize>, range: Range<usize>, put: impl Fn(usize, &[f32])) {
        let mut waiting: [Block<G>; WAITING] = [[[0.0; BLOCK]; G]; WAITING];
        let (n, outputs) = (rows.len(), range.len());
        let mut count = 0;
        for turn in 0..LANES {
            // Lanes 0, 8, 4, 12, ...: whatever can be added to a neighbour of the tree follows it.
            let lane = turn.reverse_bits() >> (usize::BITS - LANE_BITS);
            let sums = &mut waiting[count];
            sums[..n].iter_mut().for_each(|s| s[..outputs].fill(0.0));
            self.lane(lane, &rows, &range, sums);
            count += 1;
            for _ in 0..turn.trailing_ones() {
                let (left, right) = waiting.split_at_mut(count - 1);
                for (left, right) in left[count - 2][..n].iter_mut().zip(&right[0]) {
                    left[..outputs].iter_mut().zip(right).for_each(|(l, r)| *l += r);
                }
                count -= 1;
            }
        }
        rows.zip(&waiting[0]).for_each(|(row, sums)| put(row, &sums[..outputs]));
    }

    /// Adds the columns of a lane.
    fn lane<const G: usize>(&self, lane: usize, rows: &Range<usize>, range: &Range<usize>, sums: &mut Block<G>) {
        let mut values = [0.0f32; BLOCK];
        let values = &mut values[..range.len()];
        let bytes = self.w.qtype.block_bytes();
        for &column in self.lanes.of(lane) {
            let column = column as usize;
            let factor = |row: usize| self.a[row * self.w.rows + column];
            if rows.clone().all(|row| factor(row) == 0.0) {
                continue;
            }
            let part = &self.w.row(column, self.row_bytes)[range.start * bytes..range.end * bytes];
            // SAFETY: the set runs on this machine; both slices have as many values.
            unsafe { (self.of.decode)(part, values) };
            for (row, sums) in rows.clone().zip(sums.iter_mut()) {
                let factor = factor(row);
                if factor != 0.0 {
                    // SAFETY: the set runs on this machine; lengths are equal.
                    unsafe { (self.axpy)(factor, values, &mut sums[..values.len()]) };
                }
            }
        }
    }
}

/// Where results go: threads write disjoint parts of rows.
struct Columns<'a> {
    first: *mut f32,
    len: usize,
    width: usize,
    lent: std::marker::PhantomData<&'a mut [f32]>,
}

// SAFETY: parts are written by one thread each (see `put`).
unsafe impl Sync for Columns<'_> {}

impl<'a> Columns<'a> {
    fn new(out: &'a mut [f32], width: usize) -> Self {
        Columns { first: out.as_mut_ptr(), len: out.len(), width, lent: std::marker::PhantomData }
    }

    /// # Safety
    /// No other thread writes or reads these values.
    unsafe fn put(&self, row: usize, start: usize, values: &[f32]) {
        let at = row * self.width + start;
        assert!(start + values.len() <= self.width && at + values.len() <= self.len);
        // SAFETY: inside the slice, as just checked; nobody else is there, says the caller.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(at), values.len()) }.copy_from_slice(values);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{ActivationMode, Activations, KernelSet};
    use crate::testing::Random;
    use forebay_format::QuantType;

    /// Bits of a value in a type whose columns can be taken one by one.
    fn encoded(qtype: QuantType, value: f32) -> Vec<u8> {
        match qtype {
            QuantType::F32 => value.to_le_bytes().to_vec(),
            QuantType::F16 => half::f16::from_f32(value).to_le_bytes().to_vec(),
            _ => half::bf16::from_f32(value).to_le_bytes().to_vec(),
        }
    }

    fn value(random: &mut Random) -> f32 {
        (random.below(20_001) as f32 - 10_000.0) / 7_000.0
    }

    #[test]
    fn the_bits_of_the_matrix_with_its_rows_in_place() {
        let sets = [KernelSet::Scalar, KernelSet::Avx2, KernelSet::Avx512, KernelSet::Neon];
        let mut random = Random(11);
        for k in sets.into_iter().filter_map(|s| Kernels::with_set(s, ActivationMode::Int8)) {
            for qtype in [QuantType::F32, QuantType::F16, QuantType::BF16] {
                for (inner, outputs, n, group, threads) in
                    [(64, 64, 1, 1, 1), (300, 40, 1, 4, 2), (1000, 700, 3, 8, 2), (96, 33, 9, 7, 3), (1, 1, 1, 1, 1), (513, 256, 17, 16, 2)]
                {
                    let pool = Pool::new(threads);
                    let weights: Vec<f32> = (0..inner * outputs).map(|_| value(&mut random)).collect();
                    let dense: Vec<u8> = weights.iter().flat_map(|&v| encoded(qtype, v)).collect();
                    let columns: Vec<Vec<u8>> =
                        (0..inner).map(|c| (0..outputs).flat_map(|r| encoded(qtype, weights[r * inner + c])).collect()).collect();
                    // Groups that nobody wants, and single zeros in the others.
                    let wanted: Vec<usize> = (0..inner.div_ceil(group)).filter(|_| random.below(3) > 0).collect();
                    let groups: Vec<Vec<u8>> = wanted.iter().map(|g| columns[g * group..((g + 1) * group).min(inner)].concat()).collect();
                    let places: Vec<u32> =
                        wanted.iter().flat_map(|g| (g * group..((g + 1) * group).min(inner)).map(|c| c as u32)).collect();
                    let mut full = vec![0.0f32; n * inner];
                    let mut sparse = vec![0.0f32; n * places.len()];
                    for row in 0..n {
                        for (i, &place) in places.iter().enumerate() {
                            let v = if random.below(3) == 0 { 0.0 } else { value(&mut random) };
                            (full[row * inner + place as usize], sparse[row * places.len() + i]) = (v, v);
                        }
                    }
                    let mut a = Activations::new(n, inner, k.mode());
                    a.load(&pool, &k, &full, n, inner, &[qtype]);
                    let mut want = vec![f32::NAN; n * outputs];
                    k.matmul(&pool, &Matrix::whole(qtype, outputs, inner, &dense), &a, &mut want);
                    let pieces: Vec<&[u8]> = groups.iter().map(Vec::as_slice).collect();
                    let w = Matrix::scattered(qtype, places.len(), outputs, group, &pieces);
                    let mut lanes = Lanes::new(inner);
                    lanes.sort(&places);
                    let mut have = vec![f32::NAN; n * outputs];
                    k.matmul_transposed(&pool, &w, &lanes, &sparse, &mut have);
                    let bits = |v: &[f32]| v.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    assert!(bits(&want) == bits(&have), "{} {} {inner} x {outputs}, {n} rows", k.name(), qtype.name());
                }
            }
        }
    }
}
