//! `/v1/runs`: create, list, show, pause, resume, abort; closed rounds; the adapter.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use gossamer_protocol::digest::Digest;
use gossamer_protocol::ids::{RoundId, RunId};
use gossamer_protocol::layout::BaseLinear;
use gossamer_protocol::manifest::{Manifest, ManifestError, start_digest};
use gossamer_protocol::problem::ProblemType;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::auth::{Caller, acting};
use super::{Admin, page, query};
use crate::coordinator::{CoordinatorError, Pruned, RunView};
use crate::http::body::{Limits, Share};
use crate::http::problem::Refusal;
use crate::http::records::address;
use crate::project::ProjectName;
use crate::status::Status;
use crate::store::RoundRow;
use crate::tag::Adapter;

/// Most bytes of a run's terms: a layout names every tensor.
const TERMS_MAX: usize = 1 << 22;

type RunPath = Result<Path<RunId>, PathRejection>;

/// `POST /v1/runs`: what `gossamer-server run manifest` prints.
#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewRun {
    /// The manifest, whole: the server reads no file that a request names.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    manifest: Box<RawValue>,
    /// The base model's linears, `{name: [d_in, d_out]}`: an FFA-LoRA run is exported with its
    /// frozen A, whose shapes the layout does not have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    linears: Option<BTreeMap<String, [usize; 2]>>,
    /// Start from this adapter of the same base model and shape, in place of zeros and seeded noise; the manifest's
    /// `start` is then filled in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<Adapter>,
    /// Whose it is to be; none: the caller's project, or the default one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    project: Option<ProjectName>,
}

impl NewRun {
    /// The request that creates `manifest`.
    ///
    /// # Errors
    /// [`ManifestError`] where a field is out of range.
    pub(crate) fn of(manifest: &Manifest, linears: &[BaseLinear]) -> Result<Self, ManifestError> {
        let manifest = serde_json::from_slice(&manifest.to_bytes()?);
        let shape = |l: &BaseLinear| (l.name.clone(), [l.d_in, l.d_out]);
        Ok(Self {
            manifest: manifest.expect("a manifest is written as JSON"),
            linears: Some(linears.iter().map(shape).collect()),
            from: None,
            project: None,
        })
    }
}

/// A run with its terms.
#[derive(Serialize, JsonSchema)]
pub(super) struct RunDetail {
    #[serde(flatten)]
    view: RunView,
    /// The manifest, as signed.
    #[schemars(with = "serde_json::Value")]
    manifest: Box<RawValue>,
}

pub(super) async fn list(
    State(admin): State<Admin>,
    caller: Caller,
) -> Result<Json<Vec<RunView>>, Refusal> {
    Ok(Json(acting(&admin, &caller).runs().await?))
}

pub(super) async fn show(
    State(admin): State<Admin>,
    caller: Caller,
    at: RunPath,
) -> Result<Json<RunDetail>, Refusal> {
    let (run, coordinator) = (address(at)?, acting(&admin, &caller));
    let view = coordinator.run(run).await?;
    let signed = coordinator.manifest(run).await?;
    let manifest =
        serde_json::from_slice(&signed.bytes).expect("a manifest was parsed to be there");
    Ok(Json(RunDetail { view, manifest }))
}

/// 201, or 200 where there was that run already.
pub(super) async fn create(
    State(admin): State<Admin>,
    caller: Caller,
    request: Request,
) -> Result<(StatusCode, Json<RunView>), Refusal> {
    let (parts, body) = request.into_parts();
    let new: NewRun = admin.message(&parts.headers, body, TERMS_MAX).await?;
    let malformed = |e: ManifestError| {
        let detail = format!("manifest: {}", crate::problem::told(&e));
        Refusal::new(ProblemType::BadRequest, detail)
    };
    let mut manifest = Manifest::from_bytes(new.manifest.get().as_bytes()).map_err(malformed)?;
    let linear = |(name, [d_in, d_out]): (String, [usize; 2])| BaseLinear { name, d_in, d_out };
    let linears: Option<Vec<BaseLinear>> =
        new.linears.map(|shapes| shapes.into_iter().map(linear).collect());
    let coordinator = acting(&admin, &caller).narrowed(new.project).await?;
    let start = match new.from {
        None => None,
        Some(Adapter { run, round }) => {
            let (of, theta) = coordinator.adapter(run, round).await?;
            let same = of.base.digest == manifest.base.digest
                && (&of.layout, &of.lora) == (&manifest.layout, &manifest.lora);
            if !same {
                let detail = "from: expected an adapter of the same base model, layout and scale";
                return Err(Refusal::new(ProblemType::BadRequest, detail));
            }
            manifest.start = Some(start_digest(&theta));
            Some(theta)
        }
    };
    let id = RunId::of(Digest::of(&manifest.to_bytes().map_err(malformed)?));
    let known = coordinator.run(id).await.is_ok();
    let run = coordinator.create_run_from(&manifest, linears.as_deref(), start).await?;
    let view = coordinator.run(run).await?;
    if view.status.is_over() {
        let why = format!("made from the same manifest, {}: give another seed", view.status.name());
        return Err(CoordinatorError::RunOver { run, why }.into());
    }
    Ok((if known { StatusCode::OK } else { StatusCode::CREATED }, Json(view)))
}

