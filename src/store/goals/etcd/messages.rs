//! etcd's messages as its JSON gateway speaks them: bytes in base64, 64-bit
//! numbers as text, fields that are zero left out.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A key or a value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Base64(pub(super) Vec<u8>);

impl From<&str> for Base64 {
    fn from(text: &str) -> Self {
        Self(text.as_bytes().to_vec())
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&BASE64.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        BASE64.decode(text).map(Self).map_err(D::Error::custom)
    }
}

/// A 64-bit number, which JSON's readers would round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Int(pub(super) u64);

impl Serialize for Int {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_string())
    }
}

impl<'de> Deserialize<'de> for Int {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(D::Error::custom)
    }
}

/// What every answer begins with.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub(super) struct Header {
    /// The store's revision.
    pub(super) revision: Int,
}

/// A stored key.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(super) struct KeyValue {
    pub(super) key: Base64,
    pub(super) value: Base64,
    /// The revision of its last put.
    pub(super) mod_revision: Int,
}

/// `POST /v3/kv/range`: keys from `key` up to and without `range_end`.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct RangeRequest {
    pub(super) key: Base64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) range_end: Option<Base64>,
    pub(super) limit: Int,
    /// As of this revision; 0: the newest.
    pub(super) revision: Int,
    pub(super) min_mod_revision: Int,
}

/// Its answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct RangeReply {
    pub(super) header: Header,
    pub(super) kvs: Vec<KeyValue>,
    pub(super) more: bool,
}

/// `POST /v3/kv/txn`: a put, if nobody put since.
#[derive(Debug, Serialize)]
pub(super) struct TxnRequest {
    compare: [Compare; 1],
    success: [Operation; 1],
    failure: [Operation; 1],
}

#[derive(Debug, Serialize)]
struct Compare {
    key: Base64,
    target: &'static str,
    mod_revision: Int,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
enum Operation {
    RequestPut { key: Base64, value: Base64 },
    RequestRange { key: Base64 },
}

impl TxnRequest {
    /// Puts `value` under `key` if its last put is `seen`'s still (0: it is absent);
    /// else answers with what stands there.
    pub(super) fn put_if(key: &str, seen: Int, value: Vec<u8>) -> Self {
        let name = || Base64::from(key);
        Self {
            compare: [Compare { key: name(), target: "MOD", mod_revision: seen }],
            success: [Operation::RequestPut { key: name(), value: Base64(value) }],
            failure: [Operation::RequestRange { key: name() }],
        }
    }
}

/// Its answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct TxnReply {
    pub(super) header: Header,
    pub(super) succeeded: bool,
    responses: Vec<Response>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Response {
    response_range: RangeReply,
}

impl TxnReply {
    /// What stands under the key, if the put was refused.
    pub(super) fn standing(self) -> Option<KeyValue> {
        self.responses.into_iter().next()?.response_range.kvs.into_iter().next()
    }
}

/// `POST /v3/auth/authenticate`.
#[derive(Debug, Serialize)]
pub(super) struct SignIn<'a> {
    pub(super) name: &'a str,
    pub(super) password: &'a str,
}

/// Its answer.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SignedIn {
    pub(super) token: String,
}

/// `POST /v3/watch`: the keys from `key` up to `range_end`, from now on.
#[derive(Debug, Serialize)]
pub(super) struct WatchRequest {
    pub(super) create_request: Watched,
}

/// What is watched.
#[derive(Debug, Serialize)]
pub(super) struct Watched {
    pub(super) key: Base64,
    pub(super) range_end: Base64,
}

/// One line of a watch: what happened is not read, only that something did.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WatchLine {
    pub(super) result: Option<WatchNews>,
    pub(super) error: Option<serde_json::Value>,
}

/// News of a watch.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct WatchNews {
    pub(super) header: Header,
    pub(super) canceled: bool,
}

/// A refusal.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Refusal {
    /// A code of gRPC.
    pub(super) code: u32,
    pub(super) message: String,
    /// What older releases call the message.
    pub(super) error: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_put_and_its_answers_look_as_the_gateway_wants_them() {
        let put = TxnRequest::put_if("k", Int(7), b"v".to_vec());
        let wanted = serde_json::json!({
            "compare": [{"key": "aw==", "target": "MOD", "mod_revision": "7"}],
            "success": [{"request_put": {"key": "aw==", "value": "dg=="}}],
            "failure": [{"request_range": {"key": "aw=="}}],
        });
        assert_eq!(serde_json::to_value(put).unwrap(), wanted);
        let refused = r#"{"header":{"cluster_id":"9","revision":"12"},"responses":[
            {"response_range":{"kvs":[{"key":"aw==","mod_revision":"11","value":"dg=="}]}}]}"#;
        let refused: TxnReply = serde_json::from_str(refused).unwrap();
        assert!(!refused.succeeded);
        assert_eq!(refused.header.revision, Int(12));
        assert_eq!(refused.standing().unwrap().mod_revision, Int(11));
        assert!(serde_json::from_str::<Int>("\"-1\"").is_err());
        assert!(serde_json::from_str::<Base64>("\"%\"").is_err());
    }
}
