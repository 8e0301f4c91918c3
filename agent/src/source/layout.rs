//! The layout of the running kernel's structures that the probe needs, from its BTF. Pure.
//!
//! Names that differ between kernels are tried newest first. What the probe cannot do without is required, and every
//! missing name is reported at once.

use std::fmt;

use oom_watcher_shared::{KernelLayout, NO_OFFSET};

use super::btf::Btf;

/// What a kernel lacks. Without these no victim can be identified.
#[derive(Debug, PartialEq, Eq)]
pub struct Missing(Vec<&'static str>);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the kernel's BTF lacks {}", self.0.join(", "))
    }
}

impl std::error::Error for Missing {}

/// What is not the kernel's to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Switches {
    /// Whether `bpf_probe_read_kernel` is allowed on this machine.
    pub helpers: bool,
    /// Whether the victim's command line is wanted.
    pub arguments: bool,
    /// CPUs that the machine may ever have.
    pub cpus: u32,
}

/// More CPUs make the sums over them too dear: the resident sizes are the kernel's approximate ones then. The verifier
/// walks through all of them (facts: measured in docs/performance.md).
pub const MAX_SUMMED_CPUS: u32 = 256;

/// Resolves everything.
pub fn resolve(btf: &Btf<'_>, switches: Switches) -> Result<KernelLayout, Missing> {
    let mut find = Finder { btf, missing: Vec::new() };
    let rss = rss(&mut find);
    let array_pptrs = find.optional("bpf_array.pptrs");
    // The probe holds a css and adds these to it: a mem_cgroup begins `css` bytes before.
    let css = find.offset("mem_cgroup.css");
    let memcg = |offset: u32| if offset == NO_OFFSET { NO_OFFSET } else { offset.wrapping_sub(css) };
    let has_current_task = btf.has_function("bpf_get_current_task_btf");
    let layout = KernelLayout {
        use_helpers: u32::from(switches.helpers),
        has_current_task_btf: u32::from(has_current_task),
        task_tgid: find.offset("task_struct.tgid"),
        task_pid: find.offset("task_struct.pid"),
        task_comm: find.offset("task_struct.comm"),
        task_signal: find.offset("task_struct.signal"),
        task_group_leader: find.offset("task_struct.group_leader"),
        // Renamed in 5.5: cf25e24db61c ("time: Rename tsk->real_start_time to ->start_boottime").
        task_start_boottime: find.either("task_struct.start_boottime", "task_struct.real_start_time"),
        task_mm: find.offset("task_struct.mm"),
        task_cgroups: find.offset("task_struct.cgroups"),
        task_thread_pid: find.offset("task_struct.thread_pid"),
        task_cred: find.offset("task_struct.cred"),
        cred_uid: find.offset("cred.uid"),
        signal_oom_score_adj: find.offset("signal_struct.oom_score_adj"),
        pid_level: find.offset("pid.level"),
        pid_numbers: find.offset("pid.numbers"),
        upid_size: find.required("struct upid", btf.size_of("upid")),
        upid_nr: find.offset("upid.nr"),
        mm_total_vm: find.offset("mm_struct.total_vm"),
        mm_pgtables_bytes: find.optional("mm_struct.pgtables_bytes"),
        mm_file_rss: rss.file,
        mm_anon_rss: rss.anon,
        mm_swap: rss.swap,
        mm_shmem_rss: rss.shmem,
        rss_is_typed: u32::from(rss.is_typed),
        css_set_memory: find
            .offset("css_set.subsys")
            .wrapping_add(POINTER.wrapping_mul(find.enumerator("memory_cgrp_id"))),
        css_cgroup: find.offset("cgroup_subsys_state.cgroup"),
        css_parent: find.offset("cgroup_subsys_state.parent"),
        cgroup_kn: find.offset("cgroup.kn"),
        kernfs_id: find.offset("kernfs_node.id"),
        kernfs_name: find.offset("kernfs_node.name"),
        memcg_memory_usage: memcg(find.offset("mem_cgroup.memory.usage")),
        memcg_memory_max: memcg(find.offset("mem_cgroup.memory.max")),
        memcg_swap_usage: memcg(find.optional("mem_cgroup.swap.usage")),
        memcg_swap_max: memcg(find.optional("mem_cgroup.swap.max")),
        memcg_oom_group: memcg(find.optional("mem_cgroup.oom_group")),
        memcg_oom_lock: memcg(find.optional("mem_cgroup.oom_lock")),
        task_flags: find.offset("task_struct.flags"),
        mm_arg_start: find.offset("mm_struct.arg_start"),
        mm_arg_end: find.offset("mm_struct.arg_end"),
        // It must be known whose memory the running task has; and where the kernel refuses helpers that read, aya puts
        // a refused one in this one's place.
        wants_arguments: u32::from(switches.arguments && switches.helpers && has_current_task),
        oc_memcg: find.optional("oom_control.memcg"),
        oc_gfp_mask: find.optional("oom_control.gfp_mask"),
        oc_order: find.optional("oom_control.order"),
        oc_constraint: find.optional("oom_control.constraint"),
        oc_memcg_cgroup: css.wrapping_add(find.offset("cgroup_subsys_state.cgroup")),
        oc_memcg_usage: find.offset("mem_cgroup.memory.usage"),
        oc_memcg_max: find.offset("mem_cgroup.memory.max"),
        rss_counters: rss.counters,
        array_pptrs,
        // 5.19 has the helper; the counters have been per CPU since 6.2.
        rss_cpus: if rss.is_typed && array_pptrs != NO_OFFSET && switches.cpus <= MAX_SUMMED_CPUS {
            switches.cpus
        } else {
            0
        },
        has_exit_mmap: u32::from(btf.has_tracepoint("exit_mmap")),
    };
    if find.missing.is_empty() { Ok(layout) } else { Err(Missing(find.missing)) }
}

