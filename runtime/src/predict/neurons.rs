//! Neuron groups in a prediction: how many of them a token wants, and how many of those it finds in the window.
//!
//! Neurons are taken to fire by chance, each with a popularity of its own, and popularities to have a beta distribution: its two numbers follow from the share that a token
//! wants and from the share of those that another token wants too. What of a token's groups the `k` tokens before it did not want, and what `k` tokens want together, are
//! then products of `k` factors.

use super::Three;
use super::work::{Product, Work};
use crate::budget::MemoryPlan;
use crate::calibration::file;
use crate::pack::Pack;
use crate::store::Resident;
use forebay_format::layout::manifest::{NeuronDown, NeuronPlace};
use forebay_format::model::GatedFfn;
use forebay_format::neurons::GroupShape;
use forebay_format::{BundleId, Index};

/// Neurons that fire where nothing is known: about as many as in a small model that was trained with a ReLU (11%). Large ones are said to be sparser.
const ASSUMED_ACTIVE: f64 = 0.1;
/// Share of those that fire for another token too, where nothing is known.
const ASSUMED_AGAIN: f64 = 0.5;

/// Layers of one shape whose neurons are in groups.
#[derive(Clone, Debug, PartialEq)]
pub struct Grouped {
    /// Layers.
    pub layers: u32,
    /// Groups of a layer.
    pub groups: u32,
    /// Neurons of a group.
    pub group: u32,
    /// Bytes of a group on disk, and of its triggers.
    pub bytes: [u64; 2],
    /// All rows of a layer that decide which neurons fire.
    pub trigger: Product,
    /// What else a neuron has, of all neurons: up where there is a gate, and down.
    pub others: Vec<Product>,
}

impl Grouped {
    /// Of a layer.
    pub(super) fn new(layer: u32, place: &NeuronPlace, ffn: &GatedFfn, hidden: u32, index: &Index) -> Option<Grouped> {
        let shape = GroupShape::new(place, ffn, hidden).ok()?;
        let record = index.get(BundleId::neurons(layer, 0)).ok()?;
        let first = index.layout(record).slices.first().copied()?;
        let (inner, hidden) = (u64::from(shape.inner), u64::from(shape.hidden));
        let row = |qtype| Product::new(qtype, inner, hidden);
        let down = match shape.down_order {
            NeuronDown::Transposed => row(shape.down),
            NeuronDown::Blocks => Product::new(shape.down, hidden, inner),
        };
        let others = shape.up.map(row).into_iter().chain([down]).collect();
        let bytes = [record.length, first];
        Some(Grouped { layers: 1, groups: shape.groups(), group: shape.group, bytes, trigger: row(shape.trigger), others })
    }

    /// The products of a step that wants this share of the neurons: triggers of all, if they are `resident`, or of those too.
    pub(super) fn products(&self, share: f64, resident: bool) -> impl Iterator<Item = (Product, u32)> {
        let part = move |p: &Product, share: f64| Product { rows: ((p.rows as f64 * share).round() as u64).max(1), ..*p };
        let trigger = part(&self.trigger, if resident { 1.0 } else { share });
        let others: Vec<Product> = self.others.iter().map(|p| part(p, share)).collect();
        let layers = self.layers;
        std::iter::once(trigger).chain(others).map(move |p| (p, layers))
    }
}

/// Which groups tokens want, and what that is known from.
#[derive(Clone, Debug, PartialEq)]
pub struct Firing {
    /// What it is known from.
    pub source: String,
    /// Share of the groups that a token wants.
    pub groups: f64,
    /// Share of those that another token wants too.
    pub again: f64,
}

impl Firing {
    /// For a pack: from its calibration, from what made it up, or assumed. `None` without neuron groups.
    pub fn of(pack: &Pack, work: &Work) -> Option<Firing> {
        let main = work.grouped.iter().max_by_key(|g| u64::from(g.layers) * u64::from(g.groups) * g.bytes[0])?;
        let path = file::path(&pack.path);
        if let Some(c) = file::read(&path, &pack.superblock.pack_id, pack.manifest.spec.layers.len()) {
            return Some(Firing { source: format!("the calibration {}", path.display()), groups: c.firing.groups, again: c.firing.again });
        }
        let made_up = pack.manifest.provenance.notes.get("firing").and_then(|note| shares(note));
        Some(match made_up {
            Some([active, again]) => Firing::independent("what forebay-repack synth wrote", active, again, main.group),
            None => Firing::independent(
                "an assumption: 10% of the neurons fire, half of them for another token too (forebay calibrate tells)",
                ASSUMED_ACTIVE,
                ASSUMED_AGAIN,
                main.group,
            ),
        })
    }

    /// Groups of `group` neurons that have nothing to do with each other, of which the share `active` fires.
    fn independent(source: &str, active: f64, again: f64, group: u32) -> Firing {
        let any = |share: f64| 1.0 - (1.0 - share).powf(f64::from(group));
        let groups = any(active);
        // A neuron fires for both tokens with `active * again`, for neither with the rest.
        let neither = (1.0 - 2.0 * active + active * again).max(0.0).powf(f64::from(group));
        let both = (1.0 - 2.0 * (1.0 - groups) + neither).max(0.0);
        Firing { source: source.into(), groups, again: (both / groups).clamp(0.0, 1.0) }
    }

