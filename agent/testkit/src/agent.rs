//! The agent as a child process: the release binary, on free ports, ended with the test.

use std::fs::Permissions;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::Duration;

use tempfile::{NamedTempFile, TempDir};

use crate::exposition::{Sample, parse_exposition};
use crate::machine::guest;
use crate::programs::end_with_this;
use crate::restricted::Restricted;
use crate::root;
use crate::wait::{eventually, eventually_within, patience};

/// What `NODE_NAME` is.
pub const NODE: &str = "test-node";

/// A running agent. Dropping it kills it.
pub struct Agent {
    child: Child,
    metrics_address: SocketAddr,
    log: Arc<Mutex<String>>,
    /// Where its program is, if that is a copy.
    _folder: Option<TempDir>,
}

/// An agent that is stopped (SIGSTOP): it reads nothing, and needs nothing of the machine. Dropping it lets the agent
/// go on.
pub struct Stopped<'a>(&'a Agent);

/// How an agent ended that could not start.
pub struct Unready {
    /// Its exit code; absent: a signal ended it.
    pub code: Option<i32>,
    /// What it logged.
    pub log: String,
}

/// The log line that tells that the agent works.
struct Ready {
    metrics_address: SocketAddr,
    probe_attached: bool,
}

impl Agent {
    /// Starts the agent and waits until its probe is attached.
    ///
    /// Of this process's environment it gets nothing that it reads: `environment` is added to `NODE_NAME`, `flags` to
    /// where it listens and how it logs.
    pub fn start(environment: &[(&str, &str)], flags: &[&str]) -> Self {
        Self::start_with(Restricted::of_environment(), environment, flags)
    }

    /// The same, restricted so, or as this process may.
    pub fn start_with(restricted: Option<Restricted>, environment: &[(&str, &str)], flags: &[&str]) -> Self {
        Self::spawn(command(restricted, &program()), environment, flags)
    }

    /// The same of another program that takes itself for an agent.
    pub fn start_program(program: &Path, environment: &[(&str, &str)], flags: &[&str]) -> Self {
        Self::spawn(command(Restricted::of_environment(), program), environment, flags)
    }

    /// Starts the agent where it cannot start, and waits for its end.
    pub fn start_unready(environment: &[(&str, &str)], flags: &[&str]) -> Unready {
        let (mut command, _folder) = command(Restricted::of_environment(), &program());
        prepare(&mut command, environment, flags);
        let output = command.output().unwrap();
        Unready { code: output.status.code(), log: String::from_utf8_lossy(&output.stderr).into_owned() }
    }

    fn spawn((mut command, folder): (Command, Option<TempDir>), environment: &[(&str, &str)], flags: &[&str]) -> Self {
        prepare(&mut command, environment, flags);
        let mut child =
            command.spawn().unwrap_or_else(|error| panic!("starting {}: {error}", command.get_program().display()));
        let (ready, log) = (mpsc::channel(), Arc::new(Mutex::new(String::new())));
        let (lines, copy) = (BufReader::new(child.stderr.take().unwrap()).lines(), Arc::clone(&log));
        thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let found = ready_line(&line);
                copy.lock().unwrap().push_str(&(line + "\n"));
                // Nobody listens to a second one.
                let _ = found.map(|found| ready.0.send(found));
            }
        });
        let mut agent = Self { child, metrics_address: SocketAddr::from(([0, 0, 0, 0], 0)), log, _folder: folder };
        let Ok(ready) = ready.1.recv_timeout(patience()) else {
            panic!("the agent does not become ready: {}", agent.log())
        };
        assert!(ready.probe_attached, "the probe is not attached: {}", agent.log());
        agent.metrics_address = ready.metrics_address;
        agent
    }

    /// What `/metrics` says now.
    pub fn metrics(&self) -> Vec<Sample> {
        parse_exposition(&self.get("/metrics"))
    }

    /// The kills of a container of the namespace `shop`, by the names of its labels. Absent: there is no such series.
    pub fn kills(&self, pod: &str, container: &str) -> Option<f64> {
        let labels = ("shop", pod, container);
        let is_it =
            |sample: &Sample| (sample.label("namespace"), sample.label("pod"), sample.label("container")) == labels;
        self.metrics()
            .iter()
            .find(|sample| sample.name == "oom_kills_total" && is_it(sample))
            .map(|sample| sample.value)
    }

    /// The body of a page, which must be there.
    pub fn get(&self, path: &str) -> String {
        get(self.metrics_address, path)
    }

    /// Where `/metrics` is.
    pub fn address(&self) -> SocketAddr {
        self.metrics_address
    }

    /// What it logged so far.
    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// Its resident memory, in bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")).unwrap();
        kib.trim().parse::<u64>().unwrap() << 10
    }

    /// What it took of the CPU so far.
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // Behind the name, which may have spaces: user and system time are fields 14 and 15, in clock ticks.
        // proc_pid_stat(5).
        let fields: Vec<u64> =
            stat.rsplit(')').next().unwrap().split(' ').map(|field| field.parse().unwrap_or(0)).collect();
        // SAFETY: no memory is involved.
        let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
        Duration::from_millis((fields[12] + fields[13]) * 1000 / u64::try_from(ticks).unwrap())
    }

    /// Waits until its resident memory is less than that, and gives it. Twice a minute the agent gives back what it
    /// does not need.
    pub fn await_resident(&self, below: u64) -> u64 {
        let resident = || Some(self.resident()).filter(|resident| *resident < below);
        eventually_within(Duration::from_secs(60), &format!("resident memory of less than {below} bytes"), resident)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, if it has not ended.
    pub fn signal(&mut self, number: i32) {
        if self.ended().is_none() {
            self.send(number);
        }
    }

    /// Sends a signal to the process, which nobody has waited for yet.
    fn send(&self, number: i32) {
        // SAFETY: no memory is involved; the child was not waited for, so the pid is still its own.
        assert_eq!(unsafe { libc::kill(self.pid().cast_signed(), number) }, 0);
    }

    /// Stops it, and returns once none of its threads runs.
    pub fn stopped(&self) -> Stopped<'_> {
        self.send(libc::SIGSTOP);
        // SAFETY: all zeros is an answer that says nothing, and outlives the call. WNOWAIT: if the child ended instead,
        // it is not waited for here.
        let code = unsafe {
            let mut answer: libc::siginfo_t = std::mem::zeroed();
            let what = libc::WSTOPPED | libc::WEXITED | libc::WNOWAIT;
            assert_eq!(libc::waitid(libc::P_PID, self.pid(), &raw mut answer, what), 0);
            answer.si_code
        };
        assert_eq!(code, libc::CLD_STOPPED, "the agent ended");
        Stopped(self)
    }

    /// From now on its first thread runs only while no other one has anything to do.
    pub fn let_its_other_threads_go_first(&self) {
        // SAFETY: all zeros is a set of no CPUs, and a priority of 0; both outlive the calls, which are for processes
        // and threads of our own.
        unsafe {
            let (mut allowed, mut cpus): (libc::cpu_set_t, libc::cpu_set_t) = std::mem::zeroed();
            assert_eq!(libc::sched_getaffinity(0, size_of_val(&allowed), &raw mut allowed), 0);
            let one = (0..libc::CPU_SETSIZE as usize).find(|cpu| libc::CPU_ISSET(*cpu, &allowed)).unwrap();
            libc::CPU_SET(one, &mut cpus);
            for thread in std::fs::read_dir(format!("/proc/{}/task", self.pid())).unwrap() {
                let id = thread.unwrap().file_name().to_str().unwrap().parse().unwrap();
                assert_eq!(libc::sched_setaffinity(id, size_of_val(&cpus), &raw const cpus), 0);
            }
            let priority: libc::sched_param = std::mem::zeroed();
            assert_eq!(libc::sched_setscheduler(self.pid().cast_signed(), libc::SCHED_IDLE, &raw const priority), 0);
        }
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Asks it to end, and gives its exit code; `None`: ended by a signal.
    pub fn stop(&mut self) -> Option<i32> {
        self.signal(libc::SIGTERM);
        eventually("end of the agent", || self.ended()).code()
    }
}

