//! The dispatch: one table of functions per kernel set. Nothing else asks which set is on.

use super::KernelSet;
use super::blocks::{self, Form, QRow};
use super::delta::{self, Token};
use super::panel::{self, Panels};
use super::quants;
use super::strip::{self, GROUP, Narrow, Strip, Sums};
use super::vector::{self, exp::Exp};
use forebay_format::QuantType;

/// Integer dot products of one weight row with `N` activation rows.
///
/// # Safety
/// The machine runs the kernel set; each activation row has as many values as the weight row.
pub(super) type Dot<const N: usize> = unsafe fn(&[u8], &[QRow<'_>; N], &mut [f32; N]);

/// Integer kernels for some numbers of activation rows: weights are unpacked once for all of them.
pub(super) struct Dots {
    pub one: Dot<1>,
    pub two: Dot<2>,
    pub four: Dot<4>,
    pub eight: Dot<8>,
}

/// Weight rows of a tile: as many as packs interleave.
pub(super) const TILE_ROWS: usize = forebay_format::tiling::TILE_ROWS;

/// Integer products of [`TILE_ROWS`] weight rows of so many blocks with all activation rows that are given; results `[activation row][weight row]`.
///
/// # Safety
/// The machine runs the kernel set; the pointers lead to whole rows; activation rows have as many values; there is a result for each activation row.
pub(super) type Tile = unsafe fn(&[*const u8; TILE_ROWS], usize, &[QRow<'_>], &mut [[f32; TILE_ROWS]]);

/// How a type meets 8-bit activations.
pub(super) enum Integer {
    /// It does not: a float type.
    None,
    /// Row by row.
    Rows(Dots),
    /// In tiles.
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))] // ARM has tiles of interleaved rows only
    Tiles(Tiles),
}

/// Products of tiles.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    /// With one activation row.
    pub one: Tile,
    /// With several.
    pub many: Tile,
    /// At most so many, no more than [`MANY`].
    pub most: usize,
}

/// Most activation rows that any [`Tile`] takes: weights are unpacked once for all of them.
pub(super) const MANY: usize = 128;

/// Activations to their 8-bit form: values, scales, sums (see [`blocks::quantise`]).
///
/// # Safety
/// The machine runs the kernel set; the lengths follow from the form and the number of values.
pub(super) type Quantise = unsafe fn(Form, &[f32], &mut [i8], &mut [f32], &mut [i16]);

/// See [`strip::tile`].
///
/// # Safety
/// The machine runs the kernel set; the length is a multiple of 32, at most that of a strip and of each activation row; there are sums for every row.
pub(super) type FloatTile = unsafe fn(&[Strip], &[&[f32]], usize, &mut [[Narrow; GROUP]]);

/// Weight rows of a [`Direct`] product.
pub(super) const DIRECT_ROWS: usize = 4;

/// Sums of [`DIRECT_ROWS`] weight rows with one activation row, a multiple of 32 values: those of a [`FloatTile`], without decoding the rows first.
///
/// # Safety
/// The machine runs the kernel set; the pointers lead to rows with as many values as the activation row.
pub(super) type Direct = unsafe fn(&[*const u8; DIRECT_ROWS], &[f32], &mut [Narrow; DIRECT_ROWS]);

/// The kernels of one quant type.
pub(super) struct TypeOps {
    /// Decodes whole blocks, as many as the second slice has room for.
    ///
    /// # Safety
    /// The machine runs the kernel set; the slices have the same number of values.
    pub decode: unsafe fn(&[u8], &mut [f32]),
    /// Products with 8-bit activations.
    pub integer: Integer,
    /// Products of a float type with one activation row, where there is a way that is faster than decoding.
    pub direct: Option<Direct>,
}

