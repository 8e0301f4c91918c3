//! Every read of kernel memory, by the offsets that the agent found in the kernel's BTF.
//!
//! Two ways: a *typed* load (`load`) is a plain instruction on a pointer whose type the verifier knows, allowed even
//! under lockdown=confidentiality; a *helper* read (`read`) takes any address, but is refused there. What needs the
//! helper sits behind `use_helpers`, a constant to the verifier, which never checks the code behind a 0. Strings and
//! casts (a css to its mem_cgroup) need the helper; so do arrays with a computed index.

use core::mem::MaybeUninit;
use core::ptr::{null, read_volatile};

use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_task, generated};
use aya_ebpf::macros::map;
use aya_ebpf::maps::PerCpuArray;
use oom_watcher_shared::{
    ABSENT, ARGUMENTS, COMM, KernelLayout, LEVELS, NAME, NAME_ABSENT, NO_OFFSET, Name, OomEvent, TRIGGER_LEVELS,
    present,
};

use crate::decision::Decision;

/// A pointer into the kernel.
pub(crate) type Pointer = *const u8;

/// Written by the agent before the programs load, then frozen.
#[unsafe(no_mangle)]
static LAYOUT: KernelLayout = KernelLayout::UNSET;

/// Only its addresses are used: where one CPU's element is tells where that CPU keeps its part of everything.
#[map]
static PERCPU: PerCpuArray<u64> = PerCpuArray::with_max_entries(1, 0);

macro_rules! layout {
    ($field:ident) => {
        frozen(&raw const LAYOUT.$field)
    };
}

#[inline(always)]
fn frozen(field: *const u32) -> u32 {
    // SAFETY: only ever called with a field of LAYOUT. Volatile, because its value in this source is not the one it
    // will have.
    unsafe { read_volatile(field) }
}

#[inline(always)]
fn load<T: Copy>(base: Pointer, offset: u32) -> T {
    // SAFETY: the verifier checks that `base` is a pointer to a kernel type with a member of this size there; faults
    // read as 0.
    unsafe { read_volatile(base.add(offset as usize).cast::<T>()) }
}

/// Follows a pointer that may be null.
#[inline(always)]
fn follow(base: Pointer, offset: u32) -> Pointer {
    if base.is_null() { null() } else { load(base, offset) }
}

/// The value and 0, or 0 and a negative error. Without a branch: each one would double the verifier's work on old
/// kernels.
#[inline(always)]
fn try_read<T: Copy>(address: u64) -> (T, i64) {
    let mut value = MaybeUninit::<T>::uninit();
    // SAFETY: the helper writes the whole value, zeroes if it fails.
    unsafe {
        let error =
            generated::bpf_probe_read_kernel(value.as_mut_ptr().cast(), size_of::<T>() as u32, address as *const _);
        (value.assume_init(), error)
    }
}

/// A number, or [`ABSENT`] if it could not be read.
#[inline(always)]
fn read(base: u64, offset: u32) -> u64 {
    if offset == NO_OFFSET {
        return ABSENT;
    }
    let (value, error) = try_read::<u64>(base.wrapping_add(u64::from(offset)));
    value | (error >> 63) as u64
}

/// A pointer as a bare number, 0 if it could not be read.
#[inline(always)]
fn read_pointer(base: u64, offset: u32) -> u64 {
    try_read::<u64>(base.wrapping_add(u64::from(offset))).0
}

/// A counter of pages that may be read as negative for a moment: 0 then, as `get_mm_counter` does.
#[inline(always)]
fn pages(count: u64) -> u64 {
    if count != ABSENT && (count as i64) < 0 { 0 } else { count }
}

#[inline(always)]
unsafe fn read_name(name: *mut Name, kernfs: u64) {
    // SAFETY: `name` points into the caller's event. The helper writes NAME bytes at the most and a final NUL.
    unsafe {
        let string = read_pointer(kernfs, layout!(kernfs_name));
        let length =
            generated::bpf_probe_read_kernel_str((&raw mut (*name).bytes).cast(), NAME as u32, string as *const _);
        (*name).len = (length - 1) as u64 | (length >> 63) as u64;
    }
}

