//! Frames on disk: `length: u32 le`, `crc32c: u32 le` over length and payload, payload.
//!
//! Turns messages into bytes and bytes back into payloads, telling a torn tail (the writer died) from
//! corruption (the disk changed a byte). It opens no file. Used by the agent's spool and the aggregator's WAL.

use prost::Message;

/// Bytes before the payload.
pub const HEADER_BYTES: usize = 8;

/// Largest payload. A length above it is damage, not data: it bounds what a flipped bit makes us allocate.
pub const PAYLOAD_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Appends one frame to `out`.
///
/// # Panics
/// If the message is larger than [`PAYLOAD_BYTES_MAX`]; callers bound their batches far below it.
pub fn append<M: Message>(message: &M, out: &mut Vec<u8>) {
    let length = message.encoded_len();
    assert!(length <= PAYLOAD_BYTES_MAX, "a frame of {length} bytes; batches are bounded far below that");
    let start = out.len();
    let length_le = u32::try_from(length).expect("bounded above").to_le_bytes();
    out.extend_from_slice(&length_le);
    out.extend_from_slice(&[0; 4]);
    message.encode(out).expect("a Vec grows as needed");
    let crc = checksum(length_le, &out[start + HEADER_BYTES..]);
    out[start + 4..start + HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
}

/// What the next bytes of a log are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next<'a> {
    /// A whole frame; `size` bytes to skip to the next.
    Frame {
        /// The encoded message.
        payload: &'a [u8],
        /// Bytes of the frame with its header.
        size: usize,
    },
    /// The log ends here, cleanly.
    End,
    /// The bytes end within a frame, or are all zero to the end: the writer died here.
    Torn,
    /// The bytes are no frame, or one with a wrong checksum, and more follow. `skip` leads to the next
    /// frame that is whole, if there is one.
    Corrupt {
        /// Bytes to the next whole frame.
        skip: Option<usize>,
    },
}

/// Looks at the first frame of `bytes`, which must reach to the end of the log.
#[must_use]
pub fn next(bytes: &[u8]) -> Next<'_> {
    if bytes.is_empty() {
        return Next::End;
    }
    if let Some((payload, size)) = whole(bytes) {
        return Next::Frame { payload, size };
    }
    if bytes.iter().all(|b| *b == 0) {
        return Next::Torn;
    }
    match (1..bytes.len()).find(|at| whole(&bytes[*at..]).is_some()) {
        Some(skip) => Next::Corrupt { skip: Some(skip) },
        None if reaches_beyond(bytes) => Next::Torn,
        None => Next::Corrupt { skip: None },
    }
}

fn whole(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (length_le, rest) = bytes.split_first_chunk::<4>()?;
    let (crc, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_le_bytes(*length_le)).ok()?;
    // An empty payload is never written, and would make every run of zeros look like frames.
    if length == 0 || length > PAYLOAD_BYTES_MAX {
        return None;
    }
    let payload = rest.get(..length)?;
    (checksum(*length_le, payload) == u32::from_le_bytes(*crc)).then_some((payload, HEADER_BYTES + length))
}

/// Whether the header is cut, or promises more bytes than there are.
fn reaches_beyond(bytes: &[u8]) -> bool {
    bytes.first_chunk::<4>().is_none_or(|length| {
        usize::try_from(u32::from_le_bytes(*length)).is_ok_and(|l| HEADER_BYTES + l > bytes.len())
    })
}

fn checksum(length_le: [u8; 4], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&length_le), payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::{Gap, WalFrame};

    fn log(n: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for i in 0..n {
            let gap = Gap { detail: format!("gap {i}"), ..Gap::default() };
            append(&WalFrame { recorded_at_us: 7, gaps: vec![gap], ..WalFrame::default() }, &mut out);
        }
        out
    }

    fn read(mut bytes: &[u8]) -> (usize, Vec<&'static str>) {
        let (mut frames, mut odd) = (0, Vec::new());
        loop {
            match next(bytes) {
                Next::Frame { size, .. } => {
                    frames += 1;
                    bytes = &bytes[size..];
                }
                Next::End => return (frames, odd),
                Next::Torn => {
                    odd.push("torn");
                    return (frames, odd);
                }
                Next::Corrupt { skip } => {
                    odd.push("corrupt");
                    match skip {
                        Some(skip) => bytes = &bytes[skip..],
                        None => return (frames, odd),
                    }
                }
            }
        }
    }

    #[test]
    fn a_tail_cut_anywhere_is_torn_and_costs_the_last_frame() {
        let bytes = log(3);
        let size = bytes.len() / 3;
        for cut in 1..size {
            assert_eq!(read(&bytes[..bytes.len() - cut]), (2, vec!["torn"]), "cut {cut}");
        }
    }

    #[test]
    fn a_flipped_bit_costs_its_own_frame_only() {
        let bytes = log(3);
        let size = bytes.len() / 3;
        for at in size..2 * size {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert_eq!(read(&damaged), (2, vec!["corrupt"]), "byte {at}");
        }
    }

    #[test]
    fn zeros_after_the_last_frame_are_a_torn_tail() {
        let mut bytes = log(2);
        bytes.extend_from_slice(&[0; 100]);
        assert_eq!(read(&bytes), (2, vec!["torn"]));
    }
}
