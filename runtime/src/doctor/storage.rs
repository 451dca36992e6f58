//! The disk under a directory: what it takes, and how fast it is.

use crate::disk::{Cell, Order, Target};
use crate::error::{Error, Result};
use crate::io::open::{BACKENDS, direct_alignment};
use rustix::fs::{statfs, statvfs};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Read sizes of the curve.
const SIZES: [usize; 5] = [4 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20];
/// Depths of the curve.
const DEPTHS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Most bytes in flight: 64 reads of 1 MiB.
const MOST_IN_FLIGHT: usize = 64 << 20;

/// How much is measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Effort {
    /// Bytes of the file that is read.
    pub bytes: u64,
    /// Time for each cell of the curve.
    pub cell: Duration,
    /// Parts of the sustained reading, each of this length.
    pub part: Duration,
    /// Number of parts.
    pub parts: usize,
}

impl Effort {
    /// About 25 seconds.
    pub const FULL: Effort = Effort { bytes: 1 << 30, cell: Duration::from_millis(250), part: Duration::from_secs(1), parts: 5 };
    /// A look: about 3 seconds.
    pub const QUICK: Effort = Effort { bytes: 128 << 20, cell: Duration::from_millis(25), part: Duration::from_millis(100), parts: 3 };
}

/// What was found about the disk.
#[derive(Clone, Debug, PartialEq)]
pub struct Storage {
    /// The directory.
    pub dir: PathBuf,
    /// Kind of file system, if it is one of the common ones.
    pub file_system: &'static str,
    /// Bytes that may still be written.
    pub free: u64,
    /// Bytes of the file that was read.
    pub bytes: u64,
    /// Alignment that O_DIRECT asks for; 0: it is refused; `None`: the kernel does not tell.
    pub alignment: Option<u32>,
    /// Each backend by name: why it does not work, or `None`.
    pub backends: Vec<(&'static str, Option<String>)>,
    /// Backend of the curve.
    pub backend: &'static str,
    /// The curve.
    pub cells: Vec<Cell>,
    /// Speed of sequential reading, part by part.
    pub sustained: Vec<f64>,
}

/// Told what is done, how much of it, and of how much.
pub type Watch<'a> = &'a mut dyn FnMut(&str, usize, usize) -> Result<()>;

impl Storage {
    /// Measures in `dir`.
    ///
    /// # Errors
    /// [`Error::Io`] if the directory cannot be written or the file not be read; those of `watch`.
    pub fn measure(dir: &Path, effort: &Effort, watch: Watch<'_>) -> Result<Storage> {
        let failed = |what: &'static str| move |e: std::io::Error| Error::Io { file: dir.to_owned(), what: what.into(), error: e };
        let space = statvfs(dir).map_err(|e| failed("asking for free space")(e.into()))?;
        let free = space.f_bavail.saturating_mul(space.f_frsize);
        // Never more than a quarter of what is free.
        let bytes = effort.bytes.min(free / 4) & !((4 << 20) - 1);
        if bytes < 4 << 20 {
            return Err(failed("measuring")(std::io::Error::new(std::io::ErrorKind::StorageFull, format!("only {free} bytes are free"))));
        }
        let mut written = 0;
        let mut stopped = Ok(());
        let target = Target::temporary(dir, bytes, &mut |n| {
            written += n;
            if stopped.is_ok() {
                stopped = watch("writing a file to read", (written >> 22) as usize, (bytes >> 22) as usize);
            }
        })?;
        stopped?;
        let backends = BACKENDS.iter().map(|b| (b.name, target.through(b.id).meter(4096, 1).err().map(|e| e.to_string())));
        let mut storage = Storage {
            dir: dir.to_owned(),
            file_system: file_system(dir),
            free,
            bytes,
            alignment: direct_alignment(target.file()),
            backends: backends.collect(),
            backend: target.meter(4096, 1).map_err(failed("starting to read"))?.backend(),
            cells: Vec::new(),
            sustained: Vec::new(),
        };
        storage.curve(&target, effort, watch)?;
        let mut meter = target.meter(1 << 20, 16).map_err(failed("starting to read"))?;
        for part in 0..effort.parts {
            watch("reading on and on", part, effort.parts)?;
            let cell = meter.measure(16, Order::Sequential, effort.part).map_err(failed("reading"))?;
            storage.sustained.push(cell.speed);
        }
        Ok(storage)
    }

    fn curve(&mut self, target: &Target, effort: &Effort, watch: Watch<'_>) -> Result<()> {
        let failed = |e| Error::Io { file: self.dir.clone(), what: "reading".into(), error: e };
        let depths = |size: usize| DEPTHS.into_iter().filter(move |d| d * size <= MOST_IN_FLIGHT);
        let total = 2 * SIZES.into_iter().flat_map(depths).count();
        for order in [Order::Random, Order::Sequential] {
            for size in SIZES {
                let mut meter = target.meter(size, depths(size).max().unwrap_or(1)).map_err(failed)?;
                for depth in depths(size) {
                    watch("measuring the disk", self.cells.len(), total)?;
                    self.cells.push(meter.measure(depth, order, effort.cell).map_err(failed)?);
                }
            }
        }
        Ok(())
    }

    /// Cells of one order and read size, by depth.
    pub fn row(&self, order: Order, read_bytes: usize) -> impl Iterator<Item = &Cell> {
        self.cells.iter().filter(move |c| c.order == order && c.read_bytes == read_bytes)
    }

    /// Read sizes of the curve.
    pub fn sizes(&self) -> [usize; 5] {
        SIZES
    }

    /// Depths of the curve.
    pub fn depths(&self) -> [usize; 7] {
        DEPTHS
    }

    /// Best random speed at this read size.
    pub fn best(&self, read_bytes: usize) -> f64 {
        self.row(Order::Random, read_bytes).map(|c| c.speed).fold(0.0, f64::max)
    }
}

/// Common kinds by the magic numbers of `statfs(2)`.
fn file_system(dir: &Path) -> &'static str {
    let Ok(found) = statfs(dir) else { return "unknown" };
    match found.f_type as u64 & 0xFFFF_FFFF {
        0xEF53 => "ext4",
        0x5846_5342 => "xfs",
        0x9123_683E => "btrfs",
        0x2FC1_2FC1 => "zfs",
        0xF2F5_2010 => "f2fs",
        0x0102_1994 => "tmpfs",
        0x794C_7630 => "overlay",
        0x6969 => "nfs",
        0xFF53_4D42 | 0xFE53_4D42 => "smb",
        0x6573_5546 => "fuse",
        0x0102_1997 => "9p",
        0x4D44 => "vfat",
        0x2011_BAB0 => "exfat",
        0x7366_746E => "ntfs",
        _ => "unknown",
    }
}
