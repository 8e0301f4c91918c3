//! What was refused, whose fault that is, and what to do about it.

use std::error::Error;
use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// A problem with its remedy, as the last cause of an error. Displayed as `PROBLEM: REMEDY`.
#[derive(Debug)]
pub struct Refusal {
    problem: String,
    remedy: &'static str,
}

impl Refusal {
    /// Something went wrong, and this is what to do.
    pub fn new(problem: impl Into<String>, remedy: &'static str) -> Self {
        Self { problem: problem.into(), remedy }
    }

    /// An error and all its causes on one line, without the remedy; and that, if there is one.
    pub fn parted(error: &anyhow::Error) -> (String, Option<&'static str>) {
        let whole = format!("{error:#}");
        match error.downcast_ref::<Self>() {
            Some(Self { remedy, .. }) => {
                let problem = whole.strip_suffix(remedy).and_then(|whole| whole.strip_suffix(": "));
                (problem.unwrap_or(&whole).to_owned(), Some(remedy))
            }
            None => (whole, None),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.problem, self.remedy)
    }
}

impl Error for Refusal {}

/// Adds to what the file system refused whose the folder is, if that is why, and what to do.
pub fn explained(error: io::Error, path: &Path) -> anyhow::Error {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return error.into();
    }
    // SAFETY: no memory is involved.
    let own = unsafe { libc::geteuid() };
    let owner = path.ancestors().find_map(|path| Some((path, fs::metadata(path).ok()?.uid())));
    match owner {
        Some((path, owner)) if owner != own => Refusal::new(
            format!("{error}: {} is user {owner}'s, the agent is user {own}", path.display()),
            "run it as that user, or let it have another folder",
        ),
        _ => Refusal::new(error.to_string(), "in a container AppArmor may forbid it, or the file system is read-only"),
    }
    .into()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]

    use anyhow::{Context, anyhow};

    use super::*;

    #[test]
    fn a_refusal_says_whose_the_folder_is() {
        let denied = |path: &Path| explained(io::ErrorKind::PermissionDenied.into(), path).to_string();
        // SAFETY: no memory is involved.
        let own = unsafe { libc::geteuid() };
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(
            denied(folder.path()).split(": ").last(),
            Some("in a container AppArmor may forbid it, or the file system is read-only")
        );
        // The nearest that is there.
        std::os::unix::fs::lchown(folder.path(), Some(own + 1), None).unwrap();
        let expected = format!(
            "{} is user {}'s, the agent is user {own}: run it as that user, or let it have another folder",
            folder.path().display(),
            own + 1
        );
        assert!(denied(&folder.path().join("not/there")).ends_with(&expected));
        assert_eq!(explained(io::ErrorKind::NotFound.into(), folder.path()).to_string(), "entity not found");
    }

    #[test]
    fn a_remedy_is_parted_from_what_it_is_for() {
        let refused = Err::<(), _>(Refusal::new("no: reason", "mend it")).context("making it").context("starting");
        let error = refused.unwrap_err();
        assert_eq!(format!("{error:#}"), "starting: making it: no: reason: mend it");
        assert_eq!(Refusal::parted(&error), ("starting: making it: no: reason".to_owned(), Some("mend it")));
        assert_eq!(Refusal::parted(&anyhow!("why").context("what")), ("what: why".to_owned(), None));
    }
}
