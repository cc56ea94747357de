//! `CLOCK_BOOTTIME` → wall time, with a bound on the error.
//!
//! The kernel stamps records with `CLOCK_BOOTTIME`, which counts through suspend and is never set. The wall
//! clock is that clock plus an offset: both are steered together, so the offset is constant until somebody
//! *sets* the wall clock (`clock_settime`, an NTP step, a leap second), and then it jumps. So there is
//! nothing to interpolate. An `Epoch` is a stretch with one offset; each sample either confirms the last
//! epoch, and narrows its bound, or opens the next. A record between the last sample of one epoch and the
//! first of the next gets a bound that holds both offsets.
//!
//! [`Timeline`] is pure; [`WallClock`] feeds it by reading the two clocks.

use std::collections::VecDeque;

use rustix::time::{ClockId, clock_gettime};

/// Pairs of readings of which the closest is kept. A pair takes about 100 ns; a guess that leaves little
/// chance of an interrupt in all of them.
const READINGS: u32 = 5;

/// What the kernel's lockless clock, which programs read, may be off by while it is updated. A guess: the
/// kernel's comment on `ktime_get_mono_fast_ns` bounds it by the steering of one update, which is less.
const FAST_CLOCK_ERROR_NS: u64 = 1_000;

/// Epochs kept. Wall clocks are set a few times a day at most, and records are converted within seconds.
const MAX_EPOCHS: usize = 16;

/// A wall time and how far it may be off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wall {
    /// Nanoseconds since 1970 in UTC.
    pub unix_ns: i64,
    /// The true time is within this many nanoseconds of `unix_ns`, either way.
    pub error_ns: u64,
}

impl Wall {
    /// Microseconds since 1970 in UTC, rounded down.
    #[must_use]
    pub fn unix_us(self) -> i64 {
        self.unix_ns.div_euclid(1_000)
    }
}

/// One look at both clocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When, in nanoseconds of `CLOCK_BOOTTIME`.
    pub boot_ns: u64,
    /// Wall time minus boot time, in nanoseconds.
    pub offset_ns: i64,
    /// `offset_ns` is off by no more than this.
    pub error_ns: u64,
}

impl Sample {
    /// A reading of the wall clock between two of the boot clock: it was taken somewhere between them, so
    /// it belongs to their middle but for half their distance.
    #[must_use]
    pub fn sandwich(before_boot_ns: u64, unix_ns: i64, after_boot_ns: u64) -> Self {
        let distance = after_boot_ns.saturating_sub(before_boot_ns);
        let middle = before_boot_ns.saturating_add(distance / 2);
        // Boot times stay below 2^63 ns, 292 years.
        let offset_ns = unix_ns.saturating_sub_unsigned(middle);
        Self { boot_ns: after_boot_ns, offset_ns, error_ns: distance.div_ceil(2) }
    }
}

/// A stretch of time in which the wall clock was not set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Epoch {
    first_boot_ns: u64,
    last_boot_ns: u64,
    offset_ns: i64,
    error_ns: u64,
}

impl Epoch {
    fn opened_by(sample: Sample) -> Self {
        Self {
            first_boot_ns: sample.boot_ns,
            last_boot_ns: sample.boot_ns,
            offset_ns: sample.offset_ns,
            error_ns: sample.error_ns,
        }
    }

    /// The least and the greatest offset it may have.
    fn bounds(&self) -> (i64, i64) {
        (
            self.offset_ns.saturating_sub_unsigned(self.error_ns),
            self.offset_ns.saturating_add_unsigned(self.error_ns),
        )
    }

    /// The epoch between two bounds on its offset.
    fn with_bounds(self, (low, high): (i64, i64)) -> Self {
        let width = high.abs_diff(low);
        Self { offset_ns: low.saturating_add_unsigned(width / 2), error_ns: width.div_ceil(2), ..self }
    }
}

/// What is known about the offset over time. Pure.
#[derive(Clone, Debug)]
pub struct Timeline {
    /// In order of time; never empty.
    epochs: VecDeque<Epoch>,
}

