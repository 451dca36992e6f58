//! Which matrices are stored interleaved.

use forebay_format::model::Role;
use forebay_format::{QuantType, Tiling};

/// What happens to matrices whose kernels are faster on interleaved rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tilings {
    /// They are interleaved where they make whole tiles.
    Auto,
    /// All rows are stored one after the other.
    Off,
}

impl Tilings {
    /// Order of `rows` rows of `cols` values. Q4_K and Q5_K only: there the runtime's kernels were measured to gain (`docs/kernels.md`).
    pub fn of(self, qtype: QuantType, rows: u64, cols: u64) -> Tiling {
        let pays = matches!(qtype, QuantType::Q4_K | QuantType::Q5_K);
        if self == Tilings::Auto && pays && Tiling::Dwords16.fits(qtype, rows, cols) { Tiling::Dwords16 } else { Tiling::RowMajor }
    }

    /// Order of a tensor outside of experts.
    pub fn of_tensor(self, role: Role, qtype: QuantType, rows: u64, cols: u64) -> Tiling {
        if role.is_projection() { self.of(qtype, rows, cols) } else { Tiling::RowMajor }
    }
}
