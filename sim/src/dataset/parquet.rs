//! Rows of a Parquet file, just the columns that the scenario names.
//!
//! Strings, lists of strings, whole numbers, floats and booleans are as in JSON; what is null is absent. Other types are
//! refused by row and column. A page is held whole, and what it unpacks to is reserved as its head says, 2 GiB at most.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::reader::RowIter;
use parquet::record::{Field, Row};
use parquet::schema::types::Type;
use serde_json::Value;

use super::DatasetError;
use super::row::Fields;
use super::sources::Source;
use crate::scenario::Rows;

/// The rows of `rows.path`, each with its number, counted from 1; none behind the first that is off.
pub(super) fn open(rows: &Rows) -> Result<Source, DatasetError> {
    let path = rows.path.clone();
    let file =
        File::open(&path).map_err(|source| DatasetError::Read { path: path.clone(), source })?;
    let iter = guarded(&path, || columns(file, rows))??;
    let (mut iter, mut line) = (Some(iter), 0);
    Ok(Box::new(std::iter::from_fn(move || {
        let read = guarded(&path, || iter.as_mut().and_then(Iterator::next).transpose());
        line += 1;
        let row = read.transpose()?.and_then(|row| fields_of(row, &path, line));
        if row.is_err() {
            iter = None;
        }
        Some(row.map(|fields| (line, fields)))
    })))
}

/// Reads just what the scenario names; the inner error is of a column that is not there.
fn columns(
    file: File,
    rows: &Rows,
) -> Result<Result<RowIter<'static>, DatasetError>, ParquetError> {
    let reader = SerializedFileReader::new(file)?;
    let schema = reader.metadata().file_metadata().schema();
    let asked = rows.text.iter().chain(&rows.client).chain(&rows.label).chain(rows.only.keys());
    let mut fields: Vec<Arc<Type>> = Vec::new();
    for key in asked {
        let field = schema.get_fields().iter().find(|field| field.name() == key);
        let Some(field) = field else {
            let found: Vec<&str> = schema.get_fields().iter().map(|field| field.name()).collect();
            let (path, found) = (rows.path.clone(), found.join(", "));
            return Ok(Err(DatasetError::Column { path, key: key.clone(), found }));
        };
        if !fields.iter().any(|known| known.name() == key) {
            fields.push(field.clone());
        }
    }
    let asked = Type::group_type_builder(schema.name()).with_fields(fields).build()?;
    RowIter::from_file_into(Box::new(reader)).project(Some(asked)).map(Ok)
}

/// What the library makes of the file. It asserts what a damaged file may break, so a panic of its is the file's
/// fault and an error like another; what panicked is not called again.
fn guarded<T>(
    path: &Path,
    call: impl FnOnce() -> Result<T, ParquetError>,
) -> Result<T, DatasetError> {
    let why = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(panic) => match panic.downcast::<String>() {
            Ok(words) => *words,
            Err(panic) => panic.downcast_ref::<&str>().copied().unwrap_or("it panicked").to_owned(),
        },
    };
    Err(DatasetError::Parquet { path: path.to_owned(), why })
}

fn fields_of(row: Row, path: &Path, line: usize) -> Result<Fields, DatasetError> {
    let mut fields = Fields::new();
    for (key, field) in row.into_columns() {
        let value = value(field).map_err(|expected| {
            let (path, key) = (path.to_owned(), key.clone());
            DatasetError::Key { path, line, key, expected }
        })?;
        fields.extend(value.map(|value| (key, value)));
    }
    Ok(fields)
}

