//! CPU per request, ours against nginx, in the same run: same backend, same clients, one thread each, keep-alive on both sides, no logs.
//!
//! CPU time of the serving thread is the number: unlike throughput it survives a machine that does other things too. Rounds alternate.
//! Ours against ours should say 1.00. Without nginx on the path that is all there is, and the page says so.
//!
//!     cargo bench -p switchyard-benches --bench ingress [-- ROUNDS REQUESTS CONNECTIONS | --test]

use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use switchyard_benches::{Record, Series, testing};
use switchyard_ingress::{Config, Origin, Sockets, run, table::Objects};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BODY: usize = 1024;
const REQUEST: &[u8] = b"GET /items/42 HTTP/1.1\r\nHost: sphinx-v1.example.net\r\nUser-Agent: compare/1.0\r\nAccept: */*\r\nAccept-Encoding: gzip\r\nCookie: session=0123456789abcdef\r\n\r\n";

/// A server under test: where it listens and how to read its CPU time.
struct Subject {
    name: &'static str,
    address: SocketAddr,
    stat: String,
}

fn main() -> anyhow::Result<()> {
    let numbers: Vec<usize> = std::env::args().filter_map(|a| a.parse().ok()).collect();
    let (rounds, requests, connections) = match numbers[..] {
        [rounds, requests, connections] => (rounds, requests, connections),
        _ if testing() => (1, 400, 4),
        _ => (9, 40_000, 32),
    };
    let backend = backend();
    let ours = ours(backend);
    let folder = tempfile::tempdir()?;
    let nginx = nginx(backend, folder.path());
    let about = "An HTTP request through the ingress: processor time of the serving thread, one thread each, keep-alive on both sides.";
    let mut record = Record::new("ingress", about);
    let mut pairs = vec![("against itself", &ours, &ours, "1.00x")];
    if let Some((nginx, _)) = &nginx {
        pairs.push(("against nginx", &ours, nginx, "as fast as can be"));
    } else {
        record.absent("nginx", "nginx");
    }
    for subject in [Some(&ours), nginx.as_ref().map(|(n, _)| n)].into_iter().flatten() {
        load(subject.address, requests / 4, connections);
    }
    for (name, a, b, aim) in pairs {
        let mut here = Series::new(&format!("{}, {name}", a.name), "µs");
        let mut there = Series::new(&format!("{}, beside it", b.name), "µs");
        for round in 0..rounds {
            let (first, second) = if round % 2 == 0 { (a, b) } else { (b, a) };
            let (x, y) = (cost(first, requests, connections), cost(second, requests, connections));
            let (of_a, of_b) = if round % 2 == 0 { (x, y) } else { (y, x) };
            here.values.push(of_a);
            there.values.push(of_b);
        }
        record.compare(&format!("a request, {name}"), &here, &there, aim);
    }
    record.save_unless_testing()?;
    drop(nginx);
    // The server of ours never ends.
    std::process::exit(0);
}

/// Microseconds of CPU for each of `requests`.
fn cost(subject: &Subject, requests: usize, connections: usize) -> f64 {
    let before = cpu(&subject.stat);
    load(subject.address, requests, connections);
    (cpu(&subject.stat) - before) * 1e6 / requests as f64
}

/// Seconds of CPU of a thread, to the nanosecond the scheduler knows.
fn cpu(schedstat: &str) -> f64 {
    let text = fs::read_to_string(schedstat).expect("schedstat");
    text.split_whitespace().next().and_then(|n| n.parse::<f64>().ok()).expect("a number") / 1e9
}

/// Asks on `connections` connections at once until all is answered; every answer is checked by its length.
fn load(address: SocketAddr, requests: usize, connections: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
    runtime.block_on(async move {
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..connections {
            clients.spawn(async move {
                use tokio::io::{AsyncReadExt, AsyncWriteExt};
                let mut stream = tokio::net::TcpStream::connect(address).await.expect("connect");
                stream.set_nodelay(true).expect("nodelay");
                let mut buffer = vec![0; 8192];
                for _ in 0..requests / connections {
                    stream.write_all(REQUEST).await.expect("write");
                    let mut have = 0;
                    loop {
                        let n = stream.read(&mut buffer[have..]).await.expect("read");
                        assert!(n > 0, "closed: {}", String::from_utf8_lossy(&buffer[..have]));
                        have += n;
                        if let Some(end) = buffer[..have].windows(4).position(|w| w == b"\r\n\r\n")
                            && have >= end + 4 + BODY
                        {
                            assert!(
                                buffer.starts_with(b"HTTP/1.1 200"),
                                "{}",
                                String::from_utf8_lossy(&buffer[..have])
                            );
                            break;
                        }
                    }
                }
            });
        }
        while let Some(result) = clients.join_next().await {
            result.expect("a client");
        }
    });
}

/// Answers every head with the same kilobyte; one thread a connection, which costs the subject nothing.
fn backend() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("address");
    let mut answer =
        format!("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {BODY}\r\n\r\n").into_bytes();
    answer.resize(answer.len() + BODY, b'x');
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            thread::spawn(move || serve(stream, &answer));
        }
    });
    address
}

