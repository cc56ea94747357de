//! What a command can fail with, and the exit code that says so.

use std::io;
use std::process::ExitCode;

use crate::client::ClientError;
use crate::commands::sql::SqlError;
use crate::time::TimeInputError;

/// Whether there was an answer. What failed is an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// What was asked for was found.
    Found,
    /// The question was understood, and there is nothing.
    NothingFound,
}

impl From<Outcome> for ExitCode {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Found => Self::SUCCESS,
            Outcome::NothingFound => Self::from(3),
        }
    }
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A time on the command line.
    #[error(transparent)]
    Time(#[from] TimeInputError),
    /// An output format that the command does not have.
    #[error("-o dot draws causes and effects and is there for `aft why` only; use -o table or -o json")]
    DotWithoutTree,
    /// The aggregator.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The DuckDB command.
    #[error(transparent)]
    Sql(#[from] SqlError),
    /// The runtime of this process.
    #[error("cannot start the runtime: {0}")]
    Runtime(#[source] io::Error),
    /// Standard output.
    #[error("cannot write to standard output: {0}")]
    Output(#[source] io::Error),
}

impl Error {
    /// 2 for wrong usage, 3 for what was not found, 1 for everything else.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Time(_) | Self::DotWithoutTree => ExitCode::from(2),
            Self::Client(error) if error.is_usage() => ExitCode::from(2),
            Self::Client(ClientError::NotFound { .. }) => ExitCode::from(3),
            Self::Client(_) | Self::Sql(_) | Self::Runtime(_) | Self::Output(_) => ExitCode::from(1),
        }
    }
}
