//! Reads a BPF ring buffer ahead of what it gives back: an event stays in kernel memory, where it outlives this
//! process, until it is released.
//!
//! aya's reader gives an event back when the next one is asked for. Layout and protocol: kernel/bpf/ringbuf.c and
//! Documentation/bpf/ringbuf.rst.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A record begins with this: its length and, in the top bits of the first word, whether it is being written or given
/// up.
const HEADER: u64 = 8;
const BUSY: u32 = 1 << 31;
const DISCARDED: u32 = 1 << 30;
/// Records begin at multiples of this.
const ALIGN: u64 = 8;

/// A place in the ring buffer: bytes that were ever written before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position(pub u64);

/// The reader's side of one ring buffer.
pub struct Ring {
    /// The page with the position up to which the kernel may write again.
    consumer: Mapping,
    /// The page with the position up to which there are records, then the data twice in a row: no record is in two
    /// pieces.
    producer: Mapping,
    page: usize,
    bytes: u64,
    next: u64,
}

impl Ring {
    /// Maps the ring buffer of `bytes` bytes behind `map`. Reading begins where the last reader, of whatever process,
    /// had released up to.
    ///
    /// # Errors
    /// `map` is no ring buffer of that size.
    pub fn open(map: BorrowedFd<'_>, bytes: u32, page: usize) -> io::Result<Self> {
        let consumer = Mapping::new(map, page, libc::PROT_READ | libc::PROT_WRITE, 0)?;
        let producer = Mapping::new(map, page + 2 * bytes as usize, libc::PROT_READ, page)?;
        let mut ring = Self { consumer, producer, page, bytes: u64::from(bytes), next: 0 };
        ring.next = ring.released().0;
        Ok(ring)
    }

    /// The next record and where it ends. `None`: all that is complete was read.
    pub fn read(&mut self) -> Option<(&[u8], Position)> {
        loop {
            // Pairs with the kernel's release of the position after it has reserved a record.
            if self.next == self.position(&self.producer).load(Ordering::Acquire) {
                return None;
            }
            let at = self.page + (self.next & (self.bytes - 1)) as usize;
            // SAFETY: a record's header is 4-byte aligned and inside of the mapping: `at` is below its first copy's
            // end.
            let length =
                unsafe { AtomicU32::from_ptr(self.producer.start.as_ptr().add(at).cast()) }.load(Ordering::Acquire);
            if length & BUSY != 0 {
                // Its note comes when it is written.
                return None;
            }
            let bytes = u64::from(length & !DISCARDED);
            self.next += (HEADER + bytes).next_multiple_of(ALIGN);
            if length & DISCARDED == 0 {
                // SAFETY: the kernel reserves no more than `bytes` of the ring, and the data are mapped twice; it does
                // not write there before it is released, which takes `&mut self`.
                let data = unsafe {
                    std::slice::from_raw_parts(self.producer.start.as_ptr().add(at + HEADER as usize), bytes as usize)
                };
                return Some((data, Position(self.next)));
            }
        }
    }

    /// Gives back everything before `position`: the kernel may write there.
    pub fn release(&mut self, position: Position) {
        // Pairs with the kernel's acquire before it uses the room again.
        self.position(&self.consumer).store(position.0, Ordering::Release);
    }

    /// Where the released part ends.
    pub fn released(&self) -> Position {
        Position(self.position(&self.consumer).load(Ordering::Acquire))
    }

    /// Bytes that were read and are not released.
    pub fn held(&self) -> u64 {
        self.next.saturating_sub(self.released().0)
    }

    /// Whether there is nothing that was not read.
    pub fn is_empty(&self) -> bool {
        self.next == self.position(&self.producer).load(Ordering::Acquire)
    }

    /// Bytes that it has room for.
    pub fn capacity(&self) -> u64 {
        self.bytes
    }

    fn position<'a>(&'a self, mapping: &'a Mapping) -> &'a AtomicU64 {
        // SAFETY: both mappings begin with a page that begins with an aligned 64-bit position (`unsigned long` of a
        // 64-bit kernel).
        unsafe { AtomicU64::from_ptr(mapping.start.as_ptr().cast()) }
    }
}

/// Numbers in a map that the kernel's side writes: read without a system call.
pub struct Numbers {
    mapping: Mapping,
    count: usize,
}

impl Numbers {
    /// Maps an array of `count` 64-bit numbers, which was made with `BPF_F_MMAPABLE`.
    ///
    /// # Errors
    /// `map` is no such array.
    pub fn open(map: BorrowedFd<'_>, count: usize, page: usize) -> io::Result<Self> {
        Ok(Self {
            mapping: Mapping::new(map, (count * size_of::<u64>()).next_multiple_of(page), libc::PROT_READ, 0)?,
            count,
        })
    }

    /// The numbers now.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        let first = self.mapping.start.as_ptr().cast::<u64>();
        (0..self.count).map(move |index| {
            // SAFETY: `index` is below the count, whose bytes are mapped, and a mapping is aligned.
            let number = unsafe { AtomicU64::from_ptr(first.add(index)) };
            number.load(Ordering::Relaxed)
        })
    }
}

