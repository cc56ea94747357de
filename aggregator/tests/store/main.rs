//! The store from outside: what is acknowledged stays, once, and any DuckDB can read it.

mod catalog;
mod facts;
mod full_disk;
mod kill;
mod restart;
mod same_facts;
