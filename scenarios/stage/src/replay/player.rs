//! The pace of a replay: step by step, at once, or as fast or slow as wanted.

use std::collections::VecDeque;
use std::time::Duration;

use super::recording::{LineKind, RecordedLine, Recording};
use crate::api::Cluster;

/// A recording that is being played into a cluster.
#[derive(Debug)]
pub struct Player {
    cluster: Cluster,
    rest: VecDeque<RecordedLine>,
}

impl Player {
    /// Shows the recorded LISTs; no line has been played yet. The cluster should hold nothing else.
    pub fn new(cluster: Cluster, recording: Recording) -> Self {
        cluster.play(|store| {
            for list in recording.lists {
                store.load_recorded(list.resource, list.revision, list.objects);
            }
        });
        Self { cluster, rest: recording.lines.into() }
    }

    /// Lines that are still to be played.
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Plays the next line and returns it; `None` at the end.
    pub fn step(&mut self) -> Option<RecordedLine> {
        let line = self.rest.pop_front()?;
        self.cluster.play(|store| match line.kind {
            LineKind::Put => store.put_recorded(line.resource, line.object.clone()),
            LineKind::Delete => store.delete_recorded(line.resource, line.object.clone()),
            LineKind::Bookmark => store.bookmark_recorded(line.resource, line.revision()),
        });
        Some(line)
    }

    /// Plays all the rest at once.
    pub fn finish(&mut self) {
        while self.step().is_some() {}
    }

    /// Plays the rest in the recorded rhythm, `speed` times as fast; a speed that is not above 0 plays it
    /// at once.
    pub async fn run(&mut self, speed: f64) {
        let begin = tokio::time::Instant::now();
        let Some(first_ns) = self.rest.front().map(|line| line.at_ns) else { return };
        while let Some(line) = self.rest.front() {
            let recorded_ns = line.at_ns.saturating_sub(first_ns).max(0).unsigned_abs();
            tokio::time::sleep_until(begin + scaled(Duration::from_nanos(recorded_ns), speed)).await;
            self.step();
        }
    }
}

fn scaled(recorded: Duration, speed: f64) -> Duration {
    if speed > 0.0 {
        Duration::try_from_secs_f64(recorded.as_secs_f64() / speed).unwrap_or(Duration::MAX)
    } else {
        Duration::ZERO
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api::Resource;
    use crate::replay::recording::RecordedList;

    fn recording() -> Recording {
        let line = |at_ns, kind, revision: u64| RecordedLine {
            resource: Resource::Pods,
            at_ns,
            kind,
            object: json!({ "metadata": { "name": "a", "resourceVersion": revision.to_string() } }),
        };
        Recording {
            lists: vec![RecordedList { resource: Resource::Pods, revision: 7, objects: Vec::new() }],
            lines: vec![
                line(0, LineKind::Put, 8),
                line(1_000_000_000, LineKind::Put, 9),
                line(4_000_000_000, LineKind::Delete, 10),
            ],
        }
    }

    #[test]
    fn steps_show_one_line_each() {
        let cluster = Cluster::new();
        let mut player = Player::new(cluster.clone(), recording());
        assert_eq!(cluster.snapshot(Resource::Pods), (7, Vec::new()));
        assert_eq!(player.step().unwrap().revision(), 8);
        assert_eq!(cluster.snapshot(Resource::Pods).0, 8);
        player.finish();
        assert_eq!((player.remaining(), cluster.snapshot(Resource::Pods)), (0, (10, Vec::new())));
        assert!(player.step().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn the_rhythm_is_the_recorded_one_times_the_speed() {
        let mut player = Player::new(Cluster::new(), recording());
        let begin = tokio::time::Instant::now();
        player.run(2.0).await;
        assert_eq!(begin.elapsed().as_millis() / 10, 200);
        assert_eq!(scaled(Duration::from_secs(9), 0.0), Duration::ZERO);
        assert_eq!(scaled(Duration::from_secs(9), f64::NAN), Duration::ZERO);
    }
}
