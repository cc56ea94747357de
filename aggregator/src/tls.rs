//! The aggregator's own certificate authority and server certificate, made on the first start.
//!
//! `<data>/tls/ca.crt` is what agents and `aft` trust; it stays the same for ten years. The server's
//! certificate is made anew from it when it nears its end or when the names asked for change.

use std::path::{Path, PathBuf};

use aftertrace_model::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use time::OffsetDateTime;
use tonic::transport::{Identity, ServerTlsConfig};
use x509_parser::extensions::GeneralName;

use crate::private_file::{self, FileError};

/// Days that the authority is valid: replacing it means telling every agent.
const AUTHORITY_DAYS: i64 = 3_650;

/// Days that the server's certificate is valid: the longest that common verifiers accept is 398.
const SERVER_DAYS: i64 = 397;

/// A certificate with fewer days left is made anew at start.
const RENEW_DAYS: i64 = 60;

/// Names that the server's certificate always has.
const NAMES: &[&str] = &[
    "aftertrace-aggregator",
    "aftertrace-aggregator.aftertrace",
    "aftertrace-aggregator.aftertrace.svc",
    "aftertrace-aggregator.aftertrace.svc.cluster.local",
    "localhost",
    "127.0.0.1",
    "::1",
];

const SECONDS_PER_DAY: i64 = 86_400;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// A certificate or key cannot be made or read.
    #[error("cannot make a certificate in {dir}: {source}; remove that directory to start with a new authority",
        dir = dir.display())]
    Certificate {
        /// `<data>/tls`
        dir: PathBuf,
        /// What the library says.
        #[source]
        source: rcgen::Error,
    },
}

/// What the server proves itself with.
#[derive(Clone, Debug)]
pub struct ServerCertificate {
    certificate_pem: String,
    key_pem: String,
    /// When it ends; the server must be restarted before, which renews it.
    pub not_after: Timestamp,
}

impl ServerCertificate {
    /// Reads authority and certificate in `<data>/tls`, and makes what is missing, about to end, or not
    /// valid for one of `more_names`.
    ///
    /// # Errors
    /// [`TlsError`] where a file cannot be read or written, or holds something else.
    pub fn open(data: &Path, more_names: &[String], now: Timestamp) -> Result<Self, TlsError> {
        let dir = data.join("tls");
        let failed = |source| TlsError::Certificate { dir: dir.clone(), source };
        let names: Vec<String> =
            NAMES.iter().map(|n| (*n).to_owned()).chain(more_names.iter().cloned()).collect();
        let authority_key = key(&dir.join("ca.key"), &dir)?;
        let mut authority = read_text(&dir.join("ca.crt"))?;
        let ends = authority.as_deref().and_then(parse).map(|c| c.not_after);
        if ends.is_none_or(|ends| is_near(ends, now)) {
            authority = None;
        }
        let (authority, authority_is_new) = match authority {
            Some(pem) => (pem, false),
            None => {
                let made = make_authority(&authority_key, now).map_err(failed)?;
                private_file::replace(&dir.join("ca.crt"), made.as_bytes(), 0o644)?;
                (made, true)
            }
        };
        let server_key = key(&dir.join("tls.key"), &dir)?;
        if let Some(pem) = read_text(&dir.join("tls.crt"))?
            && let Some(parsed) = parse(&pem)
            && !authority_is_new
            && !is_near(parsed.not_after, now)
            && names.iter().all(|n| parsed.names.contains(n))
        {
            return Ok(Self {
                certificate_pem: pem,
                key_pem: server_key.serialize_pem(),
                not_after: parsed.not_after,
            });
        }
        let issuer = Issuer::from_ca_cert_pem(&authority, authority_key).map_err(failed)?;
        let mut params = CertificateParams::new(names).map_err(failed)?;
        params.distinguished_name.push(DnType::CommonName, NAMES[0]);
        params.use_authority_key_identifier_extension = true;
        params.key_usages.push(KeyUsagePurpose::DigitalSignature);
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        let not_after = set_validity(&mut params, now, SERVER_DAYS);
        let pem = params.signed_by(&server_key, &issuer).map_err(failed)?.pem();
        private_file::replace(&dir.join("tls.crt"), pem.as_bytes(), 0o644)?;
        Ok(Self { certificate_pem: pem, key_pem: server_key.serialize_pem(), not_after })
    }

