//! Which host a request is for: an index over host patterns whose cost does not grow with their number.
//!
//! Order, most specific first: the exact name; a `*` inside the first label (`sphinx-v*.example.net`, most literal bytes first, then
//! the longer prefix); a whole first label (`*.example.net`, exactly one label, as Kubernetes has it); no host. The first pattern
//! that matches decides alone: a path it does not know is not looked for under a less specific host.
//!
//! A partial label cannot be in a hash table as a whole, but everything after the first dot can. So: hash by that rest, then by the
//! literal prefix for each prefix length in use there (a 64 bit mask, since a label has at most 63 bytes).

use std::{collections::HashMap, fmt};

/// A host as a rule writes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostPattern {
    /// One name, lower case, without a trailing dot.
    Exact(Box<str>),
    /// `prefix*suffix.domain`; the star stands for one or more bytes of the first label.
    Partial {
        /// Literal start of the first label, possibly empty.
        prefix: Box<str>,
        /// Literal end of the first label, possibly empty.
        suffix: Box<str>,
        /// Everything after the first dot.
        domain: Box<str>,
    },
    /// `*.domain`: exactly one label before the domain.
    Label(Box<str>),
    /// A rule without a host.
    Any,
}

/// Why a host in a rule is not usable.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("host {host:?}: {wrong}")]
pub struct HostError {
    host: String,
    wrong: &'static str,
}

/// Values by host pattern; see the module for the order.
#[derive(Debug)]
pub struct HostIndex<T> {
    exact: Map<Box<str>, u32>,
    domains: Map<Box<str>, Domain>,
    any: Option<u32>,
    values: Vec<(HostPattern, T)>,
}

#[derive(Debug, Default)]
struct Domain {
    partial: Option<Box<Partial>>,
    label: Option<u32>,
}

#[derive(Debug, Default)]
struct Partial {
    /// Bit n: some pattern has a prefix of n bytes.
    lengths: u64,
    /// By prefix: suffixes, longest first.
    prefixes: Map<Box<[u8]>, Suffixes>,
}

/// Suffixes and what they lead to, longest first.
type Suffixes = Vec<(Box<[u8]>, u32)>;

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

// === impl HostPattern ===

impl HostPattern {
    /// Reads a rule's host; empty means any.
    ///
    /// # Errors
    /// When it is not a DNS name with at most one `*`, which must be in the first label.
    pub fn parse(host: &str) -> Result<Self, HostError> {
        let wrong = |wrong| Err(HostError { host: host.chars().take(253).collect(), wrong });
        if host.is_empty() {
            return Ok(Self::Any);
        }
        let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if name.len() > 253 {
            return wrong("longer than 253 bytes");
        }
        let (label, domain) = name.split_once('.').unwrap_or((&name, ""));
        for part in name.split('.') {
            if part.is_empty() || part.len() > 63 {
                return wrong("every label must have 1 to 63 bytes");
            }
            if !part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'*') {
                return wrong("a label has letters, digits, '-' and at most one '*'");
            }
        }
        if domain.contains('*') {
            return wrong("'*' may stand in the first label only");
        }
        match label.split_once('*') {
            None => Ok(Self::Exact(name.into())),
            Some(_) if domain.is_empty() => wrong("'*' needs a domain after its label"),
            Some(("", "")) => Ok(Self::Label(domain.into())),
            Some((_, suffix)) if suffix.contains('*') => wrong("at most one '*'"),
            Some((prefix, suffix)) => {
                Ok(Self::Partial { prefix: prefix.into(), suffix: suffix.into(), domain: domain.into() })
            }
        }
    }

    /// Whether `host` (normalised) is covered. The slow, obvious definition; the index must agree with it.
    pub fn matches(&self, host: &str) -> bool {
        let split = host.split_once('.');
        match self {
            Self::Any => true,
            Self::Exact(name) => **name == *host,
            Self::Label(domain) => split.is_some_and(|(label, rest)| !label.is_empty() && *rest == **domain),
            Self::Partial { prefix, suffix, domain } => split.is_some_and(|(label, rest)| {
                *rest == **domain
                    && label.len() > prefix.len() + suffix.len()
                    && label.len() <= 63
                    && label.starts_with(&**prefix)
                    && label.ends_with(&**suffix)
            }),
        }
    }

    /// Sorts patterns that match one host: the greatest decides.
    pub fn rank(&self) -> (u8, usize, usize) {
        match self {
            Self::Exact(_) => (3, 0, 0),
            Self::Partial { prefix, suffix, .. } => (2, prefix.len() + suffix.len(), prefix.len()),
            Self::Label(_) => (1, 0, 0),
            Self::Any => (0, 0, 0),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Partial { prefix, suffix, domain } => write!(f, "{prefix}*{suffix}.{domain}"),
            Self::Label(domain) => write!(f, "*.{domain}"),
            Self::Any => f.write_str("*"),
        }
    }
}

