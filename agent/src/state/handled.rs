//! Which kills of one ring buffer are among the counts.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// The kills of one ring buffer that are handled, by their [sequence](crate::kill::Kill::sequence): all up to a mark,
/// and some beyond it, where a kill waits for its container and others have gone past it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Form")]
pub struct Handled {
    /// All up to this one are. 0: none.
    through: u64,
    /// These are, too.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    beyond: BTreeSet<u64>,
    /// Kills that were read and are not handled: the account has seen them, the counts have not.
    #[serde(default, skip_serializing_if = "is_zero")]
    waiting: u64,
}

/// Version 1 has the mark alone.
#[derive(Deserialize)]
#[serde(untagged)]
enum Form {
    Mark(u64),
    Marks {
        through: u64,
        #[serde(default)]
        beyond: BTreeSet<u64>,
        #[serde(default)]
        waiting: u64,
    },
}

impl From<Form> for Handled {
    fn from(form: Form) -> Self {
        match form {
            Form::Mark(through) => Self { through, ..Self::default() },
            Form::Marks { through, beyond, waiting } => Self { through, beyond, waiting },
        }
    }
}

impl Handled {
    /// All up to this one.
    pub fn through(sequence: u64) -> Self {
        Self { through: sequence, ..Self::default() }
    }

    /// Whether this kill is handled.
    pub fn has(&self, sequence: u64) -> bool {
        sequence <= self.through || self.beyond.contains(&sequence)
    }

    /// Notes that a kill was handled. `oldest_waiting` is the first one of this ring buffer that was read and is not;
    /// sequences between two that were read are kills whose events were lost.
    pub fn add(&mut self, sequence: u64, oldest_waiting: Option<u64>) {
        if !self.has(sequence) {
            self.beyond.insert(sequence);
        }
        let later = match oldest_waiting {
            Some(waiting) => self.beyond.split_off(&waiting),
            None => BTreeSet::new(),
        };
        self.through = self.through.max(self.beyond.last().copied().unwrap_or_default());
        self.beyond = later;
    }

    /// So many kills wait.
    pub fn set_waiting(&mut self, waiting: u64) {
        self.waiting = waiting;
    }

    /// Kills that waited when this was saved.
    pub fn waiting(&self) -> u64 {
        self.waiting
    }

    /// Kills beyond the mark.
    pub fn beyond(&self) -> usize {
        self.beyond.len()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failed test panics")]

    use super::*;

    #[test]
    fn the_mark_follows_the_oldest_that_waits() {
        let mut handled = Handled::default();
        let check = |handled: &mut Handled, sequence, oldest_waiting, through, beyond: &[u64]| {
            handled.add(sequence, oldest_waiting);
            let found: Vec<u64> = handled.beyond.iter().copied().collect();
            assert_eq!((handled.through, found.as_slice()), (through, beyond), "{sequence}");
        };
        check(&mut handled, 1, None, 1, &[]);
        // 2 was lost, 3 and 6 wait.
        check(&mut handled, 4, Some(3), 1, &[4]);
        check(&mut handled, 5, Some(3), 1, &[4, 5]);
        check(&mut handled, 7, Some(3), 1, &[4, 5, 7]);
        check(&mut handled, 3, Some(6), 5, &[7]);
        check(&mut handled, 6, None, 7, &[]);
        assert!([1, 2, 7].into_iter().all(|sequence| handled.has(sequence)) && !handled.has(8));
        check(&mut handled, 4, None, 7, &[]);
    }

    #[test]
    fn what_version_1_wrote_is_read() {
        assert_eq!(serde_json::from_str::<Handled>("7").unwrap(), Handled::through(7));
        for (handled, text) in [
            (Handled::through(7), r#"{"through":7}"#),
            (
                Handled { beyond: [9].into(), waiting: 1, ..Handled::through(7) },
                r#"{"through":7,"beyond":[9],"waiting":1}"#,
            ),
        ] {
            assert_eq!(serde_json::to_string(&handled).unwrap(), text);
            assert_eq!(serde_json::from_str::<Handled>(text).unwrap(), handled);
        }
    }
}
