//! A product allocates nothing: what a step needs is allocated when the engine opens.

use forebay::kernels::{ActivationMode, Activations, Job, Kernels, Matrix, Pool};
use forebay_format::quant::QUANTS;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering};

struct Counting;
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: everything is passed on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::SeqCst);
        // SAFETY: as the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: as the caller's.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

// One test in this file: the count is the whole process's.
#[test]
fn loading_and_multiplying_allocate_nothing() {
    let (rows, cols, n) = (64, 512, 5);
    let pool = Pool::new(3);
    // A thread's first steps allocate what the standard library keeps for it: let all workers have worked and slept.
    let nap = || std::thread::sleep(std::time::Duration::from_millis(20));
    pool.run(12, &|_, _| nap());
    nap();
    let x = vec![0.25; n * cols];
    let mut out = vec![0.0; n * rows];
    let mut some = vec![0.0; 2 * rows];
    for mode in [ActivationMode::F32, ActivationMode::Int8] {
        let k = Kernels::detect(mode);
        let mut a = Activations::new(n, cols, mode);
        for t in QUANTS.iter().map(|q| q.qtype) {
            let bytes = vec![0x3c; t.row_bytes(cols).unwrap() * rows];
            let w = Matrix::whole(t, rows, cols, &bytes);
            let before = ALLOCATIONS.load(Ordering::SeqCst);
            for _ in 0..3 {
                a.load(&pool, &k, &x, n, cols, &[t]);
                let job = |picked, out| Job { weights: w, activations: &a, picked, out };
                k.matmul_jobs(&pool, &mut [job(None, &mut out), job(Some(&[1, 4]), &mut some)]);
            }
            assert_eq!(ALLOCATIONS.load(Ordering::SeqCst), before, "{} {mode:?}", t.name());
            assert_eq!(out[0].to_bits(), out[n * rows - 1].to_bits());
        }
    }
}
