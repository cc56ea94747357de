//! The domain of Aftertrace: what happened, what caused it, and what is not known.
//!
//! Everything here is pure: values and functions, no clock, no file, no socket, no async. The agent and the
//! aggregator both rest on this crate and meet nowhere else than in the wire contract built over it.
//!
//! Reading order: a [`Event`] is one fact at one [`time`]; its [`Kind`] declares the [`fact`] key that makes
//! it one row however often it is reported. [`Rule`]s join two facts into an [`Edge`]; the [`Engine`] applies
//! them to a window. [`Pattern`]s name the chains people ask for. What is missing is a [`Gap`].

#![forbid(unsafe_code)]

pub mod attribute;
pub mod config;
mod edge;
pub mod engine;
mod event;
pub mod fact;
mod gap;
mod kind;
mod object;
pub mod pattern;
pub mod rule;
pub mod text;
pub mod time;
mod weight;

pub use config::Content;
pub use edge::{Edge, Evidence, Grade, Retraction};
pub use engine::{Derived, Engine, Evicted};
pub use event::{Attributes, Event, EventId, PodRef, Severity, Source, Workload};
pub use gap::{Gap, GapReason};
pub use kind::Kind;
pub use object::{ObjectRef, ObjectVersion};
pub use pattern::Pattern;
pub use rule::{Owner, Rule};
pub use time::{Occurrence, Timestamp};