/// Memory shared with the kernel.
struct Mapping {
    start: NonNull<u8>,
    length: usize,
}

impl Mapping {
    fn new(map: BorrowedFd<'_>, length: usize, access: i32, offset: usize) -> io::Result<Self> {
        let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
        // SAFETY: a new mapping at an address that the kernel chooses touches nothing that exists.
        let start =
            unsafe { libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, map.as_raw_fd(), offset) };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        NonNull::new(start.cast())
            .map(|start| Self { start, length })
            .ok_or_else(|| io::Error::other("mapped at address 0"))
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: our own mapping; nobody has a reference into it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}

// SAFETY: memory that is shared with the kernel belongs to no thread; what is written there is atomic.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]

    use std::os::fd::{AsFd, FromRawFd, OwnedFd};

    use super::*;

    const PAGE: usize = 4096;

    /// A file of the form of a ring buffer, written by hand. The second copy of the data is written too: a file has no
    /// pages twice.
    struct Writer {
        file: OwnedFd,
        view: Mapping,
        producer: u64,
    }

    impl Writer {
        fn new() -> Self {
            // SAFETY: a C string; the descriptor is ours alone.
            let file = unsafe { OwnedFd::from_raw_fd(libc::memfd_create(c"ring".as_ptr(), 0)) };
            // SAFETY: no memory is involved.
            assert_eq!(unsafe { libc::ftruncate(file.as_raw_fd(), 4 * PAGE as i64) }, 0);
            let view = Mapping::new(file.as_fd(), 4 * PAGE, libc::PROT_READ | libc::PROT_WRITE, 0).unwrap();
            Self { file, view, producer: 0 }
        }

        fn put(&mut self, at: u64, bytes: &[u8]) {
            for (index, byte) in bytes.iter().enumerate() {
                let place = ((at as usize) + index) % PAGE;
                for copy in [2 * PAGE, 3 * PAGE] {
                    // SAFETY: inside of the view.
                    unsafe { self.view.start.as_ptr().add(copy + place).write_volatile(*byte) };
                }
            }
        }

        fn write(&mut self, flags: u32, bytes: &[u8]) {
            let at = self.producer;
            self.put(at, &(bytes.len() as u32 | flags).to_ne_bytes());
            self.put(at + HEADER, bytes);
            self.producer += (HEADER + bytes.len() as u64).next_multiple_of(ALIGN);
            // SAFETY: the second page begins with the producer's position.
            unsafe { AtomicU64::from_ptr(self.view.start.as_ptr().add(PAGE).cast()) }
                .store(self.producer, Ordering::Release);
        }

        fn reader(&self) -> Ring {
            Ring::open(self.file.as_fd(), PAGE as u32, PAGE).unwrap()
        }
    }

    fn all(ring: &mut Ring) -> Vec<(Vec<u8>, u64)> {
        std::iter::from_fn(|| ring.read().map(|(bytes, end)| (bytes.to_vec(), end.0))).collect()
    }

    #[test]
    fn what_was_not_released_is_read_again_by_the_next_reader() {
        let mut writer = Writer::new();
        writer.write(0, b"first");
        writer.write(DISCARDED, b"given up");
        writer.write(0, b"second, longer");
        let mut ring = writer.reader();
        let events = all(&mut ring);
        assert_eq!(events, [(b"first".to_vec(), 16), (b"second, longer".to_vec(), 56)]);
        assert_eq!((ring.held(), ring.released()), (56, Position(0)));
        ring.release(Position(16));
        assert_eq!(ring.held(), 40);
        assert_eq!(all(&mut writer.reader()), events[1..]);
    }

    #[test]
    fn a_record_that_is_being_written_ends_what_can_be_read() {
        let mut writer = Writer::new();
        writer.write(0, b"first");
        writer.write(BUSY, b"later");
        let mut ring = writer.reader();
        assert_eq!(all(&mut ring), [(b"first".to_vec(), 16)]);
        writer.put(16, &5_u32.to_ne_bytes());
        assert_eq!(all(&mut ring), [(b"later".to_vec(), 32)]);
    }

    #[test]
    fn a_record_across_the_end_is_in_one_piece() {
        let mut writer = Writer::new();
        let mut ring = writer.reader();
        for byte in 0..20 {
            let record = vec![byte; 1000];
            writer.write(0, &record);
            assert_eq!(all(&mut ring), [(record, writer.producer)]);
            ring.release(Position(writer.producer));
        }
    }

    #[test]
    fn numbers_are_read_as_they_are_now() {
        let writer = Writer::new();
        let numbers = Numbers::open(writer.file.as_fd(), 3, PAGE).unwrap();
        assert_eq!(numbers.iter().collect::<Vec<_>>(), [0, 0, 0]);
        // SAFETY: the first page of the view.
        unsafe { writer.view.start.as_ptr().cast::<u64>().add(2).write_volatile(7) };
        assert_eq!(numbers.iter().collect::<Vec<_>>(), [0, 0, 7]);
    }
}
