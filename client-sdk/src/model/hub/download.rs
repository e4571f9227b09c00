//! One file's bytes, from where they ended the last time.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{CONTENT_RANGE, RANGE};

use super::ask::{About, refusal, text};
use super::cache::{Cache, disk};
use super::name::Repo;
use super::{Hub, HubError};

/// Answers in a row that brought nothing.
const FRUITLESS_MAX: u32 = 3;
const PAUSE: Duration = Duration::from_millis(500);

impl Hub {
    /// Makes a blob. The caller holds its lock.
    pub(super) async fn download(
        &self,
        repo: &Repo,
        file: &str,
        about: &About,
        cache: &Cache,
    ) -> Result<(), HubError> {
        let path = cache.incomplete(&about.etag);
        let parent = path.parent().unwrap_or(&path);
        fs::create_dir_all(parent).map_err(disk(parent))?;
        // Never counts back, so that an end comes whatever is answered.
        let (mut most, mut fruitless) = (0, 0);
        loop {
            let have = path.metadata().map_or(0, |metadata| metadata.len());
            if have == about.size && path.is_file() {
                break;
            }
            let out = File::options().create(true).append(true).open(&path).map_err(disk(&path))?;
            let mut part = Part { out, path: &path, have, file, about };
            if have > about.size {
                part.begin_again().map_err(disk(&path))?;
            }
            most = most.max(part.have);
            match self.part(repo, &mut part).await {
                Ok(()) => {}
                Err(HubError::Unreachable { source, .. }) => {
                    fruitless = if part.have > most { 0 } else { fruitless + 1 };
                    if fruitless == FRUITLESS_MAX {
                        return Err(HubError::Unreachable { file: file.to_owned(), source });
                    }
                    tracing::warn!(file, at = part.have, of = about.size, "the download was cut");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(other) => return Err(other),
            }
        }
        // Large files take seconds.
        let (cache, etag) = (cache.clone(), about.etag.clone());
        let (name, size) = (file.to_owned(), about.size);
        let finished = tokio::task::spawn_blocking(move || cache.finish(&name, &etag, size)).await;
        finished.map_err(|e| disk(&path)(std::io::Error::other(e)))?
    }

    /// Appends one answer's bytes.
    async fn part(&self, repo: &Repo, part: &mut Part<'_>) -> Result<(), HubError> {
        let (file, size) = (part.file, part.about.size);
        let cut = |source| HubError::Unreachable { file: file.to_owned(), source };
        let path = part.path;
        let on_disk = |source| disk(path)(source);
        // By commit, not by revision, which may have moved on since.
        let at = repo.clone().at(&part.about.commit)?;
        let mut ask = self.follow.get(self.url(&at, file)).headers(self.headers());
        if part.have > 0 {
            ask = ask.header(RANGE, format!("bytes={}-", part.have));
        }
        let mut answer = ask.send().await.map_err(cut)?;
        match answer.status() {
            StatusCode::PARTIAL_CONTENT => {
                let range = text(&answer, CONTENT_RANGE.as_str()).unwrap_or_default();
                if !range.starts_with(&format!("bytes {}-", part.have)) {
                    let header = "Content-Range";
                    return Err(HubError::Malformed { file: file.to_owned(), header });
                }
            }
            // All of it, although only the rest was wanted.
            StatusCode::OK => part.begin_again().map_err(on_disk)?,
            _ => return Err(refusal(repo, file, &answer)),
        }
        let (before, whole) = (part.have, answer.status() == StatusCode::OK);
        while let Some(bytes) = answer.chunk().await.map_err(cut)? {
            let found = part.have + bytes.len() as u64;
            if found > size {
                part.begin_again().map_err(on_disk)?;
                return Err(HubError::Length { file: file.to_owned(), expected: size, found });
            }
            part.out.write_all(&bytes).map_err(on_disk)?;
            part.have = found;
        }
        // What ended well and is too short will not be longer the next time.
        let short = if whole { part.have < size } else { part.have == before };
        match short {
            false => Ok(()),
            true => {
                Err(HubError::Length { file: file.to_owned(), expected: size, found: part.have })
            }
        }
    }
}

/// A file while it comes.
struct Part<'a> {
    out: File,
    path: &'a Path,
    have: u64,
    file: &'a str,
    about: &'a About,
}

impl Part<'_> {
    fn begin_again(&mut self) -> std::io::Result<()> {
        self.have = 0;
        self.out.set_len(0)
    }
}
