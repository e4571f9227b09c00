//! Plain texts as one stream of tokens, cut into windows.
//!
//! Each text is the model's beginning token, its own, and the ending one; the texts lie end to end in
//! the order given. Window `w` of `cols` tokens predicts tokens `w cols + 1 ..= (w + 1) cols`; the last
//! may be shorter. Each epoch goes through all windows in a new order.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Batch, IGNORE, Plan, TaskError, TrainingTask};
use crate::model::BaseModel;

/// Texts to learn to continue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TextDataset {
    tokens: Vec<u32>,
    texts: usize,
}

impl TextDataset {
    /// Encodes `texts`; blank ones are left out.
    ///
    /// # Errors
    /// [`TaskError::Empty`] where no text is left, [`TaskError::Encode`] where the tokenizer fails.
    pub fn new(base: &BaseModel, texts: &[String]) -> Result<Self, TaskError> {
        let (mut tokens, mut count) = (Vec::new(), 0);
        for text in texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty()) {
            tokens.extend(base.bos());
            tokens.extend(base.encode(text)?);
            tokens.extend(base.eos().first());
            count += 1;
        }
        Self::from_tokens(tokens, count)
    }

    /// `texts` texts already encoded and laid end to end, for pretraining before there is a model.
    ///
    /// # Errors
    /// [`TaskError::Empty`] where there are not two tokens, one to see and one to predict.
    pub fn from_tokens(tokens: Vec<u32>, texts: usize) -> Result<Self, TaskError> {
        if tokens.len() < 2 { Err(TaskError::Empty) } else { Ok(Self { tokens, texts }) }
    }

    /// Reads a `.txt` file (a text is a paragraph), a `.jsonl` file (a text is a line's `text`), or
    /// every such file of a folder in the order of their names.
    ///
    /// # Errors
    /// [`TaskError`] at the first thing that cannot be read.
    pub fn open(base: &BaseModel, path: &Path) -> Result<Self, TaskError> {
        let mut texts = Vec::new();
        for file in files(path, &["txt", "jsonl"])? {
            read(&file, &mut texts)?;
        }
        Self::new(base, &texts)
    }

    /// Number of tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens.len()
    }

    /// Every window once, in order, for evaluation.
    #[must_use]
    pub fn sequences(&self, rows: usize, cols: usize) -> Vec<Batch> {
        let windows: Vec<usize> = (0..self.windows(cols)).collect();
        windows.chunks(rows.max(1)).map(|windows| self.cut(windows, cols)).collect()
    }

    /// Windows of `cols` tokens; at least one, since there are two tokens.
    fn windows(&self, cols: usize) -> usize {
        (self.tokens.len() - 1).div_ceil(cols.max(1))
    }

    fn window(&self, at: usize, cols: usize) -> &[u32] {
        let start = at * cols;
        &self.tokens[start..self.tokens.len().min(start + cols + 1)]
    }

    /// The windows side by side, as wide as the widest.
    fn cut(&self, windows: &[usize], cols: usize) -> Batch {
        let cols = cols.max(1);
        let width = |&at: &usize| self.window(at, cols).len() - 1;
        let widest = windows.iter().map(width).max().unwrap_or(0);
        let mut batch = Batch { rows: windows.len(), cols: widest, ..Batch::default() };
        for &at in windows {
            let window = self.window(at, cols);
            let n = window.len() - 1;
            batch.inputs.extend(&window[..n]);
            batch.targets.extend(&window[1..]);
            // Attention looks back only, so what stands here changes nothing before it.
            batch.inputs.extend(std::iter::repeat_n(window[n], widest - n));
            batch.targets.extend(std::iter::repeat_n(IGNORE, widest - n));
        }
        batch
    }
}

impl TrainingTask for TextDataset {
    fn examples(&self) -> usize {
        self.texts
    }

    fn has_loss(&self) -> bool {
        false
    }

    fn batch(&self, plan: &Plan, step: u32) -> Result<Batch, TaskError> {
        let windows = self.windows(plan.cols);
        Ok(self.cut(&plan.pick(windows, step), plan.cols))
    }
}