/// One kernel set. All functions are unsafe to call for one reason: the machine must run the set.
pub(super) struct Ops {
    pub set: KernelSet,
    pub name: &'static str,
    /// The kernels of a quant type.
    pub of: fn(QuantType) -> &'static TypeOps,
    /// Integer products of tiles whose rows are interleaved ([`Tiling::Dwords16`](forebay_format::layout::manifest::Tiling)), for types that have them: pointer `r` leads to the first
    /// dword of row `r`.
    pub interleaved: fn(QuantType) -> Option<Tiles>,
    /// See [`Quantise`].
    pub quantise: Quantise,
    /// See [`strip::add`].
    pub add: unsafe fn(&[f32], &[f32], &mut Sums),
    /// See [`strip::tile`].
    pub tile: FloatTile,
    /// `y += a * x`, lengths equal.
    pub axpy: unsafe fn(f32, &[f32], &mut [f32]),
    /// Rounds to half precision, ties to even; lengths equal.
    pub to_f16: unsafe fn(&[f32], &mut [u16]),
    /// Widens half precision; lengths equal.
    pub from_f16: unsafe fn(&[u16], &mut [f32]),
    /// `y += w * x`, lengths equal; the same bits in every set.
    pub mul_add: unsafe fn(&[f32], &[f32], &mut [f32]),
    /// Functions with an exponential; the same bits in every set.
    pub exp: &'static Exp,
    /// See [`delta::steps`]; there is a token.
    pub delta: unsafe fn(&mut [f32], &[Token<'_>], &mut [f32]),
    /// See [`panel`].
    pub panels: &'static Panels,
}

/// Kernels in plain Rust.
pub(super) static SCALAR: Ops = Ops {
    set: KernelSet::Scalar,
    name: "scalar",
    of: quants::scalar_ops,
    interleaved: |_| None,
    quantise: blocks::quantise,
    add: strip::add,
    tile: strip::tile,
    axpy: vector::scalar::axpy,
    to_f16: vector::scalar::to_f16,
    from_f16: vector::scalar::from_f16,
    mul_add: vector::scalar::mul_add,
    exp: &vector::exp::SCALAR,
    delta: delta::scalar,
    panels: &panel::SCALAR,
};

/// The best table that this machine runs.
pub(super) fn best() -> &'static Ops {
    all().last().unwrap_or(&SCALAR)
}

/// The tables that this machine runs, the best last.
pub(super) fn all() -> impl Iterator<Item = &'static Ops> {
    [KernelSet::Scalar, KernelSet::Avx2, KernelSet::Avx512, KernelSet::Neon].into_iter().filter_map(find)
}

/// The table of `set`, if this build has it and this machine runs it.
pub(super) fn find(set: KernelSet) -> Option<&'static Ops> {
    match set {
        KernelSet::Scalar => Some(&SCALAR),
        #[cfg(target_arch = "x86_64")]
        KernelSet::Avx2 if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") => {
            Some(&AVX2)
        }
        #[cfg(target_arch = "x86_64")]
        KernelSet::Avx512 if find(KernelSet::Avx2).is_some() && has_avx512() => Some(&AVX512),
        #[cfg(target_arch = "aarch64")]
        KernelSet::Neon if std::arch::is_aarch64_feature_detected!("dotprod") => Some(&NEON),
        #[cfg(target_arch = "aarch64")]
        KernelSet::Neon if std::arch::is_aarch64_feature_detected!("neon") => Some(&NEON_BASE),
        KernelSet::Avx2 | KernelSet::Avx512 | KernelSet::Neon => None,
    }
}

/// Kernels for AVX2, FMA and F16C.
#[cfg(target_arch = "x86_64")]
static AVX2: Ops = Ops {
    set: KernelSet::Avx2,
    name: "avx2",
    of: quants::avx2_ops,
    interleaved: quants::avx2_interleaved,
    quantise: blocks::avx2::quantise,
    add: strip::avx2::add,
    tile: strip::avx2::tile,
    axpy: vector::avx2::axpy,
    to_f16: vector::avx2::to_f16,
    from_f16: vector::avx2::from_f16,
    mul_add: vector::avx2::mul_add,
    exp: &vector::exp::AVX2,
    delta: delta::x86::avx2,
    panels: &panel::AVX2,
};

/// What the AVX-512 kernels are compiled for: Ice Lake and Zen 4 have all of it.
#[cfg(target_arch = "x86_64")]
fn has_avx512() -> bool {
    let foundation = is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512dq");
    let bytes = is_x86_feature_detected!("avx512vbmi") && is_x86_feature_detected!("avx512vnni");
    foundation && is_x86_feature_detected!("avx512vl") && bytes
}

/// Kernels for AVX-512 with VNNI and VBMI. Float sums are those of AVX2, bit for bit.
#[cfg(target_arch = "x86_64")]
static AVX512: Ops = Ops {
    set: KernelSet::Avx512,
    name: "avx512",
    of: quants::avx512_ops,
    interleaved: quants::avx512_interleaved,
    exp: &vector::exp::AVX512,
    delta: delta::x86::avx512,
    ..AVX2
};

/// Kernels for NEON and its dot product.
#[cfg(target_arch = "aarch64")]
pub(super) static NEON: Ops =
    Ops { name: "neon-dotprod", of: quants::neon_ops, interleaved: quants::neon_interleaved::<true>, ..NEON_BASE };

/// Kernels for NEON alone: the same bits, with more instructions for the products of integers. Plain Rust is compiled for NEON as well on this
/// architecture, so what is not named here loses nothing.
#[cfg(target_arch = "aarch64")]
pub(super) static NEON_BASE: Ops = Ops {
    set: KernelSet::Neon,
    name: "neon",
    of: quants::neon_base_ops,
    interleaved: quants::neon_interleaved::<false>,
    quantise: blocks::neon::quantise,
    add: strip::neon::add,
    tile: strip::neon::tile,
    axpy: vector::neon::axpy,
    to_f16: vector::neon::to_f16,
    from_f16: vector::neon::from_f16,
    delta: delta::fused,
    panels: &panel::NEON,
    ..SCALAR
};
