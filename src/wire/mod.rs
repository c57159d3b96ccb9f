//! What crosses a process boundary: one set of serde structs, used by both ends.
//!
//! Structs carry codes and fields; the only text for people is a problem's
//! fallback sentence, and the words of `words`. Values from `model` check their own bounds when they are
//! deserialised.

pub mod problem;
pub mod seal;
pub mod v1;
pub mod words;
