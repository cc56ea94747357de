//! Plays a recorded cluster through the API server: the LIST it began with, then each recorded watch line.
//!
//! Revisions stay as recorded, so an unmodified client sees what a client of the real cluster saw.

pub mod player;
pub mod recording;

pub use player::Player;
pub use recording::{Recording, RecordingError};
