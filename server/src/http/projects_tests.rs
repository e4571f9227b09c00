//! Every route of both listeners, asked by one project for what is another's: the answer is the one for what
//! never was. Made of the lists of routes, so that a new route fails here until it says what is foreign to it.

use std::time::Duration;

use axum::body::Body;
use axum::http::{Request, StatusCode};
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::RoundId;
use gossamer_protocol::message::{CheckIn, Enrolment};
use gossamer_protocol::problem::{Problem, ProblemType as P};
use gossamer_protocol::request;
use gossamer_protocol::rotation::NewKey;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tokio::sync::watch;
use tower::ServiceExt as _;

use super::admin::{self, Admin, routes};
use super::*;
use crate::coordinator::tests::fixtures::{id, key, manifest};
use crate::coordinator::tests::world::World;
use crate::operator::Role;
use crate::project::ProjectName;
use crate::tag::{Adapter, TagName};

/// What a path or a body names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Ours,
    Theirs,
    /// Nobody's: it never was.
    Nobodys,
}
use Whose::{Nobodys, Ours, Theirs};

/// The names in paths that are of a project, and those that are not.
const OF_A_PROJECT: [&str; 6] = ["run", "digest", "client", "token", "name", "tag"];
const OF_NONE: [&str; 4] = ["round", "attempt", "held", "file"];

fn project(name: &str) -> ProjectName {
    name.parse().expect("a name")
}

/// Projects "ours" and "theirs", each with a run that closed a round, a client, a token, an operator.
struct Stage {
    world: World,
    ours: Names,
    theirs: Names,
    clients: Router,
    admin: Router,
    _closing: watch::Sender<bool>,
    nonce: u8,
}

struct Names {
    project: &'static str,
    run: String,
    digest: String,
    client: String,
    token: String,
    /// The token's secret.
    secret: String,
    name: String,
    tag: String,
    /// The operator's token.
    bearer: String,
}

impl Names {
    async fn make(world: &World, called: &'static str, b: u8) -> Self {
        let name = project(called);
        world.coordinator.add_project(name.clone()).await.expect("a project");
        let coordinator = world.coordinator.within(Some(name));
        let minute = Duration::from_secs(60);
        let mut terms = manifest();
        (terms.seed, terms.name) = (b.into(), format!("run of {called}"));
        for b in [b, b + 1] {
            let secret = coordinator.new_token(minute).await.expect("a token");
            coordinator.enrol(&Enrolment::new(&secret, &key(b))).await.expect("enrols");
        }
        let run = coordinator.create_run(&terms).await.expect("a run");
        world.tick().await;
        for b in [b, b + 1] {
            world.work(&terms, b).await;
        }
        world.tick().await;
        let secret = coordinator.new_token(minute).await.expect("a token");
        let tokens = coordinator.tokens(10).await.expect("listed");
        let token = tokens.iter().find(|token| token.used == 0).expect("the new one").token;
        let operator = format!("operator-of-{called}").parse().expect("a name");
        let (made, bearer) =
            coordinator.add_operator(operator, Role::Admin, None).await.expect("made");
        let view = coordinator.run(run).await.expect("there");
        assert_eq!(view.round.0, 1, "a round closed");
        let tag: TagName = format!("stable-of-{called}").parse().expect("a name");
        let adapter = Adapter { run, round: RoundId(1) };
        coordinator.set_tag(&tag, adapter).await.expect("tagged");
        let half = 500.try_into().expect("a share");
        coordinator.set_canary(&tag, Some(adapter), half).await.expect("on trial");
        Self {
            project: called,
            run: run.to_string(),
            digest: view.snapshot.to_string(),
            client: id(&key(b)).to_string(),
            token: token.to_string(),
            secret,
            name: made.name.to_string(),
            tag: tag.to_string(),
            bearer,
        }
    }

    /// What a path has for the name in its braces.
    fn of(&self, name: &str) -> &str {
        match name {
            "run" => &self.run,
            "digest" => &self.digest,
            "client" => &self.client,
            "token" => &self.token,
            "name" => &self.name,
            "tag" => &self.tag,
            other => panic!("{other:?} in a path: say here whose it is"),
        }
    }

    /// Nothing that a project's operator is told has these.
    fn secrets(&self) -> [&str; 7] {
        let Self { run, digest, client, token, name, tag, .. } = self;
        [self.project, run, digest, client, token, name, tag]
    }
}

