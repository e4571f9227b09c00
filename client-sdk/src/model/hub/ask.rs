//! What the hub says of a file, and what its refusals mean.

use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, HeaderMap, LOCATION};
use reqwest::{Response, StatusCode, Url};

use super::cache::Etag;
use super::name::{self, Repo};
use super::{Hub, HubError, REDIRECTS};

/// What the hub says of a file.
pub(super) struct About {
    pub(super) commit: String,
    pub(super) etag: Etag,
    pub(super) size: u64,
}

impl Hub {
    pub(super) fn url(&self, repo: &Repo, file: &str) -> Url {
        let mut url = self.endpoint.clone();
        // A revision's slashes are not a path's.
        let (name, revision) = (repo.name(), repo.revision().replace('/', "%2F"));
        let before = url.path().trim_end_matches('/').to_owned();
        url.set_path(&format!("{before}/{name}/resolve/{revision}/{file}"));
        url
    }

    pub(super) fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let mut put = |name, value: &str| {
            if let Ok(value) = value.parse() {
                headers.insert(name, value);
            }
        };
        // A coded body has another length and could not be resumed.
        put(ACCEPT_ENCODING, "identity");
        if let Some(token) = &self.token {
            put(AUTHORIZATION, &format!("Bearer {token}"));
        }
        headers
    }

    pub(super) async fn about(&self, repo: &Repo, file: &str) -> Result<About, HubError> {
        let mut url = self.url(repo, file);
        for _ in 0..=REDIRECTS {
            let answer = self.stay.head(url.clone()).headers(self.headers()).send().await;
            let answer =
                answer.map_err(|source| HubError::Unreachable { file: file.to_owned(), source })?;
            let moved = answer.status().is_redirection().then(|| text(&answer, LOCATION.as_str()));
            let next = moved.flatten().and_then(|to| url.join(&to).ok());
            match next.filter(|next| next.origin() == url.origin()) {
                // A repository of a new name. Files elsewhere are already named by this answer.
                Some(next) if !named(&answer) => url = next,
                _ => return self.read_about(repo, file, &answer),
            }
        }
        Err(HubError::Malformed { file: file.to_owned(), header: "Location" })
    }

    fn read_about(&self, repo: &Repo, file: &str, answer: &Response) -> Result<About, HubError> {
        let status = answer.status();
        let direct = status.is_success();
        if !direct && !status.is_redirection() {
            return Err(refusal(repo, file, answer));
        }
        let malformed = |header| move || HubError::Malformed { file: file.to_owned(), header };
        let commit = text(answer, "x-repo-commit").filter(|commit| name::hex(commit, 40));
        let own = |name: &str| if direct { text(answer, name) } else { None };
        let etag = text(answer, "x-linked-etag").or_else(|| own("etag"));
        let size = text(answer, "x-linked-size").or_else(|| own("content-length"));
        Ok(About {
            commit: commit.ok_or_else(malformed("X-Repo-Commit"))?,
            etag: etag.as_deref().and_then(Etag::parse).ok_or_else(malformed("ETag"))?,
            size: size.and_then(|n| n.parse().ok()).ok_or_else(malformed("X-Linked-Size"))?,
        })
    }
}

/// Whether an answer that leads elsewhere says what is there.
fn named(answer: &Response) -> bool {
    ["x-linked-etag", "x-linked-size"].iter().all(|header| text(answer, header).is_some())
}

pub(super) fn text(answer: &Response, header: &str) -> Option<String> {
    Some(answer.headers().get(header)?.to_str().ok()?.to_owned())
}

/// What a status that is no success means.
pub(super) fn refusal(repo: &Repo, file: &str, answer: &Response) -> HubError {
    let (status, file) = (answer.status(), file.to_owned());
    let code = text(answer, "x-error-code");
    match (status, code) {
        (StatusCode::NOT_FOUND, code) => {
            HubError::Missing { repo: repo.clone(), file, code: code.unwrap_or_default() }
        }
        // The hub hides what it has not behind 401.
        (StatusCode::UNAUTHORIZED, Some(code)) if code == "RepoNotFound" => {
            HubError::Missing { repo: repo.clone(), file, code }
        }
        (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, _) => {
            HubError::Refused { repo: repo.clone(), status: status.as_u16() }
        }
        _ => HubError::Status { file, status: status.as_u16() },
    }
}
