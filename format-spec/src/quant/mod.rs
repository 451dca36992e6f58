//! Quant types: how many values a block holds, how many bytes it takes, and what the bytes mean.
//! Codes are GGUF's type ids, so that a name or an id means the same thing on both sides.

use serde::{Deserialize, Serialize};

/// Element type of a stored matrix. The discriminant is the code in the pack and the GGUF type id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")] // the names of QUANTS
#[allow(non_camel_case_types)]
#[repr(u8)]
pub enum QuantType {
    /// IEEE single.
    F32 = 0,
    /// IEEE half.
    F16 = 1,
    /// 32 values, 4 bits, one scale.
    Q4_0 = 2,
    /// 32 values, 4 bits, scale and minimum.
    Q4_1 = 3,
    /// 32 values, 5 bits, one scale.
    Q5_0 = 6,
    /// 32 values, 5 bits, scale and minimum.
    Q5_1 = 7,
    /// 32 values, 8 bits, one scale.
    Q8_0 = 8,
    /// 256 values, 2 bits, 16 sub-blocks.
    Q2_K = 10,
    /// 256 values, 3 bits, 16 sub-blocks.
    Q3_K = 11,
    /// 256 values, 4 bits, 8 sub-blocks.
    Q4_K = 12,
    /// 256 values, 5 bits, 8 sub-blocks.
    Q5_K = 13,
    /// 256 values, 6 bits, 16 sub-blocks.
    Q6_K = 14,
    /// 32 values, 4-bit codebook, one scale.
    IQ4_NL = 20,
    /// 256 values, 4-bit codebook, 8 sub-blocks.
    IQ4_XS = 23,
    /// Brain float.
    BF16 = 30,
    /// 32 values, E2M1, one E8M0 scale (OCP Microscaling 1.0).
    MXFP4 = 39,
}

/// One row of the table of quant types.
#[derive(Clone, Copy, Debug)]
pub struct QuantInfo {
    /// The type.
    pub qtype: QuantType,
    /// Lower-case name used in manifests, flags and messages.
    pub name: &'static str,
    /// Values in a block.
    pub block_len: usize,
    /// Bytes in a block.
    pub block_bytes: usize,
}

macro_rules! quants { ($($t:ident $name:literal $len:literal $bytes:literal),* $(,)?) => {
    /// Every quant type a pack may hold.
    pub const QUANTS: &[QuantInfo] = &[$(QuantInfo { qtype: QuantType::$t, name: $name, block_len: $len, block_bytes: $bytes }),*];
}}
quants! {
    F32 "f32" 1 4, F16 "f16" 1 2, BF16 "bf16" 1 2,
    Q4_0 "q4_0" 32 18, Q4_1 "q4_1" 32 20, Q5_0 "q5_0" 32 22, Q5_1 "q5_1" 32 24, Q8_0 "q8_0" 32 34,
    Q2_K "q2_k" 256 84, Q3_K "q3_k" 256 110, Q4_K "q4_k" 256 144, Q5_K "q5_k" 256 176, Q6_K "q6_k" 256 210,
    IQ4_NL "iq4_nl" 32 18, IQ4_XS "iq4_xs" 256 136, MXFP4 "mxfp4" 32 17,
}

impl QuantType {
    /// The table row of this type.
    pub fn info(self) -> &'static QuantInfo {
        // QUANTS has a row for each variant (a test checks it), so the fallback is never taken.
        QUANTS.iter().find(|q| q.qtype == self).unwrap_or(&QUANTS[0])
    }

    /// Lower-case name.
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// Type with this code, if a pack may hold it.
    pub fn from_code(code: u32) -> Option<Self> {
        QUANTS.iter().map(|q| q.qtype).find(|&q| q as u32 == code)
    }

    /// Type with this lower-case name.
    pub fn from_name(name: &str) -> Option<Self> {
        QUANTS.iter().find(|q| q.name == name).map(|q| q.qtype)
    }

    /// Values in a block.
    pub fn block_len(self) -> usize {
        self.info().block_len
    }

    /// Bytes in a block.
    pub fn block_bytes(self) -> usize {
        self.info().block_bytes
    }

    /// Bytes of a row of `cols` values; `None` if `cols` is not a whole number of blocks or the size overflows.
    pub fn row_bytes(self, cols: usize) -> Option<usize> {
        let info = self.info();
        if !cols.is_multiple_of(info.block_len) {
            return None;
        }
        (cols / info.block_len).checked_mul(info.block_bytes)
    }

    /// Values are plain floats, one a block.
    pub fn is_float(self) -> bool {
        matches!(self, QuantType::F32 | QuantType::F16 | QuantType::BF16)
    }
}
