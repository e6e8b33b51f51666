//! Every step of loading fails with an error of its own, and no code of a refused library runs.

mod support;

use std::fs;

use serde_json::json;
use support::{built, compile, facts, faulty, node, options, pod, refusal, registry};
use switchyard_plugin::Options;
use switchyard_plugin_host::{Hosting, InspectError, OpenError, Registry, State, inspect};

const IN: Hosting = Hosting::InProcess;

#[test]
fn kubenet_is_found_inspected_and_opened_through_the_table() {
    let registry = registry();
    let inspected = registry.inspect("kubenet").unwrap();
    assert_eq!((inspected.manifest.name.as_str(), inspected.abi), ("kubenet", (1, 0)));
    assert_eq!(inspected.sha256.len(), 64);
    let plugin = registry.open("kubenet", &Options::new(), IN).unwrap();
    assert_eq!(plugin.sha256(), inspected.sha256);
    assert!(plugin.file().ends_with("libswitchyard_kubenet.so"));
    assert!(!plugin.node(&facts(), &node(1)).unwrap().is_empty());
    assert_eq!(plugin.pod(&facts(), &node(1), &pod("web")).unwrap().places().count(), 2);
    assert!(plugin.peer(&facts(), &node(1), &node(2)).unwrap().is_empty());
    assert_eq!(plugin.pool(&facts(), &node(1), &pod("web")).unwrap().reserved.len(), 1);
}

#[test]
fn a_linked_plugin_gives_the_answers_of_the_loaded_one() {
    let linked = Registry::new(vec![]).with_static::<switchyard_kubenet::Kubenet>(switchyard_kubenet::MANIFEST);
    let linked = linked.open("kubenet", &Options::new(), IN).unwrap();
    let loaded = registry().open("kubenet", &Options::new(), IN).unwrap();
    assert_eq!(linked.manifest(), loaded.manifest());
    assert_eq!(linked.node(&facts(), &node(1)), loaded.node(&facts(), &node(1)));
    assert_eq!(linked.pod(&facts(), &node(1), &pod("a")), loaded.pod(&facts(), &node(1), &pod("a")));
}

#[test]
fn a_plugin_in_c_loads() {
    let dir = tempfile::tempdir().unwrap();
    let Some(_) = compile(dir.path(), "c-plugin", "../../examples/c-plugin/plugin.c", &[]) else { return };
    let registry = Registry::new(vec![dir.path().into()]);
    let plugin = registry.open("c-plugin", &options(json!({"mtu": 1400})), IN).unwrap();
    assert_eq!(plugin.manifest().description, "Routed pods, in C.");
    let fragment = plugin.pod(&facts(), &node(1), &pod("web")).unwrap();
    let text = serde_json::to_string(&fragment).unwrap();
    assert!(text.contains(r#""address":"10.40.1.5/32""#) && text.contains(r#""mtu":1400"#), "{text}");
    assert_eq!(plugin.pool(&facts(), &node(1), &pod("web")).unwrap().block, node(1).pod_cidr);
    for (given, expected) in [
        (json!({"colour": "red"}), "option colour: unknown; this plugin takes mtu"),
        (json!({"mtu": 12}), "option mtu: expected a number from 576 to 65535"),
    ] {
        assert_eq!(registry.open("c-plugin", &options(given), IN).err().unwrap().to_string(), expected);
    }
}

#[test]
fn a_script_is_a_plugin_if_a_comment_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("switchyard_script.plugin");
    let registry = Registry::new(vec![dir.path().into()]);
    for (text, reason, message) in [
        ("#!/bin/sh\n", "NotAPlugin", "it has no comment `switchyard-plugin/1.0 {..}` in its first 65536 bytes"),
        ("#!/bin/sh\n# switchyard-plugin/7.0 {}\n", "ABIMismatch", "built for plugin ABI 7"),
        (
            "#!/bin/sh\n# switchyard-plugin/one {}\n",
            "BadManifest",
            "must be followed by a version such as 1.0 and by JSON",
        ),
        ("#!/bin/sh\n# switchyard-plugin/1.0\n", "BadManifest", "manifest: EOF while parsing"),
        (
            "#!/bin/sh\n# switchyard-plugin/1.0 {\"name\":\"other\",\"version\":\"1\"}\n",
            "OtherPlugin",
            "is plugin \"other\"",
        ),
        (
            "#!/bin/sh\n# switchyard-plugin/1.0 {\"name\":\"script\",\"version\":\"1\"}\n",
            "ProcessFailed",
            "exit status: 0",
        ),
        (
            "#!/nowhere\n# switchyard-plugin/1.0 {\"name\":\"script\",\"version\":\"1\"}\n",
            "ProcessFailed",
            "is what its first line names installed?",
        ),
    ] {
        fs::write(&file, text).unwrap();
        let error = registry.open("script", &Options::new(), IN).err().unwrap();
        assert_eq!(error.reason(), reason, "{text}: {error}");
        assert!(error.to_string().contains(message), "{text}: {error}");
    }
    assert_eq!(registry.list().len(), 1);
}

#[test]
fn a_name_that_is_nowhere_says_where_it_was_looked_for() {
    let error = Registry::new(vec!["/a".into(), "/b".into()]).open("overlay", &Options::new(), IN).err().unwrap();
    assert_eq!(error.reason(), "PluginNotFound");
    assert_eq!(
        error.to_string(),
        "plugin \"overlay\" not found: no libswitchyard_overlay.so or switchyard_overlay.plugin in /a, /b"
    );
}

#[test]
fn what_is_no_library_is_told_from_what_is_no_plugin() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("libswitchyard_x.so");
    let name = "libswitchyard_x.so";
    assert_eq!(refusal(&file), ("PluginUnreadable", format!("{name}: No such file or directory (os error 2)")));

    fs::write(&file, "text\n").unwrap();
    let (reason, message) = refusal(&file);
    assert_eq!(reason, "NotALibrary");
    assert!(message.starts_with(&format!("{name}: not a shared library: not a complete ELF file")), "{message}");

    // Truncated anywhere: never a panic, never a plugin.
    let whole = fs::read(built().join("libswitchyard_none.so")).unwrap();
    for length in [0, 3, 16, 63, 64, 100, 1000, whole.len() / 2, whole.len() - 1] {
        fs::write(&file, &whole[..length]).unwrap();
        let (reason, message) = refusal(&file);
        assert!(reason == "NotALibrary" || reason == "BadManifest", "{length}: {message}");
    }

    // e_machine of another architecture: 0xf3, RISC-V.
    let mut other = whole.clone();
    other[18..20].copy_from_slice(&0xf3u16.to_le_bytes());
    fs::write(&file, &other).unwrap();
    let (reason, message) = refusal(&file);
    assert_eq!(reason, "NotALibrary");
    assert!(message.contains("built for Riscv64, this machine is"), "{message}");

    // e_type of a program.
    let mut other = whole;
    other[16..18].copy_from_slice(&2u16.to_le_bytes());
    fs::write(&file, &other).unwrap();
    assert_eq!(refusal(&file).1, format!("{name}: not a shared library: it is of kind Executable"));

    let (reason, message) = refusal(dir.path());
    assert_eq!(reason, "NotALibrary");
    assert!(message.ends_with("not a regular file"), "{message}");
}

