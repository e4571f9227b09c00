//! Every route, asked by everybody.

use axum::http::{Request, StatusCode};
use gossamer_protocol::problem::Problem;
use gossamer_protocol::sign::SigningKey;
use http_body_util::BodyExt as _;
use tower::ServiceExt as _;

use super::*;
use crate::clock::SystemClock;
use crate::operator::Role;
use crate::store::Store;

const ROLES: [Role; 3] = [Role::Viewer, Role::Operator, Role::Admin];

async fn ask(
    router: &Router,
    route: &routes::Route,
    token: Option<&str>,
) -> (StatusCode, Option<P>) {
    let zeros = "0".repeat(32);
    let path = route
        .path
        .replace("{run}", &zeros)
        .replace("{client}", &zeros)
        .replace("{token}", &"0".repeat(64))
        .replace("{name}", "nobody")
        .replace("{tag}", "nothing")
        .replace("{file}", "adapter_config.json");
    let request = Request::builder().method(route.method).uri(path);
    let request =
        token.iter().fold(request, |r, t| r.header("authorization", format!("Bearer {t}")));
    let answer = router.clone().oneshot(request.body(Body::empty()).expect("a request")).await;
    let answer = answer.expect("an answer");
    let status = answer.status();
    if status.is_success() {
        return (status, None); // a stream of events has no end
    }
    let body = answer.into_body().collect().await.expect("a body").to_bytes();
    let problem: Problem = serde_json::from_slice(&body).expect("a problem document");
    assert_eq!(problem.status, status.as_u16());
    (status, Some(problem.kind))
}

use ProblemType as P;

#[tokio::test]
async fn every_route_is_refused_below_its_role_and_known_above_it() {
    let store = Store::in_memory().await.expect("a store");
    let key = SigningKey::from_seed(&[1; 32]);
    let coordinator = Coordinator::open(store, key, Arc::new(SystemClock)).await.expect("opens");
    let mut tokens = Vec::new();
    for role in ROLES {
        let name = role.name().parse().expect("a name");
        tokens.push(coordinator.add_operator(name, role, None).await.expect("made").1);
    }
    let closing = watch::Sender::new(false);
    let router = router(Admin::new(coordinator.clone(), &Config::default(), closing.subscribe()));
    let document = openapi::document().await.0;
    for route in routes::ROUTES {
        let at = format!("{} {}", route.method, route.path);
        let told = &document["paths"][route.path][route.method.to_lowercase()]["responses"];
        let told =
            |status: StatusCode| assert!(told[status.as_str()].is_object(), "{at}: {status}");
        let Some(needs) = route.role else {
            let (status, _) = ask(&router, route, None).await;
            assert!(status.is_success(), "{at}");
            told(status);
            continue;
        };
        for token in [None, Some("x"), Some("gossamer-operator-x")] {
            assert_eq!(ask(&router, route, token).await.1, Some(P::NoOperator), "{at}");
        }
        for (role, token) in ROLES.iter().zip(&tokens) {
            let (status, problem) = ask(&router, route, Some(token)).await;
            told(status);
            if *role < needs {
                assert_eq!(problem, Some(P::Forbidden), "{at} {role:?}");
            } else {
                let met = [P::BadRequest, P::UnknownRun, P::UnknownClient, P::UnknownName];
                let fine = status.is_success() || problem.is_some_and(|p| met.contains(&p));
                assert!(fine, "{at} {role:?}: {status} {problem:?}");
            }
        }
    }
    let nobody = "viewer".parse().expect("a name");
    coordinator.revoke_operator(&nobody).await.expect("revoked");
    let first = routes::ROUTES.iter().find(|route| route.role.is_some()).expect("some");
    assert_eq!(ask(&router, first, Some(&tokens[0])).await.1, Some(P::NoOperator), "at once");
}
