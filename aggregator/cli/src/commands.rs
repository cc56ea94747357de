//! One file per command: build the question, ask, print the answer in the format asked for.

pub(crate) mod at;
pub(crate) mod completion;
pub(crate) mod history;
pub(crate) mod oom;
pub(crate) mod sql;
pub(crate) mod stale;
pub(crate) mod status;
pub(crate) mod timeline;
pub(crate) mod why;

use crate::args::{Format, Global};
use crate::client::{Aggregator, ClientError, Memory};
use crate::clock::Clock;
use crate::error::Error;
use crate::term::Screen;

/// What every command is given.
#[derive(Debug)]
pub(crate) struct Context {
    /// The options.
    pub(crate) global: Global,
    /// The moment and the zone.
    pub(crate) clock: Clock,
    /// Standard output.
    pub(crate) screen: Screen,
}

impl Context {
    /// Connects to the aggregator.
    pub(crate) async fn connect(&self) -> Result<(Aggregator, Memory), ClientError> {
        let aggregator = Aggregator::new(&self.global)?;
        let client = aggregator.connect().await?;
        Ok((aggregator, client))
    }

    /// Prints an answer that has no graph: `json` or `table`, whichever was asked for.
    pub(crate) fn print(
        &self,
        json: impl FnOnce() -> String,
        table: impl FnOnce() -> String,
    ) -> Result<(), Error> {
        let text = match self.global.output {
            Format::Json => json(),
            Format::Table | Format::Wide => table(),
            Format::Dot => return Err(Error::DotWithoutTree),
        };
        self.screen.print(&text).map_err(Error::Output)
    }

    /// Whether ids are shown to people.
    pub(crate) fn is_wide(&self) -> bool {
        self.global.output == Format::Wide
    }

    /// The namespace to ask about: a pod's name needs one, everything else may mean all (the empty text).
    pub(crate) fn namespace_of(&self, needs_one: bool) -> String {
        match needs_one {
            true => self.global.namespace_or_default(),
            false => self.global.namespace.clone().unwrap_or_default(),
        }
    }

    /// Refuses `-o dot` before anything is asked.
    pub(crate) fn refuse_dot(&self) -> Result<(), Error> {
        if self.global.output == Format::Dot { Err(Error::DotWithoutTree) } else { Ok(()) }
    }

    /// Reads an optional time of the command line, µs since the Unix epoch.
    pub(crate) fn micros(&self, text: Option<&str>) -> Result<Option<i64>, Error> {
        Ok(text.map(|t| crate::time::parse(t, &self.clock.now)).transpose()?.map(|t| t.as_micros()))
    }
}
