//! The page's three files, inside the program; named by their digest, so that a
//! browser keeps them until they change.

use std::sync::OnceLock;

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::model::digest::Digest;

const STYLE: &str = include_str!("assets/page.css");
const SCRIPT: &str = include_str!("assets/page.js");
const ICON: &str = include_str!("assets/icon.svg");

/// The names that the files are served under.
pub(super) struct Names {
    pub(super) style: String,
    pub(super) script: String,
    pub(super) icon: String,
}

/// The names of this program's files.
pub(super) fn names() -> &'static Names {
    static NAMES: OnceLock<Names> = OnceLock::new();
    NAMES.get_or_init(|| {
        let name =
            |text: &str, ext| format!("{}.{ext}", &Digest::of(text.as_bytes()).to_string()[..16]);
        Names { style: name(STYLE, "css"), script: name(SCRIPT, "js"), icon: name(ICON, "svg") }
    })
}

/// `GET /assets/{name}`.
pub(super) async fn serve(Path(name): Path<String>) -> Response {
    let names = names();
    let (kind, text) = match name {
        name if name == names.style => ("text/css; charset=utf-8", STYLE),
        name if name == names.script => ("text/javascript; charset=utf-8", SCRIPT),
        name if name == names.icon => ("image/svg+xml", ICON),
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CACHE_CONTROL, "public, max-age=31536000, immutable"),
    ];
    (headers, text).into_response()
}
