//! Packs of random weights with the shape of a real model: to measure a machine before anything is downloaded. Output is gibberish, the work per token is real.

mod firing;
mod random;
mod recipe;
mod tokenizer;

use crate::arch;
use crate::encode;
use crate::error::{Error, Result};
use crate::plan::{Choices, Columns, Neurons, Plan, Quantize, Run, Segment, Tilings};
use crate::source::{Checkpoint, Tensor};
use crate::write::fill::{Content, Scratch};
use crate::write::groups::store_columns;
use crate::write::tiles;
pub use firing::Firing;
use forebay_format::model::Ffn;
use forebay_format::{Kind, QuantType};
use random::Random;
use rayon::prelude::*;
use recipe::{Character, Recipe};
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

/// Encoded bytes of a pool: long enough that no matrix of an expert has the same row twice in most models, short enough to encode in a blink.
const POOL_BYTES: u64 = 4 << 20;
/// Different rows of the embedding. More tokens than that share rows, which no measurement of a few thousand tokens can see.
const EMBEDDING_ROWS: u64 = 4096;
/// Values that are encoded at a time: whole blocks of every type.
const STRETCH: usize = 8192;

/// Values of a stretch of trigger rows that a pool is drawn in: whole blocks of every type that rows or their sketch may have.
const SKETCHED: usize = 256;

/// What to make.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Type of the matrices.
    pub quantize: Quantize,
    /// Experts of a layer in one extent: 1 for a pack as large as the model.
    pub alias: u32,
    /// What happens to dense networks whose neurons may be zero.
    pub neurons: Neurons,
    /// How often their neurons fire; `None`: as random weights do.
    pub firing: Option<Firing>,
    /// How uneven routing is, see [`recipe`].
    pub skew: f32,
    /// Seed of everything.
    pub seed: u64,
}

/// A pack to be made up.
pub struct Synthesis {
    /// The checkpoint that nobody has.
    pub checkpoint: Checkpoint,
    /// Where everything goes.
    pub plan: Plan,
    recipes: Vec<Recipe>,
    character: Character,
}

impl Synthesis {
    /// Plans a pack of the shape that the `config.json` at `config` describes.
    ///
    /// # Errors
    /// As [`arch::imagine`], [`arch::bind`] and [`Plan::new`]; [`Error::Usage`] for a skew that is no number, an alias of 0, or shares of firing neurons that cannot be had.
    pub fn new(config: &Path, options: Options) -> Result<Synthesis> {
        if !(options.skew.is_finite() && (0.0..=100.0).contains(&options.skew)) || options.alias == 0 {
            return Err(Error::Usage("--skew must be between 0 and 100, --alias at least 1".into()));
        }
        let checkpoint = arch::imagine(config, tokenizer::tokenizer_json)?;
        let binding = arch::bind(&checkpoint)?;
        let mut character = Character::new(options.seed, options.skew);
        if let Some(firing) = options.firing {
            firing.check()?;
            if !binding.spec.layers.iter().any(|l| matches!(&l.ffn, Ffn::Dense(ffn) if ffn.activation.is_sparse() && ffn.bias)) {
                return Err(Error::Usage("--active sets biases of dense networks with a ReLU; this model has none".into()));
            }
            let shared = firing.correlation();
            (character.common, character.own) = (shared.sqrt() as f32, (1.0 - shared).sqrt() as f32);
        }
        let Options { quantize, neurons, alias, .. } = options;
        let choices = Choices { quantize, neurons, tilings: Tilings::Auto, copies: alias };
        let mut plan = Plan::with(&checkpoint, &binding, choices)?;
        plan.pack_id = pack_id(&plan.pack_id, &options);
        let provenance = &mut plan.manifest.provenance;
        provenance.format = "synthetic".into();
        let mut note = |key: &str, text: String| provenance.notes.insert(key.into(), text);
        note("synthetic", format!("random weights, seed {}, skew {}", options.seed, options.skew));
        if options.alias > 1 {
            note("alias", options.alias.to_string());
        }
        if let Some(Firing { active, overlap }) = options.firing {
            let shared = f64::from(character.common * character.common);
            let text = format!(
                "{:.3}% of neurons fire for a token, {:.3}% of them for another token too, both by construction: biases of one size, and embeddings \
                 that share {:.3}% of their energy",
                active * 100.0,
                overlap * 100.0,
                shared * 100.0
            );
            note("firing", text);
        }
        let recipes = recipe::recipes(&binding, checkpoint.tensors.len(), options.firing);
        Ok(Synthesis { checkpoint, plan, recipes, character })
    }

