//! The played API server: LIST and WATCH of objects it holds itself, for unmodified Kubernetes clients.
//!
//! In reading order: [`resource`] names what is served, [`store`] holds objects and their log of changes,
//! [`cluster`] is the handle of a program that plays the rest of Kubernetes, [`target`] and [`query`] parse
//! a request, [`selector`] filters, [`respond`] answers, [`watch`] streams, [`server`] owns the socket.
//! It is plain HTTP on loopback, without authentication: never a server for anything but a test or a demo.

pub mod cluster;
pub mod discovery;
pub mod error;
pub mod merge;
pub mod query;
pub mod resource;
pub mod respond;
pub mod review;
pub mod selector;
pub mod server;
pub mod store;
pub mod target;
pub mod view;
pub mod watch;

pub use cluster::Cluster;
pub use error::ApiError;
pub use resource::Resource;
pub use server::{ApiServer, GoneStyle, ServerConfig};