/// What never was, with the form of what is there.
fn nobodys(name: &str) -> &'static str {
    match name {
        "run" => "a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1a1",
        "client" => "b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2b2",
        "digest" => "c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3c3",
        "token" => "d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4d4",
        "name" => "operator-of-nothing",
        "tag" => "stable-of-nothing",
        other => panic!("{other:?} in a path: say here what never was"),
    }
}

/// The names in braces of a path.
fn names(path: &str) -> Vec<&str> {
    path.split('{').skip(1).filter_map(|rest| rest.split('}').next()).collect()
}

impl Stage {
    async fn new() -> Self {
        let world = World::in_memory().await;
        let ours = Names::make(&world, "ours", 10).await;
        let theirs = Names::make(&world, "theirs", 20).await;
        let config = Config::default();
        let closing = watch::Sender::new(false);
        let admin = Admin::new(world.coordinator.clone(), &config, closing.subscribe());
        let clients = router(App::new(world.coordinator.clone(), &config));
        let admin = admin::router(admin);
        Self { world, ours, theirs, clients, admin, _closing: closing, nonce: 0 }
    }

    /// The path with each name of a project as `whose` says, which is asked for each.
    fn path(&self, path: &str, whose: impl Fn(&str) -> Whose) -> String {
        let mut whole = path.to_owned();
        for name in names(path) {
            let value = match (OF_NONE.contains(&name), whose(name)) {
                (true, _) if name == "file" => "adapter_config.json",
                (true, _) if name == "round" => "1",
                (true, _) => "0",
                (false, Ours) => self.ours.of(name),
                (false, Theirs) => self.theirs.of(name),
                (false, Nobodys) => nobodys(name),
            };
            whole = whole.replace(&format!("{{{name}}}"), value);
        }
        whole
    }

    /// What the client of "ours" is answered.
    async fn signed(&mut self, method: &str, path: &str, body: Vec<u8>) -> (StatusCode, String) {
        self.nonce += 1;
        let signed = request::Request { method, path, body: Digest::of(&body) };
        let expires = self.world.coordinator.now().0 + 60_000;
        let header = request::Authorization::sign(&key(10), &signed, [self.nonce; 16], expires);
        let request = Request::builder().method(method).uri(path);
        let request = request.header("authorization", header.to_string());
        let request = request.header("upload-digest", Digest::of(b"").to_string());
        let request = request.header("upload-length", "4").header("upload-offset", "0");
        told(&self.clients, request.body(Body::from(body)).expect("a request")).await
    }

    /// What the operator of "ours" is answered.
    async fn asked(&self, method: &str, path: &str, body: Option<Value>) -> (StatusCode, String) {
        let request = Request::builder().method(method).uri(path);
        let request = request.header("authorization", format!("Bearer {}", self.ours.bearer));
        let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
        told(&self.admin, request.body(Body::from(body)).expect("a request")).await
    }

    /// An answer without the ids that were asked for.
    fn plain(&self, (status, text): (StatusCode, String)) -> (StatusCode, Option<(P, String)>) {
        let Ok(problem) = serde_json::from_str::<Problem>(&text) else {
            assert!(text.is_empty() || text == "[]", "{status}: {text}");
            return (status, None);
        };
        let mut detail = problem.detail;
        for name in OF_A_PROJECT {
            for id in [self.ours.of(name), self.theirs.of(name), nobodys(name)] {
                detail = detail.replace(id, name);
            }
        }
        (status, Some((problem.kind, detail.replace("theirs", "that").replace("nothing", "that"))))
    }
}

/// An answer's status and body; of a stream, what it tells within a moment.
async fn told(router: &Router, request: Request<Body>) -> (StatusCode, String) {
    let answer = router.clone().oneshot(request).await.expect("an answer");
    let (status, mut body) = (answer.status(), answer.into_body());
    let mut text = Vec::new();
    while let Ok(Some(Ok(frame))) =
        tokio::time::timeout(Duration::from_millis(700), body.frame()).await
    {
        text.extend_from_slice(frame.data_ref().expect("data"));
    }
    (status, String::from_utf8_lossy(&text).into_owned())
}

