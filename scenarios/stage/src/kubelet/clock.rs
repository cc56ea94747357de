//! One moment on both clocks that evidence is compared by.

use rustix::time::{ClockId, clock_gettime};

/// A moment as wall time and as time since boot (which counts suspend).
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Instant {
    /// `CLOCK_REALTIME`, nanoseconds since the epoch.
    pub wall_ns: i64,
    /// `CLOCK_BOOTTIME`, nanoseconds since boot.
    pub boot_ns: i64,
}

impl Instant {
    /// The present. The two clocks are read one after the other, some tens of nanoseconds apart.
    pub fn now() -> Self {
        Self { wall_ns: read(ClockId::Realtime), boot_ns: read(ClockId::Boottime) }
    }

    /// The wall time as Kubernetes writes it: whole seconds, rounded down.
    pub fn kube_time(self) -> String {
        let time = jiff::Timestamp::from_second(self.wall_ns.div_euclid(1_000_000_000));
        let time = time.expect("the clock's seconds fit in the years 1678 to 2262");
        time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }
}

fn read(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kube_time_is_rounded_down() {
        let moment = Instant { wall_ns: 1_795_171_922_999_999_999, boot_ns: 0 };
        assert_eq!(moment.kube_time(), "2026-11-20T10:52:02Z");
    }
}
