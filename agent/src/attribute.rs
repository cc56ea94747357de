//! From a memory cgroup to the container and pod it belongs to.
//!
//! The kernel's record carries the names of the victim's cgroup and of its ancestors; [`cgroup_name`] reads
//! them, [`pods`] knows what this node's pods say of themselves, and [`pending`] keeps what the API has not
//! told us yet. [`init`] tells the container's own init from one nested in it. A name alone is a hint: a pod is named only if its own status lists that container id.

pub(crate) mod cgroup_name;
pub(crate) mod containers;
pub(crate) mod init;
pub(crate) mod log_links;
pub(crate) mod pending;
pub(crate) mod pods;
