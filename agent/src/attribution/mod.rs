//! Whose process it was. Never fails: at worst the owner is unknown, and says why.

pub mod container;