/// Each name of a path alone, and all at once.
fn choices(path: &str) -> Vec<Vec<&str>> {
    for name in names(path) {
        assert!(
            OF_A_PROJECT.contains(&name) || OF_NONE.contains(&name),
            "{path}: whose is {name}?"
        );
    }
    let of: Vec<&str> = names(path).into_iter().filter(|n| OF_A_PROJECT.contains(n)).collect();
    let mut choices: Vec<Vec<&str>> = of.iter().map(|name| vec![*name]).collect();
    if of.len() > 1 {
        choices.push(of);
    }
    choices
}

#[tokio::test]
async fn a_clients_route_knows_nothing_of_another_project() {
    let mut stage = Stage::new().await;
    let body = |path: &str, stage: &Stage, whose: Whose| match path {
        "/v1/check-in" => {
            let run = if whose == Theirs { &stage.theirs.run } else { nobodys("run") };
            serde_json::to_vec(&CheckIn { run: Some(run.parse().expect("an id")) }).expect("JSON")
        }
        // A key for a client of theirs is proven for that one.
        "/v1/key" => {
            let client = if whose == Theirs { &stage.theirs.client } else { nobodys("client") };
            let new = NewKey::new(client.parse().expect("an id"), &key(99));
            serde_json::to_vec(&new).expect("JSON")
        }
        // They name nothing.
        "/v1/keys" | "/v1/certificate" => Vec::new(),
        // A token of theirs is no token for a client of ours.
        "/v1/enrol" => {
            let secret = if whose == Theirs { &stage.theirs.secret } else { "nobody's" };
            serde_json::to_vec(&Enrolment::new(secret, &key(10))).expect("JSON")
        }
        _ => panic!("{path}: say here what its body names"),
    };
    for (methods, path, _) in ROUTES {
        for method in *methods {
            let at = format!("{method} {path}");
            if names(path).is_empty() {
                let (theirs, nobodys) = (body(path, &stage, Theirs), body(path, &stage, Nobodys));
                let theirs = stage.signed(method, path, theirs).await;
                let nobodys = stage.signed(method, path, nobodys).await;
                let theirs = stage.plain(theirs);
                assert_eq!(theirs, stage.plain(nobodys), "{at}");
                let of_all = ["/v1/enrol", "/v1/keys", "/v1/key", "/v1/certificate"].contains(path);
                assert!(theirs.0 == 404 || of_all, "{at}: {theirs:?}");
            }
            for named in choices(path) {
                let mut ask = async |whose: Whose| {
                    let path =
                        stage.path(path, |name| if named.contains(&name) { whose } else { Ours });
                    let part: &[u8] = match *method {
                        "PUT" if path.contains("/evaluations/") => br#"{"targets":1,"loss":1}"#,
                        "PUT" | "PATCH" => b"part",
                        _ => b"",
                    };
                    let told = stage.signed(method, &path, part.to_vec()).await;
                    stage.plain(told)
                };
                let (theirs, nobodys) = (ask(Theirs).await, ask(Nobodys).await);
                assert_eq!(theirs, nobodys, "{at}: {named:?}");
                // Whose update it is, the signer knows.
                let not_yours = named == ["client"];
                assert_eq!(theirs.0, if not_yours { 403 } else { 404 }, "{at}: {named:?}");
            }
        }
    }
}

/// What a request with this body, or these parameters, names of another project.
fn admin_body(path: &str, project: &str, run: &str) -> Option<Value> {
    let manifest = manifest().to_bytes().expect("valid");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    match path {
        "/v1/runs" => Some(json!({ "manifest": manifest, "project": project })),
        "/v1/enrolment-tokens" => Some(json!({ "ttl_s": 60, "project": project })),
        "/v1/operators" => Some(json!({ "name": "new", "role": "viewer", "project": project })),
        "/v1/clients/{client}/revoke" => Some(json!({ "reason": "" })),
        "/v1/projects" => Some(json!({ "name": project })),
        "/v1/runs/{run}/rollback" => Some(json!({ "round": 0 })),
        "/v1/runs/{run}/prune" => Some(json!({ "keep": 1 })),
        // A name that is another's is free here: what is foreign is the run.
        "/v1/tags/{tag}" => Some(json!({ "run": run, "round": 1 })),
        "/v1/tags/{tag}/canary" => Some(json!({ "run": run, "round": 1, "permille": 5 })),
        _ => panic!("{path}: say here what its body names"),
    }
}

