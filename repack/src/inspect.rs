//! What a pack holds, for people and for programs.

use crate::plan::kinds::{kind_name, sizes_by_kind};
use crate::progress::size;
use forebay_format::layout::manifest::{NeuronDown, TensorPlace};
use forebay_format::layout::superblock::hex;
use forebay_format::model::{Activation, Ffn, LayerSpec, Mixer, Rope, RopeScaling};
use forebay_format::reference::Reader;
use forebay_format::validate_pack::{matrix_bytes, role_name};
use forebay_format::{BundleId, Kind, QuantType, Tiling};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// One screen.
pub fn summary(name: &str, r: &Reader) -> String {
    let (m, s) = (&r.manifest, &r.superblock);
    let mut text = format!(
        "{name}: {}, {}, {} layers, hidden {}, vocabulary {}, context {}\n",
        m.provenance.architecture,
        size(s.file_bytes),
        m.spec.layers.len(),
        m.spec.hidden,
        m.spec.vocab,
        m.spec.context
    );
    let mut line = |key: &str, value: String| text += &format!("  {key:<10} {value}\n");
    for (i, (layer, count)) in distinct(&m.spec.layers, mixer_text).into_iter().enumerate() {
        line(if i == 0 { "mixers" } else { "" }, format!("{count} x {layer}"));
    }
    for (i, (layer, count)) in distinct(&m.spec.layers, ffn_text).into_iter().enumerate() {
        line(if i == 0 { "ffn" } else { "" }, format!("{count} x {layer}"));
    }
    line("head", if m.spec.tied_head { "tied to the embedding".into() } else { "its own matrix".into() });
    for (i, (types, roles)) in roles_by_type(r).into_iter().enumerate() {
        line(if i == 0 { "types" } else { "" }, format!("{types:<6} {}", roles.join(" ")));
    }
    for (i, (kind, (count, bytes))) in sizes_by_kind(r.records().iter().map(|x| (x.id.kind, x.length))).into_iter().enumerate() {
        line(if i == 0 { "sizes" } else { "" }, format!("{:<10} {:>8} in {count}", kind_name(kind), size(bytes)));
    }
    if let Some(text) = experts_text(r) {
        line("expert", text);
    }
    for (i, (text, count)) in groups_text(r).into_iter().enumerate() {
        line(if i == 0 { "neurons" } else { "" }, format!("{count} x {text}"));
    }
    let template = if m.chat_template.is_some() { "with" } else { "no" };
    let stop = &m.generation.stop_tokens;
    line(
        "tokenizer",
        match &m.tokenizer {
            Some(t) => format!("{}, {template} chat template, stop tokens {stop:?}", size(t.json.len() as u64)),
            None => format!("none, {template} chat template"),
        },
    );
    line(
        "source",
        format!("{}, {} files, --quantize {}, by {}", m.provenance.format, m.provenance.files.len(), m.provenance.quantize, m.writer),
    );
    for u in &m.provenance.unused {
        line("", format!("left out: {}, {} tensors, {}", u.what, u.tensors, size(u.bytes)));
    }
    for (key, value) in &m.provenance.notes {
        line("note", format!("{key}: {value}"));
    }
    if r.index.aliased() > 0 {
        let distinct = r.records().len() - r.index.aliased();
        line("", format!("{} bundles share {distinct} places on disk: the file is smaller than the model", r.records().len()));
    }
    line("ids", format!("pack {}  content {}", hex(&s.pack_id), hex(&s.content_id)));
    line("format", format!("{}.{}, alignment {}, chunks of {}", s.version.0, s.version.1, s.alignment, s.chunk_bytes));
    text
}

fn distinct(layers: &[LayerSpec], describe: impl Fn(&LayerSpec) -> String) -> Vec<(String, usize)> {
    let mut found: Vec<(String, usize)> = Vec::new();
    for text in layers.iter().map(describe) {
        match found.iter_mut().find(|(t, _)| *t == text) {
            Some((_, count)) => *count += 1,
            None => found.push((text, 1)),
        }
    }
    found
}

fn mixer_text(layer: &LayerSpec) -> String {
    match &layer.mixer {
        Mixer::Attention(a) => {
            let window = a.sliding_window.map_or(String::new(), |w| format!(", window {w}"));
            let gate = if a.output_gate { ", output gate" } else { "" };
            let rope = a.rope.as_ref().map_or("no rotary encoding".into(), |r| rope_text(r, a.head_dim));
            format!("attention, {} heads of {}, {} key/value{gate}{window}, {rope}", a.heads, a.head_dim, a.kv_heads)
        }
        Mixer::GatedDelta(d) => format!(
            "gated delta net, {} key heads of {}, {} value heads of {}, convolution of {}",
            d.key_heads, d.key_dim, d.value_heads, d.value_dim, d.conv_kernel
        ),
    }
}

