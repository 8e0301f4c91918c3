//! The program that is tested: run to its end, or as an agent whose log is read line by line.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;

use serde_json::Value;

use oom_watcher_testkit::wait::{eventually, patience};

/// The binary that was built with these tests.
const PROGRAM: &str = env!("CARGO_BIN_EXE_oom-watcher");

const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// What a run left.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The exit code; absent: ended by a signal.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

/// The program with these variables, and no others that it reads.
pub(crate) fn command(variables: &[(&str, &str)], arguments: &[&str]) -> Command {
    let mut command = Command::new(PROGRAM);
    let inherited = std::env::vars_os().filter(|(name, _)| name == "PATH");
    // What is left in the kernel is for the next agent, and here the next one is another test's. The machine may have a
    // configuration file of its own.
    command
        .env_clear()
        .envs(inherited)
        .env("OOM_WATCHER_CONFIG", "none")
        .env("OOM_WATCHER_PIN_DIR", "none")
        .env("OOM_WATCHER_STATE_DIR", "none")
        .envs(variables.iter().copied())
        .args(arguments)
        .stdin(Stdio::null());
    command
}

/// Runs it to its end, which has to come by itself.
pub(crate) fn run(variables: &[(&str, &str)], arguments: &[&str]) -> Ended {
    end_of(command(variables, arguments)).unwrap()
}

/// The same with a command that was changed. An error: it could not be started so.
pub(crate) fn end_of(mut command: Command) -> std::io::Result<Ended> {
    let mut child = Guarded(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?);
    let (out, err) = (all_of(child.0.stdout.take().unwrap()), all_of(child.0.stderr.take().unwrap()));
    let code = eventually("end of the program", || child.0.try_wait().unwrap()).code();
    let ended = Ended { code, out: out.join().unwrap(), err: err.join().unwrap() };
    assert!(!ended.err.contains("panicked"), "{ended:?}");
    Ok(ended)
}

/// Takes the privileges from the program that it needs for its probe, also from root.
pub(crate) fn without_privilege(mut command: Command) -> Command {
    let drop = || {
        for capability in [CAP_SYS_ADMIN, CAP_PERFMON, CAP_BPF] {
            // Refused to who has not the right to drop them; then they are not there either.
            // SAFETY: numbers only; prctl may be called between fork and exec.
            unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        }
        Ok(())
    };
    // SAFETY: nothing but system calls.
    unsafe { command.pre_exec(drop) };
    command
}

/// Whether the program has a probe that it can try to attach.
pub(crate) fn has_probe() -> Result<(), String> {
    if run(&[], &["--version"]).out.contains("(probe none)") {
        return Err("the program has no probe inside".to_owned());
    }
    Ok(())
}

/// Whether an agent can attach its probe here.
pub(crate) fn may_attach() -> Result<(), String> {
    has_probe()?;
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let held =
        u64::from_str_radix(status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim(), 16).unwrap();
    let has = |capability: u32| held & 1 << capability != 0;
    if has(CAP_SYS_ADMIN) || has(CAP_BPF) && has(CAP_PERFMON) {
        return Ok(());
    }
    Err("no CAP_BPF and CAP_PERFMON".to_owned())
}

/// A running agent. Dropping it kills it.
pub(crate) struct Agent {
    child: Guarded,
    lines: Receiver<String>,
    /// What it logged, as far as it was waited for.
    pub(crate) log: Vec<Value>,
}

impl Agent {
    /// Starts it on any free port, with `NODE_NAME` and these variables and flags.
    pub(crate) fn start(variables: &[(&str, &str)], flags: &[&str]) -> Self {
        let variables = [&[("NODE_NAME", "node-a")], variables].concat();
        let mut command = command(&variables, &[&["--listen", "127.0.0.1:0", "--log-format", "json"], flags].concat());
        let mut child = Guarded(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap());
        let (sender, lines) = mpsc::channel();
        let mut err = BufReader::new(child.0.stderr.take().unwrap()).lines();
        thread::spawn(move || while err.next().and_then(Result::ok).is_some_and(|line| sender.send(line).is_ok()) {});
        Self { child, lines, log: Vec::new() }
    }

    /// The same, waited for until it sees kills. Gives the address of `/metrics` too.
    pub(crate) fn ready(variables: &[(&str, &str)], flags: &[&str]) -> (Self, SocketAddr) {
        let mut agent = Self::start(variables, flags);
        let ready = agent.wait_for("ready");
        assert_eq!(ready["probe_attached"], true, "{ready}");
        let address = ready["metrics_address"].as_str().unwrap().parse().unwrap();
        (agent, address)
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Waits for the line with that message.
    pub(crate) fn wait_for(&mut self, message: &str) -> Value {
        loop {
            let Ok(line) = self.lines.recv_timeout(patience()) else {
                panic!("{message:?} was never logged: {:#?}", self.log)
            };
            self.log.push(parsed(line));
            if let Some(line) = self.log.last().filter(|line| line["message"] == message) {
                return line.clone();
            }
        }
    }

    /// Sends a signal.
    pub(crate) fn signal(&mut self, number: i32) {
        assert_eq!(self.child.0.try_wait().unwrap(), None, "it has ended: {:#?}", self.log);
        // SAFETY: no memory is involved; the child was not waited for, so the pid is still its own.
        assert_eq!(unsafe { libc::kill(self.child.0.id().cast_signed(), number) }, 0);
    }

    /// Waits for its end and reads the rest of the log. Gives the exit code; absent: ended by a signal.
    pub(crate) fn end(&mut self) -> Option<i32> {
        let code = eventually("end of the agent", || self.child.0.try_wait().unwrap()).code();
        self.log.extend(self.lines.iter().map(parsed));
        code
    }

    /// Asks it to end, and gives its exit code.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        self.signal(libc::SIGTERM);
        self.end()
    }

    /// What it logged so far that somebody has to read, but for kills: others may kill on this machine.
    pub(crate) fn warnings(&self) -> Vec<&Value> {
        let is_news = |line: &&Value| line["level"] != "INFO" && line["message"] != "the OOM killer killed a process";
        self.log.iter().filter(is_news).collect()
    }
}

/// The body of a page, and the status before it.
pub(crate) fn get(address: SocketAddr, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(patience())).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

/// A line of the log; one that is not JSON, such as the last words of `main`, is its message alone.
fn parsed(line: String) -> Value {
    assert!(!line.contains("panicked"), "{line}");
    serde_json::from_str(&line).unwrap_or_else(|_| serde_json::json!({ "level": "END", "message": line }))
}

fn all_of(mut stream: impl Read + Send + 'static) -> thread::JoinHandle<String> {
    thread::spawn(move || {
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    })
}

/// A child that does not outlive the test.
pub(crate) struct Guarded(pub(crate) Child);

impl Drop for Guarded {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