    /// The two numbers of the distribution.
    fn beta(&self) -> (f64, f64) {
        // Never all and never none, and a little more often again than by chance: the sum would be infinite.
        let wanted = self.groups.clamp(1e-6, 1.0 - 1e-5);
        let again = self.again.clamp(wanted + 1e-6, 1.0 - 1e-6);
        let sum = (1.0 - again) / (again - wanted);
        (wanted * sum, (1.0 - wanted) * sum)
    }

    /// Share of the groups that `tokens` tokens want together.
    pub fn together(&self, tokens: u32) -> f64 {
        let (a, b) = self.beta();
        1.0 - (0..tokens).map(f64::from).fold(1.0, |none, j| none * (b + j) / (a + b + j))
    }

    /// Share of a token's groups that none of the `tokens` tokens before it wanted.
    fn fresh(&self, tokens: u32) -> f64 {
        let (a, b) = self.beta();
        (0..tokens).map(f64::from).fold(1.0, |none, j| none * (b + j) / (a + 1.0 + b + j))
    }

    /// What a token finds in a window that holds the share `held` of all groups.
    pub fn hits(&self, held: f64) -> Three {
        if held >= 1.0 {
            return Three { low: 1.0, expected: 1.0, high: 1.0 };
        }
        let one = self.together(1);
        if held < one {
            let found = self.again * held / one;
            return Three { low: 0.0, expected: found, high: held / one };
        }
        // The window holds what the last `tokens` wanted; more than a thousand make no difference any more.
        let tokens = (1..1000).take_while(|&k| self.together(k) <= held).last().unwrap_or(1);
        let expected = 1.0 - self.fresh(tokens);
        // Popularity is not all: what fired a moment ago fires again.
        Three { low: self.again.min(expected), expected, high: (1.0 + expected) / 2.0 }
    }
}

/// The first two percentages of a note, as shares.
fn shares(note: &str) -> Option<[f64; 2]> {
    let mut percents = note.split('%').map(|before| before.rsplit(' ').next()?.parse::<f64>().ok());
    let mut next = || percents.next().flatten().map(|p| p / 100.0).filter(|p| (0.0..=1.0).contains(p));
    Some([next()?, next()?])
}

/// What steps read of neuron groups.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Reads {
    /// Bytes.
    pub bytes: f64,
    /// Neighbours come with one request.
    pub in_order: bool,
}

/// Share of the groups that a step of `rows` rows computes with: those that fire, or all.
pub(super) fn wanted(firing: Option<&Firing>, plan: &MemoryPlan, rows: u32) -> f64 {
    match firing {
        Some(firing) if plan.resident == Resident::Triggers => firing.together(rows),
        _ => 1.0,
    }
}

/// Bytes of the share `share` of all groups, as far as the plan's window does not hold them from start to end.
pub(super) fn reads(work: &Work, plan: &MemoryPlan, share: f64) -> Reads {
    let resident = plan.resident == Resident::Triggers;
    let each = |g: &Grouped| {
        let bytes = if resident { g.bytes[0] - g.bytes[1] } else { g.bytes[0] };
        f64::from(g.layers) * f64::from(g.groups) * bytes as f64
    };
    Reads { bytes: share * work.grouped.iter().map(each).sum::<f64>(), in_order: !resident }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_numbers_of_a_note() {
        assert_eq!(shares("3.000% of neurons fire for a token, 75.000% of them for another token too"), Some([0.03, 0.75]));
        assert!(shares("no numbers").is_none() && shares("300% of 5%").is_none() && shares("NaN% 3%").is_none());
    }

    #[test]
    fn what_tokens_want_together_and_find_again() {
        let firing = Firing { source: String::new(), groups: 0.03, again: 0.75 };
        assert!((firing.together(1) - 0.03).abs() < 1e-9 && (firing.fresh(1) - 0.25).abs() < 1e-9);
        // Two tokens share three quarters of their groups.
        assert!((firing.together(2) - 0.0375).abs() < 1e-6);
        let at = |held: f64| firing.hits(held).expected;
        assert!(at(0.01) < 0.75 && (at(0.035) - 0.75).abs() < 1e-9 && at(0.1) > 0.85 && at(1.0) == 1.0);
        assert!((1..50).all(|i| at(f64::from(i) / 50.0) <= at(f64::from(i + 1) / 50.0)));
        for held in [0.01, 0.05, 0.4] {
            let Three { low, expected, high } = firing.hits(held);
            assert!(low <= expected && expected <= high && high <= 1.0);
        }
    }

    #[test]
    fn shares_at_the_ends_are_numbers() {
        for (groups, again) in [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0), (1.0, 1.0), (0.5, 0.5), (0.3, 0.1)] {
            let firing = Firing { source: String::new(), groups, again };
            for tokens in [1, 2, 100] {
                let together = firing.together(tokens);
                assert!((0.0..=1.0).contains(&together) && together >= groups - 1e-4, "{groups} {again} {tokens}: {together}");
            }
            assert!([0.0, 0.2, 0.9, 1.0].iter().all(|&held| (0.0..=1.0).contains(&firing.hits(held).expected)));
        }
    }

    #[test]
    fn groups_fire_more_often_than_their_neurons() {
        let one = Firing::independent("", 0.1, 0.5, 1);
        assert!((one.groups - 0.1).abs() < 1e-9 && (one.again - 0.5).abs() < 1e-9);
        let eight = Firing::independent("", 0.1, 0.5, 8);
        assert!((eight.groups - 0.5695).abs() < 1e-3 && eight.again > eight.groups, "{eight:?}");
    }
}
