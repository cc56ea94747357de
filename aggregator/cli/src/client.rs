//! The connection to the aggregator: TLS by its own certificate, a reader token, and errors that say what to do.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use aftertrace_api::MESSAGE_BYTES_MAX;
use aftertrace_api::proto::memory_client::MemoryClient;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use crate::args::Global;
use crate::term::safe;

/// How long to wait for a connection: longer than a lost SYN and its first two repeats (3 s).
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long to wait for an answer: a person's patience. The slowest question is meant to take 20 ms.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// A client that presents its token with every question.
pub(crate) type Memory = MemoryClient<InterceptedService<Channel, Bearer>>;

/// Why there is no answer. Each names the thing and what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// `--server` is no address.
    #[error(
        "--server {server:?} is no address of an aggregator: give https://HOST:PORT (the connection is always TLS)"
    )]
    Server {
        /// As given.
        server: String,
    },
    /// No certificate authority was given.
    #[error(
        "no certificate to recognise the aggregator {server} by: pass --ca or set AFT_CA to the `tls/ca.crt` \
         of its data directory"
    )]
    NoCa {
        /// The address.
        server: String,
    },
    /// A file cannot be read.
    #[error("cannot read {what} {}: {source}; check --{flag} and your permissions", path.display())]
    Read {
        /// What it is.
        what: &'static str,
        /// Where.
        path: PathBuf,
        /// The option that names it.
        flag: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The file has no certificate.
    #[error(
        "{} has no certificate in PEM form: --ca wants the `tls/ca.crt` of the aggregator's data directory",
        path.display()
    )]
    CaEmpty {
        /// The file.
        path: PathBuf,
    },
    /// The file has no token.
    #[error(
        "{} has no token: --token-file wants the `tokens/reader.token` of the aggregator's data directory",
        path.display()
    )]
    Token {
        /// The file.
        path: PathBuf,
    },
    /// Nobody answers.
    #[error(
        "cannot reach the aggregator at {server}: {reason}; check --server, that the aggregator runs, and on a \
         cluster that `kubectl port-forward` to it is open"
    )]
    Unreachable {
        /// The address.
        server: String,
        /// What the system says.
        reason: String,
    },
    /// It is not the one that the certificate speaks of.
    #[error(
        "the aggregator at {server} is not the one that {} vouches for: {reason}; pass the `tls/ca.crt` of this \
         aggregator with --ca, and an address that its certificate names with --server",
        ca.display()
    )]
    Untrusted {
        /// The address.
        server: String,
        /// The file of --ca.
        ca: PathBuf,
        /// What TLS says.
        reason: String,
    },
    /// No token, or a wrong one.
    #[error("the aggregator at {server} does not accept {}: {message}", match token {
        Some(path) => format!("the token in {}; ask its administrator for a current reader token", path.display()),
        None => "questions without a token; pass --token-file or set AFT_TOKEN_FILE (`tokens/reader.token` of its data directory)".to_owned(),
    })]
    Unauthenticated {
        /// The address.
        server: String,
        /// The file of --token-file, if one was given.
        token: Option<PathBuf>,
        /// What the aggregator says.
        message: String,
    },
    /// A right token that may not ask this.
    #[error("the aggregator does not let this token ask that: {message}; ask its administrator for access")]
    Denied {
        /// What the aggregator says.
        message: String,
    },
    /// There is no such thing.
    #[error("not found: {message}")]
    NotFound {
        /// What the aggregator says.
        message: String,
    },
    /// The question is malformed.
    #[error("the aggregator cannot take this question: {message}")]
    Invalid {
        /// What the aggregator says.
        message: String,
    },
    /// The aggregator is older than this command.
    #[error(
        "the aggregator at {server} does not know this question: it is older than this command, or no \
         aggregator; see `aft status` and `aft --version`"
    )]
    Unknown {
        /// The address.
        server: String,
    },
    /// Something else went wrong there.
    #[error("the aggregator at {server} failed: {message} ({code}); see its log and `aft status`")]
    Failed {
        /// The address.
        server: String,
        /// What it says.
        message: String,
        /// The gRPC code.
        code: Code,
    },
}

impl ClientError {
    /// Whether the command line is at fault.
    pub(crate) fn is_usage(&self) -> bool {
        matches!(self, Self::Server { .. } | Self::NoCa { .. } | Self::Invalid { .. })
    }
}

