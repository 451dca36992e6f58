//! The thread pool: persistent workers, chunks claimed from one atomic, a short bounded spin, then park.

/// Persistent workers; the calling thread is one of them.
pub struct Pool {}
