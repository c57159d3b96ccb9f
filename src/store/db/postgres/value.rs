//! Values on their way to and from PostgreSQL.

use std::error::Error;

use bytes::{BufMut, BytesMut};
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

use crate::store::db::Value;

impl ToSql for Value {
    fn to_sql(
        &self,
        ty: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => return Ok(IsNull::Yes),
            Self::Int(n) => match *ty {
                Type::INT8 => out.put_i64(*n),
                Type::INT4 => out.put_i32(i32::try_from(*n)?),
                Type::INT2 => out.put_i16(i16::try_from(*n)?),
                _ => return Err(format!("a number where {ty} is expected").into()),
            },
            Self::Text(text) if is_text(ty) => put_text(text, out),
            Self::Text(_) => return Err(format!("text where {ty} is expected").into()),
            Self::Bytes(bytes) if *ty == Type::BYTEA => out.put_slice(bytes),
            Self::Bytes(_) => return Err(format!("bytes where {ty} is expected").into()),
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

fn is_text(ty: &Type) -> bool {
    [Type::TEXT, Type::VARCHAR, Type::BPCHAR, Type::NAME, Type::UNKNOWN].contains(ty)
}

/// PostgreSQL can't store the character 0; what holds one (a build's log, an app's last
/// words) is worth more with a mark in its place than refused.
fn put_text(text: &str, out: &mut BytesMut) {
    if text.contains('\0') {
        out.put_slice(text.replace('\0', "\u{fffd}").as_bytes());
    } else {
        out.put_slice(text.as_bytes());
    }
}

/// A number of any width.
pub(in crate::store::db) struct Number(pub(in crate::store::db) i64);

impl<'a> FromSql<'a> for Number {
    fn from_sql(ty: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(match *ty {
            Type::INT2 => i16::from_sql(ty, raw)?.into(),
            Type::INT4 => i32::from_sql(ty, raw)?.into(),
            _ => i64::from_sql(ty, raw)?,
        }))
    }

    fn accepts(ty: &Type) -> bool {
        [Type::INT2, Type::INT4, Type::INT8].contains(ty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_does_not_fit_and_a_type_that_does_not_match_are_refused() {
        let put = |value: Value, ty: Type| value.to_sql(&ty, &mut BytesMut::new()).is_ok();
        assert!(put(Value::Int(i64::MAX), Type::INT8));
        assert!(!put(Value::Int(i64::MAX), Type::INT4));
        assert!(!put(Value::Int(1), Type::TEXT));
        assert!(!put(Value::Text("1".into()), Type::INT8));
        assert!(!put(Value::Bytes(vec![1]), Type::TEXT));
        assert!(put(Value::Null, Type::BYTEA));
    }

    #[test]
    fn the_character_that_postgres_refuses_is_marked() {
        let mut out = BytesMut::new();
        Value::Text("a\0b".into()).to_sql(&Type::TEXT, &mut out).unwrap();
        assert_eq!(&out[..], "a\u{fffd}b".as_bytes());
    }
}
