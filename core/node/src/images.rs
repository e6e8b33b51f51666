//! Which program runs for an image name.
//!
//! There is no registry: an image is a program of ours, or `host`, whose containers name a command of the host's file system.
//! The cluster's `images:` map turns other names into these, so that an ordinary manifest runs unchanged.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// The built-in images and the programs behind them, with their first arguments.
const BUILT_IN: [(&str, &[&str]); 4] = [
    ("yard/echo", &["yard-echo"]),
    ("yard/ingress", &["yard-ingress"]),
    ("yard/pause", &["yard-pause"]),
    ("yard/bench", &["yard", "generate"]),
];
/// The image whose containers bring their own command.
const HOST: &str = "host";

/// Finds programs for image names.
#[derive(Clone, Debug)]
pub(crate) struct Images {
    programs: PathBuf,
    names: BTreeMap<String, String>,
}

/// Why an image gives no command; the variants become a container's waiting reason.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ImageError {
    #[error(
        "image {image:?} is unknown: use yard/echo, yard/ingress, yard/pause, yard/bench or host, \
         or say in the Cluster's spec.images what runs for it, for instance \"{image}: yard/echo\""
    )]
    Unknown { image: String },
    #[error("image host has no command of its own: give the container a command")]
    NoCommand,
    #[error("program {} of image {image} is missing: build it, or reinstall yard", path.display())]
    Missing { image: String, path: PathBuf },
}

// === impl Images ===

impl Images {
    /// Programs are in the directory `programs`; `names` maps further names to an image, which may be followed by default
    /// arguments: `yard/echo --port=80`.
    pub(crate) fn new(programs: PathBuf, names: &BTreeMap<String, String>) -> Self {
        let names = names.iter().map(|(name, to)| (normal(name), to.clone())).collect();
        Self { programs, names }
    }

    /// The command of a container, as Kubernetes composes it: `command` replaces the image's program, `args` its arguments.
    pub(crate) fn argv(&self, image: &str, command: &[String], args: &[String]) -> Result<Vec<String>, ImageError> {
        let (source, default_args) = self.source(image)?;
        if !command.is_empty() {
            return Ok([command, args].concat());
        }
        let (program, first) = match BUILT_IN.iter().find(|(name, _)| *name == source) {
            Some((_, [program, first @ ..])) => (self.programs.join(program), first),
            Some((_, [])) => return Err(ImageError::NoCommand),
            None if default_args.is_empty() => return Err(ImageError::NoCommand),
            None => return Ok([&default_args[..], args].concat()),
        };
        if !program.exists() {
            return Err(ImageError::Missing { image: image.to_owned(), path: program });
        }
        let args = if args.is_empty() { &default_args[..] } else { args };
        let first = first.iter().map(|&word| word.to_owned());
        Ok([program.to_string_lossy().into_owned()].into_iter().chain(first).chain(args.iter().cloned()).collect())
    }

    /// The built-in image or `host` behind a name, and its default arguments.
    fn source(&self, image: &str) -> Result<(String, Vec<String>), ImageError> {
        let known = |name: &str| name == HOST || BUILT_IN.iter().any(|(built_in, _)| *built_in == name);
        let bare = bare(image);
        if known(bare) {
            return Ok((bare.to_owned(), Vec::new()));
        }
        let unknown = || ImageError::Unknown { image: image.to_owned() };
        let mapped = self.names.get(&normal(image)).ok_or_else(unknown)?;
        let mut words = mapped.split_whitespace().map(str::to_owned);
        let name = words.next().filter(|name| known(self::bare(name))).ok_or_else(unknown)?;
        Ok((self::bare(&name).to_owned(), words.collect()))
    }
}

/// A name without tag and digest.
fn bare(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => image,
    }
}

/// One spelling for `nginx`, `nginx:latest` and `docker.io/library/nginx`.
fn normal(image: &str) -> String {
    let short = image.strip_prefix("docker.io/").unwrap_or(image);
    let short = short.strip_prefix("library/").unwrap_or(short);
    if bare(short) == short && !short.contains('@') { format!("{short}:latest") } else { short.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images() -> (tempfile::TempDir, Images) {
        let programs = tempfile::tempdir().unwrap();
        std::fs::write(programs.path().join("yard-echo"), "").unwrap();
        std::fs::write(programs.path().join("yard"), "").unwrap();
        let map = [("nginx:1.25", "yard/echo --port=80"), ("docker.io/library/redis", "yard/echo"), ("odd", "nothing")];
        let map = map.map(|(name, to)| (name.to_owned(), to.to_owned())).into();
        let images = Images::new(programs.path().to_owned(), &map);
        (programs, images)
    }

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn commands_are_composed_as_in_kubernetes() {
        let (programs, images) = images();
        let echo = programs.path().join("yard-echo").to_string_lossy().into_owned();
        let argv = |image, command: &[&str], args: &[&str]| images.argv(image, &words(command), &words(args)).unwrap();
        assert_eq!(argv("yard/echo:latest", &[], &["--port=1"]), [echo.as_str(), "--port=1"]);
        assert_eq!(argv("nginx:1.25", &[], &[]), [echo.as_str(), "--port=80"]);
        assert_eq!(argv("nginx:1.25", &[], &["--port=90"]), [echo.as_str(), "--port=90"]);
        assert_eq!(argv("redis:latest", &[], &[]), [echo.as_str()]);
        assert_eq!(argv("host", &["sleep"], &["1"]), ["sleep", "1"]);
        assert_eq!(argv("yard/echo", &["true"], &[]), ["true"]);
        let yard = programs.path().join("yard").to_string_lossy().into_owned();
        assert_eq!(argv("yard/bench", &[], &["server"]), [yard.as_str(), "generate", "server"]);
    }

    #[test]
    fn what_cannot_run_says_what_would_be_right() {
        let (_programs, images) = images();
        let error = |image| images.argv(image, &[], &[]).unwrap_err();
        assert!(error("postgres:16").to_string().contains("\"postgres:16: yard/echo\""));
        assert_eq!(error("odd"), ImageError::Unknown { image: "odd".into() });
        assert_eq!(error("host"), ImageError::NoCommand);
        assert!(matches!(error("yard/ingress"), ImageError::Missing { .. }));
    }
}
