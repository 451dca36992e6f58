//! Every family whose networks may have neurons that are exactly zero gets groups of neurons, with the weights that its trunk run would have; no other family does.

mod arch_common;
mod common;

use arch_common::{Toy, llama, qwen3_moe, shared};
use common::options;
use forebay_format::model::Role;
use forebay_format::reference::Reader;
use forebay_format::{BundleId, Kind};
use forebay_repack::arch::bind;
use forebay_repack::plan::{Choices, Neurons, Plan, Quantize, Tilings};
use forebay_repack::source;
use forebay_repack::write;
use serde_json::json;
use std::path::Path;

fn pack(source: &Path, out: &Path, neurons: Neurons) -> Reader {
    let checkpoint = source::open(source).unwrap();
    let binding = bind(&checkpoint).unwrap();
    let plan = Plan::with(&checkpoint, &binding, Choices { quantize: Quantize::Keep, neurons, tilings: Tilings::Auto, copies: 1 }).unwrap();
    write::convert(&checkpoint, &plan, out, &write::Options { force: true, ..options(2) }).unwrap();
    Reader::open(out).unwrap()
}

/// All layers of the model at `source` have groups, and they hold what the trunk runs hold without them.
fn grouped(source: &Path) {
    let dir = tempfile::tempdir().unwrap();
    let auto = pack(source, &dir.path().join("auto.fby"), Neurons::Auto);
    let off = pack(source, &dir.path().join("off.fby"), Neurons::Off);
    for layer in 0..auto.manifest.spec.layers.len() as u32 {
        let (gate, up, down) = auto.neurons(layer).unwrap();
        let trunk = |role| off.tensor(BundleId::trunk(layer), role).unwrap();
        assert!(gate == trunk(Role::FfnGate) && Some(&up) == trunk(Role::FfnUp).as_ref() && Some(&down) == trunk(Role::FfnDown).as_ref());
        for bias in [Role::FfnGateBias, Role::FfnUpBias, Role::FfnDownBias] {
            assert!(auto.tensor(BundleId::trunk(layer), bias).unwrap() == trunk(bias), "biases stay where they are");
        }
        assert!(auto.index.count(Kind::NeuronGroup, layer) > 0 && off.index.count(Kind::NeuronGroup, layer) == 0);
    }
}

/// The dense toy with this activation; each matrix of its networks filled with a value of its own.
fn with(activation: &str) -> Toy {
    let mut toy = llama();
    toy.config["hidden_act"] = json!(activation);
    for (part, fill) in [("gate_proj", 0x3a), ("up_proj", 0x3b), ("down_proj", 0x3c)] {
        toy.tensors.iter_mut().filter(|t| t.0.contains(part)).for_each(|t| t.3 = fill);
    }
    toy
}

fn written(toy: &Toy) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    toy.write(dir.path());
    dir
}

#[test]
fn relu_in_all_its_forms() {
    for activation in ["relu", "relu2"] {
        grouped(written(&with(activation)).path());
    }
    let mut thresholded = with("fatrelu");
    thresholded.config["hidden_act_param"] = json!(0.01);
    thresholded.config["model_type"] = json!("sparsellama");
    thresholded.config["architectures"] = json!(["SparseLlamaForCausalLM"]);
    grouped(written(&thresholded).path());
    let mut ungated = with("relu2");
    ungated.config["model_type"] = json!("arcee");
    ungated.config["architectures"] = json!(["ArceeForCausalLM"]);
    ungated.drop_tensors("gate_proj");
    grouped(written(&ungated).path());
}

#[test]
fn trained_and_oracle_models() {
    for part in ["oracles/opt", "oracles/llama-relu", "models/relu-llama-19m"] {
        if let Some(path) = shared(part) {
            grouped(&path);
        }
    }
}

#[test]
fn other_networks_stay_as_they_are() {
    for toy in [with("silu"), with("gelu_pytorch_tanh"), qwen3_moe()] {
        let (source, out) = (written(&toy), tempfile::tempdir().unwrap());
        let read = |neurons| {
            let path = out.path().join("toy.fby");
            assert!(pack(source.path(), &path, neurons).manifest.neurons.is_empty());
            std::fs::read(path).unwrap()
        };
        assert!(read(Neurons::Auto) == read(Neurons::Off));
    }
}
