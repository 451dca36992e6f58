//! One file per quant type: how a block becomes small integers and scales, in plain Rust and in each instruction set. What happens
//! to the integers afterwards is the same for all types of a block length and lives in [`scalar`], `avx2` and `neon`.
//!
//! A block of 32 is `d * q + m`; a block of 256 is `d * scale * q - dmin * min` with a scale and a minimum per 16 values.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod float;
#[cfg(target_arch = "x86_64")]
mod gemm;
#[cfg(target_arch = "x86_64")]
mod interleaved;
#[cfg(target_arch = "aarch64")]
mod interleaved_neon;
mod iq1_m;
mod iq1_s;
mod iq2_s;
mod iq2_xs;
mod iq2_xxs;
mod iq3_s;
mod iq3_xxs;
mod iq4_nl;
mod iq4_xs;
#[cfg(target_arch = "x86_64")]
mod k_header;
mod mxfp4;
#[cfg(target_arch = "aarch64")]
mod neon;
mod nvfp4;
#[cfg(target_arch = "x86_64")]
mod packed;
#[cfg(target_arch = "x86_64")]
mod passes;
#[cfg(target_arch = "x86_64")]
mod points;
mod q2_k;
mod q3_k;
mod q4_0;
mod q4_1;
mod q4_k;
mod q5_0;
mod q5_1;
mod q5_k;
mod q6_k;
mod q8_0;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod tile;
mod tq1_0;
mod tq2_0;
#[cfg(target_arch = "x86_64")]
mod turned;

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::{prefetch_far, prefetch_here};
#[cfg(target_arch = "x86_64")]
pub use passes::prepare_thread;

/// Kernels of this architecture keep nothing for a thread.
#[cfg(not(target_arch = "x86_64"))]
pub fn prepare_thread() {}

#[cfg(target_arch = "aarch64")]
use super::ops::MANY;
use super::ops::{Integer, Tiles, TypeOps};
use forebay_format::QuantType;

/// The functions `$set` of the types' modules as a table, with the integer products that are called `$integer` there.
macro_rules! table {
    ($name:ident, $set:ident, $integer:ident) => {
        /// Kernels of one type in this set.
        pub(super) fn $name(qtype: QuantType) -> &'static TypeOps {
            macro_rules! float {
                ($decode:ident) => {
                    &TypeOps { decode: float::$set::$decode, integer: Integer::None, direct: float::$set::direct::$decode }
                };
            }
            macro_rules! quant {
                ($t:ident) => {
                    &TypeOps { decode: $t::$set::decode, integer: $t::$set::$integer, direct: None }
                };
            }
            match qtype {
                QuantType::F32 => float!(f32),
                QuantType::F16 => float!(f16),
                QuantType::BF16 => float!(bf16),
                QuantType::Q4_0 => quant!(q4_0),
                QuantType::Q4_1 => quant!(q4_1),
                QuantType::Q5_0 => quant!(q5_0),
                QuantType::Q5_1 => quant!(q5_1),
                QuantType::Q8_0 => quant!(q8_0),
                QuantType::Q2_K => quant!(q2_k),
                QuantType::Q3_K => quant!(q3_k),
                QuantType::Q4_K => quant!(q4_k),
                QuantType::Q5_K => quant!(q5_k),
                QuantType::Q6_K => quant!(q6_k),
                QuantType::IQ4_NL => quant!(iq4_nl),
                QuantType::IQ4_XS => quant!(iq4_xs),
                QuantType::MXFP4 => quant!(mxfp4),
                QuantType::IQ1_S => quant!(iq1_s),
                QuantType::IQ1_M => quant!(iq1_m),
                QuantType::IQ2_XXS => quant!(iq2_xxs),
                QuantType::IQ2_XS => quant!(iq2_xs),
                QuantType::IQ2_S => quant!(iq2_s),
                QuantType::IQ3_XXS => quant!(iq3_xxs),
                QuantType::IQ3_S => quant!(iq3_s),
                QuantType::NVFP4 => quant!(nvfp4),
                QuantType::TQ1_0 => quant!(tq1_0),
                QuantType::TQ2_0 => quant!(tq2_0),
            }
        }
    };
}
table!(scalar_ops, scalar, INTEGER);
#[cfg(target_arch = "x86_64")]
table!(avx2_ops, avx2, INTEGER);
#[cfg(target_arch = "aarch64")]
table!(neon_ops, neon, INTEGER);
#[cfg(target_arch = "aarch64")]
table!(neon_base_ops, neon, BASE);

/// Kernels of one type on machines with AVX-512: AVX2's, but for those types whose products are faster in vectors of 64 bytes. For the others blocks of rows are worth more than
/// wider vectors, as `docs/kernels.md` has it: with 64 activation rows of `q4_0` AVX2 does 147 to 174 billion multiply-adds a second, AVX-512 row by row did 78 to 84.
#[cfg(target_arch = "x86_64")]
pub(super) fn avx512_ops(qtype: QuantType) -> &'static TypeOps {
    macro_rules! quant {
        ($t:ident) => {
            &TypeOps { decode: $t::avx512::decode, integer: $t::avx512::INTEGER, direct: None }
        };
    }
    match qtype {
        QuantType::Q4_K => quant!(q4_k),
        QuantType::IQ4_XS => quant!(iq4_xs),
        QuantType::NVFP4 => quant!(nvfp4),
        QuantType::IQ1_S => quant!(iq1_s),
        QuantType::IQ1_M => quant!(iq1_m),
        QuantType::IQ2_XXS => quant!(iq2_xxs),
        QuantType::IQ2_XS => quant!(iq2_xs),
        QuantType::IQ2_S => quant!(iq2_s),
        QuantType::IQ3_XXS => quant!(iq3_xxs),
        QuantType::IQ3_S => quant!(iq3_s),
        _ => avx2_ops(qtype),
    }
}

/// Products of interleaved rows with AVX2.
#[cfg(target_arch = "x86_64")]
pub(super) fn avx2_interleaved(qtype: QuantType) -> Option<Tiles> {
    match qtype {
        QuantType::Q4_K => Some(q4_k::avx2::INTERLEAVED),
        QuantType::Q5_K => Some(q5_k::avx2::INTERLEAVED),
        _ => None,
    }
}

/// Products of interleaved rows on machines with AVX-512.
#[cfg(target_arch = "x86_64")]
pub(super) fn avx512_interleaved(qtype: QuantType) -> Option<Tiles> {
    match qtype {
        QuantType::Q4_K => Some(q4_k::avx512::INTERLEAVED),
        _ => avx2_interleaved(qtype),
    }
}

/// Products of interleaved rows with NEON; `DOT`: with the dot product instruction.
#[cfg(target_arch = "aarch64")]
pub(super) fn neon_interleaved<const DOT: bool>(qtype: QuantType) -> Option<Tiles> {
    use interleaved_neon::{many, one};
    match qtype {
        QuantType::Q4_K => Some(Tiles { one: one::<false, DOT>, many: many::<false, DOT>, most: MANY }),
        QuantType::Q5_K => Some(Tiles { one: one::<true, DOT>, many: many::<true, DOT>, most: MANY }),
        _ => None,
    }
}
