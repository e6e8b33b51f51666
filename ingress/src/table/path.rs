//! Which rule of a host a path belongs to.
//!
//! `Exact` compares bytes. `Prefix` compares element by element: `/foo` covers `/foo`, `/foo/` and `/foo/x`, not `/foobar`. The
//! longest wins, `Exact` before `Prefix`. Paths are compared as they were sent: no decoding, no merging of slashes (dot segments
//! never get here, the gate refuses them), so what is matched is what the backend sees.
//!
//! Prefixes are kept sorted with `/` as the lowest byte. Then every prefix of a path lies on the parent chain of the greatest
//! prefix not above it: one binary search and a few steps, however many rules there are.

use std::{cmp::Ordering, collections::HashMap};

/// How a rule's path is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub enum PathKind {
    /// Byte for byte.
    Exact,
    /// Element by element; `ImplementationSpecific` means this too.
    Prefix,
}

/// Values by path rule; see the module for the order.
#[derive(Debug)]
pub struct PathIndex<T> {
    exact: HashMap<Box<str>, u32, foldhash::fast::RandomState>,
    prefixes: Vec<Prefix>,
    rules: Vec<PathRule<T>>,
}

/// One rule of a [`PathIndex`].
#[derive(Debug)]
pub struct PathRule<T> {
    /// How `path` is compared.
    pub kind: PathKind,
    /// The path as the rule writes it.
    pub path: Box<str>,
    /// What it leads to.
    pub value: T,
}

#[derive(Debug)]
struct Prefix {
    /// The path without its trailing slash.
    key: Box<[u8]>,
    parent: Option<u32>,
    rule: u32,
}

// === impl PathIndex ===

impl<T> PathIndex<T> {
    /// Builds the index; of two equal rules the first stays.
    pub fn build(rules: impl IntoIterator<Item = PathRule<T>>) -> Self {
        let mut index = Self { exact: HashMap::default(), prefixes: Vec::new(), rules: Vec::new() };
        for rule in rules {
            let id = u32::try_from(index.rules.len()).expect("fewer than 2^32 rules fit in memory");
            match rule.kind {
                PathKind::Exact => {
                    if *index.exact.entry(rule.path.clone()).or_insert(id) != id {
                        continue;
                    }
                }
                PathKind::Prefix => {
                    let key = rule.path.strip_suffix('/').unwrap_or(&rule.path);
                    index.prefixes.push(Prefix { key: key.as_bytes().into(), parent: None, rule: id });
                }
            }
            index.rules.push(rule);
        }
        let rules = &index.rules;
        // `/foo/` before `/foo`: the longer path wins the key they share; then the earlier.
        index.prefixes.sort_by(|a, b| {
            let length = |p: &Prefix| rules[p.rule as usize].path.len();
            by_element(&a.key, &b.key).then(length(b).cmp(&length(a))).then(a.rule.cmp(&b.rule))
        });
        index.prefixes.dedup_by(|later, first| later.key == first.key);
        let mut open: Vec<u32> = Vec::new();
        for i in 0..index.prefixes.len() {
            while open.last().is_some_and(|&o| !covers(&index.prefixes[o as usize].key, &index.prefixes[i].key)) {
                open.pop();
            }
            index.prefixes[i].parent = open.last().copied();
            open.push(i as u32);
        }
        index
    }

    /// The rule for a path (without its query).
    pub fn find(&self, path: &str) -> Option<&PathRule<T>> {
        if let Some(&id) = self.exact.get(path) {
            return Some(&self.rules[id as usize]);
        }
        let path = path.as_bytes();
        let after = self.prefixes.partition_point(|p| by_element(&p.key, path) != Ordering::Greater);
        let mut at = after.checked_sub(1);
        while let Some(i) = at {
            let prefix = &self.prefixes[i];
            if covers(&prefix.key, path) {
                return Some(&self.rules[prefix.rule as usize]);
            }
            at = prefix.parent.map(|p| p as usize);
        }
        None
    }

    /// All rules, in the order they were given.
    pub fn iter(&self) -> impl Iterator<Item = &PathRule<T>> {
        self.rules.iter()
    }
}

/// Whether `prefix` (without trailing slash) is `path` or a whole number of its first elements.
fn covers(prefix: &[u8], path: &[u8]) -> bool {
    path.starts_with(prefix) && matches!(path.get(prefix.len()), None | Some(b'/'))
}

