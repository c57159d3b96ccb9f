//! Values that go into SQL, the same for every engine.

use crate::model::commit::CommitId;
use crate::model::digest::Digest;
use crate::model::id::{
    AppName, EnvName, GateName, HostId, JobNo, RegionName, ReleaseNo, WorkerId,
};
use crate::model::time::UnixMillis;

/// One parameter of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// SQL `NULL`.
    Null,
    /// A 64-bit number; also booleans (0, 1) and instants (Unix milliseconds).
    Int(i64),
    /// Text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// A document as it is kept in a column of text.
pub(crate) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("plain values are plain JSON")
}

/// The parameters of a statement: `values![app, commit, 5]` for `?1`, `?2`, `?3`.
macro_rules! values {
    ($($value:expr),* $(,)?) => { &[$($crate::store::db::Value::from($value)),*] };
}
pub(crate) use values;

macro_rules! from {
    ($($type:ty, $value:ident => $into:expr;)*) => {$(
        impl From<$type> for Value {
            fn from($value: $type) -> Self {
                $into
            }
        }
    )*};
}

from! {
    i64, n => Self::Int(n);
    i32, n => Self::Int(n.into());
    u32, n => Self::Int(n.into());
    u16, n => Self::Int(n.into());
    u64, n => Self::Int(i64::try_from(n).unwrap_or(i64::MAX));
    usize, n => Self::Int(i64::try_from(n).unwrap_or(i64::MAX));
    bool, b => Self::Int(b.into());
    UnixMillis, at => Self::Int(at.0);
    JobNo, no => Self::from(no.0);
    ReleaseNo, no => Self::from(no.0);
    &str, text => Self::Text(text.to_owned());
    &String, text => Self::Text(text.clone());
    String, text => Self::Text(text);
    &[u8], bytes => Self::Bytes(bytes.to_vec());
    Vec<u8>, bytes => Self::Bytes(bytes);
    Digest, digest => Self::Text(digest.to_string());
    &Digest, digest => Self::Text(digest.to_string());
    &CommitId, name => Self::Text(name.as_str().to_owned());
    &AppName, name => Self::Text(name.as_str().to_owned());
    &EnvName, name => Self::Text(name.as_str().to_owned());
    &GateName, name => Self::Text(name.as_str().to_owned());
    &RegionName, name => Self::Text(name.as_str().to_owned());
    &HostId, name => Self::Text(name.as_str().to_owned());
    &WorkerId, name => Self::Text(name.as_str().to_owned());
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}