// === impl HostIndex ===

impl<T> HostIndex<T> {
    /// Builds the index; of two equal patterns the first stays.
    pub fn build(entries: impl IntoIterator<Item = (HostPattern, T)>) -> Self {
        let mut index = Self { exact: Map::default(), domains: Map::default(), any: None, values: Vec::new() };
        for (pattern, value) in entries {
            let id = u32::try_from(index.values.len()).expect("fewer than 2^32 hosts fit in memory");
            let fresh = match &pattern {
                HostPattern::Any => index.any.is_none() && index.any.replace(id).is_none(),
                HostPattern::Exact(name) => *index.exact.entry(name.clone()).or_insert(id) == id,
                HostPattern::Label(domain) => {
                    *index.domains.entry(domain.clone()).or_default().label.get_or_insert(id) == id
                }
                HostPattern::Partial { prefix, suffix, domain } => {
                    let partial = index.domains.entry(domain.clone()).or_default().partial.get_or_insert_default();
                    partial.insert(prefix.as_bytes(), suffix.as_bytes(), id)
                }
            };
            if fresh {
                index.values.push((pattern, value));
            }
        }
        index
    }

    /// The most specific pattern for a normalised host.
    pub fn find(&self, host: &str) -> Option<&(HostPattern, T)> {
        let id = self.exact.get(host).copied().or_else(|| self.find_in_domain(host)).or(self.any)?;
        Some(&self.values[id as usize])
    }

    /// All patterns with their values, in the order they were given.
    pub fn iter(&self) -> impl Iterator<Item = &(HostPattern, T)> {
        self.values.iter()
    }

    /// Number of patterns.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there is no pattern at all.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    fn find_in_domain(&self, host: &str) -> Option<u32> {
        if self.domains.is_empty() {
            return None;
        }
        let (label, rest) = host.split_once('.')?;
        if label.is_empty() {
            return None;
        }
        let domain = self.domains.get(rest)?;
        domain.partial.as_ref().and_then(|partial| partial.find(label.as_bytes())).or(domain.label)
    }
}

// === impl Partial ===

impl Partial {
    fn insert(&mut self, prefix: &[u8], suffix: &[u8], id: u32) -> bool {
        self.lengths |= 1 << prefix.len();
        let suffixes = self.prefixes.entry(prefix.into()).or_default();
        if suffixes.iter().any(|(known, _)| **known == *suffix) {
            return false;
        }
        let at = suffixes.partition_point(|(known, _)| known.len() >= suffix.len());
        suffixes.insert(at, (suffix.into(), id));
        true
    }

