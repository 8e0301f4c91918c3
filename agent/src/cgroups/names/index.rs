//! Which cgroup has which id, and what is above it: a tree of names, those that are there and the last ones that were.
//! Pure.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ffi::OsStr;
use std::sync::Arc;

/// Levels below the top that are kept. The kernel's `cgroup.max.depth` is without limit; the deepest path seen in the
/// field has 7.
pub(super) const MAX_DEPTH: usize = 256;

/// Removed cgroups that are still known: the last kill in a container is often told when its cgroup is gone. Counted,
/// not timed: the oldest makes room.
pub(super) const REMEMBERED: usize = 4096;

/// All known cgroups below one, the top.
#[derive(Debug)]
pub(super) struct Index {
    top: u64,
    live: HashMap<u64, Node>,
    gone: HashMap<u64, Place>,
    /// The keys of `gone`, the oldest first.
    order: VecDeque<u64>,
    most: usize,
}

/// Where a cgroup is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    parent: u64,
    name: Arc<OsStr>,
}

#[derive(Debug)]
struct Node {
    /// Absent for the top alone.
    place: Option<Place>,
    depth: usize,
    children: BTreeMap<Arc<OsStr>, u64>,
}

/// What became of a cgroup that was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Met {
    /// It is known from now on.
    New,
    /// It was known, in this place.
    Known,
    /// As many are known as may be.
    NoRoom,
    /// It is deeper than [`MAX_DEPTH`].
    TooDeep,
    /// What it was met in is not there any more.
    NoParent,
}

impl Index {
    /// Knows the top alone, and has room for `most` in all.
    pub(super) fn new(top: u64, most: usize) -> Self {
        let node = Node { place: None, depth: 0, children: BTreeMap::new() };
        Self { top, live: HashMap::from([(top, node)]), gone: HashMap::new(), order: VecDeque::new(), most }
    }

    /// How many are there, the top among them.
    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    /// The id of the top.
    pub(super) fn top(&self) -> u64 {
        self.top
    }

    /// Whether it is there.
    pub(super) fn is_live(&self, id: u64) -> bool {
        self.live.contains_key(&id)
    }

    /// Whether its path is known, though it may be gone.
    pub(super) fn knows(&self, id: u64) -> bool {
        self.live.contains_key(&id) || self.gone.contains_key(&id)
    }

    /// Makes `id` known as `name` in `parent`. What had the id or the name in another way is gone.
    pub(super) fn insert(&mut self, parent: u64, name: &OsStr, id: u64) -> Met {
        match self.place(id) {
            Some(place) if self.is_live(id) && place.parent == parent && *place.name == *name => return Met::Known,
            _ if id == self.top => return Met::Known,
            _ => self.remove_tree(id),
        }
        self.remove(parent, name);
        let Some(depth) = self.live.get(&parent).map(|node| node.depth + 1) else { return Met::NoParent };
        if depth > MAX_DEPTH {
            return Met::TooDeep;
        }
        if self.live.len() >= self.most {
            return Met::NoRoom;
        }
        if self.gone.remove(&id).is_some() {
            self.order.retain(|&gone| gone != id);
        }
        let name: Arc<OsStr> = name.into();
        if let Some(node) = self.live.get_mut(&parent) {
            node.children.insert(Arc::clone(&name), id);
        }
        self.live.insert(id, Node { place: Some(Place { parent, name }), depth, children: BTreeMap::new() });
        Met::New
    }

    /// The id of what is called `name` in `parent`.
    pub(super) fn child(&self, parent: u64, name: &OsStr) -> Option<u64> {
        self.live.get(&parent)?.children.get(name).copied()
    }

    /// `name` is no longer in `parent`: it and all below it are gone, and remembered.
    pub(super) fn remove(&mut self, parent: u64, name: &OsStr) {
        if let Some(id) = self.child(parent, name) {
            self.remove_tree(id);
        }
    }

    /// Removes what is in `parent` under a name that `stays` refuses.
    pub(super) fn retain(&mut self, parent: u64, stays: impl Fn(&OsStr) -> bool) {
        let children = self.live.get(&parent).into_iter().flat_map(|node| &node.children);
        let left: Vec<u64> = children.filter(|(name, _)| !stays(name)).map(|(_, &id)| id).collect();
        for id in left {
            self.remove_tree(id);
        }
    }

    /// The cgroup that `id` is, or was, in. Absent for the top.
    pub(super) fn parent(&self, id: u64) -> Option<u64> {
        self.place(id).map(|place| place.parent)
    }

    /// Its own name. Absent for the top.
    pub(super) fn name(&self, id: u64) -> Option<&OsStr> {
        self.place(id).map(|place| &*place.name)
    }

    /// The names from the top down to `id`, empty for the top. Absent if it, or one above it, is not known.
    pub(super) fn names(&self, id: u64) -> Option<Vec<&OsStr>> {
        let (mut names, mut at) = (Vec::new(), id);
        while at != self.top {
            let place = self.place(at).filter(|_| names.len() <= MAX_DEPTH)?;
            names.push(&*place.name);
            at = place.parent;
        }
        names.reverse();
        Some(names)
    }

    fn place(&self, id: u64) -> Option<&Place> {
        match self.live.get(&id) {
            Some(node) => node.place.as_ref(),
            None => self.gone.get(&id),
        }
    }

