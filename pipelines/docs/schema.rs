//! Reads a JSON schema, as schemars derives it from a config struct, into the rows of a table: nested
//! objects become dotted keys.

use serde_json::Value;

/// Objects within objects beyond this are left out; a type that contains itself ends here.
const DEEPEST: usize = 8;

/// What is too much to say again.
const MANY_KEYS: usize = 3;

/// The types whose keys are shown, and below which key.
type Shown<'a> = Vec<(&'a Value, String)>;

/// One key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Row {
    /// As `jobs.<name>.targets[].url`.
    pub(super) key: String,
    /// As `list of string`.
    pub(super) type_name: String,
    /// As it would stand in a file, where there is one that says something.
    pub(super) default: Option<String>,
    /// True where the object that has the key must have it.
    pub(super) required: bool,
    /// The doc comment.
    pub(super) meaning: String,
}

/// What a schema says of itself.
pub(super) fn description(schema: &Value) -> Option<&str> {
    schema.get("description")?.as_str()
}

/// A schema whose references lead into its own `$defs`.
pub(super) struct Tree<'a> {
    root: &'a Value,
    /// A type of so many keys is shown once.
    many: usize,
}

impl<'a> Tree<'a> {
    pub(super) fn new(root: &'a Value) -> Self {
        Self { root, many: usize::MAX }
    }

    /// The same, with the keys of a type only below the first setting that has it; others refer to that one.
    pub(super) fn brief(root: &'a Value) -> Self {
        Self { root, many: MANY_KEYS }
    }

    /// Every key, in the order in which the structs have their fields.
    pub(super) fn rows(&self) -> Vec<Row> {
        let mut rows = Vec::new();
        self.add_properties("", self.root, 0, &mut rows, &mut Shown::new());
        rows
    }

