//! What is replayed: recorded traces, and two made up ones for what no recorded trace here shows.

use super::policies::{Cache, next_uses};
use anyhow::{Context, Result, bail};
use forebay::bench::trace::Trace;
use forebay::window::policy::Shape;

/// One part in this many of a trace's visits fills the window and is not counted.
const WARMUP_SHARE: usize = 4;

/// A trace, ready to be replayed.
pub struct Load {
    pub name: String,
    pub shape: Shape,
    pub top_k: usize,
    /// Layer and keys of every visit of a decode step.
    pub visits: Vec<(u32, Vec<u32>)>,
    /// By visit and place in it: the visit in which the key is used again.
    pub next: Vec<Vec<usize>>,
    pub steps: usize,
}

impl Load {
    /// The decode steps of a recorded trace. Prompts are left out: in them every expert of a layer is read once, whatever the policy.
    pub fn read(path: &str) -> Result<Load> {
        let trace = Trace::read(path.as_ref())?;
        let shape = Shape::new(trace.header.layers.iter().copied()).context("too many experts")?;
        let decode = trace.visits.iter().filter(|v| !v.prompt);
        let visits: Vec<_> = decode
            .map(|visit| {
                let base = shape.range(visit.layer).start;
                (visit.layer, visit.experts.iter().map(|e| base + e).collect())
            })
            .collect();
        let name = std::path::Path::new(path).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let load = Load::new(name, shape, visits);
        if load.steps < 2 * WARMUP_SHARE {
            bail!("{path}: {} decode steps say nothing", load.steps);
        }
        Ok(load)
    }

    pub fn new(name: String, shape: Shape, visits: Vec<(u32, Vec<u32>)>) -> Load {
        let routed = (0..shape.layers() as u32).filter(|&l| !shape.range(l).is_empty()).count();
        Load {
            name,
            top_k: shape.max_top_k() as usize,
            next: next_uses(shape.keys(), &visits),
            steps: visits.len() / routed.max(1),
            shape,
            visits,
        }
    }

    /// 24 layers of 128 experts, 8 a token, each as likely as any other: there is nothing to learn.
    pub fn uniform() -> Load {
        let (mut random, mut visits) = (Random(88_172_645_463_325_252), Vec::new());
        for _ in 0..400 {
            for layer in 0..24 {
                let mut chosen = Vec::new();
                fill(&mut chosen, || random.below(128));
                visits.push((layer, chosen.into_iter().map(|e| layer * 128 + e).collect()));
            }
        }
        Load::new("made up: uniform".into(), made_up(), visits)
    }

    /// The same shape with choices that repeat as those of large trained models are said to: of the choices of a token three in ten stay for the next; of the rest half
    /// come from the last eight tokens and half from a mildly uneven popularity, rank to the power -0.6. Some popularities change every 400 tokens. Together
    /// about 40% of choices are also those of the token before (published: 43% for a 128-expert, top-8 model).
    pub fn repeating() -> Load {
        let mut random = Random(88_172_645_463_325_252);
        let mut ranks: Vec<Vec<u32>> = (0..24).map(|_| (0..128).collect()).collect();
        let mut past: Vec<Vec<Vec<u32>>> = vec![Vec::new(); 24];
        ranks.iter_mut().for_each(|ranks| (0..128).for_each(|i| ranks.swap(i, random.below(128) as usize)));
        let mut popular = Vec::new();
        let mut total = 0.0;
        for rank in 0..128 {
            total += f64::from(rank + 3).powf(-0.6);
            popular.push(total);
        }
        let mut visits = Vec::new();
        for step in 1..=800 {
            for (layer, past) in (0..).zip(&mut past) {
                let ranks = &mut ranks[layer as usize];
                if step % 400 == 0 {
                    (0..32).for_each(|_| ranks.swap(random.below(128) as usize, random.below(128) as usize));
                }
                let mut chosen: Vec<u32> = past.last().into_iter().flatten().copied().filter(|_| random.unit() < 0.3).collect();
                fill(&mut chosen, || {
                    if past.len() >= 8 && random.below(2) == 0 {
                        return past[past.len() - 1 - random.below(8) as usize][random.below(8) as usize];
                    }
                    let at = random.unit() * total;
                    ranks[popular.partition_point(|&p| p < at).min(127)]
                });
                visits.push((layer, chosen.iter().map(|e| layer * 128 + e).collect()));
                past.push(chosen);
            }
        }
        Load::new("made up: repeating".into(), made_up(), visits)
    }

    /// Share of the experts that a step uses: the cliff below which least-recently-used never hits on a cyclic walk.
    pub fn cliff(&self) -> f64 {
        self.visits.iter().map(|v| v.1.len()).sum::<usize>() as f64 / self.steps as f64 / self.shape.keys() as f64
    }

    /// Share of choices that are also those of the token before.
    pub fn repeats(&self) -> f64 {
        let mut last: Vec<&[u32]> = vec![&[]; self.shape.layers()];
        let (mut repeats, mut all) = (0, 0);
        for (layer, keys) in &self.visits {
            let before = std::mem::replace(&mut last[*layer as usize], keys);
            if !before.is_empty() {
                repeats += keys.iter().filter(|k| before.contains(k)).count();
                all += keys.len();
            }
        }
        repeats as f64 / all as f64
    }

    /// Share of uses that find their expert, after the warm-up.
    pub fn hit_rate(&self, cache: &mut dyn Cache) -> f64 {
        let from = self.visits.len() / WARMUP_SHARE;
        let (mut hits, mut all) = (0, 0);
        for (i, (layer, keys)) in self.visits.iter().enumerate() {
            let found = cache.visit(*layer, keys);
            if i >= from {
                hits += found;
                all += keys.len();
            }
        }
        hits as f64 / all as f64
    }
}

/// Shape of what is made up.
fn made_up() -> Shape {
    Shape::new([(128, 8); 24]).unwrap_or_else(|| unreachable!("3072 keys"))
}

/// Adds choices until there are eight different ones.
fn fill(chosen: &mut Vec<u32>, mut choose: impl FnMut() -> u32) {
    while chosen.len() < 8 {
        let expert = choose();
        if !chosen.contains(&expert) {
            chosen.push(expert);
        }
    }
}

/// Marsaglia's xorshift: the same numbers everywhere.
struct Random(u64);

impl Random {
    fn unit(&mut self) -> f64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, n: u32) -> u32 {
        (self.unit() * f64::from(n)) as u32
    }
}
