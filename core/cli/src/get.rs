//! `yard get`.

use anyhow::{bail, ensure};
use futures::TryStreamExt as _;
use kube::core::WatchEvent;
use serde_json::{Value, json};

use crate::api::{Api, JSON, Kind, TABLE, block_on, is_missing};
use crate::delete::kind_and_name;
use crate::output::{self, Format};
use crate::which::Which;

/// Show objects.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Kinds, separated by commas, or KIND/NAME: `pods`, `po,svc`, `network/default`.
    kinds: String,
    /// Names. Default: all objects.
    names: Vec<String>,
    #[command(flatten)]
    scope: Scope,
    /// Only objects with these labels: `app=sphinx,version!=v1`.
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// Go on and print changes.
    #[arg(short, long)]
    watch: bool,
    /// How to print it.
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// Which namespace.
#[derive(Debug, clap::Args)]
pub(crate) struct Scope {
    /// Namespace.
    #[arg(short, long, default_value = "default")]
    pub(crate) namespace: String,
    /// All namespaces.
    #[arg(short = 'A', long, conflicts_with = "namespace")]
    all_namespaces: bool,
}

/// A question that has been understood.
struct Query {
    kind: Kind,
    name: Option<String>,
}

pub(crate) fn run(args: &Args, cluster: &Which) -> anyhow::Result<()> {
    block_on(async {
        let api = Api::of(cluster).await?;
        let queries = queries(&api, args).await?;
        agree(&queries, args)?;
        if args.watch {
            let [query] = &queries[..] else { bail!("--watch follows one kind, or one object") };
            return follow(&api, query, args).await;
        }
        let accept = if args.is_for_people() { TABLE } else { JSON };
        let (mut found, mut answers, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        for query in queries {
            match api.get(&query.path(args), accept).await {
                Ok(answer) => {
                    found.push(query);
                    answers.push(answer);
                }
                Err(error) if is_missing(&error) => missing.push(error),
                Err(error) => return Err(error),
            }
        }
        // What is there is shown, whatever is not.
        let text = match found.is_empty() {
            true => String::new(),
            false if args.is_for_people() => tables(&found, &answers, args),
            false => documents(&found, answers, args)?,
        };
        let printed = output::print(&text);
        output::joined(missing).and(printed)
    })
}

async fn queries(api: &Api, args: &Args) -> anyhow::Result<Vec<Query>> {
    let mut queries = Vec::new();
    if args.kinds.contains('/') {
        for word in std::iter::once(&args.kinds).chain(&args.names) {
            let (kind, name) = kind_and_name(word)?;
            queries.push(Query { kind: Kind::named(api, kind).await?, name: Some(name.into()) });
        }
        return Ok(queries);
    }
    for word in args.kinds.split(',').filter(|word| !word.is_empty()) {
        let kind = Kind::named(api, word).await?;
        match args.names.is_empty() {
            true => queries.push(Query { kind, name: None }),
            false => {
                queries.extend(args.names.iter().map(|name| Query { kind: kind.clone(), name: Some(name.clone()) }))
            }
        }
    }
    ensure!(!queries.is_empty(), "{:?}: must name a kind, such as pods", args.kinds);
    Ok(queries)
}

/// A name says which object; whatever else would say so must not be passed over.
fn agree(queries: &[Query], args: &Args) -> anyhow::Result<()> {
    let Some(named) = queries.iter().find(|query| query.name.is_some()) else { return Ok(()) };
    let title = named.kind.title(named.name.as_deref().unwrap_or_default());
    ensure!(args.selector.is_none(), "{title}: a name and --selector do not go together");
    let everywhere = args.scope.all_namespaces && named.kind.namespaced;
    ensure!(!everywhere, "{title}: a name and --all-namespaces do not go together");
    Ok(())
}

/// Tables of one kind are joined into one.
fn tables(queries: &[Query], answers: &[Value], args: &Args) -> String {
    let titled = queries.iter().any(|query| query.kind != queries[0].kind);
    let mut texts: Vec<String> = Vec::new();
    let mut index = 0;
    while index < queries.len() {
        let end = (index..queries.len()).find(|&i| queries[i].kind != queries[index].kind).unwrap_or(queries.len());
        let title = titled.then_some(&queries[index].kind);
        let rows: Vec<_> = answers[index..end].iter().flat_map(|table| rows(table, args, title)).collect();
        if !rows.is_empty() {
            let head = head(&answers[index], args);
            let head: Vec<&str> = head.iter().map(String::as_str).collect();
            texts.push(output::table(&head, &rows));
        }
        index = end;
    }
    if texts.is_empty() {
        let place = if args.scope.all_namespaces || !queries[0].kind.namespaced { "" } else { &args.scope.namespace };
        eprintln!("no resources found{}{place}", if place.is_empty() { "" } else { " in namespace " });
    }
    texts.join("\n")
}

fn head(table: &Value, args: &Args) -> Vec<String> {
    let names = columns(table, args).into_iter().map(|(_, name)| name.to_uppercase());
    args.scope.all_namespaces.then(|| "NAMESPACE".to_owned()).into_iter().chain(names).collect()
}

/// Indexes and names of the columns to show: those of priority 0, with `-o wide` all.
fn columns<'a>(table: &'a Value, args: &Args) -> Vec<(usize, &'a str)> {
    let all = table["columnDefinitions"].as_array().into_iter().flatten().enumerate();
    let shown = all.filter(|(_, column)| args.output == Format::Wide || column["priority"].as_i64().unwrap_or(0) == 0);
    shown.map(|(index, column)| (index, column["name"].as_str().unwrap_or("?"))).collect()
}

