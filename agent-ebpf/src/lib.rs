//! Programs.
#![no_std]
