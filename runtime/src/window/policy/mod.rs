//! Who leaves the window. A policy answers one question: how long until this expert is wanted again, as far as it can tell?

mod returns;

pub use returns::ReturnRate;

/// What an expert is held for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// A step of a few tokens: what it uses says what later steps will use.
    #[default]
    Decode,
    /// A long prompt, which walks through nearly all experts once: it must not push out what decoding needs.
    Prefill,
}

/// Number of an expert in the whole model: the experts of layer 0, then those of layer 1, ...
pub type Key = u32;

/// One use of an expert.
#[derive(Clone, Copy, Debug)]
pub struct Use {
    /// Which.
    pub key: Key,
    /// It was not there and was read for this use.
    pub loaded: bool,
}

/// Shape of the model as the window sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// First key of each layer, then the number of keys.
    base: Vec<Key>,
    /// Experts a token uses, of each layer.
    top_k: Vec<u32>,
}

impl Shape {
    /// From (experts, top_k) of each layer, (0, 0) for layers without experts. `None` if there are 2^32 keys or more.
    pub fn new(layers: impl IntoIterator<Item = (u32, u32)>) -> Option<Shape> {
        let mut shape = Shape { base: vec![0], top_k: Vec::new() };
        let mut end = 0u32;
        for (experts, top_k) in layers {
            end = end.checked_add(experts)?;
            shape.base.push(end);
            shape.top_k.push(top_k);
        }
        Some(shape)
    }

    /// Number of layers.
    pub fn layers(&self) -> usize {
        self.top_k.len()
    }

    /// Number of keys.
    pub fn keys(&self) -> usize {
        self.base.last().map_or(0, |&n| n as usize)
    }

    /// Most experts that one token uses in one layer.
    pub fn max_top_k(&self) -> u32 {
        self.top_k.iter().copied().max().unwrap_or(0)
    }

    /// Keys of a layer; empty if there is no such layer.
    pub fn range(&self, layer: u32) -> std::ops::Range<Key> {
        match self.base.get(layer as usize..layer as usize + 2) {
            Some(&[first, end]) => first..end,
            _ => 0..0,
        }
    }

    /// Layer and expert of a key.
    pub fn place(&self, key: Key) -> Option<(u32, u32)> {
        let layer = self.base.partition_point(|&first| first <= key).checked_sub(1)?;
        let expert = key - self.base.get(layer)?;
        (layer < self.layers()).then_some((layer as u32, expert))
    }

    /// Key of an expert.
    pub fn key(&self, layer: u32, expert: u32) -> Option<Key> {
        let range = self.range(layer);
        range.start.checked_add(expert).filter(|k| range.contains(k))
    }
}

/// The policy of the window: the best on the traces in `docs/cache-policies.md`, where those that lost are simulated.
pub type Policy = ReturnRate;
