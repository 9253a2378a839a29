//! Lists of target groups as files and servers give them, in JSON or YAML.

use super::TargetGroup;

/// The largest list that is read, in bytes: ten thousand targets with their labels take two million.
pub(super) const LARGEST: u64 = 64 << 20;

/// Reads a list in JSON.
///
/// # Errors
/// It is no list of `{"targets": [...], "labels": {...}}`.
pub(super) fn from_json(text: &[u8]) -> Result<Vec<TargetGroup>, String> {
    check(serde_json::from_slice(text).map_err(|error| error.to_string())?)
}

/// Reads a list in YAML. An empty file is an empty list.
///
/// # Errors
/// It is no list of `targets` and `labels`.
pub(super) fn from_yaml(text: &[u8]) -> Result<Vec<TargetGroup>, String> {
    let text = std::str::from_utf8(text).map_err(|error| error.to_string())?;
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Vec::new());
    }
    check(serde_yaml::from_str(text).map_err(|error| error.to_string())?)
}

fn check(groups: Option<Vec<Option<TargetGroup>>>) -> Result<Vec<TargetGroup>, String> {
    let groups: Option<Vec<_>> = groups.unwrap_or_default().into_iter().collect();
    let groups = groups.ok_or_else(|| "one of the target groups is null".to_owned())?;
    match groups.iter().flat_map(|group| group.labels.keys()).find(|name| name.is_empty()) {
        Some(_) => Err("the name of a label is empty".to_owned()),
        None => Ok(groups),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_prometheus_reads_them() {
        let json = br#"[{"targets": ["a:1", "b:2"], "labels": {"x": "y"}}, {"labels": {"z": ""}}, {}]"#;
        let groups = from_json(json).unwrap();
        assert_eq!((groups.len(), &groups[0].targets[..]), (3, &["a:1".to_owned(), "b:2".to_owned()][..]));
        assert_eq!(groups[0].labels["x"], "y");

        // What YAML takes for a number or a boolean is a label value as it is written.
        let yaml = b"- targets: [a:1, 'b:2']\n  labels: { x: y, n: 007, f: 1.0, h: 0x10, b: yes, t: true }\n";
        let labels = &from_yaml(yaml).unwrap()[0].labels;
        let found: Vec<_> = labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(found, ["b=yes", "f=1.0", "h=0x10", "n=007", "t=true", "x=y"]);

        for nothing in ["", "\n# no targets yet\n", "null", "[]"] {
            assert_eq!(from_yaml(nothing.as_bytes()), Ok(Vec::new()), "{nothing:?}");
        }
        assert_eq!(from_json(b"null"), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for json in ["", "{}", "[null]", r#"[{"target": ["a"]}]"#, r#"[{"targets": [1]}]"#, "[{]"] {
            assert!(from_json(json.as_bytes()).is_err(), "{json}");
        }
        for json in [r#"[{"labels": {"a": 1}}]"#, r#"[{"labels": {"": "a"}}]"#, "[] []"] {
            assert!(from_json(json.as_bytes()).is_err(), "{json}");
        }
        for yaml in ["targets: [a]", "- target: [a]", "- targets: a", "- [", "- \n", "\u{fffd}"] {
            assert!(from_yaml(yaml.as_bytes()).is_err(), "{yaml}");
        }
        assert!(from_yaml(&[0xff, 0xfe]).is_err());
    }
}