/// Whether `exit_mmap` tells when memory is free.
#[inline(always)]
pub(crate) fn tells_ends() -> bool {
    layout!(has_exit_mmap) != 0
}

/// Whether the running task is dying (`PF_EXITING`, include/linux/sched.h). Not known under lockdown=confidentiality
/// before 5.11: no, then.
#[inline(always)]
pub(crate) fn current_is_exiting() -> bool {
    const PF_EXITING: u32 = 4;
    let flags = if layout!(has_current_task_btf) != 0 {
        // SAFETY: no arguments.
        load(unsafe { generated::bpf_get_current_task_btf() }.cast::<u8>().cast_const(), layout!(task_flags))
    } else if layout!(use_helpers) != 0 {
        // SAFETY: no arguments.
        try_read::<u32>(unsafe { bpf_get_current_task() }.wrapping_add(u64::from(layout!(task_flags)))).0
    } else {
        0
    };
    flags & PF_EXITING != 0
}

/// Fills in what the kernel decides about. All of it is typed, so lockdown allows it.
#[inline(always)]
pub(crate) unsafe fn decision(decision: *mut Decision, oc: Pointer) {
    // SAFETY: `decision` is a map element.
    unsafe {
        (*decision).gfp_mask = load(oc, layout!(oc_gfp_mask));
        (*decision).order = load(oc, layout!(oc_order));
        (*decision).constraint = load(oc, layout!(oc_constraint));
        (*decision).limit_id = ABSENT;
        (*decision).limit_usage = ABSENT;
        (*decision).limit_max = ABSENT;
        let memcg: Pointer = load(oc, layout!(oc_memcg));
        if !memcg.is_null() {
            (*decision).limit_usage = load(memcg, layout!(oc_memcg_usage));
            (*decision).limit_max = load(memcg, layout!(oc_memcg_max));
            let kernfs = follow(load(memcg, layout!(oc_memcg_cgroup)), layout!(cgroup_kn));
            if !kernfs.is_null() {
                (*decision).limit_id = load(kernfs, layout!(kernfs_id));
            }
        }
    }
}

/// Fills in everything about `task`, the process that is being killed. Gives the address of its `mm_struct`, or 0.
#[inline(always)]
pub(crate) unsafe fn victim(event: *mut OomEvent, task: Pointer, result: i32) -> u64 {
    let mut flags = if result == 0 { 0 } else { present::ALREADY_DYING };
    // SAFETY: `event` is a map element, and all indexes are below the lengths of its arrays.
    unsafe {
        (*event).time_boot_ns = generated::bpf_ktime_get_boot_ns();
        (*event).tgid = load(task, layout!(task_tgid));
        (*event).pid = load(task, layout!(task_pid));

        // The signalled task may be any thread. The process is its group leader, which stays until the last thread is
        // gone.
        let leader: Pointer = load(task, layout!(task_group_leader));
        (*event).start_boot_ns = 0;
        (*event).ns_tgid = 0;
        (*event).pid_ns_level = 0;
        if !leader.is_null() {
            flags |= present::START;
            (*event).start_boot_ns = load(leader, layout!(task_start_boottime));
            let mut i = 0;
            while i < COMM {
                (*event).comm[i] = load(leader, layout!(task_comm) + i as u32);
                i += 1;
            }
            let pid: Pointer = load(leader, layout!(task_thread_pid));
            if !pid.is_null() {
                let level: u32 = load(pid, layout!(pid_level));
                (*event).pid_ns_level = level;
                if level == 0 {
                    flags |= present::NS_TGID;
                    (*event).ns_tgid = (*event).tgid;
                } else if layout!(use_helpers) != 0 {
                    let pid = read_pointer(leader as u64, layout!(task_thread_pid));
                    let own = pid.wrapping_add(
                        u64::from(layout!(pid_numbers)) + u64::from(level) * u64::from(layout!(upid_size)),
                    );
                    let (number, error) = try_read::<u32>(own.wrapping_add(u64::from(layout!(upid_nr))));
                    (*event).ns_tgid = number;
                    flags |= !(error >> 63) as u64 & present::NS_TGID;
                }
            }
        }

        (*event).oom_score_adj = 0;
        let signal: Pointer = load(task, layout!(task_signal));
        if !signal.is_null() {
            flags |= present::OOM_SCORE_ADJ;
            (*event).oom_score_adj = i32::from(load::<i16>(signal, layout!(signal_oom_score_adj)));
        }
        (*event).uid = 0;
        let cred: Pointer = load(task, layout!(task_cred));
        if !cred.is_null() {
            flags |= present::UID;
            (*event).uid = load(cred, layout!(cred_uid));
        }

        flags |= memory(event, load(task, layout!(task_mm)));
        // Not in a register while the loops run: kernels up to 6.1 walk through a loop once for each value that a
        // register may have by then.
        let present = &raw mut (*event).present;
        present.write_volatile(flags);
        let more = cgroups(event, task);
        present.write_volatile(present.read_volatile() | more);
        load::<Pointer>(task, layout!(task_mm)) as u64
    }
}

