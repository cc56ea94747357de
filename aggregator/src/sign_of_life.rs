//! Until when everything was watched: a file renewed every few seconds, so that the next start knows how long
//! nobody did. Without it a quiet night before a restart would count as one long outage.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aftertrace_model::Timestamp;
use tracing::warn;

use crate::clock;
use crate::watch::WatchHealth;

/// Time between two signs: the most by which an outage is told too long.
const INTERVAL: Duration = Duration::from_secs(5);

/// The file `<data>/alive`: microseconds since the Unix epoch as text.
#[derive(Clone, Debug)]
pub struct SignOfLife {
    path: PathBuf,
}

impl SignOfLife {
    /// The sign in a data directory.
    #[must_use]
    pub fn new(data: &Path) -> Self {
        Self { path: data.join("alive") }
    }

    /// The last sign of the run before; `None` if there is none that can be read. Losing it makes an outage
    /// look longer, which is safe.
    #[must_use]
    pub fn last(&self) -> Option<Timestamp> {
        let text = std::fs::read_to_string(&self.path).ok()?;
        text.trim().parse().ok().map(Timestamp::from_micros)
    }

    /// Gives signs until the task is dropped. While a watch is down the sign stands at its last word, so that
    /// a crash then does not claim that it was watched.
    pub async fn keep(self, health: Arc<WatchHealth>) {
        let mut ticks = tokio::time::interval(INTERVAL);
        loop {
            ticks.tick().await;
            self.give(&health).await;
        }
    }

    /// Gives one sign.
    pub async fn give(&self, health: &WatchHealth) {
        let now = clock::now();
        let heard = health.open_gaps(now).iter().map(|gap| gap.from).min().unwrap_or(now);
        // Not synced: what a power cut takes from it makes the outage look longer.
        if let Err(error) = tokio::fs::write(&self.path, heard.as_micros().to_string()).await {
            warn!(%error, path = %self.path.display(), "cannot give a sign of life");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn stands_still_while_a_watch_is_down() {
        let dir = tempfile::tempdir().expect("temporary directory");
        let sign = SignOfLife::new(dir.path());
        assert_eq!(sign.last(), None);
        let health = WatchHealth::new("c");
        let before = clock::now();
        sign.give(&health).await;
        assert!(sign.last() >= Some(before));
        let since = before.plus_micros(-60_000_000);
        health.down("pods", since, "refused");
        sign.give(&health).await;
        assert_eq!(sign.last(), Some(since));
    }
}