#[test]
fn a_library_that_is_refused_before_it_is_opened_runs_no_code() {
    // Its constructor would abort this test.
    for (define, reason, message) in [
        (
            "NO_SECTION",
            "NotAPlugin",
            "not a plugin: it has no section .switchyard (export_plugin! or switchyard_plugin.h puts it there)",
        ),
        (
            "OTHER_MAJOR",
            "ABIMismatch",
            "built for plugin ABI 7, this yard speaks 1: rebuild it with a matching switchyard-plugin",
        ),
        ("BAD_MAGIC", "BadManifest", "manifest: section .switchyard does not begin with \"SWYARDPL\""),
        ("SHORT_SECTION", "BadManifest", "manifest: section .switchyard has 9 bytes, a header has 24"),
        ("LONG_MANIFEST", "BadManifest", "manifest: 5000 bytes of JSON at 24 do not fit its 60 bytes"),
        ("NOT_JSON_MANIFEST", "BadManifest", "manifest: expected ident at line 1 column 2"),
        (
            "BAD_NAME",
            "BadManifest",
            "manifest: name \"../faulty\": must be 1 to 63 of a-z, 0-9 and '-', not beginning or ending with '-'",
        ),
    ] {
        let Some((_dir, file)) = faulty(&[define, "CONSTRUCTOR"]) else { return };
        assert_eq!(refusal(&file), (reason, format!("libswitchyard_faulty-c.so: {message}")), "{define}");
    }
}

#[test]
fn inspecting_runs_no_code() {
    let Some((dir, file)) = faulty(&["CONSTRUCTOR"]) else { return };
    assert_eq!(inspect(&file).unwrap().manifest.name, "faulty-c");
    assert_eq!(Registry::new(vec![dir.path().into()]).list()[0].state, State::Declared);
}

#[test]
fn a_library_that_does_not_open_or_has_no_table_is_refused() {
    for (define, reason, message) in [
        ("UNDEFINED", "LoadFailed", "undefined symbol: nobody_has_this"),
        (
            "NO_SYMBOL",
            "MissingSymbol",
            "symbol switchyard_plugin_v1 is missing: export_plugin! or switchyard_plugin.h defines it",
        ),
        ("REFUSES", "BadTable", "switchyard_plugin_v1 gave no usable table: status 4"),
        (
            "SHORT_TABLE",
            "BadTable",
            "switchyard_plugin_v1 gave no usable table: struct_size is 16, at least 32 is needed",
        ),
        ("NO_CALL", "BadTable", "switchyard_plugin_v1 gave no usable table: create, destroy and call must all be set"),
        ("CREATE_FAILS", "CreateFailed", "create: the plugin failed with status 4: no luck today"),
    ] {
        let Some((_dir, file)) = faulty(&[define]) else { return };
        assert_eq!(refusal(&file), (reason, format!("libswitchyard_faulty-c.so: {message}")), "{define}");
    }
}

