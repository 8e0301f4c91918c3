//! What we write down about a kill: the counts per owner, the log record, the span. Pure: no I/O, no clock, no global state.

pub mod incident;
pub mod log_record;
pub mod schema;
pub mod series;
pub mod span;
