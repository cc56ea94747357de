//! Being written.

pub mod kernel;