fn serve(mut stream: TcpStream, answer: &[u8]) {
    let _ = stream.set_nodelay(true);
    let mut buffer = [0; 8192];
    while let Ok(n @ 1..) = stream.read(&mut buffer) {
        if buffer[..n].ends_with(b"\r\n\r\n") && stream.write_all(answer).is_err() {
            break;
        }
    }
}

fn ours(backend: SocketAddr) -> Subject {
    let any = "127.0.0.1:0".parse().expect("address");
    let config = Config { http: any, admin: any, threads: 1, ..Config::default() };
    let sockets = Sockets::bind(&config).expect("sockets");
    let address = sockets.http.address;
    let objects = objects(backend);
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        let (_keep, given) = tokio::sync::watch::channel(objects);
        runtime.block_on(run(config, sockets, Origin::Given(given), std::future::pending())).expect("run");
    });
    let deadline = Instant::now() + Duration::from_secs(5);
    let stat = loop {
        let tasks = fs::read_dir("/proc/self/task").expect("tasks").flatten();
        let named = |path: &std::path::Path| fs::read_to_string(path.join("comm")).is_ok_and(|c| c.trim() == "core-0");
        if let Some(task) = tasks.map(|t| t.path()).find(|path| named(path)) {
            break task.join("schedstat").display().to_string();
        }
        assert!(Instant::now() < deadline, "no serving thread");
        thread::sleep(Duration::from_millis(5));
    };
    Subject { name: "ours", address, stat }
}

fn objects(backend: SocketAddr) -> Objects {
    let mut objects = Objects::default();
    let key = ("default".to_owned(), "web".to_owned());
    let class =
        json!({ "metadata": { "name": "yard" }, "spec": { "controller": switchyard_ingress::table::CONTROLLER } });
    let service =
        json!({ "metadata": { "name": "web", "namespace": "default" }, "spec": { "ports": [{ "port": 80 }] } });
    let slice = json!({ "metadata": { "name": "web", "namespace": "default", "labels": { "kubernetes.io/service-name": "web" } },
        "addressType": "IPv4", "ports": [{ "port": backend.port() }], "endpoints": [{ "addresses": [backend.ip().to_string()] }] });
    let web = json!({ "service": { "name": "web", "port": { "number": 80 } } });
    let paths = json!([{ "path": "/", "pathType": "Prefix", "backend": web }]);
    let rules = json!([{ "host": "sphinx-v1.example.net", "http": { "paths": paths } }]);
    let ingress = json!({ "metadata": { "name": "web", "namespace": "default" }, "spec": { "ingressClassName": "yard", "rules": rules } });
    objects.classes.insert((String::new(), "yard".into()), Arc::new(serde_json::from_value(class).expect("class")));
    objects.services.insert(key.clone(), Arc::new(serde_json::from_value(service).expect("service")));
    objects.slices.insert(key.clone(), Arc::new(serde_json::from_value(slice).expect("slice")));
    objects.ingresses.insert(key, Arc::new(serde_json::from_value(ingress).expect("ingress")));
    objects
}

/// Ends nginx with the bench.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// nginx, configured as its friends would: keep-alive to the backend, no log, one worker, the same forwarding headers.
fn nginx(backend: SocketAddr, folder: &std::path::Path) -> Option<(Subject, Running)> {
    let address = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a port");
    let here = folder.display();
    let text = format!(
        "daemon off; master_process off; worker_processes 1; pid {here}/pid; error_log {here}/error;\n\
         events {{ worker_connections 4096; }}\n\
         http {{ access_log off; keepalive_requests 100000000; client_body_temp_path {here}/b; proxy_temp_path {here}/p;\n\
           fastcgi_temp_path {here}/f; uwsgi_temp_path {here}/u; scgi_temp_path {here}/s;\n\
           upstream web {{ server {backend}; keepalive 128; keepalive_requests 100000000; }}\n\
           server {{ listen {address} reuseport; server_name sphinx-v1.example.net; location / {{\n\
             proxy_pass http://web; proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Host $http_host;\n\
             proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;\n\
             proxy_set_header X-Forwarded-Host $host; proxy_set_header X-Forwarded-Port $server_port;\n\
             proxy_set_header X-Real-IP $remote_addr; proxy_set_header X-Request-Id $request_id; }} }} }}\n"
    );
    let file = folder.join("nginx.conf");
    fs::write(&file, text).expect("configuration");
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder).arg("-c").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
    let child = Running(command.spawn().ok()?);
    let deadline = Instant::now() + Duration::from_secs(5);
    while TcpStream::connect(address).is_err() {
        if Instant::now() > deadline {
            println!("nginx does not answer: {}", fs::read_to_string(folder.join("error")).unwrap_or_default());
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
    let stat = format!("/proc/{}/schedstat", child.0.id());
    Some((Subject { name: "nginx", address, stat }, child))
}
