//! What every process tells an OpenTelemetry collector, and that one that is away is no loss.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};

use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;

use crate::fleet::{Engines, Fleet, eventually};
use crate::ports::free_port;
use crate::stock;

/// One span and the service that sent it.
#[derive(Clone)]
struct Told {
    service: String,
    span: Span,
}

impl Told {
    fn text(&self, key: &str) -> String {
        let found = self.span.attributes.iter().find(|pair| pair.key == key);
        match found.and_then(|pair| pair.value.clone()?.value) {
            Some(Value::StringValue(text)) => text,
            Some(Value::IntValue(number)) => number.to_string(),
            _ => String::new(),
        }
    }
}

/// A collector as OTLP over HTTP describes it: takes what decodes, refuses all else.
struct Collector {
    port: u16,
    told: Arc<Mutex<Vec<Told>>>,
}

impl Collector {
    fn start(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let told = Arc::new(Mutex::new(vec![]));
        let into = told.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let into = into.clone();
                std::thread::spawn(move || while export(&stream, &into).is_some() {});
            }
        });
        Self { port, told }
    }

    fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }
}

/// Takes one request of a connection; `None`: it was the last.
fn export(mut stream: &TcpStream, into: &Mutex<Vec<Told>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut head = vec![];
    while !head.last().is_some_and(String::is_empty) {
        let mut line = String::new();
        (reader.read_line(&mut line).ok()? > 0).then_some(())?;
        head.push(line.trim().to_ascii_lowercase());
    }
    assert_eq!(head[0], "post /v1/traces http/1.1");
    assert!(head.contains(&"content-type: application/x-protobuf".into()), "{head:?}");
    let length = head.iter().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length?.parse().ok()?];
    reader.read_exact(&mut body).ok()?;
    let request = ExportTraceServiceRequest::decode(&body[..]).unwrap();
    for of_service in request.resource_spans {
        let attributes = of_service.resource.unwrap().attributes;
        let named = attributes.iter().find(|pair| pair.key == "service.name").unwrap();
        let Some(Value::StringValue(service)) = named.value.clone().unwrap().value else {
            panic!("a service has a name");
        };
        let spans = of_service.scope_spans.into_iter().flat_map(|scope| scope.spans);
        into.lock().unwrap().extend(spans.map(|span| Told { service: service.clone(), span }));
    }
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").ok()
}

fn fleet_telling(collector: String) -> (Fleet, crate::Repository) {
    let engines = Engines { collector: Some(collector), ..Engines::default() };
    stock(Fleet::on(&["eu", "us"], engines), 1)
}

#[test]
fn a_command_a_build_and_a_replication_are_traces() {
    let collector = Collector::start(free_port());
    let (mut fleet, repository) = fleet_telling(collector.url());
    let at = &repository.folder;
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let pipeline = format!("00-{trace}-b7ad6b7169203331-01");
    let mut build = fleet.command(at, &["build", "HEAD"]);
    assert!(build.env("TRACEPARENT", pipeline).status().unwrap().success());
    fleet.expect(at, &["deploy", "--yes", "--plan", "all-at-once"], 0);
    // What a process has not sent yet leaves when it is told to stop.
    for name in ["worker-1", "region-eu", "coordinator"] {
        fleet.stop(name);
    }
    let told = collector.told();
    let of = |service: &str, name: &str| {
        let is = |it: &&Told| it.service == format!("deployctl-{service}") && it.span.name == name;
        told.iter().filter(is).cloned().collect::<Vec<_>>()
    };

    let asked = of("coordinator", "POST /v1/apps/{app}/builds");
    let names: Vec<_> =
        told.iter().map(|it| (it.service.as_str(), it.span.name.as_str())).collect();
    assert_eq!(asked.len(), 1, "{names:?}");
    assert_eq!(hex(&asked[0].span.trace_id), trace, "the pipeline's trace goes on");
    assert_eq!(hex(&asked[0].span.parent_span_id), "b7ad6b7169203331");
    assert_eq!(asked[0].span.kind, 2, "a server's");
    assert_eq!(asked[0].text("http.route"), "/v1/apps/{app}/builds");
    assert!(asked[0].text("http.response.status_code").starts_with("20"));
    assert!(!asked[0].text("request_id").is_empty());
    let commands = of("coordinator", "POST /v1/apps/{app}/envs/{env}/rollouts");
    assert_ne!(hex(&commands[0].span.trace_id), trace, "another command is another trace");

    let attempt = &of("worker", "attempt")[0];
    assert_eq!(
        (attempt.text("app").as_str(), attempt.text("outcome").as_str()),
        ("api", "succeeded")
    );
    for step in ["checkout", "build", "pack", "publish"] {
        assert_eq!(of("worker", step)[0].span.parent_span_id, attempt.span.span_id, "{step}");
    }
    let within = |it: &&Told| it.span.trace_id == attempt.span.trace_id;
    let calls = told.iter().filter(within).filter(|it| it.service == "deployctl-coordinator");
    assert!(calls.count() > 0, "the worker's calls are in its trace");
    assert_eq!(of("region", "replicate").len(), 2, "the regions' copies of one artifact");

    let secrets = [fleet.path("").display().to_string(), "dct_".into()];
    for it in &told {
        let said = format!("{:?}", it.span);
        assert!(!secrets.iter().any(|secret| said.contains(secret)), "{said}");
    }
    assert!(!fleet.log("worker-1").contains("attempt{"), "log lines are as they were");
}

#[test]
fn a_collector_that_is_away_stops_nothing_and_is_told_once() {
    let port = free_port();
    let (mut fleet, repository) = fleet_telling(format!("http://127.0.0.1:{port}"));
    let at = repository.folder.clone();
    fleet.expect(&at, &["deploy", "--yes", "--build", "--plan", "all-at-once"], 0);
    let said = |fleet: &Fleet| fleet.log("coordinator").matches("takes no spans").count();
    eventually("it is told", || said(&fleet) == 1);

    let collector = Collector::start(port);
    eventually("it is noticed when it is there", || {
        fleet.expect(&at, &["status"], 0);
        fleet.log("coordinator").contains("takes spans again")
    });
    assert!(collector.told().iter().any(|it| it.span.name.starts_with("GET /v1/")));
    assert_eq!(said(&fleet), 1);
    fleet.stop("coordinator");
}

#[test]
fn an_address_that_is_none_is_said_and_the_process_runs() {
    let (fleet, repository) = fleet_telling("collector".into());
    fleet.expect(&repository.folder, &["status"], 0);
    assert!(fleet.log("coordinator").contains("no spans of deployctl-coordinator leave"));
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Fleet {
    /// SIGTERM, and waits for a good end.
    fn stop(&mut self, name: &str) {
        let child = self.child(name);
        let id = child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        assert!(child.wait().unwrap().success(), "{name}: {}", self.log(name));
    }
}
