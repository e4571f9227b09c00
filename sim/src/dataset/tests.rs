//! Every way that rows are written, and what is refused.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;
use crate::scenario::List;
use std::fs::File;
use std::path::{Path, PathBuf};

const NONE: BTreeMap<String, String> = BTreeMap::new();

fn rows(path: PathBuf) -> Rows {
    Rows {
        path,
        text: vec!["t".into()],
        list: List::Join,
        client: Some("c".into()),
        label: None,
        only: BTreeMap::new(),
        min_chars: 1,
        max_chars: None,
        limit: None,
    }
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn jsonl(dir: &tempfile::TempDir, text: &str) -> Rows {
    let path = dir.path().join("d.jsonl");
    std::fs::write(&path, text).expect("written");
    rows(path)
}

const TWO: &str = "{\"c\":\"ann\",\"t\":[\"one\",\"two\"]}\n\n{\"c\":\"bob\",\"t\":\"x\"}\n";

#[test]
fn a_list_is_joined_and_an_empty_line_skipped() {
    let dir = folder();
    let dataset = Dataset::load(&jsonl(&dir, TWO), &NONE).expect("sound");
    let texts: Vec<_> = dataset.documents.iter().map(|d| d.text.as_str()).collect();
    assert_eq!(texts, ["one\ntwo", "x"]);
    assert_eq!(dataset.documents[0].client.as_deref(), Some("ann"));
}

#[test]
fn gzip_reads_the_same_and_has_the_same_digest() {
    let dir = folder();
    let plain = Dataset::load(&jsonl(&dir, TWO), &NONE).expect("sound");
    let path = dir.path().join("d.jsonl.gz");
    let mut gz = GzEncoder::new(File::create(&path).expect("created"), Compression::default());
    gz.write_all(TWO.as_bytes()).expect("written");
    gz.finish().expect("written");
    let zipped = Dataset::load(&rows(path.clone()), &NONE).expect("sound");
    assert_eq!(plain.documents, zipped.documents);
    assert_eq!(plain.digest, zipped.digest);

    let whole = std::fs::read(&path).expect("read");
    std::fs::write(&path, &whole[..whole.len() / 2]).expect("written");
    let refused = Dataset::load(&rows(path), &NONE).expect_err("cut in half").to_string();
    assert!(refused.contains("d.jsonl.gz"), "{refused}");
}

#[test]
fn what_is_off_is_named_with_its_line() {
    let dir = folder();
    let cases = [
        ("{\"c\":\"a\",\"t\":\"x\"}\n{", "line 2: not a JSON object"),
        ("[1]", "line 1: not a JSON object"),
        ("{\"c\":\"a\"}", "line 1: key \"t\": a string or a list of strings expected"),
        ("{\"c\":\"a\",\"t\":[1]}", "line 1: key \"t\""),
        ("{\"t\":\"x\"}", "line 1: key \"c\": a string or a number expected"),
        ("", "(0 rows read"),
        ("{\"c\":\"a\",\"t\":\" \"}", "(1 rows read"),
    ];
    for (text, expected) in cases {
        let refused = Dataset::load(&jsonl(&dir, text), &NONE).expect_err(text).to_string();
        assert!(refused.contains(expected) && refused.contains("d.jsonl"), "{refused}");
    }
    let refused = Dataset::load(&rows(dir.path().join("no.jsonl")), &NONE).expect_err("missing");
    assert!(refused.to_string().contains("no.jsonl"), "{refused}");
}

#[test]
fn short_clients_go_whole_and_joins_do_not_count() {
    let dir = folder();
    let text = "{\"c\":\"a\",\"t\":\"123\"}\n{\"c\":\"b\",\"t\":[\"12\",\"34\"]}\n\
                {\"c\":\"a\",\"t\":\"45\"}\n";
    let mut ask = jsonl(&dir, text);
    ask.min_chars = 5;
    let dataset = Dataset::load(&ask, &NONE).expect("sound");
    assert!(dataset.documents.iter().all(|d| d.client.as_deref() == Some("a")));
    assert_eq!(dataset.documents.len(), 2);
}

#[test]
fn long_clients_are_cut_on_a_character() {
    let dir = folder();
    let text = "{\"c\":\"a\",\"t\":\"åäö\"}\n{\"c\":\"b\",\"t\":\"1\"}\n\
                {\"c\":\"a\",\"t\":\"éèê\"}\n{\"c\":\"a\",\"t\":\"x\"}\n";
    let mut ask = jsonl(&dir, text);
    ask.max_chars = Some(4);
    let dataset = Dataset::load(&ask, &NONE).expect("sound");
    let texts: Vec<_> = dataset.documents.iter().map(|d| d.text.as_str()).collect();
    assert_eq!(texts, ["åäö", "1", "é"]);
}

#[test]
fn labels_only_and_limit() {
    let dir = folder();
    let text = "{\"l\":\"sme\",\"s\":\"train\",\"t\":\"a\"}\n{\"l\":\"fin\",\"s\":\"train\",\"t\":\"b\"}\n\
                {\"l\":\"fin\",\"s\":\"test\",\"t\":\"c\"}\n{\"l\":\"sme\",\"s\":\"train\",\"t\":\"d\"}\n";
    let mut ask = jsonl(&dir, text);
    ask.client = None;
    ask.label = Some("l".into());
    ask.only.insert("s".into(), "train".into());
    let labels = |ask: &Rows| -> Vec<_> {
        let dataset = Dataset::load(ask, &NONE).expect("sound");
        dataset.documents.iter().map(|d| d.label).collect()
    };
    assert_eq!(labels(&ask), [Some(1), Some(0), Some(1)], "fin sorts before sme");
    ask.limit = Some(2);
    assert_eq!(labels(&ask), [Some(1), Some(0)]);

    let mut ask = jsonl(&dir, "{\"l\":3,\"t\":\"a\"}\n{\"l\":7,\"t\":\"b\"}\n");
    ask.client = None;
    ask.label = Some("l".into());
    assert_eq!(labels(&ask), [Some(3), Some(7)], "numbers stay");
    let mut ask = jsonl(&dir, "{\"l\":3,\"t\":\"a\"}\n{\"l\":\"x\",\"t\":\"b\"}\n");
    ask.client = None;
    ask.label = Some("l".into());
    assert!(matches!(Dataset::load(&ask, &NONE), Err(DatasetError::MixedLabels { .. })));
}

/// A word has one number, wherever it stands.
#[test]
fn held_out_rows_stand_apart() {
    let dir = folder();
    let text = "{\"l\":\"sme\",\"s\":\"train\",\"t\":\"a\"}\n{\"l\":\"sme\",\"s\":\"test\",\"t\":\"b\"}\n\
                {\"l\":\"fin\",\"s\":\"test\",\"t\":\"c\"}\n";
    let mut ask = jsonl(&dir, text);
    ask.client = None;
    ask.label = Some("l".into());
    ask.only.insert("s".into(), "train".into());
    let of = |split: &str| BTreeMap::from([("s".to_owned(), split.to_owned())]);
    let dataset = Dataset::load(&ask, &of("test")).expect("sound");
    let found = |documents: &[Document]| -> Vec<_> {
        documents.iter().map(|d| (d.label, d.text.clone())).collect()
    };
    assert_eq!(found(&dataset.documents), [(Some(1), "a".into())]);
    assert_eq!(found(&dataset.heldout), [(Some(1), "b".into()), (Some(0), "c".into())]);
    assert!(matches!(Dataset::load(&ask, &of("dev")), Err(DatasetError::Empty { read: 0, .. })));
    assert!(Dataset::load(&ask, &NONE).expect("sound").heldout.is_empty());
}

#[test]
fn a_list_may_be_split() {
    let dir = folder();
    let mut ask = jsonl(&dir, TWO);
    ask.list = List::Split;
    let texts = |ask: &Rows| -> Vec<String> {
        let dataset = Dataset::load(ask, &NONE).expect("sound");
        dataset.documents.into_iter().map(|d| d.text).collect()
    };
    assert_eq!(texts(&ask), ["one", "two", "x"]);
    ask.limit = Some(1);
    assert_eq!(texts(&ask), ["one", "two"], "of the first row");
}

/// Quoted fields hold commas, quotes and line breaks; labels that are all numbers stay.
#[test]
fn tables() {
    let dir = folder();
    let load = |name: &str, text: &str, label: Option<&str>| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("written");
        let ask = Rows { label: label.map(Into::into), ..rows(path) };
        Dataset::load(&ask, &NONE)
    };
    let text = "c,t,l\nann,\"one, \"\"two\"\"\nthree\",7\nbob,x,3\n";
    let dataset = load("d.csv", text, Some("l")).expect("sound");
    let found: Vec<_> = dataset.documents.iter().map(|d| (d.label, d.text.as_str())).collect();
    assert_eq!(found, [(Some(7), "one, \"two\"\nthree"), (Some(3), "x")]);
    let tabs = load("d.tsv", "c\tt\tl\nann\ta, b\tyes\nbob\tx\t10\n", Some("l")).expect("sound");
    let found: Vec<_> = tabs.documents.iter().map(|d| (d.label, d.text.as_str())).collect();
    assert_eq!(found, [(Some(1), "a, b"), (Some(0), "x")], "words, in sorted order");
    for (text, expected) in [
        ("c,u\na,b\n", "no column \"t\"; it has c, u"),
        ("c,t\na,b\nc\n", "line 3: 2 fields expected, found 1"),
        ("c,t\n,b\n", "line 2: key \"c\": a string or a number expected"),
        ("c,t\n", "(0 rows read"),
        ("", "no column \"t\""),
    ] {
        let refused = load("e.csv", text, None).expect_err(text).to_string();
        assert!(refused.contains(expected) && refused.contains("e.csv"), "{refused}");
    }
    std::fs::write(dir.path().join("f.csv"), b"c,t\na,\xff\n").expect("written");
    let refused = Dataset::load(&rows(dir.path().join("f.csv")), &NONE).expect_err("no UTF-8");
    assert!(refused.to_string().contains("line 2: UTF-8 text expected"), "{refused}");
}

