//! The eBPF programs: the victim of an OOM kill is captured when the kernel signals it and reported when the kernel marks it.
//!
//! `__oom_kill_process` sends SIGKILL and calls `mark_oom_victim` under the victim's `task_lock`, so both hooks run in one task on one CPU, back to back.
//! A mark alone proves nothing: from 6.16 on the kernel also marks dying tasks that merely get its reserves ("memcg, oom: do not bypass oom killer for
//! dying tasks"). A signal alone proves nothing either: a dead pid namespace's members get the same one. Together they are one kill, exactly once.
//!
//! Nothing here reads a string, opens a file or allocates. Every read of kernel memory is in [`kernel`].
#![no_std]
#![no_main]
#![expect(missing_docs, unreachable_pub, reason = "what the attribute macros generate around the programs")]

mod kernel;

use core::ptr::read_volatile;

use aya_ebpf::{
    EbpfContext,
    helpers::{bpf_get_current_pid_tgid, generated},
    macros::{btf_tracepoint, map, raw_tracepoint},
    maps::{PerCpuArray, RingBuf},
    programs::{BtfTracePointContext, RawTracePointContext},
};
use oom_watcher_shared::{Counter, LEVELS, Level, OomEvent, TRIGGER_LEVELS, present};

/// `SIGKILL`, include/uapi/asm-generic/signal.h
const SIGKILL: i32 = 9;
/// `SEND_SIG_PRIV`, include/linux/sched/signal.h: sent by the kernel itself.
const SEND_SIG_PRIV: u64 = 1;
/// No flag for `bpf_ringbuf_output`: the kernel wakes the agent only if it has read everything before and waits. In a burst it has not, and a wake-up, an
/// interrupt to this CPU itself, costs the killing task more than all the rest.
const ADAPTIVE_WAKEUP: u64 = 0;

/// The kills. Its size is set by the agent; this one is the smallest that every page size allows.
#[map]
static EVENTS: RingBuf = RingBuf::with_byte_size(64 * 1024, 0);

/// See [`Counter`].
#[map]
static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::ALL.len() as u32, 0);

/// The last victim signalled on this CPU, until its mark confirms it.
#[map]
static PENDING: PerCpuArray<Pending> = PerCpuArray::with_max_entries(1, 0);

/// Confirmed kills so far. One number for all CPUs: the kernel kills under `oom_lock`.
#[map]
static SEQUENCE: aya_ebpf::maps::Array<u64> = aya_ebpf::maps::Array::with_max_entries(1, 0);

#[repr(C)]
struct Pending {
    /// `pid_tgid` of the task that sent the signal; 0: nothing is pending.
    sender: u64,
    /// The signalled `task_struct`.
    task: u64,
    event: OomEvent,
}

#[inline(always)]
fn count(counter: Counter) {
    if let Some(number) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: this CPU's own element, and a program is not entered twice on one CPU.
        unsafe { *number += 1 }
    }
}

/// `signal_generate(int sig, struct kernel_siginfo *info, struct task_struct *task, int group, int result)`: captures the victim.
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
    // SAFETY: this CPU's own element; the pointers of the event stay inside it.
    unsafe {
        if (*pending).sender != 0 {
            count(Counter::SignalWithoutMark);
        }
        let event = &raw mut (*pending).event;
        kernel::victim(event, task, result);
        kernel::trigger(event);
        (*pending).task = task as u64;
        (*pending).sender = bpf_get_current_pid_tgid();
    }
    0
}

/// `mark_victim(struct task_struct *task, uid_t uid)`, before "mm: update mark_victim tracepoints fields" `(int pid)`: confirms it.
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
            count(Counter::MarkWithoutKill);
            return 0;
        }
        (*pending).sender = 0;
        submit(&raw mut (*pending).event);
    }
    0
}

/// Numbers the event and hands its used part to the agent.
#[inline(always)]
unsafe fn submit(event: *mut OomEvent) {
    count(Counter::Kills);
    let Some(sequence) = SEQUENCE.get_ptr_mut(0) else {
        return;
    };
    // SAFETY: `event` is a map element of the full size, of which `size` bytes are sent; the sequence is written under the kernel's oom_lock.
    let sent = unsafe {
        *sequence += 1;
        (*event).seq = *sequence;
        let used = read_volatile(&raw const (*event).levels) as usize & 31;
        let used = if used > LEVELS { LEVELS } else { used };
        let size = if (*event).present & present::SAME_CGROUP != 0 { OomEvent::HEADER + used * size_of::<Level>() } else { size_of::<OomEvent>() };
        generated::bpf_ringbuf_output((&raw const EVENTS).cast_mut().cast(), event.cast(), size as u64, ADAPTIVE_WAKEUP)
    };
    if sent != 0 {
        count(Counter::RingFull);
    }
}

const _: () = assert!(LEVELS < 32 && TRIGGER_LEVELS < LEVELS);

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

/// The kernel lets only programs of a GPL-compatible licence use the tracing helpers; see probe/README.md for what this means for the rest.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";
