//! Packs of random weights with the shape of a real model: to measure a machine before anything is downloaded. Output is gibberish, the work per token is real.

mod random;
mod recipe;
mod tokenizer;

use crate::arch;
use crate::encode;
use crate::error::{Error, Result};
use crate::plan::{Plan, Quantize, Run, Segment};
use crate::source::Checkpoint;
use crate::write::fill::{Content, Scratch};
use forebay_format::QuantType;
use random::Random;
use rayon::prelude::*;
use recipe::Recipe;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;

/// Encoded bytes of a pool: long enough that no matrix of an expert has the same row twice in most models, short enough to encode in a blink.
const POOL_BYTES: u64 = 4 << 20;
/// Different rows of the embedding. More tokens than that share rows, which no measurement of a few thousand tokens can see.
const EMBEDDING_ROWS: u64 = 4096;
/// Values that are encoded at a time: whole blocks of every type.
const STRETCH: usize = 8192;

/// What to make.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Options {
    /// Type of the matrices.
    pub quantize: Quantize,
    /// Experts of a layer in one extent: 1 for a pack as large as the model.
    pub alias: u32,
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
    options: Options,
}

impl Synthesis {
    /// Plans a pack of the shape that the `config.json` at `config` describes.
    ///
    /// # Errors
    /// As [`arch::imagine`], [`arch::bind`] and [`Plan::new`]; [`Error::Usage`] for a skew that is no number or an alias of 0.
    pub fn new(config: &Path, options: Options) -> Result<Synthesis> {
        if !(options.skew.is_finite() && (0.0..=100.0).contains(&options.skew)) || options.alias == 0 {
            return Err(Error::Usage("--skew must be between 0 and 100, --alias at least 1".into()));
        }
        let checkpoint = arch::imagine(config, tokenizer::tokenizer_json)?;
        let binding = arch::bind(&checkpoint)?;
        let mut plan = Plan::aliased(&checkpoint, &binding, options.quantize, options.alias)?;
        plan.pack_id = pack_id(&plan.pack_id, &options);
        let provenance = &mut plan.manifest.provenance;
        provenance.format = "synthetic".into();
        let mut note = |key: &str, text: String| provenance.notes.insert(key.into(), text);
        note("synthetic", format!("random weights, seed {}, skew {}", options.seed, options.skew));
        if options.alias > 1 {
            note("alias", options.alias.to_string());
        }
        let recipes = recipe::recipes(&binding, checkpoint.tensors.len());
        Ok(Synthesis { checkpoint, plan, recipes, options })
    }

    /// The weights. Encodes the pools, which takes a second or so.
    pub fn weights(&self) -> Result<Weights<'_>> {
        let mut weights = Weights { synthesis: self, pools: HashMap::new(), embedding: Vec::new() };
        let mut pools: HashMap<(QuantType, u32), u64> = HashMap::new();
        // Experts of a layer are alike.
        for run in self.plan.runs.iter().filter(|r| r.id.ordinal == 0) {
            for segment in self.plan.segments(&self.checkpoint, run)? {
                match self.recipe(segment.tensor) {
                    Recipe::Pooled(deviation) => {
                        let bytes = pools.entry((segment.to, deviation.to_bits())).or_default();
                        *bytes = (*bytes).max(segment.rows * segment.dest_row);
                    }
                    Recipe::Embedding => weights.embedding = self.embedding(&segment)?,
                    _ => {}
                }
            }
        }
        for ((to, deviation), bytes) in pools {
            let pool = pool(to, f32::from_bits(deviation), self.options.seed, bytes.min(POOL_BYTES) as usize)?;
            weights.pools.insert((to, deviation), pool);
        }
        Ok(weights)
    }

    /// Encoded rows of the embedding.
    fn embedding(&self, segment: &Segment) -> Result<Vec<u8>> {
        let Options { seed, skew, .. } = self.options;
        encoded(segment.to, values(segment), segment.rows.min(EMBEDDING_ROWS), |row, out| {
            recipe::row(Recipe::Embedding, seed, skew, segment.tensor, row, out);
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
    let mut id = [0; 16];
    id.copy_from_slice(&h.finalize().as_bytes()[..16]);
    id
}

/// Pools by type and deviation (its bits), and what is found without them.
pub struct Weights<'a> {
    synthesis: &'a Synthesis,
    pools: HashMap<(QuantType, u32), Vec<u8>>,
    /// Encoded rows of the embedding.
    embedding: Vec<u8>,
}

impl Weights<'_> {
    /// Bytes `place` of a segment.
    fn part(&self, s: &Segment, place: Range<u64>, out: &mut [u8], row: &mut Row) -> Result<()> {
        let options = &self.synthesis.options;
        let start = self.synthesis.checkpoint.tensors.get(s.tensor).map_or(0, |t| t.range.start);
        let first_row = (s.source - start) / s.source_row;
        let recipe = self.synthesis.recipe(s.tensor);
        if let Recipe::Pooled(deviation) = recipe {
            let pool = self.pools.get(&(s.to, deviation.to_bits())).map_or(&[][..], Vec::as_slice);
            copy_blocks(pool, s.to.block_bytes(), [options.seed, s.tensor as u64], first_row * s.dest_row + place.start, out);
            return Ok(());
        }
        let length = s.dest_row as usize;
        row.values.resize(values(s), 0.0);
        row.encoded.resize(length, 0);
        for number in place.start / s.dest_row..place.end.div_ceil(s.dest_row) {
            let bytes = if recipe == Recipe::Embedding {
                let rows = (self.embedding.len() / length).max(1) as u64;
                let at = (Random::at(options.seed, [1, first_row + number]).bits() % rows) as usize * length;
                &self.embedding[at..at + length]
            } else {
                recipe::row(recipe, options.seed, options.skew, s.tensor, first_row + number, &mut row.values);
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
    fn fill(&self, plan: &Plan, run: &Run, range: Range<u64>, out: &mut [u8], _: &mut Scratch) -> Result<()> {
        let mut row = Row::default();
        out.fill(0);
        for s in plan.segments(&self.synthesis.checkpoint, run)? {
            let (from, to) = (s.dest.max(range.start), s.dest_end().min(range.end));
            if from < to {
                let part = &mut out[(from - range.start) as usize..(to - range.start) as usize];
                self.part(&s, from - s.dest..to - s.dest, part, &mut row)?;
            }
        }
        Ok(())
    }

    fn check_unchanged(&self) -> Result<()> {
        Ok(())
    }
}

/// Values in a row of a segment.
fn values(s: &Segment) -> usize {
    s.dest_row as usize / s.to.block_bytes() * s.to.block_len()
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
    let stretch = STRETCH / to.block_len() * to.block_bytes();
    encoded(to, STRETCH, bytes.div_ceil(stretch) as u64, |row, out| {
        recipe::row(Recipe::Normal(deviation), seed, 0.0, usize::MAX, row, out);
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