fn rope_text(r: &Rope, head_dim: u32) -> String {
    let scaling = match &r.scaling {
        RopeScaling::None => String::new(),
        RopeScaling::Linear { factor } => format!(", linear / {factor}"),
        RopeScaling::Factors { factors } => format!(", {} frequency factors", factors.len()),
        RopeScaling::Yarn { factor, .. } => format!(", YaRN x {factor}"),
    };
    format!("rotary {} of {head_dim}, theta {}{scaling}", r.dim, r.theta)
}

fn activation(a: Activation) -> String {
    match a {
        Activation::Silu => "silu".into(),
        Activation::Relu => "relu".into(),
        Activation::GeluTanh => "gelu (tanh)".into(),
        Activation::FatRelu { threshold } => format!("relu above {threshold}"),
        Activation::SquaredRelu => "relu squared".into(),
    }
}

fn ffn_text(layer: &LayerSpec) -> String {
    match &layer.ffn {
        Ffn::Dense(f) => format!("dense, {} neurons, {}", f.inner, activation(f.activation)),
        Ffn::Routed(r) => {
            let shared = match &r.shared {
                Some(s) => format!(", shared expert of {}{}", s.ffn.inner, if s.gated { " (gated)" } else { "" }),
                None => String::new(),
            };
            let kind = activation(r.expert.activation);
            format!("{} experts, {} per token, {} neurons each, {kind}{shared}", r.experts, r.top_k, r.expert.inner)
        }
    }
}

/// Every tensor of the manifest with the run it lies in.
fn places(r: &Reader) -> impl Iterator<Item = (BundleId, &TensorPlace)> {
    let m = &r.manifest;
    let trunk = (0u32..).zip(&m.trunk).flat_map(|(layer, t)| t.iter().map(move |p| (BundleId::trunk(layer), p)));
    let embedding = m.embedding.iter().map(|p| (BundleId::global(Kind::Embedding, 0), p));
    embedding.chain(trunk).chain(m.head.iter().map(|p| (BundleId::global(Kind::Head, 0), p)))
}

fn roles_by_type(r: &Reader) -> BTreeMap<&'static str, Vec<String>> {
    let mut types: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    let experts = r.manifest.experts.iter().flatten();
    let parts = experts.flat_map(|e| [(e.gate, "expert_gate"), (e.up, "expert_up"), (e.down, "expert_down")]);
    let neurons = r.manifest.neurons.iter().flatten();
    let neurons = neurons.flat_map(|n| [n.gate.map(|q| (q, "neuron_gate")), Some((n.up, "neuron_up")), Some((n.down, "neuron_down"))]);
    let parts = parts.chain(neurons.flatten()).map(|(q, name)| (q, name.to_owned()));
    for (q, role) in places(r).map(|(_, p)| (p.qtype, role_name(p.role))).chain(parts) {
        let roles = types.entry(q.name()).or_default();
        if !roles.contains(&role) {
            roles.push(role);
        }
    }
    types
}

fn experts_text(r: &Reader) -> Option<String> {
    let largest = r.records().iter().filter(|x| x.id.kind == Kind::Expert).max_by_key(|x| x.length)?;
    let per_token: u64 = (0u32..)
        .zip(&r.manifest.spec.layers)
        .filter_map(|(layer, spec)| match &spec.ffn {
            Ffn::Routed(f) => Some(f.top_k as u64 * r.index.get(BundleId::expert(layer, 0)).ok()?.length),
            Ffn::Dense(_) => None,
        })
        .sum();
    let slices = r.index.layout(largest).slices.len();
    Some(format!("{} in {slices} slices; a token uses {} of experts", size(largest.length), size(per_token)))
}

fn order(order: NeuronDown) -> &'static str {
    match order {
        NeuronDown::Transposed => "down transposed",
        NeuronDown::Blocks => "down in blocks",
    }
}

/// How the neurons of layers are grouped, and how many layers are alike.
fn groups_text(r: &Reader) -> Vec<(String, usize)> {
    let mut found: Vec<(String, usize)> = Vec::new();
    for (layer, place) in (0u32..).zip(&r.manifest.neurons).filter_map(|(l, n)| Some((l, n.as_ref()?))) {
        let slices = r.index.get(BundleId::neurons(layer, 0)).map(|x| r.index.layout(x).slices.as_slice()).unwrap_or_default();
        let sizes: Vec<String> = slices.iter().map(|&s| size(s)).collect();
        let text = format!(
            "{} groups of {}, {} each, {}",
            r.index.count(Kind::NeuronGroup, layer),
            place.group,
            sizes.join(" + "),
            order(place.down_order)
        );
        match found.iter_mut().find(|(t, _)| *t == text) {
            Some((_, count)) => *count += 1,
            None => found.push((text, 1)),
        }
    }
    found
}