    /// The weights. Encodes the pools, which takes a second or so.
    pub fn weights(&self) -> Result<Weights<'_>> {
        let mut weights = Weights { synthesis: self, pools: HashMap::new(), sketches: HashMap::new(), embedding: Vec::new() };
        let mut pools: HashMap<(QuantType, u32), u64> = HashMap::new();
        let mut need = |to: QuantType, deviation: f32, bytes: u64| {
            let most = pools.entry((to, deviation.to_bits())).or_default();
            *most = (*most).max(bytes);
        };
        // Experts of a layer are alike, and so are its groups of neurons.
        for run in self.plan.runs.iter().filter(|r| r.id.ordinal == 0) {
            for segment in self.plan.segments(&self.checkpoint, run)?.iter().filter(|s| !s.sketch) {
                // A group is a part of its matrices, of any of which the pool may be as long as the whole.
                let whole = self.checkpoint.tensors.get(segment.tensor).map_or(0, Tensor::rows);
                let rows = if run.id.kind == Kind::NeuronGroup { whole } else { segment.rows };
                match self.recipe(segment.tensor) {
                    Recipe::Pooled(deviation) | Recipe::Trigger(deviation) => need(segment.to, deviation, rows * segment.dest_row),
                    Recipe::Embedding => weights.embedding = self.embedding(segment)?,
                    _ => {}
                }
            }
            if let Some(c) = self.plan.columns(&self.checkpoint, run)
                && let Recipe::Pooled(deviation) = self.recipe(c.tensor)
            {
                need(c.to, deviation, c.rows * row_in_pack(&c));
            }
        }
        for ((to, deviation), bytes) in pools {
            let pool = pool(to, f32::from_bits(deviation), self.character.seed, bytes.min(POOL_BYTES) as usize)?;
            weights.pools.insert((to, deviation), pool);
        }
        for run in self.plan.runs.iter().filter(|r| r.id.kind == Kind::Trunk) {
            for sketch in self.plan.segments(&self.checkpoint, run)?.iter().filter(|s| s.sketch) {
                let pool = self.trigger(run, sketch).and_then(|key| Some((key, weights.pools.get(&key)?)));
                if let Some((key, pool)) = pool.filter(|(key, _)| !weights.sketches.contains_key(key)) {
                    let sketch = sketch_of(pool, key.0, sketch.to)?;
                    weights.sketches.insert(key, sketch);
                }
            }
        }
        Ok(weights)
    }

    /// The pool of the rows that a sketch in a trunk run is made of.
    fn trigger(&self, run: &Run, sketch: &Segment) -> Option<(QuantType, u32)> {
        let place = self.plan.manifest.neurons.get(run.id.layer as usize)?.as_ref()?;
        let Recipe::Trigger(deviation) = self.recipe(sketch.tensor) else { return None };
        Some((place.gate.unwrap_or(place.up), deviation.to_bits()))
    }

    /// Encoded rows of the embedding.
    fn embedding(&self, segment: &Segment) -> Result<Vec<u8>> {
        encoded(segment.to, values(segment), segment.rows.min(EMBEDDING_ROWS), |row, out| {
            recipe::row(Recipe::Embedding, &self.character, segment.tensor, row, out);
        })
    }

    fn recipe(&self, tensor: usize) -> Recipe {
        self.recipes.get(tensor).copied().unwrap_or(Recipe::Constant(0.0))
    }
}

/// The options change the payload, so they change the identity.
fn pack_id(shape: &[u8; 16], options: &Options) -> [u8; 16] {
    let mut h = blake3::Hasher::new();
    h.update(b"forebay synthetic 1").update(shape).update(&options.alias.to_le_bytes());
    h.update(&options.skew.to_le_bytes()).update(&options.seed.to_le_bytes());
    if let Some(firing) = options.firing {
        h.update(b"firing").update(&firing.active.to_le_bytes()).update(&firing.overlap.to_le_bytes());
    }
    let mut id = [0; 16];
    id.copy_from_slice(&h.finalize().as_bytes()[..16]);
    id
}

