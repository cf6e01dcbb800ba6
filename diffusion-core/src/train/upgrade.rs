//! Renamed configuration keys of version 0.1.

use anyhow::Result;

/// The keys of version 0.1 and their current names.
const RENAMED: [(&str, &str); 7] = [
    ("training.steps", "training.process.vp.timesteps"),
    ("training.betas", "training.process.vp.betas"),
    ("training.param", "training.prediction"),
    ("training.max_steps", "training.train_steps"),
    ("training.drop", "training.condition_dropout"),
    ("network.simple-unet.reduced", "network.simple-unet.low_res"),
    ("network.context-unet.steps", "network.context-unet.timesteps"),
];

/// Renames the keys of version 0.1 in the table of a [`RunConfig`]; returns whether there were any.
///
/// # Errors
/// The file mixes keys of both versions: the message names an old key and its current name.
pub(crate) fn upgrade(run: &mut toml::Table) -> Result<bool> {
    let old = RENAMED.iter().filter(|(old, _)| get(run, old).is_some());
    let Some((old, new)) = old.copied().next() else {
        return Ok(false);
    };
    if let Some((_, other)) = RENAMED.iter().find(|(_, new)| get(run, new).is_some()) {
        anyhow::bail!("{old} is now called {new}, and the file also has the current key {other}; rename {old}")
    }
    for (old, new) in RENAMED {
        if let Some(value) = remove(run, old) {
            insert(run, new, value);
        }
    }
    Ok(true)
}

fn get<'a>(table: &'a toml::Table, path: &str) -> Option<&'a toml::Value> {
    match path.split_once('.') {
        Some((first, rest)) => get(table.get(first)?.as_table()?, rest),
        None => table.get(path),
    }
}

fn remove(table: &mut toml::Table, path: &str) -> Option<toml::Value> {
    match path.split_once('.') {
        Some((first, rest)) => remove(table.get_mut(first)?.as_table_mut()?, rest),
        None => table.remove(path),
    }
}

fn insert(table: &mut toml::Table, path: &str, value: toml::Value) {
    let Some((first, rest)) = path.split_once('.') else {
        table.insert(path.to_owned(), value);
        return;
    };
    let inner = table.entry(first).or_insert_with(|| toml::Value::Table(toml::Table::new()));
    if let toml::Value::Table(inner) = inner {
        insert(inner, rest, value);
    }
}
