//! How long tasks have waited for reclaim at a memory cgroup's limit, since it was last asked.
//!
//! The programs add up per cgroup, in a map; a record for each reclaim would be tens of thousands a second just
//! when memory is short. The map is read about once a second; where nobody reclaims, it is empty.

use std::collections::HashMap;

use aya::maps::{self, MapData};
use tracing::debug;

/// What one memory cgroup's tasks have waited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReclaimStalls {
    /// The cgroup directory's kernfs id.
    pub kernfs_id: u64,
    /// Reclaims ended since the last [`Stalls::take`]; never 0.
    pub count: u64,
    /// Their time together, in nanoseconds.
    pub total_ns: u64,
}

/// Reads the sums.
pub struct Stalls {
    /// By kernfs id: nanoseconds, reclaims.
    sums: maps::HashMap<MapData, u64, [u64; 2]>,
    seen: HashMap<u64, [u64; 2]>,
}

impl Stalls {
    pub(super) fn new(sums: maps::HashMap<MapData, u64, [u64; 2]>) -> Self {
        Self { sums, seen: HashMap::new() }
    }

    /// What was waited since the last call. A cgroup that the map had no room for is not told.
    pub fn take(&mut self) -> Vec<ReclaimStalls> {
        let mut now = HashMap::with_capacity(self.seen.len());
        for sum in self.sums.iter() {
            match sum {
                Ok((id, sum)) => drop(now.insert(id, sum)),
                // An entry went while it was read, and with it the place to go on from.
                Err(error) => debug!(%error, "failed to read the sums of reclaim"),
            }
        }
        let risen = increase(&self.seen, &now);
        self.seen = now;
        risen
    }
}

/// What `now` has more than `before`. A sum that is smaller began anew, when its entry was let go.
fn increase(before: &HashMap<u64, [u64; 2]>, now: &HashMap<u64, [u64; 2]>) -> Vec<ReclaimStalls> {
    let risen = now.iter().map(|(&kernfs_id, &[total_ns, count])| {
        let [ns_before, count_before] = before.get(&kernfs_id).copied().unwrap_or_default();
        let is_same = count >= count_before && total_ns >= ns_before;
        let [ns_before, count_before] = if is_same { [ns_before, count_before] } else { [0, 0] };
        ReclaimStalls { kernfs_id, count: count - count_before, total_ns: total_ns - ns_before }
    });
    risen.filter(|stalls| stalls.count > 0).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_added_is_told() {
        let before = HashMap::from([(1, [500, 5]), (2, [700, 7]), (3, [900, 9])]);
        let now = HashMap::from([(1, [500, 5]), (2, [750, 8]), (3, [10, 1]), (4, [30, 2])]);
        let mut told = increase(&before, &now);
        told.sort_by_key(|stalls| stalls.kernfs_id);
        let told: Vec<_> = told.into_iter().map(|s| (s.kernfs_id, s.count, s.total_ns)).collect();
        assert_eq!(told, [(2, 1, 50), (3, 1, 10), (4, 2, 30)], "the third was let go and began anew");
    }
}