/// As JSON has it; none where it is null.
fn value(field: Field) -> Result<Option<Value>, &'static str> {
    Ok(Some(match field {
        Field::Null => return Ok(None),
        Field::Bool(value) => value.into(),
        Field::Byte(value) => value.into(),
        Field::Short(value) => value.into(),
        Field::Int(value) => value.into(),
        Field::Long(value) => value.into(),
        Field::UByte(value) => value.into(),
        Field::UShort(value) => value.into(),
        Field::UInt(value) => value.into(),
        Field::ULong(value) => value.into(),
        Field::Float(value) => value.into(),
        Field::Double(value) => value.into(),
        Field::Str(value) => value.into(),
        Field::ListInternal(list) => {
            let items = list.elements().iter().cloned().map(value);
            let items: Result<Vec<Option<Value>>, _> = items.collect();
            Value::Array(items?.into_iter().flatten().collect())
        }
        _ => return Err("a string, a number, a boolean or a list of them"),
    }))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::PathBuf;

    use rand_chacha::ChaCha12Rng;
    use rand_chacha::rand_core::{RngCore, SeedableRng};

    use super::*;
    use crate::dataset::{Dataset, Document};
    use crate::scenario::List;

    /// Made by pyarrow; see the script beside it.
    fn posts() -> Rows {
        Rows {
            path: PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/parquet/posts.parquet"),
            text: vec!["title".into(), "parts".into()],
            list: List::Join,
            client: Some("author".into()),
            label: Some("group".into()),
            only: BTreeMap::from([("split".to_owned(), "train".to_owned())]),
            min_chars: 1,
            max_chars: None,
            limit: None,
        }
    }

    /// Three row groups, dictionaries, nulls and lists, as the script wrote them: rows 2 and 5 are of the test set.
    #[test]
    fn rows_are_those_that_pyarrow_wrote() {
        let dataset = Dataset::load(&posts(), &BTreeMap::new()).expect("sound");
        let document = |client: &str, label, text: &str| Document {
            client: Some(client.to_owned()),
            label: Some(label),
            text: text.to_owned(),
        };
        let expected = [
            document("ann", 7, "One\nfirst part\nsecond part"),
            document("bo", 3, "Three"),
            document("ann", 3, "Fo\u{fc}r\n\u{1f9f5} thread"),
            document("cy", 7, "Six\nlast"),
        ];
        assert_eq!(dataset.documents, expected);
    }

    #[test]
    fn what_is_off_is_named() {
        let refused = |change: fn(&mut Rows)| {
            let mut rows = posts();
            change(&mut rows);
            Dataset::load(&rows, &BTreeMap::new()).expect_err("off").to_string()
        };
        let missing = refused(|rows| rows.label = Some("class".into()));
        assert!(missing.contains("class") && missing.contains("author"), "{missing}");
        let when = refused(|rows| rows.label = Some("when".into()));
        assert!(when.contains("when") && when.contains("a string, a number"), "{when}");
        let absent = refused(|rows| rows.client = Some("note".into()));
        assert!(absent.contains("note") && absent.contains('1'), "{absent}");

        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("posts.parquet");
        let sound = std::fs::read(posts().path).expect("there");
        for torn in [&b""[..], b"PAR1", &sound[..sound.len() / 2], &sound[4..]] {
            std::fs::write(&path, torn).expect("written");
            let rows = Rows { path: path.clone(), ..posts() };
            let error = Dataset::load(&rows, &BTreeMap::new()).expect_err("torn");
            assert!(matches!(error, DatasetError::Parquet { .. }), "{error}");
        }
    }

    /// Pages have no checksum here, so a flip may also pass as another text; but nothing else comes of it.
    #[test]
    fn damage_is_an_error_and_no_panic() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("posts.parquet");
        let sound = std::fs::read(posts().path).expect("there");
        let load = |bytes: &[u8]| {
            std::fs::write(&path, bytes).expect("written");
            Dataset::load(&Rows { path: path.clone(), ..posts() }, &BTreeMap::new())
        };
        for len in (0..sound.len()).step_by(17) {
            let error = load(&sound[..len]).expect_err("cut short");
            assert!(matches!(error, DatasetError::Parquet { .. }), "{len} bytes: {error}");
        }
        let mut rng = ChaCha12Rng::seed_from_u64(60);
        let mut below = |end: usize| rng.next_u64() as usize % end;
        let mut refused = 0;
        for _ in 0..800 {
            let mut bytes = sound.clone();
            for _ in 0..1 + below(4) {
                bytes[below(sound.len())] ^= 1 + below(255) as u8;
            }
            let Err(error) = load(&bytes) else { continue };
            assert!(error.to_string().contains("posts.parquet"), "{error}");
            refused += 1;
        }
        assert!(refused > 400, "{refused} of 800 refused");
    }
}