/// Byte order with `/` lowest, which is the order of element lists.
fn by_element(a: &[u8], b: &[u8]) -> Ordering {
    let low = |byte: u8| if byte == b'/' { 0 } else { byte };
    match a.iter().zip(b).find(|(x, y)| x != y) {
        Some((&x, &y)) => low(x).cmp(&low(y)),
        None => a.len().cmp(&b.len()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PathKind::{Exact, Prefix};

    fn index(rules: &[(PathKind, &str)]) -> PathIndex<String> {
        PathIndex::build(rules.iter().map(|(kind, path)| PathRule {
            kind: *kind,
            path: (*path).into(),
            value: format!("{kind:?} {path}"),
        }))
    }

    /// The table of the Kubernetes documentation for Ingress paths.
    #[test]
    fn kubernetes_path_table() {
        let all = &[(Prefix, "/"), (Prefix, "/aaa"), (Prefix, "/aaa/bbb")][..];
        type Rules<'a> = &'a [(PathKind, &'a str)];
        let table: &[(Rules<'_>, &str, Option<&str>)] = &[
            (&[(Prefix, "/")], "/any/thing", Some("Prefix /")),
            (&[(Exact, "/foo")], "/foo", Some("Exact /foo")),
            (&[(Exact, "/foo")], "/bar", None),
            (&[(Exact, "/foo")], "/foo/", None),
            (&[(Exact, "/foo/")], "/foo", None),
            (&[(Prefix, "/foo")], "/foo", Some("Prefix /foo")),
            (&[(Prefix, "/foo")], "/foo/", Some("Prefix /foo")),
            (&[(Prefix, "/foo/")], "/foo", Some("Prefix /foo/")),
            (&[(Prefix, "/foo/")], "/foo/", Some("Prefix /foo/")),
            (&[(Prefix, "/aaa/bb")], "/aaa/bbb", None),
            (&[(Prefix, "/aaa/bbb")], "/aaa/bbb", Some("Prefix /aaa/bbb")),
            (&[(Prefix, "/aaa/bbb/")], "/aaa/bbb", Some("Prefix /aaa/bbb/")),
            (&[(Prefix, "/aaa/bbb")], "/aaa/bbb/", Some("Prefix /aaa/bbb")),
            (&[(Prefix, "/aaa/bbb")], "/aaa/bbb/ccc", Some("Prefix /aaa/bbb")),
            (&[(Prefix, "/aaa/bbb")], "/aaa/bbbxyz", None),
            (&[(Prefix, "/"), (Prefix, "/aaa")], "/aaa/ccc", Some("Prefix /aaa")),
            (all, "/aaa/bbb", Some("Prefix /aaa/bbb")),
            (all, "/aaa/ccc", Some("Prefix /aaa")),
            (all, "/ccc", Some("Prefix /")),
            (&[(Prefix, "/aaa")], "/ccc", None),
            (&[(Prefix, "/foo"), (Exact, "/foo")], "/foo", Some("Exact /foo")),
            (&[(Prefix, "/foo"), (Prefix, "/foo/")], "/foo", Some("Prefix /foo/")),
            (&[(Exact, "/foo")], "/FOO", None),
        ];
        for (rules, path, expected) in table {
            let index = index(rules);
            assert_eq!(index.find(path).map(|r| r.value.as_str()), *expected, "{path} among {rules:?}");
        }
    }

    #[test]
    fn search_agrees_with_looking_at_every_rule() {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut next = move |n: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % n
        };
        for _ in 0..300 {
            let mut path = |max: u64| {
                "/".to_owned() + &(0..next(max)).map(|_| ['a', '.', '/'][next(3) as usize]).collect::<String>()
            };
            let rules: Vec<String> = (0..40).map(|_| path(7)).collect();
            let index = index(&rules.iter().map(|p| (Prefix, p.as_str())).collect::<Vec<_>>());
            for _ in 0..200 {
                let asked = path(10);
                let naive = rules
                    .iter()
                    .filter(|r| covers(r.strip_suffix('/').unwrap_or(r).as_bytes(), asked.as_bytes()))
                    .max_by_key(|r| r.len());
                let found = index.find(&asked).map(|r| &*r.path);
                assert_eq!(found, naive.map(String::as_str), "{asked} among {rules:?}");
            }
        }
    }
}
