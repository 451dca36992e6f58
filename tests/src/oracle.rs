//! Expected values of an oracle (`../shared/oracles/README.md`) and what an engine makes of the same prompts.

use crate::numbers::{argmax, largest_difference};
use forebay::{Engine, Result, Wanted};
use safetensors::{Dtype, SafeTensors};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::rc::Rc;

/// Greedy tokens that an oracle has.
pub const GREEDY: usize = 32;

/// Choices of one layer for one prompt: per token the ids, ascending, with their weights.
pub type Choices = Vec<Vec<(u32, f32)>>;

/// What an oracle says about one prompt, or what an engine does.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Token ids.
    pub prompt: Vec<u32>,
    /// Logits of the last positions of the prompt, one after the other; how many is up to the oracle.
    pub logits: Vec<f32>,
    /// The next 32 tokens.
    pub greedy: Vec<u32>,
    /// Distance of the best two logits at each greedy step (oracles only).
    pub margins: Vec<f32>,
    /// By layer.
    pub router: BTreeMap<u32, Choices>,
}

/// The two prompts of an oracle and its smallest router margin (infinite for a dense model).
pub struct Oracle {
    /// 48 and 200 tokens.
    pub prompts: [Outcome; 2],
    /// Smallest gap between the last chosen and the first rejected expert.
    pub router_margin: f32,
}

struct File<'a>(SafeTensors<'a>);

impl File<'_> {
    fn floats(&self, name: &str) -> Option<Vec<f32>> {
        let tensor = self.0.tensor(name).ok().filter(|t| t.dtype() == Dtype::F32)?;
        Some(tensor.data().chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
    }

    fn ids(&self, name: &str) -> Option<Vec<u32>> {
        let tensor = self.0.tensor(name).ok()?;
        let data = tensor.data();
        match tensor.dtype() {
            Dtype::I32 => Some(data.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
            Dtype::I64 => Some(data.chunks_exact(8).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()),
            _ => None,
        }
    }

    fn need<T>(&self, name: &str, value: Option<T>) -> T {
        value.unwrap_or_else(|| panic!("the oracle has no usable {name}; it has {:?}", self.0.names()))
    }

    fn outcome(&self, tokens: usize, logits: &str) -> Outcome {
        let floats = |name: String| self.need(&name, self.floats(&name));
        let ids = |name: String| self.need(&name, self.ids(&name));
        let mut router = BTreeMap::new();
        for layer in 0..128 {
            let Some(chosen) = self.ids(&format!("router_ids_{tokens}.layer{layer}")) else { continue };
            let weights = floats(format!("router_weights_{tokens}.layer{layer}"));
            let top_k = chosen.len() / tokens;
            let pairs: Vec<(u32, f32)> = chosen.into_iter().zip(weights).collect();
            router.insert(layer, pairs.chunks_exact(top_k).map(<[_]>::to_vec).collect());
        }
        Outcome {
            prompt: ids(format!("prompt_{tokens}")),
            logits: floats(logits.into()),
            greedy: ids(format!("greedy_{tokens}")),
            margins: floats(format!("greedy_{tokens}_margins")),
            router,
        }
    }
}

impl Oracle {
    /// Reads an `expected*.safetensors`.
    pub fn read(path: &Path) -> Oracle {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file = File(SafeTensors::deserialize(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
        let margin = file.floats("router_margin").and_then(|m| m.first().copied());
        Oracle {
            prompts: [file.outcome(48, "logits_48"), file.outcome(200, "logits_200_last8")],
            router_margin: margin.unwrap_or(f32::INFINITY),
        }
    }
}

/// Feeds `prompt`; keeps the last `keep` rows of logits, the router's choices, and [`GREEDY`] tokens chosen greedily after it.
pub fn run(engine: &mut Engine, prompt: &[u32], keep: usize) -> Result<Outcome> {
    engine.reset();
    let choices: Rc<RefCell<BTreeMap<u32, Choices>>> = Rc::default();
    let seen = Rc::clone(&choices);
    engine.set_router_sink(Some(Box::new(move |layer, _, chosen| {
        let mut sorted = chosen.to_vec();
        sorted.sort_by_key(|c| c.0);
        seen.borrow_mut().entry(layer).or_default().push(sorted);
    })));
    let first = prompt.len() - keep;
    let mut logits = Vec::new();
    let fed = engine.feed(prompt, Wanted::All, &mut |position, row| {
        if position >= first {
            logits.extend_from_slice(row);
        }
    });
    engine.set_router_sink(None);
    fed?;
    let vocab = logits.len() / keep;
    let mut greedy = vec![argmax(&logits[logits.len() - vocab..])];
    while greedy.len() < GREEDY {
        let last = greedy[greedy.len() - 1];
        engine.feed(&[last], Wanted::Last, &mut |_, row| greedy.push(argmax(row)))?;
    }
    let router = choices.take();
    Ok(Outcome { prompt: prompt.to_vec(), logits, greedy, margins: Vec::new(), router })
}

/// Choices that differ: how many (layer, token) have other ids, and the largest difference of weights where the ids are equal.
pub fn compare_router(expected: &Outcome, actual: &Outcome) -> (usize, f32) {
    let (mut differing, mut largest) = (0, 0.0f32);
    for (layer, want) in &expected.router {
        let have = actual.router.get(layer).map_or(&[][..], Vec::as_slice);
        differing += want.len().abs_diff(have.len());
        for (want, have) in want.iter().zip(have) {
            let ids = |c: &[(u32, f32)]| c.iter().map(|c| c.0).collect::<Vec<_>>();
            let weights = |c: &[(u32, f32)]| c.iter().map(|c| c.1).collect::<Vec<_>>();
            if ids(want) == ids(have) {
                largest = largest.max(largest_difference(&weights(want), &weights(have)));
            } else {
                differing += 1;
            }
        }
    }
    (differing, largest)
}

/// Greedy tokens that must be equal when logits may be off by `error`: those before the first step whose margin could be overturned by it.
pub fn decided(expected: &Outcome, error: f32) -> usize {
    expected.margins.iter().take_while(|&&m| m > 2.0 * error).count().min(expected.greedy.len())
}

/// Greedy tokens that are equal from the start.
pub fn agreeing(expected: &Outcome, actual: &Outcome) -> usize {
    expected.greedy.iter().zip(&actual.greedy).take_while(|(a, b)| a == b).count()
}