/// Pools by type and deviation (its bits), and what is found without them.
pub struct Weights<'a> {
    synthesis: &'a Synthesis,
    pools: HashMap<(QuantType, u32), Vec<u8>>,
    /// Sketches of pools of trigger rows.
    sketches: HashMap<(QuantType, u32), Vec<u8>>,
    /// Encoded rows of the embedding.
    embedding: Vec<u8>,
}

impl Weights<'_> {
    fn pool(&self, key: (QuantType, u32)) -> &[u8] {
        self.pools.get(&key).map_or(&[], Vec::as_slice)
    }

    /// Bytes `place` of a segment of a run.
    fn part(&self, run: &Run, s: &Segment, place: Range<u64>, out: &mut [u8], row: &mut Row) -> Result<()> {
        let character = &self.synthesis.character;
        let start = self.synthesis.checkpoint.tensors.get(s.tensor).map_or(0, |t| t.range.start);
        let first_row = (s.source - start) / s.source_row;
        let recipe = self.synthesis.recipe(s.tensor);
        let (seed, at) = ([character.seed, s.tensor as u64], first_row * s.dest_row + place.start);
        match recipe {
            Recipe::Pooled(deviation) => {
                copy_blocks(self.pool((s.to, deviation.to_bits())), s.to.block_bytes(), seed, at, out);
                return Ok(());
            }
            Recipe::Trigger(deviation) => {
                let sketch = self.synthesis.trigger(run, s).filter(|_| s.sketch).and_then(|key| self.sketches.get(&key));
                let pool = sketch.map_or_else(|| self.pool((s.to, deviation.to_bits())), Vec::as_slice);
                copy_blocks(pool, stretch(s.to, SKETCHED), seed, at, out);
                return Ok(());
            }
            _ => {}
        }
        let length = s.dest_row as usize;
        row.values.resize(values(s), 0.0);
        row.encoded.resize(length, 0);
        for number in place.start / s.dest_row..place.end.div_ceil(s.dest_row) {
            let bytes = if recipe == Recipe::Embedding {
                let rows = (self.embedding.len() / length).max(1) as u64;
                let at = (Random::at(character.seed, [1, first_row + number]).bits() % rows) as usize * length;
                &self.embedding[at..at + length]
            } else {
                recipe::row(recipe, character, s.tensor, first_row + number, &mut row.values);
                encode(s.to, &row.values, &mut row.encoded)?;
                &row.encoded
            };
            let begin = number * s.dest_row;
            let (from, to) = (begin.max(place.start), (begin + s.dest_row).min(place.end));
            out[(from - place.start) as usize..(to - place.start) as usize]
                .copy_from_slice(&bytes[(from - begin) as usize..(to - begin) as usize]);
        }
        Ok(())
    }
}

/// Room for a row.
#[derive(Default)]
struct Row {
    values: Vec<f32>,
    encoded: Vec<u8>,
}

impl Content for Weights<'_> {
    fn fill(&self, plan: &Plan, run: &Run, range: Range<u64>, out: &mut [u8], scratch: &mut Scratch) -> Result<()> {
        let mut row = Row::default();
        out.fill(0);
        for s in plan.segments(&self.synthesis.checkpoint, run)? {
            let (from, to) = (s.dest.max(range.start), s.dest_end().min(range.end));
            if from < to {
                let part = &mut out[(from - range.start) as usize..(to - range.start) as usize];
                let rows = |place, out: &mut [u8]| self.part(run, &s, place, out, &mut row);
                tiles::fill(&s, from - s.dest..to - s.dest, part, &mut scratch.tiles, rows)?;
            }
        }
        Ok(())
    }

    fn fill_groups(&self, plan: &Plan, runs: &[Run], out: &mut [u8], scratch: &mut Scratch) -> Result<()> {
        out.fill(0);
        let checkpoint = &self.synthesis.checkpoint;
        let mut row = Row::default();
        let mut columns = Vec::with_capacity(runs.len());
        for run in runs {
            let base = run.offset - runs.first().map_or(0, |r| r.offset);
            for s in plan.segments(checkpoint, run)? {
                let part = &mut out[(base + s.dest) as usize..(base + s.dest_end()) as usize];
                self.part(run, &s, 0..s.rows * s.dest_row, part, &mut row)?;
            }
            columns.extend(plan.columns(checkpoint, run).map(|c| (base + c.dest, c)));
        }
        let Some((_, c)) = columns.first().copied() else { return Ok(()) };
        let Recipe::Pooled(deviation) = self.synthesis.recipe(c.tensor) else { return Ok(()) };
        let pool = self.pool((c.to, deviation.to_bits()));
        let start = stretch(c.to, c.first as usize) as u64;
        store_columns(&columns, out, scratch.tile(), |number, out| {
            copy_blocks(pool, c.to.block_bytes(), [self.synthesis.character.seed, c.tensor as u64], number * row_in_pack(&c) + start, out);
            Ok(())
        })
    }

    fn check_unchanged(&self) -> Result<()> {
        Ok(())
    }
}

