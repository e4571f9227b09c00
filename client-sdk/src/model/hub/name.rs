//! What is asked for: a repository at a revision, and a file in it. Each becomes part of paths and
//! addresses, so what could lead elsewhere cannot be built.

use std::fmt;
use std::str::FromStr;

use super::HubError;

/// Where a repository stands when nothing else is said.
const MAIN: &str = "main";
const NAME_MAX: usize = 96;

/// A model's repository, `owner/name`, or `name` alone, at a revision: `owner/name@revision`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Repo {
    name: String,
    revision: String,
}

impl Repo {
    /// At `main`.
    ///
    /// # Errors
    /// [`HubError::Name`] where it is no such name.
    pub fn new(name: &str) -> Result<Self, HubError> {
        let parts: Vec<&str> = name.split('/').collect();
        let sound = parts.len() <= 2 && name.len() <= NAME_MAX && parts.iter().all(|p| plain(p));
        // The cache has `--` for `/`.
        match sound && !name.contains("--") {
            true => Ok(Self { name: name.to_owned(), revision: MAIN.to_owned() }),
            false => Err(HubError::Name(name.to_owned())),
        }
    }

    /// At a branch, a tag or a commit.
    ///
    /// # Errors
    /// [`HubError::Name`] where it cannot be one.
    pub fn at(self, revision: &str) -> Result<Self, HubError> {
        match revision.len() <= 255 && revision.split('/').all(plain) {
            true => Ok(Self { revision: revision.to_owned(), ..self }),
            false => Err(HubError::Name(revision.to_owned())),
        }
    }

    /// `owner/name`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The branch, tag or commit.
    #[must_use]
    pub fn revision(&self) -> &str {
        &self.revision
    }

    /// The revision itself, where it is a commit and so never changes.
    pub(super) fn commit(&self) -> Option<&str> {
        hex(&self.revision, 40).then_some(&self.revision)
    }
}

impl FromStr for Repo {
    type Err = HubError;

    fn from_str(text: &str) -> Result<Self, HubError> {
        match text.split_once('@') {
            None => Self::new(text),
            Some((name, revision)) => Self::new(name)?.at(revision),
        }
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.name, self.revision)
    }
}

/// One name of a path: neither hidden, nor a way up, nor anything that an address has to escape.
fn plain(part: &str) -> bool {
    let known = |c: char| c.is_ascii_alphanumeric() || "-_.+=".contains(c);
    let ends = part.starts_with(['.', '-']) || part.ends_with(['.', '-']);
    !part.is_empty()
        && part.len() <= NAME_MAX
        && !ends
        && !part.contains("..")
        && part.chars().all(known)
}

/// A file's path in a repository.
pub(super) fn check_file(path: &str) -> Result<(), HubError> {
    match path.split('/').all(plain) {
        true => Ok(()),
        false => Err(HubError::Name(path.to_owned())),
    }
}

pub(super) fn hex(text: &str, len: usize) -> bool {
    text.len() == len && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let repo: Repo = "HuggingFaceTB/SmolLM2-135M@refs/pr/1".parse().expect("sound");
        assert_eq!((repo.name(), repo.revision()), ("HuggingFaceTB/SmolLM2-135M", "refs/pr/1"));
        assert_eq!("gpt2".parse::<Repo>().expect("sound").to_string(), "gpt2@main");
        let commit = "0123456789abcdef0123456789abcdef01234567";
        let at = Repo::new("a/b").expect("sound").at(commit).expect("a commit");
        assert_eq!(at.commit(), Some(commit));
        for bad in [
            "",
            "a/",
            "/b",
            "a/b/c",
            "../b",
            "a/..",
            "a/.b",
            "a/b--c",
            "a/b@",
            "a/b@../x",
            "a/b@x//y",
            "a b",
            "a/b?x",
            "a/b@x#",
            "a\\b",
            "a/b@main@main",
            "ä/b",
        ] {
            assert!(matches!(bad.parse::<Repo>(), Err(HubError::Name(_))), "{bad:?}");
        }
        assert!(check_file("q8/model.gguf").is_ok());
        for bad in ["../config.json", "/etc/passwd", "a//b", ".env", "a/../../b"] {
            assert!(check_file(bad).is_err(), "{bad:?}");
        }
    }
}