impl Timeline {
    /// Begins with one sample.
    #[must_use]
    pub fn new(sample: Sample) -> Self {
        Self { epochs: VecDeque::from([Epoch::opened_by(sample)]) }
    }

    /// Takes a further sample, later than all before; true if the wall clock was set since the last.
    pub fn observe(&mut self, sample: Sample) -> bool {
        let seen = Epoch::opened_by(sample);
        let (low, high) = seen.bounds();
        if let Some(last) = self.epochs.back_mut() {
            let (last_low, last_high) = last.bounds();
            if low <= last_high && last_low <= high {
                // Both bounds hold for the one offset, so what they have in common does.
                *last = last.with_bounds((low.max(last_low), high.min(last_high)));
                last.last_boot_ns = last.last_boot_ns.max(sample.boot_ns);
                return false;
            }
        }
        if self.epochs.len() == MAX_EPOCHS {
            self.epochs.pop_front();
        }
        self.epochs.push_back(seen);
        true
    }

    /// The wall time at a boot time. Before the first sample the first epoch is taken to reach back, for
    /// of earlier settings of the clock nothing can be known.
    #[must_use]
    pub fn to_wall(&self, boot_ns: u64) -> Wall {
        let index = self.epochs.iter().rposition(|epoch| epoch.first_boot_ns <= boot_ns).unwrap_or(0);
        let epoch = self.epochs[index];
        let epoch = match self.epochs.get(index + 1) {
            Some(next) if boot_ns > epoch.last_boot_ns => {
                // The clock was set somewhere between the two samples: either offset may apply.
                let (low, high) = epoch.bounds();
                let (next_low, next_high) = next.bounds();
                epoch.with_bounds((low.min(next_low), high.max(next_high)))
            }
            _ => epoch,
        };
        Wall {
            unix_ns: epoch.offset_ns.saturating_add_unsigned(boot_ns),
            error_ns: epoch.error_ns.saturating_add(FAST_CLOCK_ERROR_NS),
        }
    }

    /// The last time of which it is known that the wall clock had not been set.
    fn known_until_boot_ns(&self) -> u64 {
        self.epochs.back().map_or(0, |epoch| epoch.last_boot_ns)
    }
}

/// The machine's clocks.
#[derive(Clone, Debug)]
pub struct WallClock {
    timeline: Timeline,
}

impl Default for WallClock {
    fn default() -> Self {
        Self::new()
    }
}

impl WallClock {
    /// Reads the clocks for the first time.
    #[must_use]
    pub fn new() -> Self {
        Self { timeline: Timeline::new(sample()) }
    }

    /// The wall time at a boot time. Reads the clocks first if the time is later than they were last read,
    /// so that a setting of the clock in between is never overlooked.
    pub fn to_wall(&mut self, boot_ns: u64) -> Wall {
        if boot_ns > self.timeline.known_until_boot_ns() {
            self.resample();
        }
        self.timeline.to_wall(boot_ns)
    }

    /// Reads the clocks: true if the wall clock was set since they were last read. Once a minute is often
    /// enough; it only keeps the uncertain stretch around a setting of the clock short.
    pub fn resample(&mut self) -> bool {
        self.timeline.observe(sample())
    }
}

/// Now, in nanoseconds of `CLOCK_BOOTTIME`.
#[must_use]
pub fn boot_now_ns() -> u64 {
    // Time since boot is not negative.
    u64::try_from(nanoseconds(ClockId::Boottime)).unwrap_or(0)
}

/// The closest of a few looks at both clocks.
fn sample() -> Sample {
    let mut best = look();
    for _ in 1..READINGS {
        let next = look();
        if next.error_ns < best.error_ns {
            best = next;
        }
    }
    best
}

fn look() -> Sample {
    let before = boot_now_ns();
    let unix_ns = nanoseconds(ClockId::Realtime);
    Sample::sandwich(before, unix_ns, boot_now_ns())
}

