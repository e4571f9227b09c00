//! The admin API against its own document.

mod fixtures;
#[path = "fixtures/https.rs"]
mod https;

use std::process::Command;

use gossamer_server::operator::Role;
use https::{TestServer, config};
use reqwest::Method;
use serde_json::Value;

/// Every `$ref` leads somewhere, and every operation says what it gives and has a name of its own.
#[tokio::test]
async fn the_document_is_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = TestServer::start(dir.path(), &config()).await;
    let document = server.got("", Method::GET, "/openapi.json", None).await;
    let mut names = std::collections::BTreeSet::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            let responses = operation["responses"].as_object().expect("responses");
            assert!(responses.keys().any(|status| status.starts_with('2')), "{method} {path}");
            assert!(names.insert(operation["operationId"].to_string()), "{method} {path}");
        }
    }
    let mut stack = vec![&document];
    let mut references = 0;
    while let Some(value) = stack.pop() {
        if let Some(at) = value.get("$ref").and_then(Value::as_str) {
            references += 1;
            assert!(document.pointer(at.trim_start_matches('#')).is_some(), "{at}");
        }
        match value {
            Value::Object(fields) => stack.extend(fields.values()),
            Value::Array(items) => stack.extend(items),
            _ => {}
        }
    }
    assert!(references > 50, "{references}");
    server.close().await;
}

/// Schemathesis asks everything that the document allows, and what it does not: no answer is a 5xx, or has a status, a
/// type or a shape that the document does not tell.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes, and needs Schemathesis (PyPI): GOSSAMER_SCHEMATHESIS names it, or it is on the path"]
async fn schemathesis_finds_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let server = TestServer::start(dir.path(), &config()).await;
    server.operator.create_run(&fixtures::manifest()).await.expect("a run");
    server.enrol(0).await;
    let token = server.token("eva", Role::Admin).await;
    let program = std::env::var_os("GOSSAMER_SCHEMATHESIS").unwrap_or("schemathesis".into());
    let mut command = Command::new(program);
    command
        .current_dir(dir.path()) // It keeps what it finds.
        .args(["run", &server.admin_url("/openapi.json"), "--tls-verify", "false"])
        .args(["--header", &format!("Authorization: Bearer {token}")])
        // The one never ends; the other would void the token that asks.
        .args(["--exclude-path", "/v1/events"])
        .args(["--exclude-operation-id", "delete-v1-operators-name"])
        .args(["--checks", "not_a_server_error,status_code_conformance"])
        .args(["--checks", "content_type_conformance,response_schema_conformance"])
        .args(["--max-examples", "50", "--seed", "1", "--no-color"]);
    let ran = tokio::task::spawn_blocking(move || command.status()).await.expect("no panic");
    let ran = ran.expect("Schemathesis: pip install schemathesis, or GOSSAMER_SCHEMATHESIS");
    assert!(ran.success(), "see above");
    server.close().await;
}