/// Fills in the beginning of the command line: only if the running task is one of the victim's, whose memory can be
/// read then.
///
/// The last step of all: before a loop, kernels up to 6.1 walk through that once for all that the helper may have
/// returned, and give up.
#[inline(always)]
pub(crate) unsafe fn arguments(event: *mut OomEvent, task: Pointer) {
    if layout!(wants_arguments) == 0 {
        return;
    }
    let mm: Pointer = load(task, layout!(task_mm));
    // SAFETY: no arguments.
    let own: Pointer =
        load(unsafe { generated::bpf_get_current_task_btf() }.cast::<u8>().cast_const(), layout!(task_mm));
    if mm.is_null() || own as u64 != mm as u64 {
        return;
    }
    let (start, end): (u64, u64) = (load(mm, layout!(mm_arg_start)), load(mm, layout!(mm_arg_end)));
    let length = end.wrapping_sub(start);
    let length = if length > ARGUMENTS as u64 { ARGUMENTS as u64 } else { length };
    // SAFETY: `length` is that of the array at the most.
    unsafe {
        let error =
            generated::bpf_probe_read_user((&raw mut (*event).arguments).cast(), length as u32, start as *const _);
        (*event).arguments_len = length as u32;
        if error == 0 {
            (*event).present |= present::ARGUMENTS;
        }
    }
}

/// Returns a flag if the resident sizes are exact.
#[inline(always)]
unsafe fn memory(event: *mut OomEvent, mm: Pointer) -> u64 {
    // SAFETY: as for `victim`.
    unsafe {
        (*event).total_vm = ABSENT;
        (*event).pgtables_bytes = ABSENT;
        (*event).file_rss = ABSENT;
        (*event).anon_rss = ABSENT;
        (*event).swap = ABSENT;
        (*event).shmem_rss = ABSENT;
        if mm.is_null() {
            return 0;
        }
        (*event).total_vm = load(mm, layout!(mm_total_vm));
        if layout!(mm_pgtables_bytes) != NO_OFFSET {
            (*event).pgtables_bytes = load(mm, layout!(mm_pgtables_bytes));
        }
        if layout!(rss_is_typed) != 0 {
            let mut sums: [u64; 4] = [
                load(mm, layout!(mm_file_rss)),
                load(mm, layout!(mm_anon_rss)),
                load(mm, layout!(mm_swap)),
                load(mm, layout!(mm_shmem_rss)),
            ];
            let mut exact = 0;
            if layout!(use_helpers) != 0 && layout!(rss_cpus) != 0 && layout!(rss_counters) != NO_OFFSET {
                exact = add_parts(&mut sums, mm, &raw mut (*event).file_rss);
            }
            (*event).file_rss = pages(sums[0]);
            (*event).anon_rss = pages(sums[1]);
            (*event).swap = pages(sums[2]);
            (*event).shmem_rss = pages(sums[3]);
            return exact;
        }
        if layout!(use_helpers) != 0 {
            (*event).file_rss = pages(read(mm as u64, layout!(mm_file_rss)));
            (*event).anon_rss = pages(read(mm as u64, layout!(mm_anon_rss)));
            (*event).swap = pages(read(mm as u64, layout!(mm_swap)));
            (*event).shmem_rss = pages(read(mm as u64, layout!(mm_shmem_rss)));
        }
        0
    }
}

