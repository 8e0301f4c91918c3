//! The programs of others that tests run: real servers, and what checks manifests.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::root;
use crate::wait::patience;

/// The programs that `agent/tests/servers/get` has got.
#[derive(Clone)]
pub struct Programs(Vec<(String, PathBuf)>);

impl Programs {
    /// Where they are, or why they are not there.
    pub fn find() -> Result<Self, String> {
        Self::find_with(&[])
    }

    /// The same with the back ends of the ring "stack".
    pub fn find_stack() -> Result<Self, String> {
        Self::find_with(&["--stack"])
    }

    fn find_with(which: &[&str]) -> Result<Self, String> {
        let get = root().join("agent/tests/servers/get");
        let output = Command::new(&get)
            .arg("--paths")
            .args(which)
            .output()
            .map_err(|error| format!("{}: {error}", get.display()))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).trim().to_owned());
        }
        let text = String::from_utf8(output.stdout).unwrap();
        Ok(Self(
            text.lines()
                .map(|line| line.split_once('=').unwrap())
                .map(|(name, path)| (name.to_owned(), path.into()))
                .collect(),
        ))
    }

    /// Where they are, as in `PATH`.
    pub fn folders(&self) -> String {
        let mut folders: Vec<_> = self.0.iter().map(|(_, path)| path.parent().unwrap().display().to_string()).collect();
        folders.dedup();
        folders.join(":")
    }

    /// The one of that name.
    pub fn path(&self, name: &str) -> &Path {
        &self.0.iter().find(|(program, _)| program == name).unwrap().1
    }
}

/// Free at this moment: who takes one of them before the server does makes the test fail.
pub(crate) fn free_ports<const N: usize>() -> [u16; N] {
    let listeners = [(); N].map(|()| TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}

/// The child ends with the thread that starts it, however that ends. The kernel forgets it where the program's file has
/// capabilities.
pub fn end_with_this(command: &mut Command) {
    let parent = std::process::id().cast_signed();
    // SAFETY: prctl(2) and getppid(2) allocate nothing and take no lock.
    unsafe {
        command.pre_exec(move || match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 if libc::getppid() == parent => Ok(()),
            0 => Err(io::ErrorKind::BrokenPipe.into()),
            _ => Err(io::Error::last_os_error()),
        });
    }
}

/// A child that ends with the thread that starts it, and before that with its owner.
pub struct Server(Child);

impl Server {
    /// Starts the program; what it says goes to the end of `log`.
    pub fn start(program: &Path, arguments: &[String], log: &Path) -> Self {
        Self::start_with(program, arguments, &[], log)
    }

    /// The same with more in its environment.
    pub fn start_with(program: &Path, arguments: &[String], environment: &[(&str, String)], log: &Path) -> Self {
        let log = File::options().create(true).append(true).open(log).unwrap();
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        end_with_this(&mut command);
        Self(command.spawn().unwrap_or_else(|error| panic!("starting {}: {error}", program.display())))
    }
}

impl Server {
    /// Its process.
    pub fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // What it has is thrown away.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The body of a page of a server on this machine, if it is a good one.
pub(crate) fn try_get(port: u16, path: &str) -> Result<String, String> {
    ask(port, "GET", path, "")
}

/// One request to such a server, and the body of its answer if that is a good one.
pub fn ask(port: u16, method: &str, path: &str, body: &str) -> Result<String, String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(patience())).map_err(|error| error.to_string())?;
    // HTTP/1.0: the answer ends with the connection, and is not chunked.
    let head = format!(
        "{method} {path} HTTP/1.0\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all((head + body).as_bytes()).map_err(|error| error.to_string())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("no answer")?;
    if head.split(' ').nth(1).is_some_and(|status| status.starts_with('2')) { Ok(body.to_owned()) } else { Err(answer) }
}
