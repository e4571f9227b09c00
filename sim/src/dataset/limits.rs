//! `data.min_chars` and `data.max_chars`: clients that are too short go, of long ones the rest.

use std::collections::BTreeMap;

use super::row::Row;

/// Drops clients of fewer than `min_chars` characters.
pub(super) fn drop_short_clients(rows: &mut Vec<Row>, min_chars: usize) {
    let mut sizes: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows.iter() {
        if let Some(client) = &row.client {
            *sizes.entry(client.clone()).or_default() += row.chars;
        }
    }
    rows.retain(|row| row.client.as_ref().map_or(row.chars, |client| sizes[client]) >= min_chars);
}

/// Keeps the first `max` characters of every client, joins included.
pub(super) fn cut_long_clients(rows: &mut Vec<Row>, max: usize) {
    let mut left: BTreeMap<String, usize> = BTreeMap::new();
    for row in rows.iter_mut() {
        let mut own = max;
        let left = match &row.client {
            Some(client) => left.entry(client.clone()).or_insert(max),
            None => &mut own,
        };
        match row.text.char_indices().nth(*left) {
            Some((end, _)) => {
                row.text.truncate(end);
                *left = 0;
            }
            None => *left -= row.text.chars().count(),
        }
    }
    rows.retain(|row| !row.text.is_empty());
}
