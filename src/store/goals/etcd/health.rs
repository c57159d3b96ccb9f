//! How an etcd is: which members answer, how far each is, what it raised alarm for.

use std::time::Duration;

use futures_util::future::join_all;
use serde::Deserialize;
use serde_json::json;

use crate::store::goals::etcd::gateway::{Fault, Gateway};
use crate::store::goals::etcd::messages::{Header, Int};
use crate::wire::v1::goal_store::{GoalStore, StoreMember};

/// Time for one member to answer: longer than a connection that is refused or an answer
/// under load, and short enough for a person who waits.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most bytes of a reason that are kept.
const WORDS_BYTES_MAX: usize = 200;
/// Most kinds of alarm that are told; etcd has two.
const ALARMS_MAX: usize = 8;

/// `POST /v3/maintenance/status`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Status {
    header: Header,
    /// 0: none.
    leader: Int,
}

/// `POST /v3/maintenance/alarm`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Alarms {
    alarms: Vec<Alarm>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Alarm {
    alarm: String,
}

/// Asks every member.
pub(super) async fn of(gateway: &Gateway) -> GoalStore {
    let members = gateway.members();
    let asked = (0..members.len()).map(|member| async move {
        tokio::join!(status(gateway, member), alarms(gateway, member))
    });
    let (members, alarms): (Vec<StoreMember>, Vec<Vec<String>>) =
        join_all(asked).await.into_iter().unzip();
    let mut alarms = alarms.concat();
    alarms.sort();
    alarms.dedup();
    alarms.truncate(ALARMS_MAX);
    GoalStore { members, alarms, ..GoalStore::default() }
}

async fn status(gateway: &Gateway, member: usize) -> StoreMember {
    let asked = gateway.ask::<Status>(member, "/v3/maintenance/status", &json!({}), PATIENCE).await;
    let (revision, trouble) = match asked {
        Ok(status) if status.leader == Int(0) => {
            (status.header.revision.0, "it has no leader".into())
        }
        Ok(status) => (status.header.revision.0, String::new()),
        Err(fault) => (0, words(fault)),
    };
    StoreMember { address: gateway.members()[member].clone(), revision, trouble }
}

/// What an etcd raised alarm for, such as `NOSPACE`; none where the user may not ask.
async fn alarms(gateway: &Gateway, member: usize) -> Vec<String> {
    let body = json!({"action": "GET"});
    let asked = gateway.ask::<Alarms>(member, "/v3/maintenance/alarm", &body, PATIENCE).await;
    let alarms = asked.unwrap_or_default().alarms.into_iter();
    alarms.map(|it| it.alarm).filter(|it| !it.is_empty() && it.len() <= 32).collect()
}

fn words(fault: Fault) -> String {
    let mut why = match fault {
        Fault::Passing(why) | Fault::Token(why) | Fault::Refused(why) => why,
        Fault::Compacted => "its answer made no sense".into(),
    };
    why.truncate(why.floor_char_boundary(WORDS_BYTES_MAX));
    why
}
