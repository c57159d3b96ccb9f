//! `/v1/openapi.json`: the API's own description, made from the route table.

use axum::Extension;
use axum::extract::State;
use serde_json::{Map, Value, json};

use crate::coordinator::router::{Route, get, table};
use crate::coordinator::state::Shared;
use crate::net::auth::Identity;
use crate::net::server::Json;
use crate::rules::authorize::{Class, roles};
use crate::wire::v1::version::Version;

pub(super) fn routes() -> Vec<Route> {
    vec![
        get("/v1/openapi.json", Class::Read, show).says("Describe this API, as OpenAPI 3.1"),
        get("/v1/version", Class::Read, version)
            .says("Tell the coordinator's version and clock, and who asks")
            .gives("Version"),
    ]
}

async fn version(
    State(shared): State<Shared>,
    Extension(who): Extension<Identity>,
) -> Json<Version> {
    let Identity { name, role, .. } = who;
    let version = env!("CARGO_PKG_VERSION").to_owned();
    Json(Version { version, api: "v1".into(), now: shared.steady_now(), name, role })
}

async fn show() -> Json<Value> {
    Json(document(&table()))
}

/// The OpenAPI 3.1 document of `routes`.
pub(super) fn document(routes: &[Route]) -> Value {
    let mut paths: Map<String, Value> = Map::new();
    let mut bodies: Map<String, Value> = Map::new();
    for route in routes {
        let entry = paths.entry(route.path).or_insert_with(|| json!({}));
        entry[route.method.as_str().to_lowercase()] = operation(route);
        for name in [route.request, route.reply].into_iter().filter(|name| !name.is_empty()) {
            let description = format!("The struct {name} of wire::v1; fields may be added.");
            bodies.insert(name.into(), json!({ "type": "object", "description": description }));
        }
    }
    let problem = json!({
        "type": "object",
        "description": "RFC 9457: what was refused, why, and what to type next.",
        "required": ["code", "title"],
        "properties": {
            "code": { "type": "string" },
            "title": { "type": "string" },
            "detail": { "type": "string" },
            "hints": { "type": "array", "items": { "type": "string" } },
            "request_id": { "type": "string" },
        },
    });
    bodies.insert("Problem".into(), problem);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "deployctl coordinator",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Numbers of builds are b12, of releases r411; instants RFC 3339 UTC; digests and commits lower-case hex.",
        },
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer", "bearerFormat": "dct_<id>_<secret>" } },
            "schemas": bodies,
        },
    })
}

fn operation(route: &Route) -> Value {
    let body = |name: &str| json!({ "application/json": { "schema": { "$ref": format!("#/components/schemas/{name}") } } });
    let allowed: Vec<&str> = roles(route.class).map(|role| role.word()).collect();
    let mut reply = json!({ "description": "done" });
    if !route.reply.is_empty() {
        reply["content"] = body(route.reply);
    }
    let refusal = json!({
        "description": "refused",
        "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
    });
    let mut operation = json!({
        "summary": route.summary,
        "operationId": operation_id(route),
        "x-roles": allowed,
        "parameters": parameters(route.path),
        "responses": { "200": reply, "default": refusal },
    });
    if !route.request.is_empty() {
        operation["requestBody"] = json!({ "required": true, "content": body(route.request) });
    }
    operation
}

fn operation_id(route: &Route) -> String {
    let words = route.path.split(['/', '{', '}', '.']).filter(|word| !word.is_empty());
    let words: Vec<&str> = words.skip(1).collect();
    format!("{}_{}", route.method.as_str().to_lowercase(), words.join("_"))
}

fn parameters(path: &str) -> Vec<Value> {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    names
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_is_in_the_document_with_a_summary_and_a_unique_id() {
        let routes = table();
        let document = document(&routes);
        let mut ids = std::collections::BTreeSet::new();
        for route in &routes {
            let at = &document["paths"][route.path][route.method.as_str().to_lowercase()];
            assert!(!at["summary"].as_str().unwrap().is_empty(), "{}", route.path);
            assert!(!at["x-roles"].as_array().unwrap().is_empty());
            assert!(ids.insert(at["operationId"].as_str().unwrap().to_owned()), "{}", route.path);
        }
    }
}
