//! The forward pass: tokens in, residual stream out. One readable loop over the layers; what a layer does is its mechanism's file.
//!
//! A step has as many rows as it is given: one while decoding, a chunk of the prompt while reading it. The result of a row does not
//! depend on how many rows came with it.

use crate::error::{Error, Result};
use crate::kernels::{Activations, Matrix};
use crate::model::{FfnLayer, Layer, MixerLayer, Model};
use crate::norm::StreamNorm;
use crate::scratch::{Scratch, Step};
use crate::state::{LayerState, Session};
use crate::store::Store;
use forebay_format::model::NormOrder;
use std::ops::Range;
use std::sync::atomic::Ordering;

/// Called for each routed layer and row: layer, position, chosen experts with their weights in router order.
pub type RouterSink = Box<dyn FnMut(u32, usize, &[(u32, f32)])>;

/// Runs `tokens` (ids below the vocabulary) as one step; the residual stream of each stays in `scratch.x`.
///
/// # Errors
/// [`Error::Interrupted`] when the step's `cancel` is set, and what a read may give. The session is torn then: only a reset helps.
pub fn forward(
    model: &Model,
    store: &mut Store,
    session: &mut Session,
    scratch: &mut Scratch,
    step: &Step,
    tokens: &[u32],
    sink: &mut Option<RouterSink>,
) -> Result<()> {
    let values = step.rows * model.hidden;
    session.torn = true;
    embed(model, store, step, tokens, scratch)?;
    for (rope, turns) in model.ropes.iter().zip(&mut scratch.turns) {
        for (row, turn) in turns.chunks_exact_mut(2 * rope.pairs()).take(step.rows).enumerate() {
            rope.turn(step.position + row, turn);
        }
    }
    look_ahead(model, 0, store, scratch, step)?;
    for (number, (layer, state)) in (0..).zip(model.layers.iter().zip(&mut session.layers)) {
        if step.cancel.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        store.enter(number, step.pool)?;
        layer.before(&layer.mixer_norm, step, scratch, values, model.hidden);
        match (&layer.mixer, state) {
            (MixerLayer::Attention(a), LayerState::Kv(cache)) => a.forward(step, store, &model.ropes, cache, scratch),
            (MixerLayer::GatedDelta(d), LayerState::Delta(state)) => d.forward(step, store, state, scratch),
            _ => return Err(Error::Request("the session belongs to another model".into())),
        }
        layer.after(&layer.mixer_norm, step, scratch, values, model.hidden);
        store.keep_reading(step.pool)?;
        layer.before(&layer.ffn_norm, step, scratch, values, model.hidden);
        match &layer.ffn {
            FfnLayer::Dense(f) => {
                let Scratch { arena, normed, out, input, inner, .. } = scratch;
                input.load(step.pool, step.kernels, &normed[..values], step.rows, model.hidden, &f.input_types(store));
                f.forward(step, store, input, inner, arena, &mut out[..values]);
            }
            FfnLayer::Neurons(f) => f.forward(step, store, scratch)?,
            FfnLayer::Routed(f) => {
                f.forward(step, store, scratch)?;
                if let Some(sink) = sink {
                    let chosen = scratch.picks.chosen.chunks_exact(f.shape.top_k).take(step.rows);
                    chosen.enumerate().for_each(|(row, chosen)| sink(number, step.position + row, chosen));
                }
            }
        }
        layer.after(&layer.ffn_norm, step, scratch, values, model.hidden);
        look_ahead(model, number + 1, store, scratch, step)?;
    }
    store.enter(model.layers.len() as u32, step.pool)?;
    session.position += step.rows;
    session.torn = false;
    Ok(())
}

impl Layer {
    /// What a mixer or feed-forward part reads, into `scratch.normed`.
    fn before(&self, norm: &StreamNorm, step: &Step, scratch: &mut Scratch, values: usize, hidden: usize) {
        match self.order {
            NormOrder::Pre => norm.apply_rows(step, hidden, &scratch.x[..values], &mut scratch.normed[..values]),
            NormOrder::Post => scratch.normed[..values].copy_from_slice(&scratch.x[..values]),
        }
    }

    /// Adds `scratch.out`, what the part made of it, to the residual stream.
    fn after(&self, norm: &StreamNorm, step: &Step, scratch: &mut Scratch, values: usize, hidden: usize) {
        match self.order {
            NormOrder::Pre => add(&mut scratch.x[..values], &scratch.out[..values]),
            NormOrder::Post => {
                add(&mut scratch.out[..values], &scratch.x[..values]);
                norm.apply_rows(step, hidden, &scratch.out[..values], &mut scratch.x[..values]);
            }
        }
    }
}

/// Layers ahead of which experts are read on a guess. With one alone the drive idles from the arrival of a layer's last expert to the next guess: about 1 ms.
const LOOK_AHEAD: usize = 2;

