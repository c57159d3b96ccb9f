//! `--json FIELDS`: of each row of a list these members, and no more.
//!
//! The names are those of the published schema and of the rows that came; which there
//! are is said where one is misspelled, and where none is given.

use clap::Args;
use serde::Serialize;
use serde_json::{Map, Value};

use super::context::Context;
use super::failure::Failure;
use super::output::Format;
use super::table::Table;
use super::topics;
use super::typed;
use crate::config::instead::nearest;

/// Most members that one line names: more than any row has.
const FIELDS_MAX: usize = 64;

/// What of each row is wanted.
#[derive(Debug, Clone, Default, Args)]
pub struct FieldsArgs {
    /// Only these members of each row, as JSON; without any: says which there are
    #[arg(long = "json", value_name = "FIELDS", num_args = 0..=1, default_missing_value = "",
          hide_short_help = true)]
    fields: Option<String>,
}

impl FieldsArgs {
    /// Whether any were asked for.
    #[must_use]
    pub fn are_chosen(&self) -> bool {
        self.fields.is_some()
    }

    /// Fails where they can't be had: a list that stays is told line by line.
    ///
    /// # Errors
    /// Exit code 2.
    pub fn check_not_live(&self) -> Result<(), Failure> {
        if self.fields.is_none() {
            return Ok(());
        }
        Err(Failure::usage("--json is one document, and --watch never ends")
            .hint("leave --json out, and: --watch -o jsonl"))
    }

    /// Gives the answer, whole or the members that are wanted. `kind` is what the schema
    /// calls the document.
    ///
    /// # Errors
    /// Exit code 2, with the names, for one that there is not.
    pub fn answer(
        &self,
        ctx: &Context,
        kind: &str,
        document: &impl Serialize,
        table: &Table,
    ) -> Result<(), Failure> {
        let Some(wanted) = &self.fields else {
            ctx.out.answer(document, table);
            return Ok(());
        };
        let document = serde_json::to_value(document).unwrap_or_default();
        let (list, mut known) = known(kind);
        let rows: &[Value] = document[&list].as_array().map_or(&[], Vec::as_slice);
        for name in rows.iter().filter_map(Value::as_object).flat_map(Map::keys) {
            if !known.contains(name) {
                known.push(name.clone());
            }
        }
        let wanted = chosen(wanted, &known)?;
        let selected: Vec<Value> = rows.iter().map(|row| of_row(row, &wanted)).collect();
        if ctx.out.format == Format::Jsonl {
            for row in &selected {
                ctx.out.json(row);
            }
        } else {
            ctx.out.json(&selected);
        }
        Ok(())
    }
}

/// The member of the document that holds its rows, and the members that each may have.
fn known(kind: &str) -> (String, Vec<String>) {
    let schema: Value = serde_json::from_str(topics::SCHEMA).unwrap_or_default();
    let fields = schema["$defs"][kind]["properties"].as_object().cloned().unwrap_or_default();
    let list = fields.into_iter().find(|(_, says)| says["type"] == "array");
    let Some((list, says)) = list else { return (kind.to_owned(), vec![]) };
    let row = match says["items"]["$ref"].as_str() {
        Some(path) => schema.pointer(path.trim_start_matches('#')).cloned().unwrap_or_default(),
        None => says["items"].clone(),
    };
    let names = row["properties"].as_object().cloned().unwrap_or_default();
    // What a command that waits or only asks adds is no member of a list's row.
    let added = ["exit_code", "error", "dry_run"];
    let names = names.into_iter().map(|(name, _)| name);
    (list, names.filter(|name| !added.contains(&name.as_str())).collect())
}

/// The names in `wanted`, each of which is there.
fn chosen(wanted: &str, known: &[String]) -> Result<Vec<String>, Failure> {
    let names: Vec<String> =
        wanted.split(',').map(str::trim).filter(|name| !name.is_empty()).map(Into::into).collect();
    let there = format!("there are {}", known.join(", "));
    if names.is_empty() || names.len() > FIELDS_MAX {
        return Err(Failure::usage("--json needs the members that you want").because(there));
    }
    let Some(wrong) = names.iter().find(|name| !known.contains(name)) else { return Ok(names) };
    let mut failure = Failure::usage(format!("a row has no member {wrong:?}")).because(there);
    if let Some(near) = nearest(wrong, known.iter().map(String::as_str)) {
        let meant: Vec<&str> =
            names.iter().map(|name| if name == wrong { near } else { name.as_str() }).collect();
        let line = typed::replacing(wanted, &meant.join(","));
        failure = failure.hint(format!("did you mean: {}", line.unwrap_or(near.to_owned())));
    }
    Err(failure)
}

fn of_row(row: &Value, wanted: &[String]) -> Value {
    // What is left out of a document where it says nothing is null here: each row has all.
    wanted.iter().map(|name| (name.clone(), row[name].clone())).collect::<Map<_, _>>().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_list_has_its_names_in_the_schema() {
        for (kind, list, one) in [
            ("status", "apps", "rollout"),
            ("releases", "releases", "actor"),
            ("apps", "apps", "trunk"),
            ("builds", "builds", "worker"),
            ("hosts", "hosts", "reachable"),
            ("regions", "regions", "owed"),
            ("workers", "workers", "slots"),
            ("events", "events", "seq"),
            ("freezes", "freezes", "until"),
            ("holds", "holds", "until"),
            ("tokens", "tokens", "role"),
            ("webhooks", "webhooks", "name"),
        ] {
            let (found, names) = known(kind);
            assert_eq!(found, list);
            assert!(names.iter().any(|name| name == one), "{kind}: {names:?}");
            assert!(!names.iter().any(|name| name == "exit_code"));
        }
    }

    #[test]
    fn members_are_chosen_by_name_and_a_wrong_one_finds_its_neighbour() {
        let known = ["state", "commit"].map(String::from);
        assert_eq!(chosen("commit, state", &known).unwrap(), ["commit", "state"]);
        let wrong = chosen("comit", &known).unwrap_err();
        assert!(wrong.hints[0].contains("commit"), "{wrong:?}");
        assert!(chosen("", &known).unwrap_err().causes[0].contains("state, commit"));
        let row = serde_json::json!({"state": "x", "other": 1});
        let some = of_row(&row, &known);
        assert_eq!(some, serde_json::json!({"state": "x", "commit": null}));
    }
}