    fn find(&self, label: &[u8]) -> Option<u32> {
        if label.len() > 63 {
            return None;
        }
        let mut best = None;
        // Only prefixes shorter than the label; longest first, so that among equals the longer prefix is met first.
        let mut lengths = self.lengths & ((1 << label.len()) - 1);
        while lengths != 0 {
            let length = 63 - lengths.leading_zeros() as usize;
            lengths &= !(1 << length);
            let Some(suffixes) = self.prefixes.get(&label[..length]) else { continue };
            let rest = &label[length..];
            if let Some((suffix, id)) = suffixes.iter().find(|(s, _)| s.len() < rest.len() && rest.ends_with(s)) {
                let literal = length + suffix.len();
                if best.is_none_or(|(most, _)| literal > most) {
                    best = Some((literal, *id));
                }
            }
        }
        best.map(|(_, id)| id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(patterns: &[&str]) -> HostIndex<String> {
        HostIndex::build(patterns.iter().map(|p| (HostPattern::parse(p).expect("valid pattern"), (*p).to_owned())))
    }

    fn found<'a>(index: &'a HostIndex<String>, host: &str) -> &'a str {
        index.find(host).map_or("-", |(_, v)| v)
    }

    #[test]
    fn the_most_specific_host_wins() {
        let index = index(&[
            "*.example.net",
            "sphinx-v*.example.net",
            "sphinx-v1*.example.net",
            "*1.example.net",
            "sphinx-v12.example.net",
            "",
        ]);
        assert_eq!(found(&index, "sphinx-v12.example.net"), "sphinx-v12.example.net");
        assert_eq!(found(&index, "sphinx-v13.example.net"), "sphinx-v1*.example.net");
        assert_eq!(found(&index, "sphinx-v1.example.net"), "sphinx-v*.example.net");
        assert_eq!(found(&index, "a1.example.net"), "*1.example.net");
        assert_eq!(found(&index, "sphinx-v.example.net"), "*.example.net");
        assert_eq!(found(&index, "a.b.example.net"), "");
        assert_eq!(found(&index, "example.net"), "");
    }

    #[test]
    fn kubernetes_wildcard_covers_exactly_one_label() {
        let index = index(&["*.foo.com"]);
        assert_eq!(found(&index, "bar.foo.com"), "*.foo.com");
        assert_eq!(found(&index, "baz.bar.foo.com"), "-");
        assert_eq!(found(&index, "foo.com"), "-");
        assert_eq!(found(&index, ".foo.com"), "-");
    }

    #[test]
    fn bad_patterns_say_what_is_wrong() {
        for bad in ["*", "a.*.b", "a*b*.c", "a*", "a..b", "a_b.c", "*.*.c", "-\u{e9}.c"] {
            assert!(HostPattern::parse(bad).is_err(), "{bad} must be refused");
        }
        let error = HostPattern::parse("a.*.b").expect_err("star in second label");
        assert_eq!(error.to_string(), "host \"a.*.b\": '*' may stand in the first label only");
    }

    /// Small alphabets, so that patterns overlap a lot; the obvious matcher is the judge.
    #[test]
    fn index_agrees_with_the_obvious_matcher() {
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = move |n: u64| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed % n
        };
        for _ in 0..300 {
            let mut word = |max: u64| (0..next(max)).map(|_| ['a', 'b', '-'][next(3) as usize]).collect::<String>();
            let mut patterns = Vec::new();
            for i in 0..60 {
                let domain = ["x.y", "y", "z.x.y"][i % 3];
                let text = match i % 4 {
                    0 => format!("a{}.{domain}", word(3)),
                    1 => format!("*.{domain}"),
                    _ => format!("{}*{}.{domain}", word(4), word(4)),
                };
                patterns.push(text);
            }
            let parsed: Vec<_> = patterns.iter().map(|p| HostPattern::parse(p).expect("valid")).collect();
            let index = HostIndex::build(parsed.iter().cloned().map(|p| (p, ())));
            for i in 0..200 {
                let host = format!("{}.{}", word(9), ["x.y", "y", "z.x.y", "q"][i % 4]);
                let naive = parsed.iter().filter(|p| p.matches(&host)).max_by_key(|p| p.rank());
                assert_eq!(index.find(&host).map(|(p, ())| p), naive, "host {host} among {patterns:?}");
            }
        }
    }
}
