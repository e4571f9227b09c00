//! Who asks: an operator's bearer token, looked up anew each time, so that revoking takes hold at once.

use axum::Extension;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use gossamer_protocol::problem::ProblemType;

use super::Admin;
use crate::audit::Actor;
use crate::coordinator::Coordinator;
use crate::http::peer::Peer;
use crate::http::problem::Refusal;
use crate::operator::{Operator, Role};

/// The operator behind a request.
pub(super) type Caller = Extension<Operator>;

/// Lets operators of `role`, or more, through.
pub(super) async fn must_be(
    State((admin, role)): State<(Admin, Role)>,
    mut request: Request,
    next: Next,
) -> Response {
    if let Err(refused) = Peer::behind(request.extensions()).shown() {
        admin.coordinator.refused(None, false, ProblemType::NoCertificate);
        return refused.into_response();
    }
    match operator(&admin, request.headers(), role).await {
        Ok(operator) => {
            request.extensions_mut().insert(operator);
            next.run(request).await
        }
        Err(refused) => refused.into_response(),
    }
}

/// The operator whose token the headers have, if it is of `role` or more.
pub(super) async fn operator(
    admin: &Admin,
    headers: &HeaderMap,
    role: Role,
) -> Result<Operator, Refusal> {
    let header = headers.get(header::AUTHORIZATION).and_then(|header| header.to_str().ok());
    let token = header.and_then(|header| {
        let (scheme, token) = header.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    let refuse = |kind, detail: String| {
        admin.coordinator.refused(None, false, kind);
        Err(Refusal::new(kind, detail))
    };
    let Some(token) = token else {
        let detail = "expected the header `Authorization: Bearer TOKEN`; \
                      `gossamer-server operator add` makes a token";
        return Err(Refusal::new(ProblemType::NoOperator, detail));
    };
    let Some(operator) = admin.coordinator.operator_of(token).await? else {
        return refuse(ProblemType::NoOperator, "the token is unknown, void or revoked".to_owned());
    };
    if operator.role < role {
        let (has, needs) = (operator.role.name(), role.name());
        let detail = format!("{} is a {has}; this needs the role {needs}", operator.name);
        return refuse(ProblemType::Forbidden, detail);
    }
    Ok(operator)
}

/// The coordinator as `operator` acts through it: it sees the operator's project.
pub(super) fn acting(admin: &Admin, operator: &Operator) -> Coordinator {
    let coordinator = admin.coordinator.within(operator.project.clone());
    coordinator.acting(Actor::Operator(operator.called()))
}

/// Refuses an operator of one project what is about all of them.
pub(super) fn must_see_all(operator: &Operator) -> Result<(), Refusal> {
    let Some(project) = &operator.project else { return Ok(()) };
    let detail = format!("{} is for project {project}; this needs one for all", operator.name);
    Err(Refusal::new(ProblemType::Forbidden, detail))
}