fn nanoseconds(clock: ClockId) -> i64 {
    let time = clock_gettime(clock);
    // Below 2^63 until the year 2262.
    time.tv_sec.saturating_mul(1_000_000_000).saturating_add(time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot_ns: u64, offset_ns: i64, error_ns: u64) -> Sample {
        Sample { boot_ns, offset_ns, error_ns }
    }

    /// Samples in order, then a boot time: the wall time and its error, without the lockless clock's.
    fn check(samples: &[Sample], boot_ns: u64, expected: (i64, u64)) {
        let mut timeline = Timeline::new(samples[0]);
        for &sample in &samples[1..] {
            timeline.observe(sample);
        }
        let wall = timeline.to_wall(boot_ns);
        assert_eq!((wall.unix_ns, wall.error_ns - FAST_CLOCK_ERROR_NS), expected, "{samples:?} at {boot_ns}");
    }

    #[test]
    fn a_sandwich_is_off_by_half_its_width() {
        assert_eq!(Sample::sandwich(100, 5_000, 110), at(110, 4_895, 5));
        assert_eq!(Sample::sandwich(100, 5_000, 103), at(103, 4_899, 2));
        assert_eq!(Sample::sandwich(100, 5_000, 100), at(100, 4_900, 0));
    }

    #[test]
    fn one_offset_serves_before_between_and_after_its_samples() {
        let samples = [at(100, 1_000, 10), at(200, 1_000, 10)];
        for boot_ns in [50, 150, 250] {
            check(&samples, boot_ns, (boot_ns as i64 + 1_000, 10));
        }
    }

    #[test]
    fn samples_narrow_each_other() {
        // [990, 1010] and [1004, 1024] have [1004, 1010] in common.
        check(&[at(100, 1_000, 10), at(200, 1_014, 10)], 150, (150 + 1_007, 3));
    }

    #[test]
    fn a_step_divides_time_and_widens_the_stretch_it_fell_into() {
        let samples = [at(100, 1_000, 10), at(200, 1_000, 10), at(300, 9_000, 20), at(400, 9_000, 20)];
        check(&samples, 150, (1_150, 10));
        check(&samples, 200, (1_200, 10));
        // Either [990, 1010] or [8980, 9020]: all of [990, 9020].
        check(&samples, 250, (250 + 5_005, 4_015));
        check(&samples, 300, (9_300, 20));
        check(&samples, 999, (9_999, 20));
    }

    #[test]
    fn a_step_back_is_a_step() {
        let mut timeline = Timeline::new(at(100, 9_000, 10));
        assert!(timeline.observe(at(200, 1_000, 10)));
        assert!(!timeline.observe(at(300, 1_001, 10)));
        assert_eq!(timeline.to_wall(300).unix_ns, 1_300);
    }

    #[test]
    fn epochs_are_bounded() {
        let mut timeline = Timeline::new(at(0, 0, 0));
        for step in 1..100 {
            assert!(timeline.observe(at(step * 100, step as i64 * 1_000, 0)));
        }
        assert_eq!(timeline.epochs.len(), MAX_EPOCHS);
        assert_eq!(timeline.to_wall(9_900).unix_ns, 99_000 + 9_900);
    }

    #[test]
    fn microseconds_are_rounded_down() {
        assert_eq!(Wall { unix_ns: 1_999, error_ns: 0 }.unix_us(), 1);
        assert_eq!(Wall { unix_ns: -1, error_ns: 0 }.unix_us(), -1);
    }

    #[test]
    fn now_by_both_clocks_agrees_within_the_bound() {
        let mut clock = WallClock::new();
        let before = nanoseconds(ClockId::Realtime);
        let wall = clock.to_wall(boot_now_ns());
        let after = nanoseconds(ClockId::Realtime);
        let error = i64::try_from(wall.error_ns).unwrap();
        assert!(before - error <= wall.unix_ns && wall.unix_ns <= after + error, "{before} {wall:?} {after}");
        assert!(wall.error_ns < 1_000_000, "{wall:?}");
    }
}
