//! Patches: the next release as a difference to one that a host already has.
//!
//! One codec for a single executable and for a folder: a blob is its files laid
//! end to end. [`make()`] finds where the new blob's bytes stand in the old one
//! ([`align`](self), copies that tolerate scattered differences), predicts what
//! relinking changed, and stores the rest. [`apply()`] turns the old blob and the
//! patch into the new blob, as a stream, in bounded memory. The format is in
//! `docs/format.md`, the reasons in `docs/decisions/0012`.
//!
//! Pure: no clock but the caller's deadline, no async, no paths. The result is
//! not verified here; whoever applies a patch checks the pieces of what it made.

mod align;
mod anchors;
mod apply;
mod blob;
mod coder;
mod copies;
mod differences;
mod elf;
mod encode;
mod executables;
mod fields;
mod frame;
mod go;
mod go_fields;
mod image;
mod mask;
mod plan;
mod predict;
mod seeds;

pub use apply::{ApplyError, apply};
pub use blob::{Blob, FileSpan, Side};
pub use encode::{Budget, Made, MakeError, make};
