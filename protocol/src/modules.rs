//! Which module of a model a name or a pattern means: PEFT's rules.
//!
//! - A name means the whole path, or its end behind a dot; a pattern of targets matches a whole path
//!   (`check_target_module_exists`).
//! - A key of a map of patterns: `(.*\.)?(KEY)$` from the path's start, and the first key that matches
//!   counts (`get_pattern_key`).
//! - A module's layer is the first number in its path behind two other segments.
//!
//! Python's look-around and back references are not known here; patterns that use them are refused.
//! What is known is matched in time linear in the path.

use regex::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

/// Most bytes of one pattern.
const PATTERN_MAX: usize = 1 << 12;
/// Most patterns.
const PATTERNS_MAX: usize = 1 << 12;
/// Most bytes that one compiled set may take.
const COMPILED_MAX: usize = 10 << 20;

/// A pattern that cannot be matched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("lora.{field}: pattern {pattern:?}: {why}")]
pub struct BadPattern {
    /// The field it is in.
    pub field: &'static str,
    /// As written; its beginning where it is too long, empty where all together are too much.
    pub pattern: String,
    /// What is off.
    pub why: String,
}

/// Values by pattern; the first that matches counts.
#[derive(Clone, Debug)]
pub(crate) struct FirstOf<T> {
    set: RegexSet,
    values: Vec<T>,
}

impl<T: Copy> FirstOf<T> {
    /// Compiles `entries` of the manifest's `field`.
    pub(crate) fn new<'a>(
        field: &'static str,
        entries: impl ExactSizeIterator<Item = &'a (String, T)>,
    ) -> Result<Self, BadPattern>
    where
        T: 'a,
    {
        let n = entries.len();
        if n > PATTERNS_MAX {
            let why = format!("one of {n}, more than {PATTERNS_MAX}");
            return Err(BadPattern { field, pattern: String::new(), why });
        }
        let (written, values): (Vec<String>, Vec<T>) = entries.cloned().unzip();
        for pattern in &written {
            short(field, pattern)?;
        }
        let patterns = written.iter().map(|pattern| format!(r"^(?:.*\.)?(?:{pattern})$"));
        let set = RegexSetBuilder::new(patterns).size_limit(COMPILED_MAX).build();
        let set = set.map_err(|error| {
            // A set does not say which of its patterns is at fault. A low limit, so that the search is short.
            let alone =
                |pattern: &&String| RegexBuilder::new(pattern).size_limit(1 << 16).build().is_err();
            let pattern = written.iter().find(alone).cloned().unwrap_or_default();
            bad(field, &pattern, &error)
        })?;
        Ok(Self { set, values })
    }

    pub(crate) fn of(&self, module: &str) -> Option<T> {
        let first = self.set.matches(module).iter().next()?;
        self.values.get(first).copied()
    }
}

/// A pattern of targets, to be matched as a whole.
pub(crate) fn whole(pattern: &str) -> Result<Regex, BadPattern> {
    let field = "targets";
    short(field, pattern)?;
    let built = |text: &str| {
        let built = RegexBuilder::new(text).size_limit(COMPILED_MAX).build();
        built.map_err(|error| bad(field, pattern, &error))
    };
    // Alone at first: `a)|(b` is a pattern only where brackets are put around it.
    built(pattern)?;
    built(&format!("^(?:{pattern})$"))
}

fn short(field: &'static str, pattern: &str) -> Result<(), BadPattern> {
    if pattern.len() <= PATTERN_MAX {
        return Ok(());
    }
    let why = format!("{} bytes, more than {PATTERN_MAX}", pattern.len());
    Err(BadPattern { field, pattern: pattern.chars().take(40).collect(), why })
}

fn bad(field: &'static str, pattern: &str, error: &regex::Error) -> BadPattern {
    // Its text is a drawing over several lines; the last says what is off.
    let text = error.to_string();
    let why = text.lines().last().unwrap_or(&text).trim_start_matches("error: ").to_owned();
    BadPattern { field, pattern: pattern.to_owned(), why }
}

/// PEFT's rule for a list: the whole path, or its end behind a dot.
pub(crate) fn ends_in(path: &str, target: &str) -> bool {
    path == target
        || path.strip_suffix(target).is_some_and(|rest| !target.is_empty() && rest.ends_with('.'))
}

/// The first number in the path behind two other segments and before another.
pub(crate) fn layer(module: &str) -> Option<usize> {
    let segments: Vec<&str> = module.split('.').collect();
    let inner = segments.get(2..segments.len().saturating_sub(1))?;
    let number = |s: &&&str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    inner.iter().find(number).and_then(|s| s.parse().ok())
}
