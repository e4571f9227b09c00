//! `GET /openapi.json`: the admin API as OpenAPI 3.1, made of the list of routes.

use axum::Json;
use serde_json::{Map, Value, json};

use super::routes::{ROUTES, Route};

pub(super) async fn document() -> Json<Value> {
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.to_lowercase()] = operation(route);
    }
    Json(json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Gossamer admin API",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "MIT OR Apache-2.0" },
        },
        "paths": paths,
        "components": {
            "securitySchemes": { "operator": { "type": "http", "scheme": "bearer" } },
            "responses": { "problem": {
                "description": "A refusal: RFC 9457",
                "content": { "application/problem+json": {
                    "schema": { "$ref": "#/components/schemas/Problem" },
                } },
            } },
            "schemas": { "Problem": {
                "type": "object",
                "required": ["type", "title", "status", "detail"],
                "properties": {
                    "type": { "type": "string", "pattern": "^urn:gossamer:problem:[a-z-]+$" },
                    "title": { "type": "string" },
                    "status": { "type": "integer" },
                    "detail": { "type": "string" },
                    "retry_ms": { "type": "integer" },
                },
            } },
        },
    }))
}

fn operation(route: &Route) -> Value {
    let mut operation = json!({
        "summary": route.does,
        "parameters": parameters(route.path),
        "responses": {
            "2XX": { "description": route.does },
            "default": { "$ref": "#/components/responses/problem" },
        },
    });
    if let Some(role) = route.role {
        operation["security"] = json!([{ "operator": [] }]);
        operation["description"] = json!(format!("Needs the role {}.", role.name()));
    }
    operation
}

/// The names in braces of a path.
fn parameters(path: &str) -> Vec<Value> {
    let names = path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    names
        .map(|name| {
            json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } })
        })
        .collect()
}
