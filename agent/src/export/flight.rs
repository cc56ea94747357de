//! Items that were sent and not acknowledged. Pure.

use std::collections::VecDeque;

#[derive(Clone, Copy, Debug)]
struct Sent {
    first: u64,
    last: u64,
    is_acked: bool,
}

/// Batches in the order they were sent.
#[derive(Debug, Default)]
pub(super) struct Flight {
    batches: VecDeque<Sent>,
    items: u64,
}

/// An acknowledgement of something that was not sent on this stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotSent;

impl Flight {
    /// A batch was sent, after all others.
    pub(super) fn sent(&mut self, first: u64, last: u64) {
        self.batches.push_back(Sent { first, last, is_acked: false });
        self.items += last - first + 1;
    }

    /// How many items are in flight.
    pub(super) const fn items(&self) -> u64 {
        self.items
    }

    /// A batch is on the aggregator's disk. Returns the highest sequence up to which everything is, and how
    /// many items that adds; `None` while an earlier batch is open.
    pub(super) fn acked(&mut self, first: u64, last: u64) -> Result<Option<(u64, u64)>, NotSent> {
        let sent = self.batches.iter_mut().find(|b| (b.first, b.last) == (first, last)).ok_or(NotSent)?;
        sent.is_acked = true;
        let mut done = None;
        while let Some(batch) = self.batches.front().copied().filter(|b| b.is_acked) {
            self.batches.pop_front();
            let items = batch.last - batch.first + 1;
            self.items -= items;
            done = Some((batch.last, done.map_or(0, |(_, n)| n) + items));
        }
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_whole_beginning_counts() {
        let mut flight = Flight::default();
        flight.sent(5, 9);
        flight.sent(10, 10);
        flight.sent(20, 21);
        assert_eq!(flight.items(), 8);
        assert_eq!(flight.acked(10, 10), Ok(None));
        assert_eq!(flight.acked(5, 9), Ok(Some((10, 6))));
        assert_eq!(flight.items(), 2);
        assert_eq!(flight.acked(20, 21), Ok(Some((21, 2))));
        assert_eq!(flight.acked(20, 21), Err(NotSent));
    }
}