impl Drop for Stopped<'_> {
    fn drop(&mut self) {
        self.0.send(libc::SIGCONT);
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("the agent's log:\n{}", self.log());
        }
    }
}

/// A file of configuration, which agents can read that are somebody else.
pub fn settings(text: &str) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    std::fs::write(&file, text).unwrap();
    std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    file
}

/// The body of a page of the agent there, which must be there.
pub fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(patience())).unwrap();
    // HTTP/1.0: the answer ends with the connection, and is not chunked.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{path}: {answer}"));
    assert_eq!(head.split(' ').nth(1), Some("200"), "{path}: {answer}");
    body.to_owned()
}

/// How to start a program, restricted so, and the folder of its copy if it needs one.
fn command(restricted: Option<Restricted>, program: &Path) -> (Command, Option<TempDir>) {
    match restricted.map(|restricted| restricted.command(program)) {
        Some((command, folder)) => (command, Some(folder)),
        None => (Command::new(program), None),
    }
}

fn prepare(command: &mut Command, environment: &[(&str, &str)], flags: &[&str]) {
    let inherited = std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "HOME");
    command.env_clear().envs(inherited).env("NODE_NAME", NODE);
    // The machine may have a configuration file of its own.
    command.env("OOM_WATCHER_CONFIG", "none").envs(environment.iter().copied());
    command.args(["--listen", "127.0.0.1:0", "--log-format", "json"]).args(flags);
    // What another agent has left is not to be seen here, unless a test is about it.
    for outlives in ["--pin-dir", "--state-dir"] {
        if !flags.contains(&outlives) {
            command.args([outlives, "none"]);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    // In a guest the tests share one, and each test has a thread of its own; the machine ends with them.
    if !guest() {
        end_with_this(command);
    }
}

fn ready_line(line: &str) -> Option<Ready> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    // The formatter may keep the fields of an event apart.
    let fields = line.get("fields").unwrap_or(&line);
    if fields.get("message")? != "ready" {
        return None;
    }
    Some(Ready {
        metrics_address: fields.get("metrics_address")?.as_str()?.parse().ok()?,
        probe_attached: fields.get("probe_attached")?.as_bool()?,
    })
}

/// The release binary, or the one that `OOM_WATCHER_BIN` names.
pub fn program() -> PathBuf {
    find_program().unwrap_or_else(|why| panic!("{why}"))
}

/// The same.
///
/// # Errors
/// There is none.
pub fn find_program() -> Result<PathBuf, String> {
    let built = || root().join("target/release/oom-watcher");
    let program = std::env::var_os("OOM_WATCHER_BIN").map_or_else(built, PathBuf::from);
    if program.exists() {
        return Ok(program);
    }
    Err(format!("{} is missing: run `make build`, or name another binary in OOM_WATCHER_BIN", program.display()))
}
