//! The spool → the aggregator: one stream with acknowledgements, for as long as the agent runs.
//!
//! Reads what is on disk, sends it in order, and forgets it when it is acknowledged. After a lost connection
//! it begins again at the first item without an acknowledgement: the aggregator drops what it has already.

mod connection;
mod flight;

use std::path::PathBuf;
use std::time::Duration;

use aftertrace_api::proto;
use aftertrace_model::config::ObjectKey;
use rand::Rng;
use tokio::sync::{mpsc, watch};
use tonic::Code;
use tonic::transport::Uri;
use tracing::{debug, error, warn};

use crate::draft::Origin;
use crate::spool::Reader;
use crate::volumes::sources::MountedObject;
use crate::watch::chain;

/// First and longest wait before another try; the wait doubles between them.
const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);

/// Wait where a person must act first: a wrong token, cluster or certificate.
const REFUSED_WAIT: Duration = Duration::from_secs(10);

/// Where the aggregator is and how it knows us.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Its address.
    pub(crate) address: Uri,
    /// The file with the certificate to check it by; read for each connection, so that it may be replaced.
    pub(crate) ca: PathBuf,
    /// The file with our token; likewise.
    pub(crate) token_file: PathBuf,
    /// `/proc/sys/kernel/random/boot_id`.
    pub(crate) boot_id: String,
}

/// A key that came from the aggregator.
pub(crate) type GivenKey = (MountedObject, ObjectKey);

/// What the stream carries beside the spool.
#[derive(Debug)]
pub(crate) struct Beside {
    /// The objects that this node mounts and has no key for.
    pub(crate) wanted: watch::Receiver<Vec<MountedObject>>,
    /// The keys that came.
    pub(crate) keys: mpsc::Sender<GivenKey>,
    /// The agent's state.
    pub(crate) status: watch::Receiver<proto::AgentStatus>,
}

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    /// A file of ours cannot be read.
    #[error("cannot read {flag} {path}: {source}")]
    File {
        /// The flag that names it.
        flag: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The token is no text that a header can carry.
    #[error("--token-file {path} holds no token: one line of visible characters is needed")]
    Token {
        /// The file.
        path: PathBuf,
    },
    /// No connection.
    #[error("cannot connect to {address}")]
    Connect {
        /// Where to.
        address: Uri,
        /// What the transport said.
        source: tonic::transport::Error,
    },
    /// The aggregator refused, or the stream broke.
    #[error("the stream ended: {0}")]
    Stream(#[source] Box<tonic::Status>),
    /// The aggregator closed the stream.
    #[error("the aggregator closed the stream")]
    Closed,
    /// The first message was no welcome, or an acknowledgement named what was not sent.
    #[error("the aggregator does not keep the protocol: {0}; agent and aggregator should be of one version")]
    Protocol(&'static str),
}

impl From<tonic::Status> for ExportError {
    fn from(status: tonic::Status) -> Self {
        Self::Stream(Box::new(status))
    }
}

impl ExportError {
    /// What a person can do about it; `None` where waiting is all.
    fn remedy(&self) -> Option<&'static str> {
        let Self::Stream(status) = self else {
            return match self {
                Self::File { .. } | Self::Token { .. } => {
                    Some("give the file that the aggregator wrote at start")
                }
                Self::Protocol(_) => Some("bring agent and aggregator to one version"),
                _ => None,
            };
        };
        match status.code() {
            Code::Unauthenticated | Code::PermissionDenied => {
                Some("give the token that the aggregator made for agents with --token-file")
            }
            Code::InvalidArgument | Code::FailedPrecondition => {
                Some("check that --cluster is the aggregator's and --node is this node's")
            }
            Code::Unimplemented => Some("check that --aggregator is an Aftertrace aggregator"),
            _ => None,
        }
    }
}

/// Sends until the spool's thread is gone. Dropping it loses nothing: what has no acknowledgement is sent
/// again at the next start.
pub(crate) async fn run(target: Target, origin: Origin, spool: Reader, mut beside: Beside) {
    let mut wait = BACKOFF_MIN;
    let mut told: Option<String> = None;
    loop {
        let mut was_welcome = false;
        let result = connection::serve(&target, &origin, &spool, &mut beside, &mut was_welcome).await;
        let Err(failure) = result else { return };
        if was_welcome {
            wait = BACKOFF_MIN;
            told = None;
        }
        let text = chain(&failure);
        if told.as_ref() != Some(&text) {
            match failure.remedy() {
                Some(remedy) => {
                    error!(error = %text, remedy, "no stream to the aggregator until this is mended; trying on")
                }
                None => warn!(error = %text, "no stream to the aggregator; items wait in the spool"),
            }
            told = Some(text);
        }
        // A file of ours costs nothing to read again, and may be on its way.
        let is_refused = failure.remedy().is_some() && matches!(failure, ExportError::Stream(_));
        let pause = if is_refused { REFUSED_WAIT } else { jittered(wait) };
        wait = (wait * 2).min(BACKOFF_MAX);
        tokio::time::sleep(pause).await;
        debug!(address = %target.address, "connecting to the aggregator");
    }
}

/// Between half of a wait and the whole: agents that lost one aggregator must not come back at once.
fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests;
