//! `yard curl`: one request by name, where the host has no way in and no such names.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use switchyard_dns::client::addresses;
use switchyard_lab::control::{Exit, Request as Order, ShellPlace};
use switchyard_lab::listeners::Ports;
use switchyard_netstate::Place;
use tokio::net::TcpStream;

use crate::api::block_on;
use crate::output;
use crate::which::Which;

/// Send one HTTP request to a name of the cluster, from outside.
///
/// The name is asked of the cluster's own name server. If a port of the host leads to the address, the request takes it; otherwise it
/// starts at the router, as a client on the outside network would.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// `http://NAME[:PORT]/PATH`
    url: Uri,
    /// Print status and headers too.
    #[arg(short, long)]
    include: bool,
    /// Method. Default GET, or POST with a body.
    #[arg(short = 'X', long, value_name = "METHOD")]
    request: Option<Method>,
    /// A header, `NAME: VALUE`.
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// A body.
    #[arg(short, long, value_name = "TEXT")]
    data: Option<String>,
    /// Connect there.
    #[arg(long, hide = true, value_name = "ADDRESS:PORT")]
    connect: Option<SocketAddr>,
}

/// Largest answer, in bytes.
const MAX_BYTES: usize = 64 << 20;
/// Longest that the request may take.
const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) fn run(args: &Args, cluster: &Which) -> anyhow::Result<ExitCode> {
    if args.url.scheme_str().is_some_and(|scheme| scheme != "http") {
        bail!("{}: only http:// is spoken here; for https: curl --resolve with a port of the host", args.url);
    }
    let host = args.url.host().filter(|host| !host.is_empty());
    let host = host.with_context(|| format!("{}: has no host; write http://NAME/", args.url))?;
    let door = match args.connect {
        Some(address) => Some(address),
        None => {
            let ports = Ports::remembered(&cluster.control()?.0);
            let (address, door) = block_on(way(&ports, host, args.url.port_u16().unwrap_or(80)))?;
            match door {
                Some(door) => Some(door),
                None => return from_router(args, cluster, address),
            }
        }
    };
    let door = door.context("no way in")?;
    block_on(async {
        let exchange = exchange(args, host, door);
        let text = tokio::time::timeout(PATIENCE, exchange).await.context("no answer in time")??;
        output::print_bytes(&text)?;
        Ok(ExitCode::from(crate::OK))
    })
}

/// The address behind a name, and the host's port that leads there, if there is one.
async fn way(ports: &Ports, host: &str, port: u16) -> anyhow::Result<(SocketAddr, Option<SocketAddr>)> {
    let server = ports.dns.context("the cluster answers for no names; start it again: yard down, yard up")?;
    let literal = host.trim_matches(['[', ']']).parse().ok();
    let found = match literal {
        Some(address) => vec![address],
        None => addresses(server, host).await?,
    };
    let targets: Vec<_> = found.into_iter().map(|address| SocketAddr::new(address, port)).collect();
    let first = *targets.first().with_context(|| format!("{host} has no address"))?;
    let door = ports.host.iter().find(|door| targets.contains(&door.to));
    Ok((first, door.map(|door| door.listen)))
}

/// The same command again, in the router's network.
fn from_router(args: &Args, cluster: &Which, address: SocketAddr) -> anyhow::Result<ExitCode> {
    let program = std::env::current_exe().context("find this program")?;
    let command = [vec![program.display().to_string()], again(args, address)].concat();
    let (_, control) = cluster.control()?;
    let order = Order::Shell { place: ShellPlace::Place(Place::Router), command, env: Vec::new() };
    control.channel().send(&order, &[io::stdin().as_fd(), io::stdout().as_fd(), io::stderr().as_fd()])?;
    let (exit, _): (Exit, _) = control.channel().receive().context("the cluster ended")?;
    match exit {
        Exit::Code(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(255))),
        Exit::Failed(reason) => bail!("router: {reason}"),
    }
}

