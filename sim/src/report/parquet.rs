//! `metrics.parquet` and `clients.parquet`: rows as columns, for pandas, DuckDB and their kin.
//!
//! Names are those of `metrics.csv` and `clients.csv`; counts are unsigned 64-bit, what was not measured is null, and what
//! is no number stays a NaN. One row group, Snappy, dictionaries.

use std::sync::Arc;

use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::parser::parse_message_type;

use super::{ClientLoss, ReportError, RoundRow};

/// One column; what may be absent is null.
enum Column<'a> {
    Text(Vec<Option<&'a str>>),
    Count(Vec<u64>),
    Number(Vec<Option<f64>>),
}

/// The rows but for their clients.
///
/// # Errors
/// [`ReportError::Parquet`] where the library refuses.
pub(super) fn metrics(rows: &[RoundRow]) -> Result<Vec<u8>, ReportError> {
    let text =
        |of: fn(&RoundRow) -> &str| Column::Text(rows.iter().map(|row| Some(of(row))).collect());
    let count = |of: fn(&RoundRow) -> u64| Column::Count(rows.iter().map(of).collect());
    let number = |of: fn(&RoundRow) -> Option<f64>| Column::Number(rows.iter().map(of).collect());
    file(&[
        ("method", text(|row| &row.method)),
        ("seed", count(|row| row.seed)),
        ("round", count(|row| row.round)),
        ("train_loss", number(|row| Some(row.train_loss))),
        ("heldout_loss", number(|row| row.heldout_loss)),
        ("server_loss", number(|row| row.server_loss)),
        ("heldout_accuracy", number(|row| row.heldout_accuracy)),
        ("server_accuracy", number(|row| row.server_accuracy)),
        ("upload_bytes", count(|row| row.upload_bytes)),
        ("download_bytes", count(|row| row.download_bytes)),
        ("cumulative_bytes", count(|row| row.cumulative_bytes)),
        ("product_error", number(|row| row.product_error)),
        ("control_bytes", count(|row| row.control_bytes)),
        ("accepted", count(|row| row.accepted.into())),
        ("virtual_s", number(|row| row.virtual_s)),
        ("joules", number(|row| row.joules)),
        ("wall_s", number(|row| Some(row.wall_s))),
    ])
}

/// Each client of each row.
///
/// # Errors
/// [`ReportError::Parquet`] where the library refuses.
pub(super) fn clients(rows: &[RoundRow]) -> Result<Vec<u8>, ReportError> {
    let all: Vec<(&RoundRow, &ClientLoss)> =
        rows.iter().flat_map(|row| row.clients.iter().map(move |client| (row, client))).collect();
    let all = &all;
    file(&[
        ("method", Column::Text(all.iter().map(|(row, _)| Some(row.method.as_str())).collect())),
        ("seed", Column::Count(all.iter().map(|(row, _)| row.seed).collect())),
        ("round", Column::Count(all.iter().map(|(row, _)| row.round).collect())),
        ("client", Column::Text(all.iter().map(|(_, one)| Some(one.client.as_str())).collect())),
        ("tier", Column::Text(all.iter().map(|(_, one)| one.tier.as_deref()).collect())),
        ("targets", Column::Count(all.iter().map(|(_, one)| one.targets).collect())),
        ("loss", Column::Number(all.iter().map(|(_, one)| Some(one.loss)).collect())),
        ("accuracy", Column::Number(all.iter().map(|(_, one)| one.accuracy).collect())),
    ])
}

fn file(columns: &[(&str, Column<'_>)]) -> Result<Vec<u8>, ReportError> {
    let write = || -> Result<Vec<u8>, ParquetError> {
        let field = |(name, column): &(&str, Column<'_>)| match column {
            Column::Text(_) => format!("OPTIONAL BYTE_ARRAY {name} (UTF8);"),
            Column::Count(_) => format!("REQUIRED INT64 {name} (INTEGER(64,false));"),
            Column::Number(_) => format!("OPTIONAL DOUBLE {name};"),
        };
        let fields: String = columns.iter().map(field).collect();
        let schema = Arc::new(parse_message_type(&format!("message rows {{ {fields} }}"))?);
        let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
        let mut bytes = Vec::new();
        let mut file = SerializedFileWriter::new(&mut bytes, schema, Arc::new(properties))?;
        let mut group = file.next_row_group()?;
        for (_, column) in columns {
            let Some(mut writer) = group.next_column()? else { break };
            fill(&mut writer, column)?;
            writer.close()?;
        }
        group.close()?;
        file.close()?;
        Ok(bytes)
    };
    write().map_err(|error| ReportError::Parquet(error.to_string()))
}

fn fill(writer: &mut SerializedColumnWriter<'_>, column: &Column<'_>) -> Result<(), ParquetError> {
    match column {
        Column::Text(cells) => {
            let there: Vec<ByteArray> =
                cells.iter().copied().flatten().map(ByteArray::from).collect();
            writer.typed::<ByteArrayType>().write_batch(&there, Some(&levels(cells)), None)?;
        }
        Column::Count(cells) => {
            // The bits of an unsigned number, as the format has it.
            let cells: Vec<i64> = cells.iter().map(|cell| cell.cast_signed()).collect();
            writer.typed::<Int64Type>().write_batch(&cells, None, None)?;
        }
        Column::Number(cells) => {
            let there: Vec<f64> = cells.iter().copied().flatten().collect();
            writer.typed::<DoubleType>().write_batch(&there, Some(&levels(cells)), None)?;
        }
    }
    Ok(())
}

/// 1 for what is there, 0 for null.
fn levels<T>(cells: &[Option<T>]) -> Vec<i16> {
    cells.iter().map(|cell| i16::from(cell.is_some())).collect()
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;

    use super::*;
    use crate::report::tests::told_apart;

    #[test]
    fn every_row_comes_back() {
        let mut rows = told_apart();
        rows[1].upload_bytes = u64::MAX;
        let bytes = metrics(&rows).expect("written");
        let reader = SerializedFileReader::new(bytes::Bytes::from(bytes)).expect("sound");
        let read: Vec<_> =
            reader.get_row_iter(None).expect("rows").map(|r| r.expect("one")).collect();
        assert_eq!(read.len(), rows.len());
        assert_eq!(read[1].get_ulong(8).expect("bytes"), u64::MAX);
        for (read, row) in read.iter().zip(&rows) {
            assert_eq!(read.get_string(0).expect("text"), &row.method);
            assert_eq!(read.get_ulong(2).expect("a count"), row.round);
            assert_eq!(read.get_double(4).ok(), row.heldout_loss);
            assert!(read.get_double(5).is_err(), "null");
        }
        let bytes = clients(&rows).expect("written");
        let reader = SerializedFileReader::new(bytes::Bytes::from(bytes)).expect("sound");
        assert_eq!(reader.metadata().file_metadata().num_rows(), 10 * 3 * 13 * 12);
        let first = reader.get_row_iter(None).expect("rows").next().expect("one").expect("sound");
        assert_eq!(first.get_string(4).expect("a tier"), "phone");
        assert!(first.get_double(7).is_err(), "no accuracy");
    }
}
