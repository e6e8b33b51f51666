//! A plugin that panics when asked to; for tests. The option `panic` says where: `new`, or the name of a pod.

use switchyard_plugin::netstate::Fragment;
use switchyard_plugin::{
    Facts, NetworkPlugin, NodeFacts, OptionReader, Options, OptionsError, PodFacts, export_plugin,
};

struct Faulty {
    panic: Option<String>,
}

/// Panics with a value that panics once more when it is dropped.
struct Mean;

export_plugin!(Faulty, r#"{"name":"faulty","version":"1.0.0"}"#);

impl NetworkPlugin for Faulty {
    fn new(options: &Options) -> Result<Self, OptionsError> {
        let mut options = OptionReader::new(options);
        let panic: Option<String> = options.take("panic", "a name")?;
        options.finish()?;
        assert!(panic.as_deref() != Some("new"), "told to panic in new");
        Ok(Self { panic })
    }

    fn node(&self, _: &Facts, _: &NodeFacts) -> Fragment {
        Fragment::new()
    }

    fn pod(&self, _: &Facts, _: &NodeFacts, pod: &PodFacts) -> Fragment {
        assert!(self.panic.as_ref() != Some(&pod.name), "told to panic for pod {}", pod.name);
        Fragment::new()
    }

    fn peer(&self, _: &Facts, _: &NodeFacts, peer: &NodeFacts) -> Fragment {
        if self.panic.as_ref() == Some(&peer.name) {
            std::panic::panic_any(Mean);
        }
        Fragment::new()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        assert!(self.panic.as_deref() != Some("drop"), "told to panic in drop");
    }
}

impl Drop for Mean {
    fn drop(&mut self) {
        panic!("and again");
    }
}
