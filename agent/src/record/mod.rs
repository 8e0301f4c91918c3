//! What we write down about a kill: the counts per owner, the log record, the span. Pure: no I/O, no clock, no global
//! state.

pub mod attributes;
pub mod duplicates;
pub mod ends;
pub mod incident;
mod iso_8601;
mod levels;
pub mod log_record;
mod pod_attributes;
pub mod reconstructed;
pub mod schema;
mod sentence;
pub mod series;
pub mod span;

#[cfg(test)]
pub(crate) mod sample;