    fn add_properties(
        &self,
        prefix: &str,
        schema: &'a Value,
        depth: usize,
        rows: &mut Vec<Row>,
        shown: &mut Shown<'a>,
    ) {
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return };
        let required = schema.get("required").and_then(Value::as_array);
        for (name, property) in properties {
            let key = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
            let place = rows.len();
            rows.push(Row {
                type_name: self.type_name(property),
                default: property.get("default").and_then(default),
                required: required.is_some_and(|required| required.iter().any(|key| key == name)),
                meaning: self.meaning(property),
                key: key.clone(),
            });
            if let Some(first) = self.descend(&key, property, depth + 1, rows, shown) {
                let gap = if rows[place].meaning.is_empty() { "" } else { " " };
                rows[place].meaning.push_str(&format!("{gap}Its keys are those of `{first}`."));
            }
        }
    }

    /// Adds what is inside a value: the keys of an object, of the elements of a list, of the values of a map; or
    /// says where these keys are already.
    fn descend(
        &self,
        key: &str,
        schema: &'a Value,
        depth: usize,
        rows: &mut Vec<Row>,
        shown: &mut Shown<'a>,
    ) -> Option<String> {
        if depth > DEEPEST {
            return None;
        }
        let mut elsewhere = None;
        for variant in self.variants(schema) {
            let keys = variant.get("properties").and_then(Value::as_object).map_or(0, serde_json::Map::len);
            match shown.iter().find(|(known, _)| std::ptr::eq(*known, variant)) {
                Some((_, first)) if keys >= self.many && first != key => elsewhere = Some(first.clone()),
                _ => {
                    shown.push((variant, key.to_owned()));
                    self.add_properties(key, variant, depth, rows, shown);
                }
            }
            if let Some(items) = variant.get("items") {
                elsewhere = self.descend(&format!("{key}[]"), items, depth, rows, shown).or(elsewhere);
            }
            if let Some(values) = variant.get("additionalProperties").filter(|values| values.is_object()) {
                elsewhere = self.descend(&format!("{key}.<name>"), values, depth, rows, shown).or(elsewhere);
            }
        }
        elsewhere
    }

    /// The schemas that a value may have, with references followed, and without null.
    fn variants(&self, schema: &'a Value) -> Vec<&'a Value> {
        let schema = self.resolve(schema);
        let alternatives = ["anyOf", "oneOf"].iter().find_map(|key| schema.get(key)?.as_array());
        match alternatives {
            Some(alternatives) => alternatives.iter().flat_map(|schema| self.variants(schema)).collect(),
            None if schema.get("type").is_some_and(|name| name == "null") => Vec::new(),
            None => vec![schema],
        }
    }

    fn resolve(&self, schema: &'a Value) -> &'a Value {
        let target = schema.get("$ref").and_then(Value::as_str);
        let name = target.and_then(|target| target.strip_prefix("#/$defs/"));
        name.and_then(|name| self.root.get("$defs")?.get(name)).unwrap_or(schema)
    }

    fn type_name(&self, schema: &'a Value) -> String {
        let mut names = Vec::new();
        for variant in self.variants(schema) {
            let name = self.variant_name(variant);
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names.join(" or ")
    }

    fn variant_name(&self, schema: &'a Value) -> String {
        if let Some(value) = schema.get("const") {
            return format!("`{}`", plain(value));
        }
        if let Some(values) = schema.get("enum").and_then(Value::as_array) {
            let values = values.iter().filter(|value| !value.is_null());
            return values.map(|value| format!("`{}`", plain(value))).collect::<Vec<_>>().join(" or ");
        }
        if let Some(format @ ("duration" | "size" | "secret")) = schema.get("format").and_then(Value::as_str)
        {
            return format.to_owned();
        }
        match json_type(schema) {
            "array" => match schema.get("items") {
                Some(items) => format!("list of {}", self.type_name(items)),
                None => "list".to_owned(),
            },
            "object" => match schema.get("additionalProperties").filter(|values| values.is_object()) {
                Some(values) => format!("map of {}", self.type_name(values)),
                None => "map".to_owned(),
            },
            other => other.to_owned(),
        }
    }

    /// The doc comment of the field, or else of its type; then those of the words it may be.
    fn meaning(&self, schema: &'a Value) -> String {
        let of_type = || {
            let first = self.variants(schema).first().copied()?;
            description(first).filter(|_| first.get("const").is_none())
        };
        let own = description(schema).or_else(of_type).unwrap_or_default();
        let words = self.variants(schema).into_iter().filter_map(|variant| {
            Some(format!("`{}`: {}", plain(variant.get("const")?), description(variant)?))
        });
        let texts = [own.to_owned()].into_iter().chain(words).filter(|text| !text.is_empty());
        texts.collect::<Vec<_>>().join("\n\n")
    }
}

fn json_type(schema: &Value) -> &str {
    let name = match schema.get("type") {
        Some(Value::Array(names)) => names.iter().find(|name| *name != "null").and_then(Value::as_str),
        Some(name) => name.as_str(),
        None => None,
    };
    name.unwrap_or("any value")
}

/// A default as it would stand in a file; `None` where it says no more than that the key may be absent.
fn default(value: &Value) -> Option<String> {
    let says_something = match value {
        Value::Null => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        // The defaults of its keys stand in their own rows.
        Value::Object(_) => false,
        Value::Bool(_) | Value::Number(_) => true,
    };
    says_something.then(|| plain(value))
}

/// A value as it would stand in a file.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => format!("[{}]", values.iter().map(plain).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nested_settings_become_dotted_keys_with_their_defaults() {
        let schema = json!({
            "properties": {
                "url": { "type": "string", "description": "Where." },
                "tls": { "anyOf": [{ "$ref": "#/$defs/Tls" }, { "type": "null" }], "default": null },
                "jobs": { "additionalProperties": { "type": "array", "items": { "oneOf": [
                    { "type": "string" },
                    { "type": "object", "properties": { "name": { "type": ["string", "null"] } } },
                ] } }, "type": "object" },
                "format": { "$ref": "#/$defs/Format", "default": "text" },
            },
            "required": ["url"],
            "$defs": {
                "Tls": { "description": "TLS.", "type": "object", "properties": {
                    "wait": { "$ref": "#/$defs/duration", "default": "5s", "description": "How\nlong." },
                } },
                "duration": { "type": "string", "format": "duration" },
                "Format": { "oneOf": [{ "const": "text", "description": "Lines." }, { "const": "json" }] },
            },
        });
        let rows = Tree::new(&schema).rows();
        let shown: Vec<_> = rows
            .iter()
            .map(|row| {
                let default = row.default.as_deref().unwrap_or(if row.required { "!" } else { "-" });
                format!("{} | {} | {default} | {}", row.key, row.type_name, row.meaning)
            })
            .collect();
        assert_eq!(
            shown,
            [
                "url | string | ! | Where.",
                "tls | map | - | TLS.",
                "tls.wait | duration | 5s | How\nlong.",
                "jobs | map of list of string or map | - | ",
                "jobs.<name>[].name | string | - | ",
                "format | `text` or `json` | text | `text`: Lines.",
            ]
        );
    }

    #[test]
    fn the_keys_of_a_type_are_shown_once() {
        let auth = json!({ "type": "object", "properties": {
            "user": { "type": "string" }, "password": { "type": "string" }, "file": { "type": "string" },
        } });
        let schema = json!({
            "properties": {
                "auth": { "$ref": "#/$defs/Auth" },
                "targets": { "type": "array", "items": { "$ref": "#/$defs/Target" } },
            },
            "$defs": {
                "Auth": auth,
                "Target": { "type": "object", "properties": { "auth": {
                    "anyOf": [{ "$ref": "#/$defs/Auth" }, { "type": "null" }], "description": "Its own.",
                } } },
            },
        });
        let rows = Tree::brief(&schema).rows();
        let shown: Vec<_> = rows.iter().map(|row| format!("{} | {}", row.key, row.meaning)).collect();
        let last = "targets[].auth | Its own. Its keys are those of `auth`.";
        assert_eq!(
            shown,
            ["auth | ", "auth.user | ", "auth.password | ", "auth.file | ", "targets | ", last]
        );
    }

    #[test]
    fn a_type_that_contains_itself_ends() {
        let schema = json!({ "$ref": "#/$defs/A", "properties": { "a": { "$ref": "#/$defs/A" } },
            "$defs": { "A": { "type": "object", "properties": { "a": { "$ref": "#/$defs/A" } } } } });
        assert_eq!(Tree::new(&schema).rows().len(), DEEPEST + 1);
    }
}
