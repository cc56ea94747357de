//! What the programs in the kernel and the agent agree on, byte for byte.
//!
//! Kernel hook → [`record`] in the ring buffer → the agent's `kernel::decode`. Beside the records stand
//! the other three things that cross the line: [`config`] (what the agent tells the programs before they
//! are loaded), [`loss`] (what the programs count because they could not say it) and [`limits`].
//!
//! Everything here is integers and byte arrays, `repr(C)`, explicitly padded and size-asserted: the two
//! sides are compiled for different targets. Nothing here allocates, formats or judges; names and comms
//! are bytes until the agent has checked them.

#![no_std]
#![forbid(unsafe_code)]

pub mod config;
pub mod limits;
pub mod loss;
pub mod record;
