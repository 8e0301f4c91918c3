//! Embeds the eBPF object: `OUT_DIR/probe.o` for `source/probe.rs`, and its fingerprint in the variable `PROBE_BUILD`.
//!
//! Compiles no eBPF itself (`probe/build.sh` does). Without an object that is up to date it writes an empty stand-in
//! and warns: checks and unit tests need no eBPF compiler. `tests/embedding.rs` tests its parts.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{env, fs, io};

/// Where `probe/build.sh` leaves the object, from the workspace's root.
pub(crate) const BUILT: &str = "target/ebpf/bpfel-unknown-none/probe";
/// What the object is built from, from the workspace's root.
const SOURCES: [&str; 2] = ["probe/src", "shared/src"];

/// Whether the relocations of the binary can be packed: 1.1 MB less of it, and of memory, since all of them are read at
/// the start. A C library does that from glibc 2.36 on, the one that a binary is linked to on Debian 12; other linkers
/// than GNU's for x86 may not know the option.
fn packs_relocations() -> bool {
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|is| is.split(',').any(|part| part == value));
    is("CARGO_CFG_TARGET_ARCH", "x86_64")
        && is("CARGO_CFG_TARGET_ENV", "gnu")
        && !is("CARGO_CFG_TARGET_FEATURE", "crt-static")
}

fn main() -> Result<(), Box<dyn Error>> {
    let package = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    let root = package.parent().ok_or("the agent is not in a workspace")?;
    let object = match env::var_os("OOM_WATCHER_PROBE") {
        Some(named) => root.join(named),
        None => root.join(BUILT).join("oom-watcher-probe"),
    };
    if packs_relocations() {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    println!("cargo:rerun-if-env-changed=OOM_WATCHER_PROBE");
    println!("cargo:rerun-if-changed={}", watched(&object, root).display());
    println!("cargo:rerun-if-changed=build.rs");
    for source in SOURCES {
        println!("cargo:rerun-if-changed={}", root.join(source).display());
    }

    let (bytes, build) = match read_current(&object, &SOURCES.map(|source| root.join(source))) {
        Ok(bytes) => {
            let build = format!("{:016x}", fnv1a(&bytes));
            (bytes, build)
        }
        Err(why) => {
            println!(
                "cargo:warning=this oom-watcher has no eBPF probe inside and cannot see kills: {why}; `make probe` \
                 builds it"
            );
            (Vec::new(), "none".to_owned())
        }
    };
    fs::write(Path::new(&env::var("OUT_DIR")?).join("probe.o"), bytes)?;
    println!("cargo:rustc-env=PROBE_BUILD={build}");
    Ok(())
}

/// What cargo shall watch for the object to change or to appear.
///
/// cargo runs a build script every time if a file it shall watch does not exist, and would compile the agent anew each
/// time. So it watches the folder until the file is there.
pub(crate) fn watched(object: &Path, root: &Path) -> PathBuf {
    let folder = root.join(BUILT);
    if !object.exists() && object.starts_with(&folder) && fs::create_dir_all(&folder).is_ok() {
        folder
    } else {
        object.to_owned()
    }
}

/// The object, or why it cannot be used: an object older than its sources may disagree with the agent about what
/// crosses the boundary.
pub(crate) fn read_current(object: &Path, sources: &[PathBuf]) -> Result<Vec<u8>, String> {
    let in_words = |error: io::Error| format!("{}: {error}", object.display());
    let bytes = fs::read(object).map_err(in_words)?;
    let built = fs::metadata(object).and_then(|file| file.modified()).map_err(in_words)?;
    for folder in sources {
        let (changed, file) = newest(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        if built < changed {
            return Err(format!("{} is older than {}", object.display(), file.display()));
        }
    }
    Ok(bytes)
}

/// The file below `folder` that was changed last, and when. An empty folder is itself the answer.
fn newest(folder: &Path) -> io::Result<(SystemTime, PathBuf)> {
    let mut newest = (SystemTime::UNIX_EPOCH, folder.to_owned());
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let found = if entry.file_type()?.is_dir() {
            self::newest(&entry.path())?
        } else {
            (entry.metadata()?.modified()?, entry.path())
        };
        newest = newest.max(found);
    }
    Ok(newest)
}

/// FNV-1a, 64 bits: tells builds apart, protects from nothing.
pub(crate) fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}
