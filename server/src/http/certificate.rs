//! `POST /v1/certificate`: the certificate that this connection shows is the client's from now on.

use axum::extract::{Request, State};
use axum::http::StatusCode;
use gossamer_protocol::problem::ProblemType;

use super::App;
use super::auth::Claim;
use super::peer::Peer;
use super::problem::Refusal;

/// 204, also where it was before. One for other names is refused: the operator can free the client of its own.
pub(crate) async fn renew(State(app): State<App>, request: Request) -> Result<StatusCode, Refusal> {
    let parts = request.into_parts().0;
    let (caller, _) = Claim::read(&app, &parts).await?.prove_key(&app, &parts, b"").await?;
    let Some(shown) = Peer::behind(&parts.extensions).shown()? else {
        let detail = "this server asks for no certificate";
        return Err(Refusal::new(ProblemType::NoCertificate, detail));
    };
    caller.coordinator.bind_certificate(caller.client, shown).await?;
    Ok(StatusCode::NO_CONTENT)
}
