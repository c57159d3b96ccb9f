//! Bounds on what agents send: a refused report names the bound, a failure's text
//! is cut rather than lost.

use crate::model::fleet::{AppStatus, FAILURE_LOG_BYTES, FAILURE_LOG_LINES};
use crate::wire::problem::{Code, Problem};
use crate::wire::v1::fleet::{HostInfo, Report};
use crate::wire::v1::swarm::PLACE_BYTES_MAX;

/// Most apps of one host.
const APPS_MAX: usize = 256;
/// Most labels of one host.
const LABELS_MAX: usize = 32;
/// Longest key or value of a label, bytes, as `model::selector` reads them.
const LABEL_BYTES_MAX: usize = 63;
/// Longest version text, bytes.
const VERSION_BYTES_MAX: usize = 64;
/// Most artifacts that a host says it holds, per app.
const HELD_MAX: usize = 16;
/// Longest reason of a failure, bytes.
const REASON_BYTES_MAX: usize = 300;

fn refuse(what: &str) -> Problem {
    Problem::new(Code::TooLarge, what)
}

/// Checks who a host says it is.
///
/// # Errors
/// `too_large`, naming the bound.
pub fn check_info(info: &HostInfo) -> Result<(), Problem> {
    if info.labels.len() > LABELS_MAX {
        return Err(refuse("a host has at most 32 labels"));
    }
    let long = |text: &String| text.len() > LABEL_BYTES_MAX;
    if info.labels.iter().any(|(key, value)| long(key) || long(value)) {
        return Err(refuse("a label's key and value have at most 63 bytes"));
    }
    if info.rack.len() > PLACE_BYTES_MAX || info.zone.len() > PLACE_BYTES_MAX {
        return Err(refuse("a rack's and a zone's name have at most 64 bytes"));
    }
    if info.agent_version.len() > VERSION_BYTES_MAX {
        return Err(refuse("an agent's version has at most 64 bytes"));
    }
    Ok(())
}

/// Checks a report and cuts the text of its failures.
///
/// # Errors
/// `too_large`, naming the bound; `forbidden` for an app of another env.
pub fn bound(mut report: Report) -> Result<Report, Problem> {
    check_info(&report.info)?;
    if report.apps.len() > APPS_MAX {
        return Err(refuse("a host has at most 256 apps"));
    }
    for status in &mut report.apps {
        if status.env != report.info.env {
            return Err(Problem::new(Code::Usage, "a host reports on apps of its own env only"));
        }
        cut(status);
    }
    Ok(report)
}

fn cut(status: &mut AppStatus) {
    status.held.truncate(HELD_MAX);
    let Some(failure) = &mut status.failure else { return };
    cut_text(&mut failure.reason, REASON_BYTES_MAX);
    let surplus = failure.log.len().saturating_sub(FAILURE_LOG_LINES);
    failure.log.drain(..surplus);
    let mut room = FAILURE_LOG_BYTES;
    for line in failure.log.iter_mut().rev() {
        cut_text(line, room);
        room -= line.len();
    }
}

fn cut_text(text: &mut String, bytes: usize) {
    text.truncate(text.floor_char_boundary(bytes));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::fleet::{Failure, FailureClass, Phase, Sources};
    use crate::model::goal::GoalVersion;

    fn report() -> Report {
        let failure = Failure {
            class: FailureClass::Release,
            reason: "é".repeat(400),
            log: (0..100).map(|n| format!("{n} {}", "x".repeat(500))).collect(),
        };
        let status = AppStatus {
            app: "api".parse().unwrap(),
            env: "prod".parse().unwrap(),
            version: GoalVersion::default(),
            running: None,
            desired: None,
            phase: Phase::Failed,
            held: vec![],
            pieces: (0, 0),
            sources: Sources::default(),
            failure: Some(failure),
            restarts: 0,
            events: None,
        };
        let info = HostInfo {
            host: "h".parse().unwrap(),
            env: "prod".parse().unwrap(),
            labels: Default::default(),
            rack: String::new(),
            zone: String::new(),
            peer_port: 1,
            agent_version: "0".into(),
        };
        Report { info, apps: vec![status], said: 0 }
    }

    #[test]
    fn a_failures_text_is_cut_to_its_last_lines() {
        let bounded = bound(report()).unwrap();
        let failure = bounded.apps[0].failure.as_ref().unwrap();
        assert_eq!((failure.reason.len(), failure.log.len()), (300, FAILURE_LOG_LINES));
        assert!(failure.log.iter().map(String::len).sum::<usize>() <= FAILURE_LOG_BYTES);
        assert!(failure.log.last().unwrap().starts_with("99 "));
    }

    #[test]
    fn what_is_over_a_bound_is_refused() {
        let mut many = report();
        many.apps = vec![many.apps[0].clone(); APPS_MAX + 1];
        assert_eq!(bound(many).unwrap_err().code, Code::TooLarge);
        let mut labels = report();
        labels.info.labels = (0..33).map(|n| (format!("k{n}"), "v".into())).collect();
        assert_eq!(bound(labels).unwrap_err().code, Code::TooLarge);
        let mut env = report();
        env.apps[0].env = "other".parse().unwrap();
        assert!(bound(env).is_err());
    }
}
