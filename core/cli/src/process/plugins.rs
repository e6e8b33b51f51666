//! Where programs and network plugins are looked for.

use std::path::PathBuf;

/// The folder `yard` is in, with the programs behind built-in images beside it.
pub(crate) fn programs() -> PathBuf {
    let exe = std::env::current_exe().unwrap_or_default();
    exe.parent().map(PathBuf::from).unwrap_or_default()
}

/// Plugins are looked for beside `yard`, then where the environment says, then where people and packages put them.
pub(crate) fn search_path() -> Vec<PathBuf> {
    let programs = programs();
    let named = std::env::var_os("SWITCHYARD_PLUGIN_PATH").unwrap_or_default();
    let data = std::env::var_os("XDG_DATA_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
    let data = data.or_else(|| std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".local/share")));
    let own = data.map(|data| data.join("switchyard/plugins"));
    let named: Vec<_> = std::env::split_paths(&named).filter(|path| !path.as_os_str().is_empty()).collect();
    named
        .into_iter()
        .chain([programs.join("plugins"), programs])
        .chain(own)
        .chain(["/usr/lib/switchyard/plugins".into()])
        .collect()
}
