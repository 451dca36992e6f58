use super::*;
use forebay::window::policy::Shape;

/// `steps` of `layers` x `experts`, each choosing `k` of a layer's experts, those of low numbers more often.
fn load(layers: u32, experts: u32, k: usize, steps: usize) -> Load {
    let mut state = 88_172_645_463_325_252_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1_u64 << 53) as f64
    };
    let mut visits = Vec::new();
    for _ in 0..steps {
        for layer in 0..layers {
            let mut keys = Vec::new();
            while keys.len() < k {
                let key = layer * experts + (random() * random() * f64::from(experts)) as u32;
                if !keys.contains(&key) {
                    keys.push(key);
                }
            }
            visits.push((layer, keys));
        }
    }
    Load::new("skewed".into(), Shape::new(vec![(experts, k as u32); layers as usize]).unwrap(), visits)
}

/// One key a visit, of one layer with nine experts.
fn single(keys: &[u32]) -> Load {
    Load::new("single".into(), Shape::new([(9, 1)]).unwrap(), keys.iter().map(|&k| (0, vec![k])).collect())
}

/// The visits of `pattern`, of one layer.
fn hits(cache: &mut dyn Cache, pattern: &[&[u32]]) -> Vec<usize> {
    pattern.iter().map(|keys| cache.visit(0, keys)).collect()
}

#[test]
fn lru_evicts_the_oldest() {
    let load = single(&[]);
    let mut cache = Ruled::new(&load, 3, Lru::new(&load));
    assert_eq!(hits(&mut cache, &[&[0, 1], &[2], &[0], &[3], &[0, 2], &[1]]), [0, 0, 1, 0, 2, 0]);
}

#[test]
fn belady_evicts_what_comes_back_last() {
    let load = single(&[0, 1, 2, 3, 0, 1, 4, 0, 1]);
    let mut cache = Ruled::new(&load, 3, Belady::new(&load));
    let found: Vec<usize> = load.visits.iter().map(|(layer, keys)| cache.visit(*layer, keys)).collect();
    assert_eq!(found, [0, 0, 0, 0, 1, 1, 0, 1, 1]);
}

#[test]
fn least_stale_evicts_from_the_layer_passed_last() {
    let load = Load::new("3 x 3".into(), Shape::new([(3, 1); 3]).unwrap(), Vec::new());
    let mut cache = Ruled::new(&load, 3, LeastStale::new(&load));
    // Layer 0 holds 0, layer 1 holds 3, layer 2 holds 6. At layer 0 again, layer 2 was passed last: 6 goes and 3 stays.
    assert_eq!(
        [cache.visit(0, &[0]), cache.visit(1, &[3]), cache.visit(2, &[6]), cache.visit(0, &[1]), cache.visit(1, &[3])],
        [0, 0, 0, 0, 1]
    );
}

#[test]
fn s3_fifo_keeps_what_was_used_again_from_one_time_visitors() {
    let mut cache = S3Fifo::new(99, 10);
    hits(&mut cache, &[&[0], &[1], &[0], &[1], &[0], &[1]]);
    for once in 10..60 {
        cache.visit(0, &[once]);
    }
    assert_eq!(hits(&mut cache, &[&[0], &[1]]), [1, 1]);
    // Evicted lately: it comes back into the main queue and outlives other newcomers.
    assert_eq!(cache.visit(0, &[50]), 0);
    for once in 60..90 {
        cache.visit(0, &[once]);
    }
    assert_eq!(cache.visit(0, &[50]), 1);
}

#[test]
fn w_tinylfu_admits_by_frequency() {
    let mut cache = WTinyLfu::new(99, 6, 1);
    for _ in 0..3 {
        hits(&mut cache, &[&[0], &[1], &[2], &[3], &[4]]);
    }
    for once in 10..20 {
        cache.visit(0, &[once]);
    }
    assert_eq!(hits(&mut cache, &[&[0], &[1], &[2], &[3], &[4]]), [1; 5]);
}

#[test]
fn decayed_lfu_keeps_the_popular_ones() {
    let load = single(&[]);
    let mut cache = Ruled::new(&load, 2, DecayedLfu::new(&load, 8.0));
    assert_eq!(hits(&mut cache, &[&[0], &[0], &[0], &[1], &[2], &[3], &[0]]), [0, 1, 1, 0, 0, 0, 1]);
}

#[test]
fn made_up_loads_are_as_described() {
    let (uniform, repeating) = (Load::uniform(), Load::repeating());
    assert!((uniform.cliff() - 0.0625).abs() < 1e-9 && (uniform.repeats() - 0.0625).abs() < 0.005, "{}", uniform.repeats());
    assert!((0.35..0.45).contains(&repeating.repeats()), "{}", repeating.repeats());
    for load in [uniform, repeating] {
        let distinct = |keys: &[u32]| keys.iter().collect::<std::collections::BTreeSet<_>>().len();
        assert!(load.visits.iter().all(|(layer, keys)| distinct(keys) == 8 && keys.iter().all(|k| load.shape.range(*layer).contains(k))));
    }
}

#[test]
fn nothing_beats_belady_and_no_cache_holds_more_than_its_slots() {
    let load = load(5, 40, 4, 120);
    for slots in [8, 17, 40, 90] {
        let [rates @ .., best] = POLICIES.map(|(_, make)| load.hit_rate(&mut *make(&load, slots)));
        assert!(rates.iter().all(|&r| r <= best + 0.02), "{slots} slots: {rates:?}, Belady {best}");
    }
}

/// What the default was chosen for: good where routing repeats itself and where it does not.
#[test]
fn the_shipped_policy_keeps_up_with_the_best_everywhere() {
    for load in [Load::repeating(), Load::uniform(), load(8, 64, 4, 400)] {
        for percent in [8, 24] {
            let slots = (load.shape.keys() * percent).div_ceil(100);
            let [shipped, others @ .., _] = POLICIES.map(|(_, make)| 100.0 * load.hit_rate(&mut *make(&load, slots)));
            assert!(others.iter().all(|&other| shipped >= other - 1.0), "{}, window {percent}%: {shipped} against {others:?}", load.name);
        }
    }
}

#[test]
fn queues_never_hold_more_than_their_slots() {
    let load = load(5, 40, 4, 120);
    for slots in [8, 17, 40, 90] {
        let (mut fifo, mut tiny) = (S3Fifo::new(200, slots), WTinyLfu::new(200, slots, 4));
        for (layer, keys) in &load.visits {
            fifo.visit(*layer, keys);
            tiny.visit(*layer, keys);
            assert!(fifo.held() <= slots && tiny.held() <= slots, "{} and {} in {slots}", fifo.held(), tiny.held());
            assert!(fifo.visit(*layer, keys) == 4 && tiny.visit(*layer, keys) == 4, "what is used must be there");
        }
        assert!(fifo.held() == slots && tiny.held() == slots, "a full cache stays full");
    }
}
