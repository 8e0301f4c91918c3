//! What `check` prints: findings, and what they amount to.

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer};

/// Before the name of another finding.
pub(super) const SEE: &str = "see ";

/// How bad it is. Ordered: the worst is the verdict of all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Kills are seen, but something is lost.
    Degraded,
    /// Kills are not seen.
    Fail,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Pass => "pass",
            Self::Degraded => "degraded",
            Self::Fail => "FAIL",
        })
    }
}

impl Serialize for Verdict {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(match self {
            Self::Pass => "pass",
            Self::Degraded => "degraded",
            Self::Fail => "fail",
        })
    }
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// How bad it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do about it. Absent if there is nothing to do, or what was found says it.
    pub remedy: Option<Cow<'static, str>>,
}

pub(super) fn finding(name: &'static str, verdict: Verdict, found: impl Into<String>) -> Finding {
    Finding { name, verdict, found: found.into(), remedy: None }
}

impl Finding {
    pub(super) fn or_else(self, remedy: impl Into<Cow<'static, str>>) -> Self {
        Self { remedy: Some(remedy.into()), ..self }
    }

    /// As [`Self::or_else`], unless the finding that is called `name` is about the same cause, and says so already.
    pub(super) fn or_as<'a>(
        self,
        name: &str,
        findings: impl IntoIterator<Item = &'a Self>,
        remedy: &'static str,
    ) -> Self {
        let is_said = findings.into_iter().any(|finding| finding.name == name && finding.verdict != Verdict::Pass);
        self.or_else(if is_said { format!("{SEE}{name}").into() } else { Cow::from(remedy) })
    }

    /// The finding that is about the same cause, if this one only refers to it.
    pub(super) fn refers(&self) -> Option<&str> {
        self.remedy.as_deref()?.strip_prefix(SEE)
    }
}

/// All findings. Displayed as a table whose last line is the verdict; `--json` prints it as one object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The worst of all.
    pub verdict: Verdict,
    /// What that means, and which findings it comes from.
    pub summary: String,
    /// In the order in which they were looked for.
    pub findings: Vec<Finding>,
}

impl Report {
    pub(super) fn of(findings: Vec<Finding>) -> Self {
        let verdict = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Pass);
        let causes = findings.iter().filter(|one| one.verdict == verdict && one.refers().is_none());
        let mut worst: Vec<_> = causes.map(|one| one.name).collect();
        worst.dedup();
        let summary = match verdict {
            Verdict::Pass => "the agent can run here".to_owned(),
            Verdict::Degraded => format!("the agent can run here, but something is missing: see {}", worst.join(", ")),
            Verdict::Fail => format!("the agent cannot run here: see {}", worst.join(", ")),
        };
        Self { verdict, summary, findings }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Finding { name, verdict, found, remedy } in &self.findings {
            writeln!(f, "{name:<13} {verdict:<9} {found}")?;
            if let Some(remedy) = remedy {
                writeln!(f, "{:<13} {:<9} -> {remedy}", "", "")?;
            }
        }
        writeln!(f, "{:<13} {:<9} {}", "verdict", self.verdict, self.summary)
    }
}