    /// The setting for the gRPC server.
    #[must_use]
    pub fn server_config(&self) -> ServerTlsConfig {
        ServerTlsConfig::new().identity(Identity::from_pem(&self.certificate_pem, &self.key_pem))
    }

    /// Whether it ends so soon that the server should be restarted.
    #[must_use]
    pub fn is_near_its_end(&self, now: Timestamp) -> bool {
        // Half of the time for renewal at start: a server that just started is never told to restart.
        self.not_after.micros_since(now) < RENEW_DAYS / 2 * SECONDS_PER_DAY * 1_000_000
    }
}

struct Parsed {
    not_after: Timestamp,
    names: Vec<String>,
}

fn parse(pem: &str) -> Option<Parsed> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok()?;
    let certificate = pem.parse_x509().ok()?;
    let not_after =
        Timestamp::from_micros(certificate.validity().not_after.timestamp().saturating_mul(1_000_000));
    let names = certificate.subject_alternative_name().ok()?.map_or_else(Vec::new, |extension| {
        extension.value.general_names.iter().filter_map(name_text).collect()
    });
    Some(Parsed { not_after, names })
}

fn name_text(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(*bytes)
            .map(std::net::IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from))
            .ok()
            .map(|ip| ip.to_string()),
        _ => None,
    }
}

fn is_near(end: Timestamp, now: Timestamp) -> bool {
    end.micros_since(now) < RENEW_DAYS * SECONDS_PER_DAY * 1_000_000
}

fn make_authority(key: &KeyPair, now: Timestamp) -> Result<String, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name.push(DnType::CommonName, "Aftertrace aggregator authority");
    params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    params.key_usages.push(KeyUsagePurpose::CrlSign);
    set_validity(&mut params, now, AUTHORITY_DAYS);
    Ok(params.self_signed(key)?.pem())
}

/// Sets the validity from an hour ago, for clocks that run behind ours; returns its end.
fn set_validity(params: &mut CertificateParams, now: Timestamp, days: i64) -> Timestamp {
    let now_s = now.as_micros() / 1_000_000;
    let date = |seconds| OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH);
    params.not_before = date(now_s - 3_600);
    params.not_after = date(now_s + days * SECONDS_PER_DAY);
    Timestamp::from_micros((now_s + days * SECONDS_PER_DAY) * 1_000_000)
}

fn key(path: &Path, dir: &Path) -> Result<KeyPair, TlsError> {
    let failed = |source| TlsError::Certificate { dir: dir.to_owned(), source };
    let made = KeyPair::generate().map_err(failed)?;
    let pem = private_file::read_or_make(path, || made.serialize_pem().into_bytes())?;
    KeyPair::from_pem(&String::from_utf8_lossy(&pem)).map_err(failed)
}

fn read_text(path: &Path) -> Result<Option<String>, FileError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FileError { action: "read", path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_micros(1_795_171_922_000_000);
    const DAY_US: i64 = SECONDS_PER_DAY * 1_000_000;

    fn open(dir: &Path, names: &[&str], days_later: i64) -> (String, String) {
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        let made = ServerCertificate::open(dir, &names, NOW.plus_micros(days_later * DAY_US)).expect("made");
        let authority = std::fs::read_to_string(dir.join("tls/ca.crt")).expect("exists");
        (authority, made.certificate_pem)
    }

    #[test]
    fn is_kept_until_it_nears_its_end_and_the_authority_longer() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let first = open(dir.path(), &[], 0);
        assert_eq!(open(dir.path(), &[], 300), first);
        let renewed = open(dir.path(), &[], 340);
        assert_eq!(renewed.0, first.0, "the authority stays");
        assert_ne!(renewed.1, first.1, "the server's certificate is new");
        assert_ne!(open(dir.path(), &[], 3_600).0, first.0, "a new authority near the end of the old");
    }

    #[test]
    fn is_made_anew_for_another_name() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let first = open(dir.path(), &[], 0);
        let named = open(dir.path(), &["memory.example.org", "10.0.0.7"], 0);
        assert_ne!(named.1, first.1);
        let parsed = parse(&named.1).expect("a certificate");
        for name in ["memory.example.org", "10.0.0.7", "localhost", "::1", "aftertrace-aggregator"] {
            assert!(parsed.names.iter().any(|n| n == name), "{name} is in {:?}", parsed.names);
        }
        assert_eq!(open(dir.path(), &[], 1).1, named.1, "fewer names are no reason for a new one");
    }
}