fn rows(table: &Value, args: &Args, title: Option<&Kind>) -> Vec<Vec<String>> {
    let columns = columns(table, args);
    let rows = table["rows"].as_array().into_iter().flatten();
    let row = |row: &Value| {
        let namespace = row["object"]["metadata"]["namespace"].as_str().unwrap_or("").to_owned();
        let cells = columns.iter().enumerate().map(|(position, (index, _))| {
            match (position, title, cell(&row["cells"][*index])) {
                (0, Some(kind), name) => kind.title(&name),
                (_, _, text) => text,
            }
        });
        args.scope.all_namespaces.then_some(namespace).into_iter().chain(cells).collect()
    };
    rows.map(row).collect()
}

fn cell(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "<none>".into(),
        other => other.to_string(),
    }
}

fn documents(queries: &[Query], mut answers: Vec<Value>, args: &Args) -> anyhow::Result<String> {
    if args.output == Format::Name {
        let names = queries.iter().zip(&answers).flat_map(|(query, answer)| {
            let items = answer["items"].as_array().map_or_else(|| vec![answer], |items| items.iter().collect());
            items.into_iter().map(|item| query.kind.title(item["metadata"]["name"].as_str().unwrap_or("")) + "\n")
        });
        return Ok(names.collect());
    }
    if answers.len() == 1 {
        return output::document(&answers.remove(0), args.output);
    }
    let items = answers.into_iter().flat_map(|mut answer| match answer["items"].take() {
        Value::Array(items) => items,
        _ => vec![answer],
    });
    output::document(&json!({"apiVersion": "v1", "kind": "List", "items": items.collect::<Vec<_>>()}), args.output)
}

/// A table as `yard get` prints it, with or without namespaces.
pub(crate) fn table_of(table: &Value, namespaces: bool) -> String {
    let args = Args {
        kinds: String::new(),
        names: Vec::new(),
        scope: Scope { namespace: String::new(), all_namespaces: namespaces },
        selector: None,
        watch: false,
        output: Format::Wide,
    };
    output::table(&head(table, &args).iter().map(String::as_str).collect::<Vec<_>>(), &rows(table, &args, None))
}

/// Prints what is there, then every change. Ends with the connection, or with the reader of the pipe.
async fn follow(api: &Api, query: &Query, args: &Args) -> anyhow::Result<()> {
    let accept = if args.is_for_people() { TABLE } else { JSON };
    let first = api.get(&query.list_path(args), accept).await?;
    let mut text = if args.is_for_people() {
        let head = head(&first, args);
        output::table(&head.iter().map(String::as_str).collect::<Vec<_>>(), &rows(&first, args, None))
    } else {
        documents(std::slice::from_ref(query), vec![first.clone()], args)?
    };
    let mut columns = first;
    output::print(&text)?;
    let version = columns["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned();
    let joint = if query.list_path(args).contains('?') { '&' } else { '?' };
    let path = format!("{}{joint}watch=true&resourceVersion={version}", query.list_path(args));
    let mut events = std::pin::pin!(api.watch(&path, accept).await?);
    while let Some(event) = events.try_next().await? {
        let object = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) | WatchEvent::Deleted(object) => object,
            WatchEvent::Bookmark(_) => continue,
            WatchEvent::Error(status) => bail!("{}", status.message),
        };
        text = if args.is_for_people() {
            // Later tables may come without their columns.
            let mut table = object;
            match table["columnDefinitions"].is_array() {
                true => columns = table.clone(),
                false => table["columnDefinitions"] = columns["columnDefinitions"].clone(),
            }
            rows(&table, args, None).iter().map(|row| row.join("   ") + "\n").collect()
        } else {
            documents(std::slice::from_ref(query), vec![object], args)?
        };
        output::print(&text)?;
    }
    Ok(())
}

// === impl Args ===

impl Args {
    fn is_for_people(&self) -> bool {
        matches!(self.output, Format::Table | Format::Wide)
    }
}

// === impl Query ===

impl Query {
    fn namespace<'a>(&self, args: &'a Args) -> Option<&'a str> {
        (!args.scope.all_namespaces).then_some(args.scope.namespace.as_str())
    }

    fn path(&self, args: &Args) -> String {
        match &self.name {
            Some(name) => format!("{}/{name}", self.kind.path(self.namespace(args))),
            None => self.list_path(args),
        }
    }

    /// One object is the list of those with its name.
    fn list_path(&self, args: &Args) -> String {
        let labels = args.selector.as_ref().map(|selector| format!("labelSelector={}", escape(selector)));
        let fields = self.name.as_ref().map(|name| format!("fieldSelector=metadata.name%3D{}", escape(name)));
        let query: Vec<_> = labels.into_iter().chain(fields).collect();
        let joint = if query.is_empty() { "" } else { "?" };
        format!("{}{joint}{}", self.kind.path(self.namespace(args)), query.join("&"))
    }
}

/// Makes text fit into the query of a URL.
pub(crate) fn escape(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    text.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{Cli, Verb};

    fn agrees(namespaced: bool, words: &[&str]) -> bool {
        let Verb::Get(args) = Cli::parse_from([&["yard", "get"], words].concat()).verb else { panic!("get") };
        let (group, version) = (String::new(), "v1".to_owned());
        let kind = Kind { group, version, plural: "things".into(), kind: "Thing".into(), namespaced };
        agree(&[Query { kind, name: args.names.first().cloned() }], &args).is_ok()
    }

    #[test]
    fn names_stand_alone() {
        assert!(agrees(true, &["things", "a"]) && agrees(true, &["things", "-A", "-l", "app=b"]));
        assert!(!agrees(true, &["things", "a", "-l", "app=b"]) && !agrees(false, &["things", "a", "-l", "app=b"]));
        assert!(!agrees(true, &["things", "a", "-A"]) && agrees(false, &["things", "a", "-A"]));
    }
}
