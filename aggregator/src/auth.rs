//! Who may call: a bearer token per role. Agents write, readers read; neither may do the other.
//!
//! [`Auth::admit`] is the one place where a caller becomes an [`Identity`]. It is async and takes the whole
//! metadata, so that a ServiceAccount token checked by TokenReview, which binds the caller to a node, becomes
//! another arm here and changes no caller.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use rand::RngCore as _;
use subtle::ConstantTimeEq as _;
use tonic::Status;
use tonic::metadata::MetadataMap;

use crate::private_file::{self, FileError};

/// What a caller wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Stream evidence (`Ingest`).
    Agent,
    /// Ask (`Memory`).
    Reader,
}

impl Role {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::Reader => "reader",
        }
    }
}

/// Who the caller proved to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The only node the caller may speak for; `None` where the token is shared by all agents.
    pub node: Option<String>,
}

/// The tokens.
#[derive(Debug)]
pub struct Auth {
    agent: Token,
    reader: Token,
}

struct Token {
    text: String,
    path: PathBuf,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Token({})", self.path.display())
    }
}

/// Random bytes in a token: 256 bits cannot be guessed.
const TOKEN_BYTES: usize = 32;

impl Auth {
    /// Reads `<data>/tokens/{agent,reader}.token`, or makes them.
    ///
    /// # Errors
    /// [`FileError`] where a token can neither be read nor made.
    pub fn open(data: &Path) -> Result<Self, FileError> {
        Ok(Self { agent: Token::open(data, Role::Agent)?, reader: Token::open(data, Role::Reader)? })
    }

    /// Admits a caller with the role's token.
    ///
    /// # Errors
    /// `UNAUTHENTICATED` without a token or with an unknown one, `PERMISSION_DENIED` with the other role's.
    pub async fn admit(&self, metadata: &MetadataMap, role: Role) -> Result<Identity, Status> {
        let (wanted, other) = match role {
            Role::Agent => (&self.agent, &self.reader),
            Role::Reader => (&self.reader, &self.agent),
        };
        let name = role.as_str();
        let at = wanted.path.display();
        let Some(given) = bearer(metadata) else {
            return Err(Status::unauthenticated(format!(
                "this call needs the {name} token: send `authorization: Bearer <token>`; it is in {at} on the \
                 aggregator"
            )));
        };
        if wanted.equals(given) {
            return Ok(Identity { node: None });
        }
        if other.equals(given) {
            return Err(Status::permission_denied(format!(
                "this call needs the {name} token, and another role's was sent; it is in {at} on the aggregator"
            )));
        }
        Err(Status::unauthenticated(format!(
            "the token is not the {name} token of this aggregator; that one is in {at} on the aggregator"
        )))
    }
}

impl Token {
    fn open(data: &Path, role: Role) -> Result<Self, FileError> {
        let path = data.join("tokens").join(format!("{}.token", role.as_str()));
        let bytes = private_file::read_or_make(&path, random_hex)?;
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        if text.is_empty() {
            let source = std::io::Error::new(
                std::io::ErrorKind::InvalidData,
                "the token is empty: remove the file to make a new one",
            );
            return Err(FileError { action: "read", path, source });
        }
        Ok(Self { text, path })
    }

    /// Compares in a time that depends on the lengths alone.
    fn equals(&self, given: &str) -> bool {
        self.text.as_bytes().ct_eq(given.as_bytes()).into()
    }
}

fn bearer(metadata: &MetadataMap) -> Option<&str> {
    let (scheme, token) = metadata.get("authorization")?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

fn random_hex() -> Vec<u8> {
    let mut bytes = [0_u8; TOKEN_BYTES];
    rand::rng().fill_bytes(&mut bytes);
    let mut text = String::with_capacity(TOKEN_BYTES * 2 + 1);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a String does not fail");
    }
    text.push('\n');
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    async fn code(auth: &Auth, header: Option<&str>, role: Role) -> Result<(), (Code, String)> {
        let mut metadata = MetadataMap::new();
        if let Some(header) = header {
            metadata.insert("authorization", header.parse().expect("ASCII"));
        }
        auth.admit(&metadata, role).await.map(|_| ()).map_err(|s| (s.code(), s.message().to_owned()))
    }

    #[tokio::test]
    async fn each_role_has_its_own_token() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let auth = Auth::open(dir.path()).expect("tokens are made");
        let read =
            |name: &str| std::fs::read_to_string(dir.path().join("tokens").join(name)).expect("exists");
        let agent = format!("Bearer {}", read("agent.token").trim());
        let reader = format!("bearer {}", read("reader.token").trim());
        assert_eq!(code(&auth, Some(&agent), Role::Agent).await, Ok(()));
        assert_eq!(code(&auth, Some(&reader), Role::Reader).await, Ok(()));
        for (header, role, expected) in [
            (Some(agent.as_str()), Role::Reader, Code::PermissionDenied),
            (Some(reader.as_str()), Role::Agent, Code::PermissionDenied),
            (Some("Bearer guess"), Role::Agent, Code::Unauthenticated),
            (None, Role::Reader, Code::Unauthenticated),
        ] {
            let (code, message) = code(&auth, header, role).await.expect_err("refused");
            assert_eq!(code, expected);
            let file = format!("{}.token", role.as_str());
            assert!(message.contains(&file), "the error says where the token is: {message}");
        }
    }
}
