//! Three coordinators on one PostgreSQL database, behind what an operator would put before
//! them: kill any, and nothing is lost.

use std::io::copy;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::fleet::{Engines, Fleet, eventually, text};
use crate::killed::OutputInThread;
use crate::{server, stock};

/// A load balancer: each connection goes to the next backend that takes it.
fn balance(backends: Vec<u16>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let turn = AtomicUsize::new(0);
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let first = turn.fetch_add(1, Ordering::Relaxed);
            let order = (0..backends.len()).map(|i| backends[(first + i) % backends.len()]);
            let mut taken = order.filter_map(|port| TcpStream::connect(("127.0.0.1", port)).ok());
            if let Some(backend) = taken.next() {
                join(client, backend);
            }
        }
    });
    port
}

pub(crate) fn join(client: TcpStream, backend: TcpStream) {
    for (mut from, mut to) in
        [(client.try_clone().unwrap(), backend.try_clone().unwrap()), (backend, client)]
    {
        std::thread::spawn(move || {
            let _ = copy(&mut from, &mut to);
            let _ = to.shutdown(Shutdown::Both);
            let _ = from.shutdown(Shutdown::Both);
        });
    }
}

/// The generations that an agent followed, as its own goal file showed them.
pub(crate) fn watch_generations(
    path: std::path::PathBuf,
    stop: Arc<AtomicBool>,
) -> Arc<Mutex<Vec<u64>>> {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let into = seen.clone();
    std::thread::spawn(move || {
        while !stop.load(Ordering::Relaxed) {
            // The document is signed as a string, so its quotes may be escaped.
            let text = std::fs::read_to_string(&path).unwrap_or_default().replace('\\', "");
            let rest = text.split("\"generation\":").nth(1).unwrap_or_default();
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            if let Ok(number) = digits.parse() {
                let mut all = into.lock().unwrap();
                if all.last() != Some(&number) {
                    all.push(number);
                }
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
    });
    seen
}

#[test]
fn coordinators_are_killed_while_deploys_go_on_and_nothing_is_lost() {
    let engines = Engines { database: Some(server::fresh_database()), ..Engines::default() };
    let mut fleet = Fleet::on(&["eu", "us"], engines);
    let mut ports = vec![fleet.port("coordinator")];
    for n in [2, 3] {
        fleet.start_another_coordinator(n);
        ports.push(fleet.port(&format!("coordinator-{n}")));
    }
    fleet.server = format!("http://127.0.0.1:{}", balance(ports));
    let (mut fleet, repository) = stock(fleet, 1);
    let at = repository.folder.clone();
    let stop = Arc::new(AtomicBool::new(false));
    let goal = fleet.root("eu-1").join("apps/api/goal.json");
    let seen = watch_generations(goal, stop.clone());

    let names = ["coordinator", "coordinator-2", "coordinator-3"];
    for round in 0..3 {
        repository.publish(&[("version", &format!("{}", round + 10))], "Next");
        let args = ["deploy", "--yes", "--build", "--bake", "1s", "--timeout", "3m"];
        let waiting = fleet.command(&at, &args).output_in_thread();
        let victim = names[round % names.len()];
        eventually("the rollout runs", || {
            let status = fleet.json(&at, &["status"], 0);
            let state = &status["apps"][0]["rollout"]["state"];
            state == "running" || state == "pending"
        });
        fleet.kill(victim);
        let done = waiting.join().unwrap();
        let story = format!("{}{}", text(&done.stdout), text(&done.stderr));
        assert_eq!(done.status.code(), Some(0), "round {round}, {victim} was killed\n{story}");
        // One comes back; in the last rounds one is left.
        if round == 0 {
            fleet.start_coordinator();
        }
        let wanted = format!("{}", round + 10);
        for host in ["eu-1", "us-1"] {
            let path = fleet.current(host, "api").join("version");
            eventually("the host runs it", || {
                std::fs::read_to_string(&path).is_ok_and(|version| version == wanted)
            });
        }
    }
    stop.store(true, Ordering::Relaxed);
    let seen = seen.lock().unwrap().clone();
    assert!(seen.len() >= 3, "{seen:?}");
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "generations only grow: {seen:?}");
    let history = fleet.json(&at, &["history"], 0);
    let releases = history["releases"].as_array().unwrap().iter();
    let states: Vec<&str> = releases.map(|release| release["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["succeeded"; 3], "{history}");
}