/// Adds to each `percpu_counter` what every CPU keeps for itself. Returns the flag for it, or 0 if that cannot be
/// found.
///
/// A CPU's part is at the counter's per-CPU address plus that CPU's offset, which the kernel exports to nobody. Where
/// it has put each CPU's element of a per-CPU map, whose per-CPU address can be read, tells it.
#[inline(always)]
unsafe fn add_parts(sums: &mut [u64; 4], mm: Pointer, scratch: *mut u64) -> u64 {
    // A pointer that the verifier knows may not be calculated with: written to memory and read again it is a number.
    let number = |pointer: u64| {
        // SAFETY: `scratch` is a word of the caller's map element.
        unsafe {
            scratch.write_volatile(pointer);
            scratch.read_volatile()
        }
    };
    let map = (&raw const PERCPU).cast_mut().cast::<core::ffi::c_void>();
    let element = read_pointer(number(map as u64), layout!(array_pptrs));
    let part = |offset: u32| read_pointer(mm as u64, offset.wrapping_add(layout!(rss_counters)));
    let parts =
        [part(layout!(mm_file_rss)), part(layout!(mm_anon_rss)), part(layout!(mm_swap)), part(layout!(mm_shmem_rss))];
    if element == 0 || parts[0] == 0 {
        return 0;
    }
    let key = 0_u32;
    let mut cpu = 0;
    while cpu < layout!(rss_cpus) {
        // SAFETY: the key outlives the call.
        let own = unsafe { generated::bpf_map_lookup_percpu_elem(map, (&raw const key).cast(), cpu) };
        if own.is_null() {
            return 0;
        }
        let cpu_offset = number(own as u64).wrapping_sub(element);
        let mut i = 0;
        while i < 4 {
            let (value, _) = try_read::<i32>(parts[i].wrapping_add(cpu_offset));
            sums[i] = sums[i].wrapping_add(i64::from(value) as u64);
            i += 1;
        }
        cpu += 1;
    }
    present::RSS_EXACT
}