/// The aggregator, as the options describe it.
#[derive(Clone, Debug)]
pub(crate) struct Aggregator {
    server: String,
    ca: PathBuf,
    token_file: Option<PathBuf>,
    endpoint: Endpoint,
    bearer: Bearer,
}

/// Adds `authorization: Bearer <token>`, if there is a token.
#[derive(Clone, Debug)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

impl Aggregator {
    /// Checks the options and reads the files they name; nothing is sent.
    ///
    /// # Errors
    /// [`ClientError`] for an address, certificate or token that cannot be used.
    pub(crate) fn new(global: &Global) -> Result<Self, ClientError> {
        let malformed = || ClientError::Server { server: global.server.clone() };
        let server = match global.server.split_once("://") {
            None => format!("https://{}", global.server),
            Some(("https", _)) => global.server.clone(),
            Some(_) => return Err(malformed()),
        };
        let endpoint = Endpoint::from_shared(server.clone()).map_err(|_| malformed())?;
        if endpoint.uri().host().is_none_or(str::is_empty) {
            return Err(malformed());
        }
        let ca = global.ca.clone().ok_or_else(|| ClientError::NoCa { server: server.clone() })?;
        let pem = read(&ca, "the certificate", "ca")?;
        let usable = CertificateDer::pem_slice_iter(&pem).next().is_some_and(|c| c.is_ok());
        if !usable {
            return Err(ClientError::CaEmpty { path: ca });
        }
        let bearer = match &global.token_file {
            None => Bearer(None),
            Some(path) => Bearer(Some(token(path)?)),
        };
        let endpoint = endpoint
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .tls_config(ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem)))
            .map_err(|_| ClientError::CaEmpty { path: ca.clone() })?;
        Ok(Self { server, ca, token_file: global.token_file.clone(), endpoint, bearer })
    }

    /// Opens the connection.
    ///
    /// # Errors
    /// [`ClientError::Unreachable`] or [`ClientError::Untrusted`].
    pub(crate) async fn connect(&self) -> Result<Memory, ClientError> {
        let channel = self.endpoint.connect().await.map_err(|error| self.not_connected(&error))?;
        Ok(MemoryClient::with_interceptor(channel, self.bearer.clone())
            .max_decoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// Says what a refused question means.
    pub(crate) fn refused(&self, status: &Status) -> ClientError {
        let server = self.server.clone();
        let message = safe(status.message());
        match status.code() {
            Code::Unauthenticated => {
                ClientError::Unauthenticated { server, token: self.token_file.clone(), message }
            }
            Code::PermissionDenied => ClientError::Denied { message },
            Code::NotFound => ClientError::NotFound { message },
            Code::InvalidArgument => ClientError::Invalid { message },
            Code::Unimplemented => ClientError::Unknown { server },
            Code::Unavailable => ClientError::Unreachable { server, reason: message },
            code => ClientError::Failed { server, message, code },
        }
    }

    fn not_connected(&self, error: &tonic::transport::Error) -> ClientError {
        let server = self.server.clone();
        let (reason, tls) = root_cause(error);
        if tls {
            ClientError::Untrusted { server, ca: self.ca.clone(), reason }
        } else {
            ClientError::Unreachable { server, reason }
        }
    }
}

/// The innermost error, and whether TLS refused the certificate. An [`io::Error`] hides the error it wraps from
/// `source()`, so it is opened here.
fn root_cause(error: &(dyn StdError + 'static)) -> (String, bool) {
    let mut innermost = error;
    let mut tls = false;
    loop {
        if let Some(rustls::Error::InvalidCertificate(_)) = innermost.downcast_ref() {
            tls = true;
        }
        let wrapped = innermost
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            .map(|inner| inner as &(dyn StdError + 'static));
        match wrapped.or_else(|| innermost.source()) {
            Some(next) => innermost = next,
            None => return (safe(&innermost.to_string()), tls),
        }
    }
}

fn read(path: &Path, what: &'static str, flag: &'static str) -> Result<Vec<u8>, ClientError> {
    std::fs::read(path).map_err(|source| ClientError::Read { what, path: path.to_owned(), flag, source })
}

fn token(path: &Path) -> Result<MetadataValue<Ascii>, ClientError> {
    let malformed = || ClientError::Token { path: path.to_owned() };
    let bytes = read(path, "the token", "token-file")?;
    let token = std::str::from_utf8(&bytes).map_err(|_| malformed())?.trim();
    if token.is_empty() {
        return Err(malformed());
    }
    let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().map_err(|_| malformed())?;
    value.set_sensitive(true);
    Ok(value)
}
