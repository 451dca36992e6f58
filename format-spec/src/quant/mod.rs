//! Quant types: how many values a block holds, how many bytes it takes, and what the bytes mean.
//! Codes are GGUF's type ids, so that a name or an id means the same thing on both sides.
//!
//! Each type has a file with its byte table, `LEN` (values in a block), `BYTES`, `decode_block` and `finite`, and one row in [`QUANTS`].
//! Decoding is plain scalar code that gives, bit for bit, the floats ggml's reference dequantisation gives: a fused multiply-add or
//! another order of operations is a bug here. Golden vectors from an outside implementation are in `vectors/quant/`.

mod block;

pub mod bf16;
pub mod f16;
pub mod f32;
pub mod grids;
mod groups;
pub mod iq1_m;
pub mod iq1_s;
pub mod iq2_s;
pub mod iq2_xs;
pub mod iq2_xxs;
pub mod iq3_s;
pub mod iq3_xxs;
pub mod iq4_nl;
pub mod iq4_xs;
pub mod mxfp4;
pub mod nvfp4;
pub mod q2_k;
pub mod q3_k;
pub mod q4_0;
pub mod q4_1;
pub mod q4_k;
pub mod q5_0;
pub mod q5_1;
pub mod q5_k;
pub mod q6_k;
pub mod q8_0;
pub mod tq1_0;
pub mod tq2_0;

pub use block::{pack_scales_mins, unpack_scales_mins};
pub use groups::Groups;

use crate::FormatError;
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
    /// 256 values, codebook of 256 points of eight, 8 sub-blocks.
    IQ2_XXS = 16,
    /// 256 values, codebook of 512 points of eight, 16 sub-blocks.
    IQ2_XS = 17,
    /// 256 values, codebook of 256 points of four, 8 sub-blocks.
    IQ3_XXS = 18,
    /// 256 values, ternary codebook of 2048 points of eight, 8 sub-blocks.
    IQ1_S = 19,
    /// 32 values, 4-bit codebook, one scale.
    IQ4_NL = 20,
    /// 256 values, codebook of 512 points of four, 8 sub-blocks.
    IQ3_S = 21,
    /// 256 values, codebook of 1024 points of eight, 16 sub-blocks.
    IQ2_S = 22,
    /// 256 values, 4-bit codebook, 8 sub-blocks.
    IQ4_XS = 23,
    /// 256 values, ternary codebook of 2048 points of eight, 16 sub-blocks.
    IQ1_M = 29,
    /// Brain float.
    BF16 = 30,
    /// 256 values, base three, one scale.
    TQ1_0 = 34,
    /// 256 values, 2 bits for three levels, one scale.
    TQ2_0 = 35,
    /// 32 values, E2M1, one E8M0 scale (OCP Microscaling 1.0).
    MXFP4 = 39,
    /// 64 values, E2M1, an E4M3 scale per 16 (NVFP4).
    NVFP4 = 40,
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
    /// Decodes whole blocks, as many as both slices have.
    decode: fn(&[u8], &mut [f32]),
    /// Position of the first block with a scale (or float value) that is NaN or infinite.
    first_not_finite: fn(&[u8]) -> Option<usize>,
}

