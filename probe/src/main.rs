//! The eBPF programs: the victim of an OOM kill is captured when the kernel signals it and reported when the kernel
//! marks it.
//!
//! `__oom_kill_process` sends SIGKILL and calls `mark_oom_victim` under the victim's `task_lock`, so both hooks run in
//! one task on one CPU, back to back. A mark alone proves nothing: from 6.16 on the kernel also marks dying tasks that
//! merely get its reserves ("memcg, oom: do not bypass oom killer for dying tasks"). A signal alone proves nothing
//! either: a dead pid namespace's members get the same one. Together they are one kill, exactly once.
//!
//! Where the kernel allows it, `oom_kill_process` tells what the decision was about ([`decision`]), and `exit_mmap`
//! when the victim's memory is free.
//!
//! Nothing here reads a string, opens a file or allocates. Every read of kernel memory is in [`kernel`].
#![no_std]
#![no_main]
#![expect(missing_docs, unreachable_pub, reason = "what the attribute macros generate around the programs")]

mod decision;
mod kernel;

use core::ptr::read_volatile;

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, bpf_get_smp_processor_id, generated},
    macros::{btf_tracepoint, fentry, map, raw_tracepoint},
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
    programs::{BtfTracePointContext, FEntryContext, RawTracePointContext},
};
use oom_watcher_shared::{Counter, LEVELS, Level, Note, OomEvent, TRIGGER_LEVELS, TriggerLevel, present};

/// `SIGKILL`, include/uapi/asm-generic/signal.h
const SIGKILL: i32 = 9;
/// `SEND_SIG_PRIV`, include/linux/sched/signal.h: sent by the kernel itself.
const SEND_SIG_PRIV: u64 = 1;
/// For [`EVENTS`]: nobody waits for it, a note follows each event.
const NO_WAKEUP: u64 = aya_ebpf::bindings::BPF_RB_NO_WAKEUP as u64;
/// No flag, for [`NOTES`]: the kernel wakes the agent only if it has read everything before and waits. In a burst it
/// has not, and a wake-up, an interrupt to this CPU itself, costs the killing task more than all the rest.
const ADAPTIVE_WAKEUP: u64 = 0;
/// `BPF_F_MMAPABLE`: the agent reads the counters without a system call, and so without a capability.
const MMAPABLE: u32 = aya_ebpf::bindings::BPF_F_MMAPABLE;
/// Victims whose kill, and whose end, may be awaited at once.
const VICTIMS: u32 = 1024;

/// The kills. Its size is set by the agent; this one is the smallest that every page size allows.
///
/// Events stay until their log records are safe, so the agent's place in it says nothing about whether the agent
/// sleeps: [`NOTES`] wake it.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);

/// Tells of each kill, and of the end of each victim.
#[map]
static NOTES: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);

/// See [`Counter`]. The agent makes it large enough for all CPUs.
#[map]
static COUNTERS: Array<u64> = Array::with_max_entries(Counter::SLOTS, MMAPABLE);

/// The last victim signalled on this CPU, until its mark confirms it.
#[map]
static PENDING: PerCpuArray<Pending> = PerCpuArray::with_max_entries(1, 0);

/// Confirmed kills so far. One number for all CPUs: the kernel kills under `oom_lock`.
#[map]
static SEQUENCE: Array<u64> = Array::with_max_entries(1, 0);

/// The last victims by their pid: one that is signalled again is no second kill.
#[map]
static KILLED: LruHashMap<u32, Killed> = LruHashMap::with_max_entries(VICTIMS, 0);

/// The last victim of all.
#[map]
static LAST: Array<Killed> = Array::with_max_entries(1, 0);

/// The kills whose victim still has its memory, by the address of its `mm_struct`.
#[map]
static FREEING: HashMap<u64, u64> = HashMap::with_max_entries(VICTIMS, 0);

