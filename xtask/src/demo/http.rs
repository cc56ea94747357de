//! Two requests of HTTP/1.1 on the loopback, for the stage's API server: it speaks plain HTTP, and a client
//! library would be most of this package's build.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// How long the stage may take to answer: it keeps everything in memory.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Sends JSON and fails unless the answer is a success. `server` is `http://host:port`.
pub(super) fn send(server: &str, method: &str, path: &str, body: &Value) -> Result<()> {
    let Some(address) = server.strip_prefix("http://") else { bail!("{server} is not a plain HTTP address") };
    let address = address.trim_end_matches('/');
    let mut stream = TcpStream::connect(address).with_context(|| format!("connect to {server}"))?;
    stream.set_read_timeout(Some(TIMEOUT)).context("set a timeout")?;
    stream.write_all(request(address, method, path, body).as_bytes()).context("send a request")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("read the answer to {method} {path}"))?;
    match status(&answer) {
        Some(200..=299) => Ok(()),
        _ => bail!("{method} {path} was refused: {answer}"),
    }
}

fn request(host: &str, method: &str, path: &str, body: &Value) -> String {
    let body = body.to_string();
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Type: {kind}\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn status(answer: &str) -> Option<u16> {
    answer.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    use serde_json::json;

    use super::*;

    /// Serves one request with `answer`; returns what `send` made of it and the request's first line.
    fn exchange(answer: &'static str) -> (Result<()>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let server = format!("http://{}", listener.local_addr().expect("an address"));
        let served = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a client");
            let mut lines = BufReader::new(stream.try_clone().expect("a second handle")).lines();
            let first = lines.next().expect("a line").expect("readable");
            stream.write_all(answer.as_bytes()).expect("the client reads");
            first
        });
        let result = send(&server, "PATCH", "/api/v1/x", &json!({}));
        (result, served.join().expect("the server does not panic"))
    }

    #[test]
    fn a_success_is_a_success() {
        let (result, first) = exchange("HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n");
        result.expect("201 is a success");
        assert_eq!(first, "PATCH /api/v1/x HTTP/1.1");
    }

    #[test]
    fn a_refusal_is_an_error_with_the_answer() {
        let (result, _) = exchange("HTTP/1.1 409 Conflict\r\n\r\nalready exists");
        assert!(result.expect_err("409 is a refusal").to_string().contains("already exists"));
    }

    #[test]
    fn nonsense_is_no_success() {
        assert!(exchange("200 OK").0.is_err());
        assert!(exchange("").0.is_err());
    }
}