/// A file is a row; the folder it lies in may be its class.
#[test]
fn a_folder_of_texts() {
    let dir = folder();
    std::fs::create_dir(dir.path().join("z")).expect("made");
    for (name, text) in [("b.txt", "bee"), ("a.txt", "ay"), ("c.md", "no"), ("z/a.txt", "zed")] {
        std::fs::write(dir.path().join(name), text).expect("written");
    }
    let ask = |label: Option<&str>| Rows {
        text: vec!["text".into()],
        client: Some("file".into()),
        label: label.map(Into::into),
        ..rows(dir.path().to_owned())
    };
    let dataset = Dataset::load(&ask(None), &NONE).expect("sound");
    let found: Vec<_> =
        dataset.documents.iter().map(|d| (d.client.as_deref(), d.text.as_str())).collect();
    assert_eq!(found, [(Some("a"), "ay"), (Some("b"), "bee"), (Some("z/a"), "zed")]);
    let refused = Dataset::load(&ask(Some("folder")), &NONE).expect_err("a.txt is in none");
    assert!(refused.to_string().contains("key \"folder\""), "{refused}");
}

#[test]
fn a_digest_tells_parts_apart() {
    let of = |client: Option<&str>, text: &str| {
        let document = Document { client: client.map(Into::into), label: None, text: text.into() };
        Dataset::from_documents(vec![document]).expect("one").digest
    };
    assert_ne!(of(None, "ab"), of(Some(""), "ab"));
    assert_ne!(of(Some("a"), "b"), of(Some("ab"), "b"));
    assert!(Dataset::from_documents(vec![]).is_err());
}

/// The number `shared/data/README.md` states; skipped where that data is not at hand.
#[test]
fn shakespeare_has_620_roles() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../shared/data/shakespeare_by_role.jsonl.gz");
    if !path.exists() {
        return;
    }
    let ask = Rows {
        text: vec!["utterances".into()],
        client: Some("client".into()),
        min_chars: 1000,
        ..rows(path)
    };
    assert_eq!(Dataset::load(&ask, &NONE).expect("sound").documents.len(), 620);
}