/// While a mixer runs, nobody knows for sure what to read next. The routers of the layers from `first` on, asked about the residual stream as it is now, mostly
/// do: mixers change the stream little.
fn look_ahead(model: &Model, first: u32, store: &mut Store, scratch: &mut Scratch, step: &Step) -> Result<()> {
    let near = (first..).zip(model.layers.iter().skip(first as usize)).take(LOOK_AHEAD);
    for (distance, (number, layer)) in near.enumerate() {
        let FfnLayer::Routed(ffn) = &layer.ffn else { continue };
        if !store.looks_ahead() || !(ffn.coarse.is_some() || store.has_layer(number)) {
            return Ok(());
        }
        let values = step.rows * ffn.shape.hidden;
        layer.before(&layer.ffn_norm, step, scratch, values, ffn.shape.hidden);
        let guesses = ffn.guess(step, store, scratch, distance);
        let guesses = scratch.ahead[..guesses].iter().map(|c| c.0);
        if store.prepares(step.rows) {
            return store.prepare(number, guesses);
        }
        store.look_ahead(number, guesses)?;
    }
    Ok(())
}

/// Logits of some rows of the step that [`forward`] ran last, a few at a time; `sink` gets the row and its `vocab` logits.
pub fn logits(model: &Model, store: &Store, scratch: &mut Scratch, step: &Step, rows: Range<usize>, sink: &mut dyn FnMut(usize, &[f32])) {
    let (hidden, vocab) = (model.hidden, model.vocab);
    let w = store.tensor(model.head);
    let Scratch { x, normed, input, inner, arena, logits, .. } = scratch;
    let at_once = logits.len() / vocab;
    for first in rows.clone().step_by(at_once) {
        let n = at_once.min(rows.end - first);
        model.final_norm.apply_rows(step, hidden, &x[first * hidden..(first + n) * hidden], &mut normed[..n * hidden]);
        let read = match model.projections {
            None => {
                input.load(step.pool, step.kernels, &normed[..n * hidden], n, hidden, &[w.qtype]);
                &*input
            }
            Some([_, back]) => {
                let narrow = &mut arena[..n * model.width];
                project(step, &store.tensor(back), input, &normed[..n * hidden], narrow);
                inner.load(step.pool, step.kernels, narrow, n, model.width, &[w.qtype]);
                &*inner
            }
        };
        step.kernels.matmul(step.pool, &w, read, &mut logits[..n * vocab]);
        logits.chunks_exact(vocab).take(n).zip(first..).for_each(|(row, i)| sink(i, row));
    }
}

/// `out = w rows`: `[n, w.cols]` to `[n, w.rows]`.
fn project(step: &Step, w: &Matrix<'_>, input: &mut Activations, rows: &[f32], out: &mut [f32]) {
    input.load(step.pool, step.kernels, rows, rows.len() / w.cols, w.cols, &[w.qtype]);
    step.kernels.matmul(step.pool, w, input, out);
}

/// The residual stream as it begins: rows of the embedding, at the model's width, with their positions.
fn embed(model: &Model, store: &mut Store, step: &Step, tokens: &[u32], scratch: &mut Scratch) -> Result<()> {
    let Scratch { x, arena, inner, out, .. } = scratch;
    let x = &mut x[..step.rows * model.hidden];
    match model.projections {
        None => look_up(model, store, step, tokens, x)?,
        Some([into, _]) => {
            let narrow = &mut arena[..step.rows * model.width];
            look_up(model, store, step, tokens, narrow)?;
            project(step, &store.tensor(into), inner, narrow, x);
        }
    }
    if let Some(positions) = model.positions {
        let table = store.tensor(positions.table);
        let rows = &mut out[..step.rows * model.hidden];
        let first = step.position + positions.offset;
        step.each_row(rows, model.hidden, &|i, row| step.kernels.decode_row(&table, first + i, row));
        add(x, rows);
    }
    Ok(())
}

/// Rows of the embedding, from memory or, where it does not stay there, read a few at a time.
fn look_up(model: &Model, store: &mut Store, step: &Step, tokens: &[u32], x: &mut [f32]) -> Result<()> {
    let width = model.width;
    let Some(at_once) = store.row_slots() else {
        let w = store.tensor(model.embedding);
        step.each_row(x, width, &|i, row| step.kernels.decode_row(&w, tokens[i] as usize, row));
        return Ok(());
    };
    for (tokens, x) in tokens.chunks(at_once).zip(x.chunks_mut(at_once * width)) {
        store.read_rows(model.embedding, tokens, step.pool)?;
        for (i, row) in x.chunks_exact_mut(width).enumerate() {
            step.kernels.decode_row(&store.row(model.embedding, i), 0, row);
        }
    }
    Ok(())
}

fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
