//! This node's pods: found by the id of a container, else by the pod's uid. Pure; who watches them is
//! [`crate::kubernetes`].
//!
//! Never a guess: a container whose id is in no status is unknown, unless its pod has but one. Pods that are gone are
//! remembered for a while, because a kill is read after it happened.

mod known;
pub mod object;
mod quantity;
mod workload;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::kill::Pod;
pub use known::{Id, Known, Selection};
use object::Text;

/// How long a pod is remembered that is gone.
pub const REMEMBERED: Duration = Duration::from_secs(600);
/// Pods that are gone and remembered. Beyond it the ones that left first are forgotten.
const MAX_GONE: usize = 1024;
/// Pods of the node that are kept. The kubelet allows 110 unless it is told otherwise.
const MAX_PODS: usize = 8192;

/// The pods of a node.
#[derive(Debug, Default)]
pub struct Pods {
    by_uid: HashMap<Text, Entry>,
    by_id: HashMap<Id, (Arc<Known>, usize)>,
    /// Of static pods.
    by_hash: HashMap<Text, Arc<Known>>,
    /// Of those in `by_uid`.
    gone: usize,
    left_out: u64,
}

#[derive(Debug)]
struct Entry {
    known: Arc<Known>,
    /// When it was no longer there.
    gone: Option<SystemTime>,
}

/// What is known of a process in a pod.
#[derive(Clone, Copy, Debug)]
pub enum Found<'a> {
    /// The container, or that it was in none.
    Whole(Match<'a>),
    /// The container's id is in no status, perhaps not yet. The container is the pod's only one, or not known.
    PodAlone(Match<'a>),
    /// Not the pod either, perhaps not yet.
    Nothing,
}

/// A pod, and perhaps the container.
#[derive(Clone, Copy, Debug)]
pub struct Match<'a> {
    known: &'a Known,
    container: Option<(usize, Id)>,
}

impl Match<'_> {
    /// All that is known of it.
    pub fn describe(&self) -> Pod {
        self.known.describe(self.container)
    }
}

impl Pods {
    /// Whose container `container_id` is, of the pod that is called `uid` in the cgroup's path.
    pub fn find(&self, uid: &str, container_id: Option<&str>) -> Found<'_> {
        let id = container_id.and_then(Id::parse);
        if let Some((id, (known, number))) = id.and_then(|id| Some((id, self.by_id.get(&id)?))) {
            return Found::Whole(Match { known, container: Some((*number, id)) });
        }
        let uid = Text::from(uid);
        match self.by_uid.get(&uid).map(|entry| &entry.known).or_else(|| self.by_hash.get(&uid)) {
            None => Found::Nothing,
            Some(known) if container_id.is_none() => Found::Whole(Match { known, container: None }),
            Some(known) => {
                Found::PodAlone(Match { known, container: id.and_then(|id| Some((known.only_container()?, id))) })
            }
        }
    }

    /// A pod is there, or has changed.
    pub fn apply(&mut self, mut known: Known) {
        if let Some(before) = self.by_uid.get(&known.uid) {
            known.remember(&before.known);
            let before = Arc::clone(&before.known);
            self.unlink(&before);
        } else if self.by_uid.len() - self.gone >= MAX_PODS {
            self.left_out += 1;
            return;
        }
        let known = Arc::new(known);
        for (number, container) in known.containers.iter().enumerate() {
            for (id, _) in &container.ids {
                self.by_id.insert(*id, (Arc::clone(&known), number));
            }
        }
        if let Some(hash) = &known.config_hash {
            self.by_hash.insert(hash.clone(), Arc::clone(&known));
        }
        let before = self.by_uid.insert(known.uid.clone(), Entry { known, gone: None });
        self.gone -= usize::from(before.is_some_and(|before| before.gone.is_some()));
    }

    /// The pod is gone.
    pub fn remove(&mut self, uid: &str, now: SystemTime) {
        if let Some(entry) = self.by_uid.get_mut(&Text::from(uid))
            && entry.gone.is_none()
        {
            entry.gone = Some(now);
            self.gone += 1;
        }
        while self.gone > MAX_GONE {
            let first = self.by_uid.values().filter(|entry| entry.gone.is_some()).min_by_key(|entry| entry.gone);
            let Some(first) = first.map(|entry| Arc::clone(&entry.known)) else { return };
            self.forget(&first);
        }
    }

    /// These are all pods of the node now: others are gone.
    pub fn replace(&mut self, all: Vec<Known>, now: SystemTime) {
        let there: std::collections::HashSet<_> = all.iter().map(|known| known.uid.clone()).collect();
        let gone: Vec<_> = self.by_uid.keys().filter(|uid| !there.contains(*uid)).cloned().collect();
        gone.iter().for_each(|uid| self.remove(uid, now));
        all.into_iter().for_each(|known| self.apply(known));
    }

    /// Forgets what has been gone for longer than [`REMEMBERED`]; gives how many pods that were.
    pub fn expire(&mut self, now: SystemTime) -> usize {
        let is_old = |gone: SystemTime| now.duration_since(gone).is_ok_and(|age| age > REMEMBERED);
        let old: Vec<_> = self
            .by_uid
            .values()
            .filter(|entry| entry.gone.is_some_and(is_old))
            .map(|entry| Arc::clone(&entry.known))
            .collect();
        old.iter().for_each(|known| self.forget(known));
        old.len()
    }

    /// Namespace, pod and container of each container of the pods that are there.
    pub fn containers(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        let there = self.by_uid.values().filter(|entry| entry.gone.is_none()).map(|entry| &entry.known);
        there.flat_map(|known| {
            known
                .containers
                .iter()
                .map(|container| (known.namespace.as_str(), known.name.as_str(), container.name.as_str()))
        })
    }

    /// Pods that are there.
    pub fn len(&self) -> usize {
        self.by_uid.len() - self.gone
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Pods that found no room, each time that they did not.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    fn forget(&mut self, known: &Arc<Known>) {
        self.unlink(known);
        let entry = self.by_uid.remove(&known.uid);
        self.gone -= usize::from(entry.is_some_and(|entry| entry.gone.is_some()));
    }

    /// Removes the ways to it that are still its own.
    fn unlink(&mut self, known: &Arc<Known>) {
        for (id, _) in known.containers.iter().flat_map(|container| &container.ids) {
            if self.by_id.get(id).is_some_and(|(other, _)| Arc::ptr_eq(other, known)) {
                self.by_id.remove(id);
            }
        }
        if let Some(hash) = &known.config_hash
            && self.by_hash.get(hash).is_some_and(|other| Arc::ptr_eq(other, known))
        {
            self.by_hash.remove(hash);
        }
    }
}

#[cfg(test)]
mod tests;