fn files(path: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>, TaskError> {
    let failed = |source| TaskError::File { path: path.to_owned(), source };
    let known = |file: &Path| file.extension().is_some_and(|e| extensions.iter().any(|&x| e == x));
    let mut found = Vec::new();
    if fs::metadata(path).map_err(failed)?.is_dir() {
        for entry in fs::read_dir(path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            if known(&file) && file.is_file() {
                found.push(file);
            }
        }
    } else if known(path) {
        found.push(path.to_owned());
    }
    // A folder's own order differs from machine to machine.
    found.sort();
    if found.is_empty() {
        return Err(TaskError::NoText { path: path.to_owned() });
    }
    Ok(found)
}

fn read(file: &Path, texts: &mut Vec<String>) -> Result<(), TaskError> {
    #[derive(Deserialize)]
    struct Line {
        text: String,
    }
    if file.extension().is_some_and(|e| e == "jsonl") {
        let lines: Vec<Line> = lines(file)?;
        texts.extend(lines.into_iter().map(|line| line.text));
        return Ok(());
    }
    let mut paragraph = String::new();
    for line in content(file)?.lines().chain([""]) {
        if line.trim().is_empty() {
            texts.push(std::mem::take(&mut paragraph));
        } else {
            paragraph.push_str(line);
            paragraph.push('\n');
        }
    }
    Ok(())
}

/// The lines of a `.jsonl` file, or of every one of a folder.
pub(super) fn jsonl<T: DeserializeOwned>(path: &Path) -> Result<Vec<T>, TaskError> {
    let mut all = Vec::new();
    for file in files(path, &["jsonl"])? {
        all.extend(lines::<T>(&file)?);
    }
    Ok(all)
}

fn content(file: &Path) -> Result<String, TaskError> {
    fs::read_to_string(file).map_err(|source| TaskError::File { path: file.to_owned(), source })
}

fn lines<T: DeserializeOwned>(file: &Path) -> Result<Vec<T>, TaskError> {
    let content = content(file)?;
    let lines = content.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(at, line)| {
            serde_json::from_str(line).map_err(|e| TaskError::Line {
                path: file.to_owned(),
                line: at + 1,
                why: e.to_string(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use gossamer_protocol::ids::{ClientId, RoundId};

    use super::*;
    use crate::model::fixture;
    use crate::model::llama::tests::tiny;

    fn plan(rows: usize, cols: usize) -> Plan {
        Plan { seed: 3, client: ClientId([1; 16]), round: RoundId(4), rows, cols }
    }

    fn dataset(texts: &[&str]) -> Result<TextDataset, TaskError> {
        let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
        TextDataset::new(&fixture::base(&tiny()), &texts)
    }

    #[test]
    fn windows_cover_every_token_once() {
        let data = dataset(&["w5 w6 w7", " ", "w8"]).expect("text");
        assert_eq!(data.tokens, [1, 5, 6, 7, 2, 1, 8, 2]);
        assert_eq!(data.examples(), 2);
        let batches = data.sequences(2, 3);
        assert_eq!(batches.len(), 2);
        assert_eq!(batches[0].inputs, [1, 5, 6, 7, 2, 1]);
        assert_eq!(batches[0].targets, [5, 6, 7, 2, 1, 8]);
        // The last window is as wide as it needs.
        assert_eq!((batches[1].rows, batches[1].cols), (1, 1));
        assert_eq!((&batches[1].inputs[..], &batches[1].targets[..]), (&[8][..], &[2][..]));
        let both = data.sequences(9, 4);
        assert_eq!(both[0].targets, [5, 6, 7, 2, 1, 8, 2, IGNORE]);
    }

    #[test]
    fn an_epoch_takes_each_window_once_in_a_seeded_order() {
        let words: Vec<String> = (3..19).map(|i| format!("w{i}")).collect();
        let data = dataset(&[&words.join(" ")]).expect("text");
        let firsts = |plan: &Plan| -> Vec<u32> {
            (0..9).map(|step| data.batch(plan, step).expect("text").inputs[0]).collect()
        };
        // 18 tokens: 17 windows of one token, so 17 steps an epoch.
        let mut epoch: Vec<u32> =
            (0..17).map(|step| data.batch(&plan(1, 1), step).expect("text").inputs[0]).collect();
        epoch.sort_unstable();
        assert_eq!(epoch, [&[1], &(3..19).collect::<Vec<u32>>()[..]].concat());
        assert_eq!(firsts(&plan(1, 2)), firsts(&plan(1, 2)));
        assert_ne!(firsts(&plan(1, 2)), firsts(&Plan { round: RoundId(5), ..plan(1, 2) }));
        assert_ne!(firsts(&plan(1, 2)), firsts(&Plan { client: ClientId([2; 16]), ..plan(1, 2) }));
        // Never wider than there are windows, nor than the text is long.
        let batch = data.batch(&plan(50, 100), 0).expect("text");
        assert_eq!((batch.rows, batch.cols), (1, 17));
    }

    #[test]
    fn empty_text_is_refused() {
        assert!(matches!(dataset(&[]), Err(TaskError::Empty)));
        assert!(matches!(dataset(&["", " \n"]), Err(TaskError::Empty)));
    }

    #[test]
    fn files_and_folders() {
        let base = fixture::base(&tiny());
        let dir = tempfile::tempdir().expect("a temporary folder");
        let write = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).expect("written");
            path
        };
        let open = |path: &Path| TextDataset::open(&base, path);
        assert!(matches!(open(dir.path()), Err(TaskError::NoText { .. })));
        assert!(matches!(open(&dir.path().join("none.txt")), Err(TaskError::File { .. })));
        let lines = write("b.jsonl", "{\"text\":\"w5\",\"label\":1}\n\n{\"text\":\"w6\"}\n");
        write("a.txt", "w7\nw8\n\nw9\n");
        write("c.md", "w10");
        assert_eq!(open(&lines).expect("lines").tokens, [1, 5, 2, 1, 6, 2]);
        let all = open(dir.path()).expect("a folder");
        assert_eq!(all.tokens, [1, 7, 8, 2, 1, 9, 2, 1, 5, 2, 1, 6, 2]);
        assert!(matches!(open(&dir.path().join("c.md")), Err(TaskError::NoText { .. })));
        let bad = write("d.jsonl", "{\"text\":\"w5\"}\n{\"txt\":\"w6\"}\n");
        assert!(matches!(open(&bad), Err(TaskError::Line { line: 2, .. })));
    }
}