/// The words of a command that says the same, but where to connect. A value is part of its option, as it may begin with '-'.
fn again(args: &Args, address: SocketAddr) -> Vec<String> {
    let mut words = vec!["curl".to_owned(), args.url.to_string(), format!("--connect={address}")];
    words.extend(args.include.then(|| "--include".to_owned()));
    words.extend(args.request.iter().map(|method| format!("--request={method}")));
    words.extend(args.headers.iter().map(|header| format!("--header={header}")));
    words.extend(args.data.iter().map(|data| format!("--data={data}")));
    words
}

/// What was given, each as often as it was, and what goes without saying.
fn headers(args: &Args, authority: &str) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for header in &args.headers {
        let (name, value) = header.split_once(':').with_context(|| format!("{header:?}: must be NAME: VALUE"))?;
        let name = HeaderName::try_from(name.trim()).with_context(|| format!("{header:?}"))?;
        headers.append(name, HeaderValue::from_str(value.trim()).with_context(|| format!("{header:?}"))?);
    }
    headers.entry(http::header::HOST).or_insert(HeaderValue::from_str(authority)?);
    headers
        .entry(http::header::USER_AGENT)
        .or_insert(HeaderValue::from_static(concat!("yard/", env!("CARGO_PKG_VERSION"))));
    headers.entry(http::header::ACCEPT).or_insert(HeaderValue::from_static("*/*"));
    Ok(headers)
}

async fn exchange(args: &Args, host: &str, door: SocketAddr) -> anyhow::Result<Vec<u8>> {
    let stream = TcpStream::connect(door).await.with_context(|| format!("connect to {door}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let default = if args.data.is_some() { Method::POST } else { Method::GET };
    let authority = args.url.authority().map_or_else(|| host.to_owned(), ToString::to_string);
    let path = args.url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder().method(args.request.clone().unwrap_or(default)).uri(path);
    *request.headers_mut().context("a request")? = headers(args, &authority)?;
    let body = Full::new(Bytes::from(args.data.clone().unwrap_or_default()));
    let response = sender.send_request(request.body(body)?).await.context("ask")?;
    let mut text = Vec::new();
    if args.include {
        text.extend(format!("{:?} {}\r\n", response.version(), response.status()).into_bytes());
        for (name, value) in response.headers() {
            text.extend([name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        text.extend(b"\r\n");
    }
    let body = Limited::new(response.into_body(), MAX_BYTES).collect().await.map_err(anyhow::Error::from_boxed)?;
    text.extend(body.to_bytes());
    Ok(text)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{Cli, Verb};

    fn parse(words: &[String]) -> Args {
        let words = std::iter::once("yard").chain(words.iter().map(String::as_str));
        let Verb::Curl(args) = Cli::try_parse_from(words).expect("understood").verb else { panic!("curl") };
        args
    }

    #[test]
    fn the_router_is_asked_the_same() {
        let words = ["curl", "http://a.net/", "-i", "-XPUT", "--data=-1", "-HX-A: 1", "--header=-b: 2"];
        let args = parse(&words.map(str::to_owned));
        let there = parse(&again(&args, ([192, 0, 2, 1], 80).into()));
        assert_eq!(there.connect, Some(([192, 0, 2, 1], 80).into()));
        assert_eq!((&there.url, there.include, &there.request), (&args.url, args.include, &args.request));
        assert_eq!((there.headers, there.data), (args.headers, args.data));
    }

    #[test]
    fn headers_are_sent_as_often_as_they_are_given() {
        let words = ["curl", "http://a.net/", "-H", "cookie: a=1", "-H", "cookie: b=2", "-H", "Host: b.net"];
        let headers = headers(&parse(&words.map(str::to_owned)), "a.net").expect("headers");
        let all = |name| headers.get_all(name).iter().map(|value| value.to_str().expect("text")).collect::<Vec<_>>();
        assert_eq!((all("cookie"), all("host"), all("accept")), (vec!["a=1", "b=2"], vec!["b.net"], vec!["*/*"]));
    }
}
