//! What glibc's allocator is told, so that the agent keeps no more memory than it uses. Other C libraries are left
//! alone.

/// Bytes of a block that has pages of its own: glibc's own default, in force as long as nothing was freed.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 128 << 10;
/// Bytes that may be free without a look at what can be given back.
#[cfg(target_env = "gnu")]
const KEPT: usize = 4 << 20;

/// To be called before there is another thread.
///
/// One arena: the tens of megabytes that attaching takes for a moment would come from one of that thread's own, whose
/// end glibc does not give back when asked to (5 MB more in use afterwards). And what is large, as a list of pods, goes
/// back to the kernel when it is freed, however much was allocated before: left to itself glibc raises that size with
/// each such block.
pub fn configure() {
    // SAFETY: numbers only.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
        libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE);
    }
}

/// Gives back to the kernel what is free. Takes as long as there is much of that: for when much was freed, and rarely.
pub fn give_back() {
    // SAFETY: no arguments that could be wrong.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// The same if much is free. For now and then: what a scrape of many series or an outage of the collector took lies
/// between what is still used, and glibc by itself gives back only what is free at its end. What was given back before
/// counts as free, too: a call may find nothing else.
pub fn give_back_much() {
    // SAFETY: it reads numbers.
    #[cfg(target_env = "gnu")]
    if unsafe { libc::mallinfo2() }.fordblks > KEPT {
        give_back();
    }
}
