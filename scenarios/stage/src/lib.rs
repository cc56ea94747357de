//! A played Kubernetes around real kernel events, for the demo, the scenarios and the tests.
//!
//! [`api`] serves LIST and WATCH to unmodified clients. No cluster is needed, and the product cannot tell the difference
//! except by looking for it.

pub mod api;