    fn remove_tree(&mut self, id: u64) {
        let Some(place) = self.live.get(&id).and_then(|node| node.place.clone()) else { return };
        if let Some(parent) = self.live.get_mut(&place.parent) {
            parent.children.remove(&place.name);
        }
        let (mut found, mut next) = (vec![id], 0);
        while let Some(id) = found.get(next).copied() {
            found.extend(self.live.get(&id).into_iter().flat_map(|node| node.children.values()));
            next += 1;
        }
        // From the leaves up: the oldest are forgotten first, so what is remembered has its parents.
        for id in found.into_iter().rev() {
            if let Some(place) = self.live.remove(&id).and_then(|node| node.place) {
                self.remember(id, place);
            }
        }
    }

    fn remember(&mut self, id: u64, place: Place) {
        if self.order.len() >= REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.gone.remove(&oldest);
        }
        self.order.push_back(id);
        self.gone.insert(id, place);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOP: u64 = 1;

    fn path(index: &Index, id: u64) -> Option<String> {
        let names = index.names(id)?;
        Some(names.iter().map(|name| format!("/{}", name.to_string_lossy())).collect())
    }

    fn insert(index: &mut Index, parent: u64, name: &str, id: u64) -> Met {
        index.insert(parent, OsStr::new(name), id)
    }

    /// `/a` 2, `/a/b` 3, `/a/b/c` 4.
    fn sample() -> Index {
        let mut index = Index::new(TOP, 100);
        for (parent, name, id) in [(TOP, "a", 2), (2, "b", 3), (3, "c", 4)] {
            assert_eq!(insert(&mut index, parent, name, id), Met::New);
        }
        index
    }

    #[test]
    fn a_path_is_the_names_from_the_top() {
        let index = sample();
        assert_eq!(path(&index, 4).as_deref(), Some("/a/b/c"));
        assert_eq!(path(&index, TOP).as_deref(), Some(""));
        assert_eq!(path(&index, 5), None);
        assert_eq!((index.name(4), index.parent(4), index.parent(TOP)), (Some(OsStr::new("c")), Some(3), None));
    }

    #[test]
    fn what_is_removed_is_remembered_with_all_below_it() {
        let mut index = sample();
        index.remove(TOP, OsStr::new("a"));
        assert_eq!((index.len(), index.is_live(4), index.knows(4)), (1, false, true));
        assert_eq!(path(&index, 4).as_deref(), Some("/a/b/c"));
    }

    #[test]
    fn the_oldest_is_forgotten_first_and_children_before_their_parents() {
        let mut index = sample();
        index.remove(TOP, OsStr::new("a"));
        for id in 10..10 + REMEMBERED as u64 - 2 {
            insert(&mut index, TOP, "x", id);
            index.remove(TOP, OsStr::new("x"));
        }
        assert_eq!((path(&index, 4), path(&index, 3).as_deref()), (None, Some("/a/b")), "one more than is remembered");
        assert_eq!((index.gone.len(), index.order.len()), (REMEMBERED, REMEMBERED));
    }

    #[test]
    fn what_comes_back_under_another_name_has_that_name() {
        let mut index = sample();
        index.remove(2, OsStr::new("b"));
        assert_eq!(insert(&mut index, 2, "d", 3), Met::New);
        assert_eq!((path(&index, 3).as_deref(), path(&index, 4).as_deref()), (Some("/a/d"), Some("/a/d/c")));
        assert!(!index.gone.contains_key(&3) && !index.order.contains(&3));
        assert_eq!(insert(&mut index, TOP, "e", 3), Met::New, "also if nobody told that it left");
        assert_eq!((path(&index, 3).as_deref(), index.child(2, OsStr::new("d"))), (Some("/e"), None));
    }

    #[test]
    fn a_name_has_one_id_and_an_id_one_place() {
        let mut index = sample();
        assert_eq!(insert(&mut index, 2, "b", 3), Met::Known);
        assert_eq!(insert(&mut index, 2, "b", 9), Met::New);
        assert_eq!((index.is_live(3), index.child(2, OsStr::new("b"))), (false, Some(9)));
        assert_eq!(insert(&mut index, 2, "top", TOP), Met::Known, "the top stays where it is");
    }

    #[test]
    fn what_is_not_listed_is_gone() {
        let mut index = sample();
        insert(&mut index, 2, "k", 7);
        index.retain(2, |name| name == "k");
        assert_eq!((index.is_live(7), index.is_live(3), index.is_live(4)), (true, false, false));
    }

    #[test]
    fn there_is_an_end_to_how_many_and_how_deep() {
        let mut index = Index::new(TOP, 3);
        assert_eq!(insert(&mut index, 8, "a", 2), Met::NoParent);
        let met = [("a", 2), ("b", 3), ("c", 4)].map(|(name, id)| insert(&mut index, TOP, name, id));
        assert_eq!(met, [Met::New, Met::New, Met::NoRoom]);
        index.remove(TOP, OsStr::new("a"));
        assert_eq!(insert(&mut index, TOP, "c", 4), Met::New);

        let mut index = Index::new(TOP, 10_000);
        let met: Vec<Met> =
            (TOP..).take(MAX_DEPTH + 1).map(|parent| insert(&mut index, parent, "n", parent + 1)).collect();
        assert_eq!((met[MAX_DEPTH - 1], met[MAX_DEPTH]), (Met::New, Met::TooDeep));
        assert_eq!(index.names(TOP + MAX_DEPTH as u64).map(|names| names.len()), Some(MAX_DEPTH));
    }
}