pub(super) async fn pause(
    State(admin): State<Admin>,
    caller: Caller,
    at: RunPath,
) -> Result<Json<RunView>, Refusal> {
    set(&admin, &caller, address(at)?, Status::Paused).await
}

pub(super) async fn resume(
    State(admin): State<Admin>,
    caller: Caller,
    at: RunPath,
) -> Result<Json<RunView>, Refusal> {
    set(&admin, &caller, address(at)?, Status::Running).await
}

pub(super) async fn abort(
    State(admin): State<Admin>,
    caller: Caller,
    at: RunPath,
) -> Result<Json<RunView>, Refusal> {
    set(&admin, &caller, address(at)?, Status::Aborted).await
}

/// Where a run goes back to.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Back {
    /// The round that started from the adapter that is wanted.
    #[schemars(with = "u64")]
    round: RoundId,
}

/// The run must be paused.
pub(super) async fn roll_back(
    State(admin): State<Admin>,
    caller: Caller,
    at: RunPath,
    request: Request,
) -> Result<Json<RunView>, Refusal> {
    let run = address(at)?;
    let (parts, body) = request.into_parts();
    let Back { round } = admin.message(&parts.headers, body, 1 << 14).await?;
    let coordinator = acting(&admin, &caller);
    coordinator.roll_back(run, round).await?;
    Ok(Json(coordinator.run(run).await?))
}

async fn set(
    admin: &Admin,
    caller: &Caller,
    run: RunId,
    to: Status,
) -> Result<Json<RunView>, Refusal> {
    let coordinator = acting(admin, caller);
    let stands = coordinator.set_status(run, to).await?;
    if stands == to {
        return Ok(Json(coordinator.run(run).await?));
    }
    let why = format!("it is {} and stays so", stands.name());
    Err(CoordinatorError::RunOver { run, why }.into())
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Rounds {
    #[schemars(with = "Option<u64>")]
    from: Option<RoundId>,
    limit: Option<u32>,
}

pub(super) async fn rounds(
    State(admin): State<Admin>,
    caller: Caller,
    at: RunPath,
    asked: Result<Query<Rounds>, QueryRejection>,
) -> Result<Json<Vec<RoundRow>>, Refusal> {
    let (run, Rounds { from, limit }) = (address(at)?, query(asked)?);
    let limit = page(limit, 1_000)?;
    Ok(Json(acting(&admin, &caller).rounds(run, from.unwrap_or(RoundId(0)), limit).await?))
}

/// What is to be kept.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Prune {
    /// So many of the last rounds.
    keep: std::num::NonZeroU32,
    /// Only tell what would go.
    #[serde(default)]
    dry_run: bool,
}

pub(super) async fn prune(
    State(admin): State<Admin>,
    caller: Caller,
    at: RunPath,
    request: Request,
) -> Result<Json<Pruned>, Refusal> {
    let run = address(at)?;
    let (parts, body) = request.into_parts();
    let Prune { keep, dry_run } = admin.message(&parts.headers, body, 1 << 14).await?;
    Ok(Json(acting(&admin, &caller).prune(run, keep, dry_run).await?))
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// The round that starts from the adapter; none: the latest.
    #[schemars(with = "Option<u64>")]
    round: Option<RoundId>,
}

/// A file of an adapter, as PEFT keeps it.
pub(super) async fn adapter(
    State(admin): State<Admin>,
    caller: Caller,
    at: Result<Path<(RunId, String)>, PathRejection>,
    asked: Result<Query<Which>, QueryRejection>,
) -> Result<Response, Refusal> {
    let ((run, wanted), Which { round }) = (address(at)?, query(asked)?);
    let coordinator = acting(&admin, &caller);
    let files = match round {
        Some(round) => coordinator.export_round(run, round).await?,
        None => coordinator.export(run).await?,
    };
    let names: Vec<&str> = files.iter().map(|(name, _)| name).collect();
    let Some((_, bytes)) = files.iter().find(|(name, _)| *name == wanted) else {
        let detail = format!("expected one of {}", names.join(", "));
        return Err(Refusal::new(ProblemType::NoRoute, detail));
    };
    let mut share = Share::default();
    admin.bodies.grow(&mut share, bytes.len())?;
    let held = Limits::hold(bytes.to_vec().into(), share).shared();
    let kind =
        if wanted.ends_with(".json") { "application/json" } else { "application/octet-stream" };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(kind)),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((headers, held).into_response())
}
