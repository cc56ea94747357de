//! The contract between agent, aggregator and command: protobuf messages, their conversion to the domain, and
//! the frames in which they lie on disk.
//!
//! [`proto`] is generated from `proto/aftertrace/v1` and committed. [`convert`] is the only place where wire
//! and domain meet. [`frame`] is used by the agent's spool and the aggregator's WAL alike.

#![forbid(unsafe_code)]

pub mod convert;
pub mod frame;

/// The generated messages, clients and servers of package `aftertrace.v1`.
#[allow(
    missing_docs,
    clippy::all,
    clippy::allow_attributes_without_reason,
    reason = "generated; documented in the .proto files"
)]
pub mod proto {
    include!("generated/aftertrace.v1.rs");

    /// The encoded `FileDescriptorSet`, for gRPC reflection.
    pub const DESCRIPTOR_SET: &[u8] = include_bytes!("generated/descriptor.bin");
}

/// Most items in one batch.
pub const BATCH_ITEMS_MAX: usize = 1_000;

/// Largest gRPC message in bytes: a batch of 1,000 items of 4 KiB, above what any record of ours takes.
pub const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
