//! Where the running kernel keeps what the probe reads: found in its BTF by the agent, frozen into the probe's
//! read-only data before the programs load.
//!
//! The verifier reads the numbers as constants. A load from a typed pointer plus a constant stays typed, so a wrong
//! offset is refused at load instead of returning garbage, and code behind a switch that is off is never checked.

use core::mem::size_of;

/// An offset of a member that this kernel does not have.
pub const NO_OFFSET: u32 = u32::MAX;

macro_rules! kernel_layout {
    ($($(#[$doc:meta])* $field:ident),* $(,)?) => {
        /// Byte offsets of members, sizes of types and switches. [`NO_OFFSET`] where the kernel has no such member.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct KernelLayout { $($(#[$doc])* pub $field: u32),* }

        impl KernelLayout {
            /// What the probe is built with, before the agent writes the real one.
            pub const UNSET: Self = Self { $($field: NO_OFFSET),* };
            /// Number of fields.
            pub const FIELDS: usize = [$(stringify!($field)),*].len();
        }
    };
}

kernel_layout! {
    /// 1 if `bpf_probe_read_kernel` may be used. 0 under lockdown=confidentiality: names, limits and what else needs it
    /// are absent then.
    use_helpers,
    /// 1 if the kernel has `bpf_get_current_task_btf` (5.11).
    has_current_task_btf,
    /// `task_struct.tgid`
    task_tgid,
    /// `task_struct.pid`
    task_pid,
    /// `task_struct.comm`
    task_comm,
    /// `task_struct.signal`
    task_signal,
    /// `task_struct.group_leader`
    task_group_leader,
    /// `task_struct.start_boottime`, before 5.5 `real_start_time`
    task_start_boottime,
    /// `task_struct.mm`
    task_mm,
    /// `task_struct.cgroups`
    task_cgroups,
    /// `task_struct.thread_pid`
    task_thread_pid,
    /// `task_struct.cred`
    task_cred,
    /// `cred.uid`
    cred_uid,
    /// `signal_struct.oom_score_adj`
    signal_oom_score_adj,
    /// `pid.level`
    pid_level,
    /// `pid.numbers`
    pid_numbers,
    /// Size of `struct upid`, an element of `pid.numbers`.
    upid_size,
    /// `upid.nr`
    upid_nr,
    /// `mm_struct.total_vm`
    mm_total_vm,
    /// `mm_struct.pgtables_bytes`
    mm_pgtables_bytes,
    /// Resident file pages in `mm_struct`: the counter's word itself.
    mm_file_rss,
    /// Resident anonymous pages.
    mm_anon_rss,
    /// Swap entries.
    mm_swap,
    /// Resident shared-memory pages.
    mm_shmem_rss,
    /// 1 if the four counters can be loaded directly (6.2: an array of `percpu_counter`), 0 if they need the helper.
    rss_is_typed,
    /// `css_set.subsys[memory_cgrp_id]`
    css_set_memory,
    /// `cgroup_subsys_state.cgroup`
    css_cgroup,
    /// `cgroup_subsys_state.parent`
    css_parent,
    /// `cgroup.kn`
    cgroup_kn,
    /// `kernfs_node.id`
    kernfs_id,
    /// `kernfs_node.name`
    kernfs_name,
    /// `mem_cgroup.memory.usage`, counted from `mem_cgroup.css` like the four below: the probe holds the css.
    memcg_memory_usage,
    /// `mem_cgroup.memory.max`
    memcg_memory_max,
    /// `mem_cgroup.swap.usage`, in a union with `memsw`
    memcg_swap_usage,
    /// `mem_cgroup.swap.max`, in a union with `memsw`
    memcg_swap_max,
    /// `mem_cgroup.oom_group`
    memcg_oom_group,
    /// `mem_cgroup.oom_lock`: before 6.12, or with CONFIG_MEMCG_V1
    memcg_oom_lock,
    /// `task_struct.flags`
    task_flags,
    /// `mm_struct.arg_start`
    mm_arg_start,
    /// `mm_struct.arg_end`
    mm_arg_end,
    /// 1 if the victim's command line is wanted.
    wants_arguments,
    /// `oom_control.memcg`
    oc_memcg,
    /// `oom_control.gfp_mask`
    oc_gfp_mask,
    /// `oom_control.order`
    oc_order,
    /// `oom_control.constraint`
    oc_constraint,
    /// `mem_cgroup.css.cgroup`, counted from the beginning like the two below
    oc_memcg_cgroup,
    /// `mem_cgroup.memory.usage`
    oc_memcg_usage,
    /// `mem_cgroup.memory.max`
    oc_memcg_max,
    /// `percpu_counter.counters`, counted from the counter's own word. [`NO_OFFSET`]: the counters are not summed up.
    rss_counters,
    /// `bpf_array.pptrs`
    array_pptrs,
    /// CPUs whose parts of a resident size are summed up; 0: the approximate counter is taken.
    rss_cpus,
    /// 1 if the kernel tells when memory is free: it has the tracepoint `exit_mmap` (6.1).
    has_exit_mmap,
}

const _: () = assert!(size_of::<KernelLayout>() == 4 * KernelLayout::FIELDS);

// SAFETY: `repr(C)`, nothing but u32, no padding (asserted above).
#[cfg(feature = "user")]
unsafe impl aya::Pod for KernelLayout {}