fn query(path: &str, project: &str) -> String {
    match path {
        "/v1/operators/{name}"
        | "/v1/tags/{tag}"
        | "/v1/tags/{tag}/canary"
        | "/v1/tags/{tag}/promote" => format!("?project={project}"),
        // Numbers alone, and a client to begin behind, which need not be there.
        "/v1/runs/{run}/rounds"
        | "/v1/runs/{run}/adapter/{file}"
        | "/v1/clients"
        | "/v1/enrolment-tokens"
        | "/v1/audit" => String::new(),
        _ => panic!("{path}: say here what its query names"),
    }
}

#[tokio::test]
async fn an_operators_route_knows_nothing_of_another_project() {
    let stage = Stage::new().await;
    let mut listed = 0;
    for route in routes::ROUTES {
        let at = format!("{} {}", route.method, route.path);
        if route.takes.is_some() && names(route.path).is_empty() {
            let ask = async |project| {
                let body = admin_body(route.path, project, "");
                stage.plain(stage.asked(route.method, route.path, body).await)
            };
            let (theirs, nothing) = (ask("theirs").await, ask("nothing").await);
            assert_eq!(theirs, nothing, "{at}");
            // No operator of a project makes projects.
            let refused = if route.path == "/v1/projects" { 403 } else { 404 };
            assert_eq!(theirs.0, refused, "{at}");
        }
        for named in choices(route.path) {
            let ask = async |whose: Whose, project: &str| {
                let path =
                    stage.path(route.path, |name| if named.contains(&name) { whose } else { Ours });
                let run = if whose == Theirs { &stage.theirs.run } else { nobodys("run") };
                let body = route.takes.and_then(|_| admin_body(route.path, "ours", run));
                let path = match route.query {
                    Some(_) if whose != Ours => path + &query(route.path, project),
                    _ => path,
                };
                stage.plain(stage.asked(route.method, &path, body).await)
            };
            for project in ["ours", "theirs"] {
                let theirs = ask(Theirs, project).await;
                let nothing = if project == "theirs" { "nothing" } else { project };
                assert_eq!(theirs, ask(Nobodys, nothing).await, "{at}: {named:?}");
                assert_eq!(theirs.0, 404, "{at}: {named:?}");
            }
        }
        // What lists, or shows ours, tells of ours alone.
        if route.method == "GET" && route.path != "/openapi.json" {
            let path = stage.path(route.path, |_| Ours);
            let _ = route.query.map(|_| query(route.path, "ours"));
            let (status, text) = stage.asked("GET", &path, None).await;
            let whole = route.path == routes::METRICS;
            assert_eq!(status.is_success(), !whole, "{at}: {status} {text}");
            // Page, style and script are the same for all.
            if route.role.is_some() {
                for foreign in stage.theirs.secrets() {
                    assert!(!text.contains(foreign), "{at} tells {foreign}: {text}");
                }
                listed +=
                    usize::from(stage.ours.secrets()[1..].iter().any(|own| text.contains(own)));
            }
        }
    }
    assert!(listed >= 8, "only {listed} tell of what is ours");
}

#[tokio::test]
async fn what_the_names_stand_for_is_there_for_their_own() {
    let stage = Stage::new().await;
    for route in routes::ROUTES.iter().filter(|route| route.method == "GET") {
        let path = stage.path(route.path, |_| Ours);
        let (status, text) = stage.asked("GET", &path, None).await;
        let fine = status.is_success() || route.path == routes::METRICS;
        assert!(fine, "{} {path}: {status} {text}", route.method);
    }
}

#[tokio::test]
async fn a_projects_clients_share_a_bucket() {
    let mut stage = Stage::new().await;
    let mut config = Config::default();
    config.limits.project = crate::config::Rate { a_second: 1e-3, burst: 2 };
    stage.clients = router(App::new(stage.world.coordinator.clone(), &config));
    let path = stage.path("/v1/runs/{run}/manifest", |_| Ours);
    for _ in 0..2 {
        assert_eq!(stage.signed("GET", &path, Vec::new()).await.0, 200);
    }
    let (status, text) = stage.signed("GET", &path, Vec::new()).await;
    assert_eq!(status, 429, "{text}");
    assert!(text.contains("one project"), "{text}");
}
