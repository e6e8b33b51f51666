//! What people type at a cluster, and what they expect of it: a table of lines of a shell, what each must say, and how it must end.

mod changing;
mod looking;
mod nodes;
mod pods;
mod wrong;
mod yard;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Output;
use std::time::Instant;

use crate::rig::{Cluster, Powers, record, scenarios};

scenarios! {
    verbs_do_what_people_expect
}

/// A line, the code it ends with, and what it says: on standard output if that is 0, on standard error otherwise.
type Row = (&'static str, i32, &'static [&'static str]);

/// Beside the programs of the host, and $POD, a pod of the workload:
///
/// - `follow COMMAND CHANGE`: what a command that goes on says first, makes a change, and what it says then;
/// - `count WORD`: how many lines of the input have a word.
const PRELUDE: &str = r#"
set -o pipefail
follow() {
    exec 3< <(exec $1)
    read -rt 30 first <&3
    eval "$2" > /dev/null
    read -rt 30 second <&3
    kill $!
    echo "$first, then $second"
}
count() { echo "$(grep -c -- "$1") lines with $1"; }
"#;
/// Objects that the rows speak of.
const FILES: [(&str, &str); 4] = [
    ("web.yaml", include_str!("verbs/web.yaml")),
    ("talker.yaml", include_str!("verbs/talker.yaml")),
    ("policy.yaml", include_str!("verbs/policy.yaml")),
    ("half.yaml", include_str!("verbs/half.yaml")),
];

/// Families in their order: who looks finds the cluster as it was booted, and whoever empties a node comes last. Where rows of a family
/// build on each other it says so.
fn verbs_do_what_people_expect(powers: Powers) {
    let cluster = Cluster::boot(powers);
    for (name, text) in FILES {
        std::fs::write(cluster.file(name), text).unwrap();
    }
    let (pod, mut complaints) = (cluster.pod_of("version=v1"), String::new());
    let mut play = |family: &str, rows: &[Row]| {
        let begun = Instant::now();
        rows.iter().filter_map(|row| complaint(&cluster, &pod, row)).for_each(|words| complaints += &words);
        record(&format!("{} rows of {family}", rows.len()), &format!("{:.1?}", begun.elapsed()));
    };
    play("looking", looking::ROWS);
    play("yard", yard::ROWS);
    play("pods", pods::ROWS);
    play("changing", changing::ROWS);
    let before = objects(&cluster);
    play("wrong", wrong::ROWS);
    let after = objects(&cluster);
    play("nodes", nodes::ROWS);
    assert!(before == after, "what was refused left something behind: {before}\nand now\n{after}\n{complaints}");
    assert!(complaints.is_empty(), "{complaints}");
}

/// Types a line, again if kubectl says that it threw away what it was told before it had made its own streams: it may begin to read
/// too early.
fn typed(cluster: &Cluster, pod: &str, line: &str) -> Output {
    const TOO_EARLY: &str = "Unknown stream id";
    let early = |output: &Output| String::from_utf8_lossy(&output.stderr).contains(TOO_EARLY);
    let first = typed_once(cluster, pod, line);
    if early(&first) { typed_once(cluster, pod, line) } else { first }
}

/// Types a line into a shell of its own.
fn typed_once(cluster: &Cluster, pod: &str, line: &str) -> Output {
    let mut command = cluster.command(Path::new("bash"));
    let folder = cluster.program().parent().expect("a folder").display().to_string();
    command.env("PATH", format!("{folder}:{}", std::env::var("PATH").unwrap_or_default()));
    command.env("KUBECONFIG", cluster.directory().join("kubeconfig")).env("TMPDIR", cluster.file("")).env("POD", pod);
    command.args(["-c", &format!("{PRELUDE}{line}")]).current_dir(cluster.file(""));
    command.output().expect("bash runs")
}

/// What is wrong with what a row did.
fn complaint(cluster: &Cluster, pod: &str, (line, code, expected): &Row) -> Option<String> {
    let begun = Instant::now();
    let output = typed(cluster, pod, line);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let said = if *code == 0 { &out } else { &err };
    let missing: Vec<_> = expected.iter().filter(|words| !said.contains(**words)).collect();
    if begun.elapsed().as_secs() >= 3 {
        record(line, &format!("{:.1?}", begun.elapsed()));
    }
    if output.status.code() == Some(*code) && missing.is_empty() {
        return None;
    }
    let mut words = format!("\n$ {line}\nended with {:?}, expected {code}", output.status.code());
    if !missing.is_empty() {
        let _ = write!(words, ", and did not say {missing:?}");
    }
    let _ = write!(words, "\n{out}{err}");
    Some(words)
}

/// Everything that people make, with its version.
fn objects(cluster: &Cluster) -> String {
    cluster.kubectl(&[
        "get",
        "ns,deploy,rs,svc,cm,secret,sa,ing,netpol,quota,jobs,clusters",
        "-A",
        "-o",
        r#"jsonpath={range .items[*]}{.kind}/{.metadata.namespace}/{.metadata.name} {.metadata.resourceVersion}{"\n"}{end}"#,
    ])
}