/// One line a layer.
pub fn layers(r: &Reader) -> String {
    let line = |(i, layer): (u32, &LayerSpec)| {
        let trunk = r.index.get(BundleId::trunk(i)).map_or(0, |x| x.length);
        let count = r.index.count(Kind::Expert, i) as u64;
        let experts = r.index.get(BundleId::expert(i, 0)).map_or(0, |x| x.length * count);
        let groups = r.index.get(BundleId::neurons(i, 0)).map_or(0, |x| x.length * r.index.count(Kind::NeuronGroup, i) as u64);
        let neurons = if groups > 0 { format!("  neurons {:>8}", size(groups)) } else { String::new() };
        format!("{i:>4}  trunk {:>8}  experts {:>8}{neurons}  {}; {}\n", size(trunk), size(experts), mixer_text(layer), ffn_text(layer))
    };
    (0u32..).zip(&r.manifest.spec.layers).map(line).collect()
}

/// One line a tensor; the experts of a layer are one line.
pub fn tensors(r: &Reader) -> String {
    let mut text = String::new();
    for (run, p) in places(r) {
        let bytes = matrix_bytes(p.qtype, p.rows as u64, p.cols as u64).unwrap_or(0);
        let shape = format!("[{}, {}]", p.rows, p.cols);
        text += &format!(
            "{:<16} {:<20} {:<16} {shape:<18} {:>8}  {}\n",
            run.to_string(),
            role_name(p.role),
            typed(p.qtype, p.tiling),
            size(bytes),
            p.source
        );
    }
    for (layer, place) in r.manifest.experts.iter().enumerate().filter_map(|(l, p)| Some((l, p.as_ref()?))) {
        let count = r.index.count(Kind::Expert, layer as u32);
        let parts = [(place.gate, place.tiling), (place.up, place.tiling), (place.down, place.down_tiling)];
        let types = parts.map(|(qtype, tiling)| typed(qtype, tiling)).join("/");
        text +=
            &format!("layer {layer} experts x {count}: gate/up/down {types}, {} slices, {}\n", place.slices.len(), place.source.join(" "));
    }
    for (layer, n) in r.manifest.neurons.iter().enumerate().filter_map(|(l, n)| Some((l, n.as_ref()?))) {
        let count = r.index.count(Kind::NeuronGroup, layer as u32);
        let types: Vec<&str> = n.gate.into_iter().chain([n.up, n.down]).map(|q| q.name()).collect();
        let parts = if n.gate.is_some() { "gate/up/down" } else { "up/down" };
        let (types, source) = (types.join("/"), n.source.join(" "));
        text += &format!("layer {layer} groups of {} neurons x {count}: {parts} {types}, {}, {source}\n", n.group, order(n.down_order));
    }
    for (i, c) in r.manifest.carried.iter().enumerate() {
        text += &format!("carried {i:<8} {:<6} {:?}  {}\n", c.qtype.name(), c.shape, c.name);
    }
    text
}

/// A type, and the order of its rows' bytes if that is another than row after row.
fn typed(qtype: QuantType, tiling: Tiling) -> String {
    match tiling {
        Tiling::RowMajor => qtype.name().to_owned(),
        Tiling::Dwords16 => format!("{} dwords_16", qtype.name()),
    }
}

/// Everything but tokenizer and template text, as one object. `with_layers` and `with_tensors` add the long lists.
pub fn to_json(r: &Reader, with_layers: bool, with_tensors: bool) -> Value {
    let (m, s) = (&r.manifest, &r.superblock);
    let kinds = sizes_by_kind(r.records().iter().map(|x| (x.id.kind, x.length)));
    let kinds: serde_json::Map<_, _> =
        kinds.into_iter().map(|(k, (count, bytes))| (kind_name(k).into(), json!({ "runs": count, "bytes": bytes }))).collect();
    let mut spec = serde_json::to_value(&m.spec).unwrap_or(Value::Null);
    let layers = spec.as_object_mut().and_then(|o| o.remove("layers"));
    let mut value = json!({
        "format": format!("{}.{}", s.version.0, s.version.1), "bytes": s.file_bytes, "alignment": s.alignment,
        "chunk_bytes": s.chunk_bytes, "pack_id": hex(&s.pack_id), "content_id": hex(&s.content_id), "writer": m.writer,
        "architecture": m.provenance.architecture, "layers": m.spec.layers.len(), "spec": spec, "kinds": kinds,
        "types": roles_by_type(r), "tokenizer": m.tokenizer.is_some(), "chat_template": m.chat_template.is_some(),
        "generation": m.generation, "provenance": m.provenance, "carried": m.carried.len(),
    });
    if let Some(object) = value.as_object_mut() {
        if with_layers {
            object.insert("layer_specs".into(), layers.unwrap_or(Value::Null));
        }
        if with_tensors {
            let list = places(r).map(|(run, p)| json!({ "run": run.to_string(), "tensor": p }));
            object.insert("tensors".into(), list.collect());
            object.insert("experts".into(), serde_json::to_value(&m.experts).unwrap_or(Value::Null));
            object.insert("neurons".into(), serde_json::to_value(&m.neurons).unwrap_or(Value::Null));
            object.insert("carried_tensors".into(), serde_json::to_value(&m.carried).unwrap_or(Value::Null));
        }
    }
    value
}