/// BTF has no pointer size; the probe is built for 64-bit kernels only.
const POINTER: u32 = 8;

struct Rss {
    file: u32,
    anon: u32,
    swap: u32,
    shmem: u32,
    /// From a counter's own word to the address of its parts.
    counters: u32,
    is_typed: bool,
}

/// From 6.2 on (f1a7941243c1, "mm: convert mm's rss stats into percpu_counter") an array of `percpu_counter`, whose
/// `count` a typed load can reach; before an array of a typedef inside `mm_rss_stat`, which it cannot.
fn rss(find: &mut Finder<'_>) -> Rss {
    let base = find.offset("mm_struct.rss_stat");
    let (first, step, is_typed) = match find.btf.offset("mm_struct.rss_stat.count") {
        Some(counts) => (counts, POINTER, false),
        None => {
            let size = find.required("struct percpu_counter", find.btf.size_of("percpu_counter"));
            (base.wrapping_add(find.offset("percpu_counter.count")), size, true)
        }
    };
    let parts = find.btf.offset("percpu_counter.counters").zip(find.btf.offset("percpu_counter.count"));
    let counters = parts.filter(|_| is_typed).map_or(NO_OFFSET, |(counters, count)| counters.wrapping_sub(count));
    let mut counter = |name| first.wrapping_add(step.wrapping_mul(find.enumerator(name)));
    Rss {
        counters,
        file: counter("MM_FILEPAGES"),
        anon: counter("MM_ANONPAGES"),
        swap: counter("MM_SWAPENTS"),
        shmem: counter("MM_SHMEMPAGES"),
        is_typed,
    }
}

/// Whether the kernel's decisions can be read: it has `oom_kill_process` and what that is about. It may still not be
/// possible to hook it.
pub fn tells_decisions(btf: &Btf<'_>, layout: &KernelLayout) -> bool {
    let needed = [layout.oc_memcg, layout.oc_gfp_mask, layout.oc_order, layout.oc_constraint];
    btf.has_function("oom_kill_process") && !needed.contains(&NO_OFFSET)
}

/// Looks things up and remembers what was not there, so that all of it can be named.
struct Finder<'a> {
    btf: &'a Btf<'a>,
    missing: Vec<&'static str>,
}

impl Finder<'_> {
    fn offset(&mut self, path: &'static str) -> u32 {
        self.required(path, self.btf.offset(path))
    }

    fn either(&mut self, newer: &'static str, older: &str) -> u32 {
        self.required(newer, self.btf.offset(newer).or_else(|| self.btf.offset(older)))
    }

    fn optional(&self, path: &str) -> u32 {
        self.btf.offset(path).unwrap_or(NO_OFFSET)
    }

    fn enumerator(&mut self, name: &'static str) -> u32 {
        self.required(name, self.btf.enumerator(name))
    }

    fn required(&mut self, name: &'static str, found: Option<u32>) -> u32 {
        found.unwrap_or_else(|| {
            self.missing.push(name);
            NO_OFFSET
        })
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]
    use super::*;

    const SWITCHES: Switches = Switches { helpers: true, arguments: false, cpus: 2 };

    #[test]
    fn every_missing_name_is_reported_at_once() {
        // A header without any type.
        let words: [u32; 5] = [24, 0, 0, 0, 0];
        let bytes: Vec<u8> = 0xeb9f_u16
            .to_ne_bytes()
            .into_iter()
            .chain([1, 0])
            .chain(words.iter().flat_map(|word| word.to_ne_bytes()))
            .collect();
        let missing = resolve(&Btf::parse(&bytes).unwrap(), SWITCHES).unwrap_err().to_string();
        for name in [
            "task_struct.tgid",
            "mm_struct.rss_stat",
            "MM_ANONPAGES",
            "memory_cgrp_id",
            "struct upid",
            "kernfs_node.name",
            "mem_cgroup.memory.max",
        ] {
            assert!(missing.contains(name), "{name} is not in: {missing}");
        }
        assert!(!missing.contains("oom_group"), "optional: {missing}");
    }

    #[test]
    fn the_running_kernel_resolves() {
        let Ok(bytes) = std::fs::read("/sys/kernel/btf/vmlinux") else {
            // Not by a macro: what macros print is captured where a test succeeds.
            return std::io::Write::write_all(
                &mut std::io::stderr(),
                b"skipped: the_running_kernel_resolves: this kernel has no BTF\n",
            )
            .unwrap();
        };
        let btf = Btf::parse(&bytes).unwrap();
        let layout = resolve(&btf, Switches { helpers: false, arguments: true, ..SWITCHES }).unwrap();
        assert_eq!((layout.use_helpers, layout.wants_arguments), (0, 0), "arguments are read by a helper");
        assert!(layout.task_tgid == layout.task_pid + 4, "two neighbours in every kernel: {layout:?}");
        assert!(btf.has_tracepoint("signal_generate") && btf.has_tracepoint("mark_victim"));
    }
}
