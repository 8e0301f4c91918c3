//! Memory that is free goes back to the kernel, also where it lies between what is used.

#![cfg(target_env = "gnu")]
#![allow(clippy::unwrap_used, reason = "a failed test panics")]

use oom_watcher::host::allocator;

/// Bytes in use that are no file's.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:")?.trim().strip_suffix(" kB")).unwrap();
    kib.trim().parse::<usize>().unwrap() << 10
}

#[test]
fn what_is_free_between_what_is_used_goes_back() {
    let mut blocks: Vec<_> = (0..64 << 10).map(|_| vec![1_u8; 1 << 10]).collect();
    // One of 64 stays, so there is no end of the heap that is free.
    let mut index = 0;
    blocks.retain(|_| {
        index += 1;
        index % 64 == 0
    });
    let before = resident();
    allocator::give_back_much();
    let given = before.saturating_sub(resident());
    // How much of a page is left depends on where the blocks are.
    assert!(given > 32 << 20, "{given} of 63 MiB");
    assert_eq!(blocks.len(), 1 << 10);
}