/// The victim's memory cgroup and its ancestors: ids always, names and limits where the helper is allowed. Returns a
/// flag if there were more.
#[inline(always)]
unsafe fn cgroups(event: *mut OomEvent, task: Pointer) -> u64 {
    let mut css = follow(load(task, layout!(task_cgroups)), layout!(css_set_memory));
    let mut n = 0;
    while n < LEVELS {
        if css.is_null() {
            break;
        }
        // SAFETY: `n` is below LEVELS.
        unsafe {
            let level = &raw mut (*event).cgroups[n];
            let kernfs = follow(load(css, layout!(css_cgroup)), layout!(cgroup_kn));
            (*level).id = if kernfs.is_null() { ABSENT } else { load(kernfs, layout!(kernfs_id)) };
            (*level).usage = ABSENT;
            (*level).max = ABSENT;
            (*level).swap_usage = ABSENT;
            (*level).swap_max = ABSENT;
            (*level).oom_group = ABSENT;
            (*level).oom_lock = ABSENT;
            (*level).name.len = NAME_ABSENT;
            if layout!(use_helpers) != 0 {
                let memcg = css as u64;
                (*level).usage = read(memcg, layout!(memcg_memory_usage));
                (*level).max = read(memcg, layout!(memcg_memory_max));
                (*level).swap_usage = read(memcg, layout!(memcg_swap_usage));
                (*level).swap_max = read(memcg, layout!(memcg_swap_max));
                if layout!(memcg_oom_group) != NO_OFFSET {
                    let (group, error) = try_read::<u8>(memcg.wrapping_add(u64::from(layout!(memcg_oom_group))));
                    (*level).oom_group = u64::from(group) | (error >> 63) as u64;
                }
                if layout!(memcg_oom_lock) != NO_OFFSET {
                    let (lock, error) = try_read::<u8>(memcg.wrapping_add(u64::from(layout!(memcg_oom_lock))));
                    (*level).oom_lock = u64::from(lock) | (error >> 63) as u64;
                }
                read_name(&raw mut (*level).name, kernfs as u64);
            }
        }
        css = load(css, layout!(css_parent));
        n += 1;
    }
    // SAFETY: as for `victim`.
    unsafe { (*event).levels = n as u32 };
    let lock = if layout!(use_helpers) != 0 && layout!(memcg_oom_lock) != NO_OFFSET { present::OOM_LOCK } else { 0 };
    lock | if css.is_null() { 0 } else { present::PATH_CUT }
}

/// Fills in the running task, whose allocation started the kill, and its memory cgroup if that is not the victim's.
#[inline(always)]
pub(crate) unsafe fn trigger(event: *mut OomEvent) {
    let current = bpf_get_current_pid_tgid();
    // SAFETY: as for `victim`.
    unsafe {
        (*event).trigger_tgid = (current >> 32) as u32;
        (*event).trigger_pid = current as u32;
        generated::bpf_get_current_comm((&raw mut (*event).trigger_comm).cast(), COMM as u32);
        (*event).trigger_levels = 0;
        if layout!(use_helpers) != 0 {
            let set = read_pointer(bpf_get_current_task(), layout!(task_cgroups));
            let css = read_pointer(set, layout!(css_set_memory));
            trigger_cgroups(event, css);
        } else if layout!(has_current_task_btf) != 0 {
            let task = generated::bpf_get_current_task_btf().cast::<u8>().cast_const();
            let css = follow(load(task, layout!(task_cgroups)), layout!(css_set_memory));
            let kernfs = follow(follow(css, layout!(css_cgroup)), layout!(cgroup_kn));
            if !kernfs.is_null() {
                let level = &raw mut (*event).trigger_cgroups[0];
                (*level).id = load(kernfs, layout!(kernfs_id));
                (*level).name.len = NAME_ABSENT;
                (*event).trigger_levels = 1;
                if (*level).id == (*event).cgroups[0].id {
                    (*event).present |= present::SAME_CGROUP;
                }
            }
        }
    }
}

#[inline(always)]
unsafe fn trigger_cgroups(event: *mut OomEvent, leaf: u64) {
    let mut css = leaf;
    let mut n = 0;
    while n < TRIGGER_LEVELS {
        if css == 0 {
            break;
        }
        // SAFETY: `n` is below TRIGGER_LEVELS.
        unsafe {
            let level = &raw mut (*event).trigger_cgroups[n];
            let cgroup = read_pointer(css, layout!(css_cgroup));
            let kernfs = read_pointer(cgroup, layout!(cgroup_kn));
            (*level).id = read(kernfs, layout!(kernfs_id));
            if n == 0 && (*level).id == (*event).cgroups[0].id {
                (*event).present |= present::SAME_CGROUP;
                return;
            }
            read_name(&raw mut (*level).name, kernfs);
        }
        css = read_pointer(css, layout!(css_parent));
        n += 1;
    }
    // SAFETY: as for `victim`.
    unsafe {
        (*event).trigger_levels = n as u32;
        if css != 0 {
            (*event).present |= present::TRIGGER_PATH_CUT;
        }
    }
}
