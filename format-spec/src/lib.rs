//! The Forebay pack format. `SPEC.md` is normative; this crate is its executable half: layout ([`layout`]), model spec
//! ([`model`]), quant types with scalar decoding ([`quant`]) and a reference reader ([`reference`]).
//!
//! There is one decoder of superblock, index and manifest, here; the converter and the runtime both use it. The runtime's fast path (direct
//! reads into slots, fast sums) is tested against the reference reader, which reads everything with `std::fs` and checks every BLAKE3.

#![forbid(unsafe_code)]

pub mod error;
pub mod layout;
pub mod model;
pub mod neurons;
pub mod quant;
pub mod reference;
pub mod shapes;
pub mod tiling;
pub mod validate;
pub mod validate_pack;

pub use error::FormatError;
pub use layout::index::{BundleId, GLOBAL, Index, Kind, Layout, Record};
pub use layout::manifest::{Manifest, Tiling};
pub use layout::superblock::Superblock;
pub use model::ModelSpec;
pub use quant::QuantType;
