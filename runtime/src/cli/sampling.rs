//! Sampling flags over the pack's defaults.

use crate::sampler::Params;
use forebay_format::layout::manifest::Generation;
use std::hash::{BuildHasher, Hasher};

/// What is used where neither flags nor the pack say anything about sampling.
const DEFAULT: Params = Params { temperature: 0.8, top_k: 40, top_p: 0.95, min_p: 0.05, seed: 0 };

#[derive(clap::Args)]
#[group(skip)]
pub(super) struct Flags {
    /// Sampling temperature; 0 takes the likeliest token [default: the pack's, or 0.8]
    #[arg(long, value_name = "T", value_parser = temperature)]
    temp: Option<f32>,
    /// Only the K likeliest tokens; 0 for all [default: the pack's, or 40]
    #[arg(long, value_name = "K")]
    top_k: Option<u32>,
    /// Only the likeliest tokens that reach probability P together [default: the pack's, or 0.95]
    #[arg(long, value_name = "P", value_parser = probability)]
    top_p: Option<f32>,
    /// Only tokens at least P times as likely as the likeliest [default: the pack's, or 0.05]
    #[arg(long, value_name = "P", value_parser = probability)]
    min_p: Option<f32>,
    /// Seed of the random numbers [default: another one each time]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

fn temperature(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|t: &f32| t.is_finite() && *t >= 0.0).ok_or_else(|| "expected a number from 0".into())
}

fn probability(text: &str) -> Result<f32, String> {
    text.parse().ok().filter(|p| (0.0..=1.0).contains(p)).ok_or_else(|| "expected a number from 0 to 1".into())
}

impl Flags {
    /// Flags, or else the pack's defaults. A pack that says anything about sampling means "all" by what it leaves out.
    pub(super) fn params(&self, pack: &Generation) -> Params {
        let silent = pack.temperature.is_none() && pack.top_k.is_none() && pack.top_p.is_none() && pack.min_p.is_none();
        let rest = if silent { DEFAULT } else { Params { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, seed: 0 } };
        Params {
            temperature: self.temp.or(pack.temperature).unwrap_or(rest.temperature),
            top_k: self.top_k.or(pack.top_k).unwrap_or(rest.top_k),
            top_p: self.top_p.or(pack.top_p).unwrap_or(rest.top_p),
            min_p: self.min_p.or(pack.min_p).unwrap_or(rest.min_p),
            seed: self.seed.unwrap_or_else(random),
        }
    }
}

/// A number that differs between runs: the standard library's hash keys come from the system's random numbers.
fn random() -> u64 {
    // 53 bits: every JSON reader can hold them.
    std::collections::hash_map::RandomState::new().build_hasher().finish() >> 11
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_win_over_the_pack_and_the_pack_over_our_defaults() {
        let none = || Flags { temp: None, top_k: None, top_p: None, min_p: None, seed: Some(1) };
        assert_eq!(none().params(&Generation::default()), Params { seed: 1, ..DEFAULT });
        let pack = Generation { temperature: Some(0.6), top_k: Some(20), ..Generation::default() };
        assert_eq!(none().params(&pack), Params { temperature: 0.6, top_k: 20, top_p: 1.0, min_p: 0.0, seed: 1 });
        let flags = Flags { temp: Some(0.0), top_k: Some(0), top_p: Some(0.5), ..none() };
        assert_eq!(flags.params(&pack), Params { temperature: 0.0, top_k: 0, top_p: 0.5, min_p: 0.0, seed: 1 });
        assert_ne!(Flags { seed: None, ..none() }.params(&pack).seed, Flags { seed: None, ..none() }.params(&pack).seed);
        assert!(temperature("-1").is_err() && temperature("nan").is_err() && probability("1.1").is_err() && probability("1").is_ok());
    }
}
