//! What the programs in the kernel say about themselves, in builds with the feature `kernel-log`.
//!
//! For finding out why a record is wrong; a build for users has neither the map nor the instructions.

use aya::Ebpf;
use aya_log::EbpfLogger;
use tokio::io::{Interest, unix::AsyncFd};
use tracing::warn;

/// Forwards the programs' messages to the `log` crate for as long as the runtime lives.
#[expect(unsafe_code, reason = "a descriptor under watch must stay open, which only its owner can promise")]
pub(super) fn start(programs: &mut Ebpf) {
    let logger = match EbpfLogger::init(programs) {
        Ok(logger) => logger,
        Err(error) => return warn!(%error, "the programs' messages cannot be read"),
    };
    // SAFETY: the logger owns its map and so the descriptor, always the same one, until it is dropped.
    let mut logger = match unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) } {
        Ok(logger) => logger,
        Err(error) => return warn!(%error, "the programs' messages cannot be watched for"),
    };
    tokio::spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.clear_ready();
            ready.get_inner_mut().flush();
        }
    });
}
