//! `yard curl`: one request by name, where the host has no way in and no such names.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail};
use http::{HeaderName, HeaderValue, Method, Request, Uri};
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
    let mut command = vec![program.display().to_string(), "curl".into(), args.url.to_string()];
    command.extend(["--connect".into(), address.to_string()]);
    command.extend(args.include.then(|| "--include".to_owned()));
    for (option, values) in
        [("--request", args.request.iter().map(Method::to_string).collect()), ("--header", args.headers.clone())]
    {
        command.extend(values.into_iter().flat_map(|value| [option.to_owned(), value]));
    }
    command.extend(args.data.iter().flat_map(|data| ["--data".to_owned(), data.clone()]));
    let (_, control) = cluster.control()?;
    let order = Order::Shell { place: ShellPlace::Place(Place::Router), command, env: Vec::new() };
    control.channel().send(&order, &[io::stdin().as_fd(), io::stdout().as_fd(), io::stderr().as_fd()])?;
    let (exit, _): (Exit, _) = control.channel().receive().context("the cluster ended")?;
    match exit {
        Exit::Code(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(255))),
        Exit::Failed(reason) => bail!("router: {reason}"),
    }
}

async fn exchange(args: &Args, host: &str, door: SocketAddr) -> anyhow::Result<Vec<u8>> {
    let stream = TcpStream::connect(door).await.with_context(|| format!("connect to {door}"))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let default = if args.data.is_some() { Method::POST } else { Method::GET };
    let authority = args.url.authority().map_or_else(|| host.to_owned(), ToString::to_string);
    let path = args.url.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder().method(args.request.clone().unwrap_or(default)).uri(path);
    let headers = request.headers_mut().context("a request")?;
    headers.insert(http::header::HOST, HeaderValue::from_str(&authority)?);
    headers.insert(http::header::USER_AGENT, HeaderValue::from_static(concat!("yard/", env!("CARGO_PKG_VERSION"))));
    headers.insert(http::header::ACCEPT, HeaderValue::from_static("*/*"));
    for header in &args.headers {
        let (name, value) = header.split_once(':').with_context(|| format!("{header:?}: must be NAME: VALUE"))?;
        let name = HeaderName::try_from(name.trim()).with_context(|| format!("{header:?}"))?;
        headers.insert(name, HeaderValue::from_str(value.trim()).with_context(|| format!("{header:?}"))?);
    }
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