#[test]
fn other_minor_versions_load() {
    for define in ["NEWER_HEADER", "OLDER_TABLE"] {
        let Some((_dir, file)) = faulty(&[define]) else { return };
        let plugin = Registry::new(vec![]).open(file.to_str().unwrap(), &Options::new(), IN).unwrap();
        assert!(plugin.node(&facts(), &node(1)).unwrap().is_empty(), "{define}");
    }
}

#[test]
fn a_bad_option_is_named() {
    let error = registry().open("kubenet", &options(json!({"mtu": 12})), IN).err().unwrap();
    assert_eq!(error.reason(), "BadOptions");
    assert_eq!(error.to_string(), "option mtu: 12 given, expected a number from 576 to 65535");
    let Some((_dir, file)) = faulty(&["BAD_OPTIONS_TEXT"]) else { return };
    assert_eq!(refusal(&file), ("BadOptions", "options: just words".to_owned()));
}

#[test]
fn a_panic_while_an_instance_is_made_is_an_error() {
    let error = registry().open("faulty", &options(json!({"panic": "new"})), IN).err().unwrap();
    assert_eq!(error.reason(), "CreateFailed");
    assert!(error.to_string().ends_with("the plugin panicked and is not asked again: told to panic in new"), "{error}");
}

#[test]
fn a_file_must_be_the_plugin_it_is_named_after() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(built().join("libswitchyard_none.so"), dir.path().join("libswitchyard_kubenet.so")).unwrap();
    let registry = Registry::new(vec![dir.path().into()]);
    let error = registry.open("kubenet", &Options::new(), IN).err().unwrap();
    assert!(matches!(error, OpenError::OtherName { .. }));
    assert!(error.to_string().ends_with("libswitchyard_kubenet.so: is plugin \"none\", not \"kubenet\""), "{error}");
    let path = dir.path().join("libswitchyard_kubenet.so");
    assert_eq!(registry.open(path.to_str().unwrap(), &Options::new(), IN).unwrap().manifest().name, "none");
}

#[test]
fn a_rebuilt_plugin_is_a_new_one_even_in_place() {
    let dir = tempfile::tempdir().unwrap();
    let source = "tests/fixtures/faulty.c";
    let old = r#"ANSWER="{\"node/worker-1\":[{\"kind\":\"sysctl\",\"path\":\"net/a\",\"value\":\"old\"}]}""#;
    let new = r#"ANSWER="{\"node/worker-1\":[{\"kind\":\"sysctl\",\"path\":\"net/a\",\"value\":\"new\"}]}""#;
    let Some(file) = compile(dir.path(), "faulty-c", source, &[old]) else { return };
    let registry = Registry::new(vec![dir.path().into()]);
    let before = registry.open("faulty-c", &Options::new(), IN).unwrap();
    // The same inode with other content: what the dynamic linker alone would take for the library it has.
    let rebuilt = tempfile::tempdir().unwrap();
    let Some(rebuilt) = compile(rebuilt.path(), "faulty-c", source, &[new]) else { return };
    fs::write(&file, fs::read(rebuilt).unwrap()).unwrap();
    let after = registry.open("faulty-c", &Options::new(), IN).unwrap();
    assert_ne!(before.sha256(), after.sha256());
    let answer = |plugin: &dyn switchyard_plugin_host::Plugin| {
        serde_json::to_string(&plugin.node(&facts(), &node(1)).unwrap()).unwrap()
    };
    assert!(answer(&*before).contains("old") && answer(&*after).contains("new"));
}

#[test]
fn states_can_be_read() {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(built().join("libswitchyard_faulty.so"), dir.path().join("libswitchyard_faulty.so")).unwrap();
    fs::write(dir.path().join("libswitchyard_text.so"), "text").unwrap();
    fs::write(dir.path().join("README"), "not a candidate").unwrap();
    let registry = Registry::new(vec![dir.path().into(), "/nowhere".into()]);
    let state = || registry.list()[0].state.to_string();
    assert_eq!(state(), "declared");
    assert_eq!(registry.list().len(), 2);
    assert!(registry.list()[1].state.to_string().starts_with("failed: "));
    assert!(matches!(registry.list()[1].inspected, Err(InspectError::NotALibrary { .. })));

    let plugin = registry.open("faulty", &options(json!({"panic": "web"})), IN).unwrap();
    assert_eq!(state(), "started");
    plugin.pod(&facts(), &node(1), &pod("web")).unwrap_err();
    assert_eq!((state(), plugin.state()), ("poisoned".into(), State::Poisoned));
    drop(plugin);
    assert_eq!(state(), "loaded");
    registry.open("faulty", &options(json!({"x": 1})), IN).err().unwrap();
    assert_eq!(state(), "failed: option x: unknown; this plugin takes fault, panic, hang");
}
