//! What this machine gives, by a measurement of about two seconds: kernels on the pack's main type, and the disk by depth.

use super::Work;
use crate::disk::{self, Cell, Order, Target};
use crate::error::Result;
use crate::kernels::{ActivationMode, Activations, Kernels, Matrix, Pool};
use forebay_format::QuantType;
use std::time::{Duration, Instant};

/// Values in a row of the measured matrix: whole blocks of every type.
const COLS: usize = 2048;
/// Bytes of the matrix: far more than caches hold.
const LARGE: usize = 96 << 20;
/// Bytes of the matrix for many rows.
const SMALL: usize = 4 << 20;
/// Rows of activations of a prompt.
const ROWS: usize = 64;
/// Time for each measurement of a kernel.
const KERNEL_TIME: Duration = Duration::from_millis(300);
/// Time for each depth.
const DISK_TIME: Duration = Duration::from_millis(60);
/// Depths of the curve.
const DEPTHS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];

/// What the machine gives.
#[derive(Clone, Debug, PartialEq)]
pub struct Speeds {
    /// Bytes of weights a second through the kernels, one activation row, from memory.
    pub weights: f64,
    /// Multiply-adds a second, many activation rows.
    pub macs: f64,
    /// Bytes of a read of an expert's slice.
    pub read_bytes: usize,
    /// Random reads of that size by depth.
    pub curve: Vec<Cell>,
    /// Bytes a second of sequential reading.
    pub sequential: f64,
}

impl Speeds {
    /// Measures kernels and disk.
    ///
    /// # Errors
    /// Those of reading.
    pub fn measure(work: &Work, target: &Target, threads: usize, mode: ActivationMode) -> Result<Speeds> {
        let (weights, macs) = kernels(work.main_type, threads, mode);
        let read_bytes = read_bytes(work);
        let curve = target.curve(read_bytes, &DEPTHS, Order::Random, DISK_TIME)?;
        let sequential = target.curve(1 << 20, &[16], Order::Sequential, DISK_TIME * 4)?;
        Ok(Speeds { weights, macs, read_bytes, curve, sequential: sequential.first().map_or(0.0, |c| c.speed).max(1.0) })
    }

    /// Of a machine that is not here: bytes a second of its disk and kernels, multiply-adds a second.
    pub fn assumed(work: &Work, disk: f64, weights: f64, macs: f64) -> Speeds {
        let read_bytes = read_bytes(work);
        let mut speeds = Speeds { weights, macs, read_bytes, curve: Vec::new(), sequential: 1.0 };
        speeds.assume_disk(disk);
        speeds
    }

    /// Puts another disk in: one that a quarter MiB at depth 8 saturates.
    pub fn assume_disk(&mut self, disk: f64) {
        let cell = |depth: usize| Cell {
            read_bytes: self.read_bytes,
            depth,
            order: Order::Random,
            speed: disk * (depth as f64 / 8.0).min(1.0),
            p50: Duration::ZERO,
            p99: Duration::ZERO,
        };
        self.curve = DEPTHS.into_iter().map(cell).collect();
        self.sequential = disk.max(1.0);
    }

    /// Bytes a second of random reads at this depth.
    pub fn random(&self, depth: f64) -> f64 {
        disk::speed_at(&self.curve, depth).max(1.0)
    }
}

/// A slice of an expert, as it is read.
fn read_bytes(work: &Work) -> usize {
    let slice = usize::try_from(work.expert_bytes / work.slices.max(1)).unwrap_or(usize::MAX);
    slice.clamp(256 << 10, 1 << 20) / 4096 * 4096
}

/// Bytes of weights a second with one activation row, multiply-adds a second with many.
pub fn kernels(qtype: QuantType, threads: usize, mode: ActivationMode) -> (f64, f64) {
    let (k, pool) = (Kernels::detect(mode), Pool::new(threads));
    let time = |bytes: usize, n: usize| {
        let row_bytes = qtype.row_bytes(COLS).unwrap_or(COLS * 4);
        let rows = (bytes / row_bytes).max(1);
        // Every float of a block near one: subnormal numbers would be measured instead of kernels. The rest does not matter for speed.
        let data: Vec<u8> = (0..rows * row_bytes).map(|i| (i as u32).wrapping_mul(2_654_435_761).to_be_bytes()[0] & 3 | 0x3c).collect();
        let x: Vec<f32> = (0..n * COLS).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
        let mut a = Activations::new(n, COLS, k.mode());
        a.load(&pool, &k, &x, n, COLS, &[qtype]);
        let mut out = vec![0.0; n * rows];
        let w = Matrix::whole(qtype, rows, COLS, &data);
        let mut times = Vec::new();
        let begin = Instant::now();
        while times.len() < 3 || begin.elapsed() < KERNEL_TIME {
            let start = Instant::now();
            k.matmul(&pool, &w, &a, std::hint::black_box(&mut out));
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        (times.get(times.len() / 2).copied().unwrap_or(1.0).max(1e-9), rows, data.len())
    };
    let (one, _, bytes) = time(LARGE, 1);
    let (many, rows, _) = time(SMALL, ROWS);
    (bytes as f64 / one, (ROWS * rows * COLS) as f64 / many)
}
