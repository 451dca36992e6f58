//! The dispatch: one table of functions per kernel set. Nothing else asks which set is on.

use super::KernelSet;
use super::blocks::{self, Form, QRow};
use super::quants;
use super::strip::{self, Sums};
use super::vector;
use forebay_format::QuantType;

/// Activation rows that an integer kernel takes at once: the weights are unpacked once for all of them.
pub(super) const TOGETHER: usize = 4;

/// Integer dot products of one weight row with `N` activation rows.
///
/// # Safety
/// The machine runs the kernel set; each activation row has as many values as the weight row.
pub(super) type Dot<const N: usize> = unsafe fn(&[u8], &[QRow<'_>; N], &mut [f32; N]);

/// Activations to their 8-bit form: values, scales, sums (see [`blocks::quantise`]).
///
/// # Safety
/// The machine runs the kernel set; the lengths follow from the form and the number of values.
pub(super) type Quantise = unsafe fn(Form, &[f32], &mut [i8], &mut [f32], &mut [i16]);

/// The kernels of one quant type.
pub(super) struct TypeOps {
    /// Decodes whole blocks, as many as the second slice has room for.
    ///
    /// # Safety
    /// The machine runs the kernel set; the slices have the same number of values.
    pub decode: unsafe fn(&[u8], &mut [f32]),
    /// Integer kernels for one and for [`TOGETHER`] activation rows; none for float types.
    pub dots: Option<(Dot<1>, Dot<TOGETHER>)>,
}

/// One kernel set. All functions are unsafe to call for one reason: the machine must run the set.
pub(super) struct Ops {
    pub set: KernelSet,
    pub name: &'static str,
    /// The kernels of a quant type.
    pub of: fn(QuantType) -> &'static TypeOps,
    /// See [`Quantise`].
    pub quantise: Quantise,
    /// See [`strip::add`].
    pub add: unsafe fn(&[f32], &[f32], &mut Sums),
    /// See [`strip::add2`].
    pub add2: unsafe fn(&[f32], [&[f32]; 2], [&mut Sums; 2]),
    /// See [`strip::add_f16`].
    pub add_f16: unsafe fn(&[u16], &[f32], &mut Sums),
    /// `y += a * x`, lengths equal.
    pub axpy: unsafe fn(f32, &[f32], &mut [f32]),
    /// `y += a * x` with half-precision `x`, lengths equal.
    pub axpy_f16: unsafe fn(f32, &[u16], &mut [f32]),
    /// Rounds to half precision, ties to even; lengths equal.
    pub to_f16: unsafe fn(&[f32], &mut [u16]),
    /// Widens half precision; lengths equal.
    pub from_f16: unsafe fn(&[u16], &mut [f32]),
}

/// Kernels in plain Rust.
pub(super) static SCALAR: Ops = Ops {
    set: KernelSet::Scalar,
    name: "scalar",
    of: quants::scalar_ops,
    quantise: blocks::quantise,
    add: strip::add,
    add2: strip::add2,
    add_f16: strip::add_f16,
    axpy: vector::scalar::axpy,
    axpy_f16: vector::scalar::axpy_f16,
    to_f16: vector::scalar::to_f16,
    from_f16: vector::scalar::from_f16,
};

/// The table of `set`, if this build has it and this machine runs it.
pub(super) fn find(set: KernelSet) -> Option<&'static Ops> {
    match set {
        KernelSet::Scalar => Some(&SCALAR),
        #[cfg(target_arch = "x86_64")]
        KernelSet::Avx2 if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") => {
            Some(&AVX2)
        }
        KernelSet::Avx2 | KernelSet::Neon => None,
    }
}

/// Kernels for AVX2, FMA and F16C.
#[cfg(target_arch = "x86_64")]
static AVX2: Ops = Ops {
    set: KernelSet::Avx2,
    name: "avx2",
    of: quants::avx2_ops,
    quantise: blocks::avx2::quantise,
    add: strip::avx2::add,
    add2: strip::avx2::add2,
    add_f16: strip::avx2::add_f16,
    axpy: vector::avx2::axpy,
    axpy_f16: vector::avx2::axpy_f16,
    to_f16: vector::avx2::to_f16,
    from_f16: vector::avx2::from_f16,
};
