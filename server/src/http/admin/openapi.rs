//! `GET /openapi.json`: the admin API as OpenAPI 3.1, made of the list of routes and of the types they take and give.

use std::collections::{BTreeMap, BTreeSet};

use axum::Json;
use gossamer_protocol::problem::ProblemType as P;
use schemars::generate::{Contract, SchemaSettings};
use schemars::{Schema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::routes::{Gives, ROUTES, Route};
use crate::problem::status;

/// What any route may refuse: the server's own state.
const ALWAYS: [P; 3] = [P::Busy, P::StoreFull, P::Internal];
/// What any route with a role may refuse.
const WITH_ROLE: [P; 3] = [P::NoOperator, P::Forbidden, P::NoCertificate];

pub(super) async fn document() -> Json<Value> {
    let mut schemas =
        Schemas { taken: generator(Contract::Deserialize), given: generator(Contract::Serialize) };
    let mut paths = Map::new();
    for route in ROUTES {
        let path = paths.entry(route.path).or_insert_with(|| json!({}));
        path[route.method.to_lowercase()] = operation(route, &mut schemas);
    }
    let Schemas { mut taken, mut given } = schemas;
    // What both have is the same both ways: names and numbers.
    let mut schemas = taken.take_definitions(true);
    schemas.extend(given.take_definitions(true));
    schemas.insert("Problem".to_owned(), problem());
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
            "schemas": schemas,
        },
    }))
}

/// Of what callers send, where a field with a default may be missing, and of what they get, where one that is left out
/// may be.
struct Schemas {
    taken: SchemaGenerator,
    given: SchemaGenerator,
}

fn generator(contract: Contract) -> SchemaGenerator {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.contract = contract;
    settings.into_generator()
}

/// RFC 9457, with the names that there are.
fn problem() -> Value {
    let names: Vec<&str> = P::ALL.iter().map(|kind| kind.uri()).collect();
    json!({
        "type": "object",
        "description": "A refusal: RFC 9457",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": { "type": "string", "enum": names },
            "title": { "type": "string" },
            "status": { "type": "integer" },
            "detail": { "type": "string" },
            "retry_ms": { "type": "integer", "description": "When to try again, where that can help" },
        },
    })
}

fn operation(route: &Route, schemas: &mut Schemas) -> Value {
    let Schemas { taken, given } = schemas;
    let mut parameters = in_path(route.path);
    if let Some(query) = route.query {
        let query = query(taken);
        parameters.extend(in_query(&query, taken));
    }
    let mut operation = json!({
        "summary": route.does,
        "operationId": name(route),
        "parameters": parameters,
        "responses": responses(route, given),
    });
    if let Some(role) = route.role {
        operation["security"] = json!([{ "operator": [] }]);
        operation["description"] = json!(format!("Needs the role {}.", role.name()));
    }
    if let Some(takes) = route.takes {
        let content = json!({ "application/json": { "schema": takes(taken) } });
        operation["requestBody"] = json!({ "required": true, "content": content });
    }
    operation
}

/// `get-v1-runs-run`.
fn name(route: &Route) -> String {
    let words = route.path.split(['/', '.']).map(|word| word.trim_matches(['{', '}']));
    let words = words.filter(|word| !word.is_empty());
    std::iter::once(route.method.to_lowercase().as_str()).chain(words).collect::<Vec<_>>().join("-")
}

/// By status: what it gives, and what it refuses, with the problems' names.
fn responses(route: &Route, generator: &mut SchemaGenerator) -> Value {
    let mut by_status: BTreeMap<u16, Value> = BTreeMap::new();
    for Gives(status, kind, schema) in route.gives {
        let response =
            by_status.entry(*status).or_insert_with(|| json!({ "description": route.does }));
        if !kind.is_empty() {
            let schema = schema.map(|schema| json!({ "schema": schema(generator) }));
            response["content"][*kind] = schema.unwrap_or_else(|| json!({}));
        }
    }
    let with_role = WITH_ROLE.iter().filter(|_| route.role.is_some());
    let mut refused: BTreeMap<u16, BTreeSet<&str>> = BTreeMap::new();
    for kind in route.refuses.iter().chain(with_role).chain(&ALWAYS) {
        refused.entry(status(*kind)).or_default().insert(kind.uri());
    }
    for (status, names) in refused {
        let names = names.into_iter().collect::<Vec<_>>().join(", ");
        let response = by_status.entry(status).or_insert_with(|| json!({ "description": names }));
        response["content"]["application/problem+json"] =
            json!({ "schema": { "$ref": "#/components/schemas/Problem" } });
    }
    let by_status = by_status.into_iter().map(|(status, value)| (status.to_string(), value));
    Value::Object(by_status.collect())
}

/// The names in braces of a path.
fn in_path(path: &str) -> Vec<Value> {
    let names = path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    names
        .map(|name| {
            let schema = match name {
                "run" | "client" => json!({ "type": "string", "pattern": "^[0-9a-f]{32}$" }),
                "token" => json!({ "type": "string", "pattern": "^[0-9a-f]{64}$" }),
                "tag" => json!({ "type": "string", "pattern": "^[0-9a-z][0-9a-z_.-]{0,63}$" }),
                _ => json!({ "type": "string", "pattern": "^[0-9A-Za-z_.@-]{1,64}$" }),
            };
            json!({ "name": name, "in": "path", "required": true, "schema": schema })
        })
        .collect()
}

/// A type's fields, each a parameter.
fn in_query(schema: &Schema, generator: &SchemaGenerator) -> Vec<Value> {
    let whole = schema.as_value();
    let name = whole.get("$ref").and_then(Value::as_str).and_then(|at| at.rsplit('/').next());
    let whole = name.and_then(|name| generator.definitions().get(name)).unwrap_or(whole);
    let fields = whole.get("properties").and_then(Value::as_object);
    let fields = fields.into_iter().flatten();
    fields.map(|(name, schema)| json!({ "name": name, "in": "query", "schema": schema })).collect()
}
