//! What the kernel lets this process do: its capabilities, the one thread that uses them, why something was denied, and
//! the limit of locked memory.

pub mod capabilities;
pub mod denial;
pub mod locked_memory;
pub mod thread;

use crate::host::kernel;
use capabilities::Set;

/// Makes effective what attaching the probe has a use for, as far as it is permitted, and returns it: capabilities of
/// the calling thread and, where the kernel charges maps to it, the process's limit of locked memory. What is refused
/// here is reported by the step that lacks it.
pub fn raise() -> Set {
    let is_charged = locked_memory::is_charged(kernel::running());
    // Refused only by a filter of system calls.
    let raised = capabilities::raise(is_charged).unwrap_or_default();
    if is_charged {
        // Refused where the limit is what it may be already.
        let _ = locked_memory::raise();
    }
    raised
}