/// Values in a row of a segment.
fn values(s: &Segment) -> usize {
    stretch_values(s.to, s.dest_row as usize)
}

/// Bytes of whole blocks that hold `values` values.
fn stretch(to: QuantType, values: usize) -> usize {
    values / to.block_len() * to.block_bytes()
}

/// Bytes of a whole row of a matrix, of which a group has some columns, in the pack's type.
fn row_in_pack(c: &Columns) -> u64 {
    stretch(c.to, stretch_values(c.from, c.source_row as usize)) as u64
}

/// Values of whole blocks in `bytes` bytes.
fn stretch_values(from: QuantType, bytes: usize) -> usize {
    bytes / from.block_bytes() * from.block_len()
}

/// `place` names a tensor; byte `at` of it and what follows, as many as `out` has: the pool again and again, each time from another block on.
fn copy_blocks(pool: &[u8], block: usize, place: [u64; 2], at: u64, out: &mut [u8]) {
    let (mut at, mut left) = (at, out);
    while !left.is_empty() && !pool.is_empty() {
        let (turn, here) = ((at / pool.len() as u64), (at % pool.len() as u64) as usize);
        let blocks = (pool.len() / block) as u64;
        let shift = (Random::at(place[0], [place[1], turn]).bits() % blocks) as usize * block;
        let from = (here + shift) % pool.len();
        let count = left.len().min(pool.len() - here).min(pool.len() - from);
        let (now, rest) = left.split_at_mut(count);
        now.copy_from_slice(&pool[from..from + count]);
        left = rest;
        at += count as u64;
    }
}

/// At least `bytes` of encoded normal values, whole blocks.
fn pool(to: QuantType, deviation: f32, seed: u64, bytes: usize) -> Result<Vec<u8>> {
    encoded(to, STRETCH, bytes.div_ceil(stretch(to, STRETCH)) as u64, |row, out| {
        recipe::row(Recipe::Normal(deviation), &Character::new(seed, 0.0), usize::MAX, row, out);
    })
}

/// The values of a pool in another type.
fn sketch_of(pool: &[u8], from: QuantType, to: QuantType) -> Result<Vec<u8>> {
    let length = stretch(from, STRETCH);
    encoded(to, STRETCH, (pool.len() / length) as u64, |row, out| {
        let start = row as usize * length;
        from.decode_row(&pool[start..start + length], out);
    })
}

/// `rows` encoded rows of `cols` values, on all threads.
fn encoded(to: QuantType, cols: usize, rows: u64, fill: impl Fn(u64, &mut [f32]) + Sync) -> Result<Vec<u8>> {
    let length = to.row_bytes(cols).ok_or_else(|| Error::Usage(format!("{} cannot hold rows of {cols} values", to.name())))?;
    let mut bytes = vec![0; length * rows as usize];
    bytes.par_chunks_exact_mut(length).enumerate().try_for_each_init(
        || vec![0.0; cols],
        |row, (number, out)| {
            fill(number as u64, row);
            encode(to, row, out)
        },
    )?;
    Ok(bytes)
}

fn encode(to: QuantType, row: &[f32], out: &mut [u8]) -> Result<()> {
    // Recipes give small numbers only.
    encode::encode_row(to, row, out).map_err(|e| Error::Usage(format!("a made-up row cannot be stored as {}: {e}", to.name())))
}