#[repr(C)]
struct Pending {
    /// `pid_tgid` of the task that sent the signal; 0: nothing is pending.
    sender: u64,
    /// The signalled `task_struct`.
    task: u64,
    /// Its `mm_struct`, or 0.
    mm: u64,
    /// What the signal was counted as until a mark says that it is a kill.
    counted: u64,
    event: OomEvent,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Killed {
    start_boot_ns: u64,
    /// `pid_tgid` of the task that sent the signal.
    sender: u64,
    mm: u64,
}

/// Adds to this CPU's own number.
#[inline(always)]
fn count(counter: u32, more: u64) {
    // SAFETY: no arguments.
    let cpu = unsafe { bpf_get_smp_processor_id() };
    if let Some(number) = COUNTERS.get_ptr_mut(cpu.wrapping_mul(Counter::SLOTS).wrapping_add(counter)) {
        // SAFETY: this CPU's own element, and a program is not entered twice on one CPU.
        unsafe { *number = (*number).wrapping_add(more) }
    }
}

/// `oom_kill_process(struct oom_control *oc, const char *message)`: once per decision, before the first signal.
#[fentry(function = "oom_kill_process")]
pub fn on_decision(ctx: FEntryContext) -> i32 {
    let Some(made) = decision::DECISION.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: the only element, which only the holder of the kernel's oom_lock writes.
    unsafe {
        (*made).number += 1;
        kernel::decision(made, ctx.arg(0));
        (*made).sender = bpf_get_current_pid_tgid();
    }
    0
}

/// `signal_generate(int sig, struct kernel_siginfo *info, struct task_struct *task, int group, int result)`: captures
/// the victim.
#[btf_tracepoint(function = "signal_generate")]
pub fn on_signal(ctx: BtfTracePointContext) -> i32 {
    let args = ctx.as_ptr().cast::<u64>().cast_const();
    // SAFETY: the tracepoint has five arguments on every kernel from 5.10 to 7.x.
    let (signal, info) = unsafe { (read_volatile(args) as i32, read_volatile(args.add(1))) };
    if signal != SIGKILL || info != SEND_SIG_PRIV {
        return 0;
    }
    let task: kernel::Pointer = ctx.arg(2);
    // SAFETY: as above.
    let result = unsafe { read_volatile(args.add(4)) } as i32;
    let Some(pending) = PENDING.get_ptr_mut(0) else {
        return 0;
    };
    let sender = bpf_get_current_pid_tgid();
    // SAFETY: this CPU's own element; the pointers of the event stay inside it.
    unsafe {
        let event = &raw mut (*pending).event;
        (*pending).mm = kernel::victim(event, task, result);
        kernel::trigger(event);
        decision::copy(event, sender);
        (*pending).task = task as u64;
        (*pending).sender = sender;
        let counted = what_else(&raw const *pending, sender) as u32;
        (*pending).counted = u64::from(counted);
        count(counted, 1);
        kernel::arguments(event, task);
    }
    0
}

/// What the signal is if no mark follows.
#[inline(always)]
unsafe fn what_else(pending: *const Pending, sender: u64) -> Counter {
    // A dying task decides nothing any more: it takes its pid namespace along.
    if kernel::current_is_exiting() {
        return Counter::Collateral;
    }
    // SAFETY: `pending` is a map element.
    let (tgid, start, mm) = unsafe { ((*pending).event.tgid, (*pending).event.start_boot_ns, (*pending).mm) };
    // SAFETY: the entry may be replaced meanwhile; each of its words is compared for itself.
    if let Some(killed) = unsafe { KILLED.get(tgid) }
        && killed.start_boot_ns == start
        && killed.sender == sender
    {
        return Counter::Repeated;
    }
    // Its victim's other processes get theirs right after the mark, in the same context.
    match LAST.get(0) {
        Some(last) if mm != 0 && last.mm == mm && last.sender == sender => Counter::SharedMemory,
        _ => Counter::SignalWithoutMark,
    }
}

/// `mark_victim(struct task_struct *task, uid_t uid)`, before "mm: update mark_victim tracepoints fields" `(int pid)`:
/// confirms it.
#[raw_tracepoint(tracepoint = "mark_victim")]
pub fn on_mark(ctx: RawTracePointContext) -> i32 {
    // SAFETY: the tracepoint has one argument at least.
    let marked = unsafe { read_volatile(ctx.as_ptr().cast::<u64>().cast_const()) };
    let Some(pending) = PENDING.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own element.
    unsafe {
        // Either ABI: a pointer never equals a pid, which has 22 bits at the most.
        let is_victim = marked == (*pending).task || marked == u64::from((*pending).event.pid);
        if (*pending).sender != bpf_get_current_pid_tgid() || !is_victim {
            count(Counter::MarkWithoutKill as u32, 1);
            return 0;
        }
        count((*pending).counted as u32 & (Counter::SLOTS - 1), u64::MAX);
        let killed =
            Killed { start_boot_ns: (*pending).event.start_boot_ns, sender: (*pending).sender, mm: (*pending).mm };
        let _ = KILLED.insert((*pending).event.tgid, killed, 0);
        if let Some(last) = LAST.get_ptr_mut(0) {
            *last = killed;
        }
        (*pending).sender = 0;
        submit(pending);
    }
    0
}

/// `exit_mmap(struct mm_struct *mm)`, from 6.1 on: the memory of a process is free.
#[raw_tracepoint(tracepoint = "exit_mmap")]
pub fn on_exit_mmap(ctx: RawTracePointContext) -> i32 {
    // As long as nobody was killed, a process's end costs no more than this.
    match SEQUENCE.get(0) {
        Some(0) | None => return 0,
        Some(_) => {}
    }
    // SAFETY: the tracepoint has one argument.
    let mm = unsafe { read_volatile(ctx.as_ptr().cast::<u64>().cast_const()) };
    // SAFETY: a number that is written once.
    if let Some(&seq) = unsafe { FREEING.get(mm) } {
        // SAFETY: no arguments.
        note(Note { seq, freed_boot_ns: unsafe { generated::bpf_ktime_get_boot_ns() } });
        let _ = FREEING.remove(mm);
    }
    0
}

/// Numbers the event and hands its used part to the agent.
#[inline(always)]
unsafe fn submit(pending: *mut Pending) {
    count(Counter::Kills as u32, 1);
    let Some(sequence) = SEQUENCE.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: `event` is a map element of the full size, of which `size` bytes are sent; the sequence is written under
    // the kernel's oom_lock.
    let (seq, sent) = unsafe {
        let event = &raw mut (*pending).event;
        *sequence += 1;
        let seq = *sequence;
        (*event).seq = seq;
        (*event).header_bytes = OomEvent::HEADER as u16;
        (*event).level_bytes = size_of::<Level>() as u16;
        (*event).trigger_level_bytes = size_of::<TriggerLevel>() as u16;
        (*event).level_slots = LEVELS as u16;
        if kernel::tells_ends() && (*pending).mm != 0 && FREEING.insert((*pending).mm, seq, 0).is_ok() {
            (*event).present |= present::END_IS_TOLD;
        }
        let used = read_volatile(&raw const (*event).levels) as usize & 31;
        let used = if used > LEVELS { LEVELS } else { used };
        let size = if (*event).present & present::SAME_CGROUP != 0 {
            OomEvent::HEADER + used * size_of::<Level>()
        } else {
            size_of::<OomEvent>()
        };
        (
            seq,
            generated::bpf_ringbuf_output((&raw const EVENTS).cast_mut().cast(), event.cast(), size as u64, NO_WAKEUP),
        )
    };
    if sent != 0 {
        count(Counter::RingFull as u32, 1);
    }
    note(Note { seq, freed_boot_ns: 0 });
}

#[inline(always)]
fn note(note: Note) {
    if NOTES.output::<Note>(note, ADAPTIVE_WAKEUP).is_err() {
        count(Counter::NotesFull as u32, 1);
    }
}

const _: () = assert!(LEVELS < 32 && TRIGGER_LEVELS < LEVELS && Counter::SLOTS.is_power_of_two());

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel lets only programs of a GPL-compatible licence use the tracing helpers; see probe/README.md for what this
/// means for the rest.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