macro_rules! quants { ($($t:ident $name:ident),* $(,)?) => {
    /// Every quant type a pack may hold.
    pub const QUANTS: &[QuantInfo] = &[$(QuantInfo {
        qtype: QuantType::$t,
        name: stringify!($name),
        block_len: $name::LEN,
        block_bytes: $name::BYTES,
        decode: |bytes, out| block::each(bytes, out, $name::decode_block),
        first_not_finite: |bytes| block::first_bad(bytes, $name::finite),
    }),*];
}}
quants! {
    F32 f32, F16 f16, BF16 bf16,
    Q4_0 q4_0, Q4_1 q4_1, Q5_0 q5_0, Q5_1 q5_1, Q8_0 q8_0,
    Q2_K q2_k, Q3_K q3_k, Q4_K q4_k, Q5_K q5_k, Q6_K q6_k,
    IQ1_S iq1_s, IQ1_M iq1_m, IQ2_XXS iq2_xxs, IQ2_XS iq2_xs, IQ2_S iq2_s, IQ3_XXS iq3_xxs, IQ3_S iq3_s,
    IQ4_NL iq4_nl, IQ4_XS iq4_xs, MXFP4 mxfp4, NVFP4 nvfp4, TQ1_0 tq1_0, TQ2_0 tq2_0,
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

    /// Decodes `bytes` into `out`. Fails unless `out` is a whole number of blocks and `bytes` has exactly as many.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) -> Result<(), FormatError> {
        let info = self.info();
        let Some(need) = self.row_bytes(out.len()) else {
            let why = format!("{} values are not a whole number of {}-value blocks", out.len(), info.block_len);
            return Err(FormatError::invalid(format!("{} data", info.name), why));
        };
        if bytes.len() != need {
            let why = format!("{} values take {need} bytes, {} are given", out.len(), bytes.len());
            return Err(FormatError::invalid(format!("{} data", info.name), why));
        }
        (info.decode)(bytes, out);
        Ok(())
    }

    /// Decodes a row whose sizes are known to agree (see [`QuantType::row_bytes`]). Never panics: if they do not agree, the blocks that
    /// both slices hold are decoded and the rest of `out` is left as it was.
    pub fn decode_row(self, bytes: &[u8], out: &mut [f32]) {
        (self.info().decode)(bytes, out);
    }

    /// Position of the first block that has a NaN or infinite scale (for float types: value). Bytes after the last whole block are
    /// not looked at.
    pub fn check_finite(self, bytes: &[u8]) -> Option<usize> {
        (self.info().first_not_finite)(bytes)
    }

    /// Values are plain floats, one a block.
    pub fn is_float(self) -> bool {
        matches!(self, QuantType::F32 | QuantType::F16 | QuantType::BF16)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn every_type_has_its_row() {
        for info in QUANTS {
            assert_eq!(info.qtype.info().qtype, info.qtype);
            assert_eq!(QuantType::from_code(info.qtype as u32), Some(info.qtype));
            assert_eq!(QuantType::from_name(info.name), Some(info.qtype));
            assert_eq!(serde_json::to_value(info.qtype).unwrap(), info.name, "the manifest's name is the table's");
        }
    }

    #[test]
    fn lengths_are_checked() {
        let mut out = [0.0; 32];
        assert!(QuantType::Q4_0.decode(&[0; 18], &mut out).is_ok());
        for (bytes, values) in [(17, 32), (19, 32), (36, 32), (18, 31), (0, 32), (18, 0)] {
            assert!(QuantType::Q4_0.decode(&vec![0; bytes], &mut out[..values]).is_err(), "{bytes} bytes, {values} values");
        }
    }

    proptest! {
        #[test]
        fn decoding_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..700), room in 0usize..600) {
            let mut out = vec![0.0; room];
            for info in QUANTS {
                info.qtype.decode_row(&bytes, &mut out);
                let _ = info.qtype.decode(&bytes, &mut out);
                if let Some(block) = info.qtype.check_finite(&bytes) {
                    prop_assert!((block + 1) * info.block_bytes <= bytes.len());
                }
            }
        }

        /// A block that passes `check_finite` decodes to finite values. (MXFP4's largest scales overflow by design: 2^127 * 6.)
        #[test]
        fn finite_scales_give_finite_values(seed in prop::collection::vec(any::<u8>(), 256)) {
            for info in QUANTS {
                let block = &seed[..info.block_bytes];
                let mut out = vec![0.0; info.block_len];
                info.qtype.decode(block, &mut out).unwrap();
                if info.qtype.check_finite(block).is_none() && !(info.qtype == QuantType::MXFP4 && block[0] >= 253) {
                    prop_assert!(out.iter().all(|v| v.is_finite()), "{}", info.name);
                }
            }
        }
    }
}
