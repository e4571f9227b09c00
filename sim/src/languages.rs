//! Real sentences that come with cargo: a thousand of each language, from the test data of the crates
//! `lingua-{language}-language-model` (Apache-2.0).
//!
//! The embedded base model was trained on [`PRETRAINING`]; clients speak [`CLIENTS`]. No language is
//! in both.

use include_dir::Dir;

/// Languages the embedded base model was trained on.
pub const PRETRAINING: [&str; 8] =
    ["dutch", "english", "french", "german", "italian", "polish", "spanish", "swedish"];

/// Languages that are new to it.
pub const CLIENTS: [&str; 8] =
    ["catalan", "czech", "danish", "estonian", "finnish", "hungarian", "portuguese", "turkish"];

/// A language without sentences here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no sentences of {name:?} here; there are {known}")]
pub struct NoSuchLanguage {
    /// As asked for.
    pub name: String,
    /// Comma-separated.
    pub known: String,
}

/// The sentences of `name`, in the order of their file.
///
/// # Errors
/// [`NoSuchLanguage`] where there are none.
pub fn sentences(name: &str) -> Result<Vec<&'static str>, NoSuchLanguage> {
    let unknown = || NoSuchLanguage {
        name: name.to_owned(),
        known: [PRETRAINING, CLIENTS].concat().join(", "),
    };
    let file = folder(name).and_then(|folder| folder.get_file("sentences.txt"));
    let text = file.and_then(|file| file.contents_utf8()).ok_or_else(unknown)?;
    Ok(text.lines().map(str::trim).filter(|line| !line.is_empty()).collect())
}

fn folder(name: &str) -> Option<&'static Dir<'static>> {
    Some(match name {
        "catalan" => &lingua_catalan_language_model::CATALAN_TESTDATA_DIRECTORY,
        "czech" => &lingua_czech_language_model::CZECH_TESTDATA_DIRECTORY,
        "danish" => &lingua_danish_language_model::DANISH_TESTDATA_DIRECTORY,
        "dutch" => &lingua_dutch_language_model::DUTCH_TESTDATA_DIRECTORY,
        "english" => &lingua_english_language_model::ENGLISH_TESTDATA_DIRECTORY,
        "estonian" => &lingua_estonian_language_model::ESTONIAN_TESTDATA_DIRECTORY,
        "finnish" => &lingua_finnish_language_model::FINNISH_TESTDATA_DIRECTORY,
        "french" => &lingua_french_language_model::FRENCH_TESTDATA_DIRECTORY,
        "german" => &lingua_german_language_model::GERMAN_TESTDATA_DIRECTORY,
        "hungarian" => &lingua_hungarian_language_model::HUNGARIAN_TESTDATA_DIRECTORY,
        "italian" => &lingua_italian_language_model::ITALIAN_TESTDATA_DIRECTORY,
        "polish" => &lingua_polish_language_model::POLISH_TESTDATA_DIRECTORY,
        "portuguese" => &lingua_portuguese_language_model::PORTUGUESE_TESTDATA_DIRECTORY,
        "spanish" => &lingua_spanish_language_model::SPANISH_TESTDATA_DIRECTORY,
        "swedish" => &lingua_swedish_language_model::SWEDISH_TESTDATA_DIRECTORY,
        "turkish" => &lingua_turkish_language_model::TURKISH_TESTDATA_DIRECTORY,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_language_has_a_thousand_sentences() {
        for name in PRETRAINING.iter().chain(&CLIENTS) {
            let sentences = sentences(name).expect("known");
            assert_eq!(sentences.len(), 1_000, "{name}");
        }
        assert!(PRETRAINING.iter().all(|name| !CLIENTS.contains(name)), "kept apart");
    }

    #[test]
    fn an_unknown_language_is_named_with_those_there_are() {
        let refused = sentences("klingon").expect_err("unknown").to_string();
        assert!(refused.contains("klingon") && refused.contains("finnish"), "{refused}");
    }
}
