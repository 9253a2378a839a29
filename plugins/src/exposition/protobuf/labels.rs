//! The labels of one series: those of its metric, each name once, and the bound of a bucket or quantile.

use super::super::entry::{Label, RawValue};
use super::super::error::ParseError;
use super::wire::{Message, fail};

/// As in Prometheus an empty label is no label, and takes all others of its name with it.
#[derive(Debug, Default)]
pub(super) struct Labels<'a> {
    list: Vec<Label<'a>>,
    /// How many are the metric's own.
    own: usize,
    order: Vec<usize>,
}

impl<'a> Labels<'a> {
    pub(super) fn as_slice(&self) -> &[Label<'a>] {
        &self.list
    }

    pub(super) fn clear(&mut self) {
        self.list.clear();
        self.own = 0;
    }

    /// Adds a `LabelPair`. Only a name that is given is looked at, as in Prometheus.
    pub(super) fn decode(&mut self, mut message: Message<'a>) -> Result<(), ParseError> {
        let at = message.at();
        let (mut name, mut value) = ("", "");
        while let Some(field) = message.field("LabelPair")? {
            match field.number {
                1 => {
                    name = message.text(field, "LabelPair.name")?;
                    if name.is_empty() {
                        return fail(at, "LabelPair.name: expected a name, found an empty one".into());
                    }
                }
                2 => value = message.text(field, "LabelPair.value")?,
                _ => message.skip(field)?,
            }
        }
        match name {
            "" if value.is_empty() => return Ok(()),
            "" => return fail(at, "LabelPair: expected a name".into()),
            "__name__" => return fail(at, "LabelPair.name: expected a label other than __name__".into()),
            _ => self.list.push(Label { name: name.into(), raw: RawValue::Plain(value), at }),
        }
        self.own = self.list.len();
        Ok(())
    }

    /// Fails if two labels have one name and none of them is empty.
    pub(super) fn refuse_duplicates(&mut self) -> Result<(), ParseError> {
        let list = &mut self.list;
        if list.is_sorted_by(|a, b| a.name < b.name) {
            return Ok(());
        }
        self.order.clear();
        self.order.extend(0..list.len());
        self.order.sort_unstable_by(|a, b| (&list[*a].name, a).cmp(&(&list[*b].name, b)));
        let mut rest = &self.order[..];
        while let [first, ..] = rest {
            let run = rest.iter().take_while(|index| list[**index].name == list[*first].name);
            let (same, later) = rest.split_at(run.count());
            rest = later;
            let [_, second, ..] = same else { continue };
            if !same.iter().any(|index| list[*index].is_empty()) {
                return fail(list[*second].at, again(&list[*second].name));
            }
            for index in same {
                list[*index].raw = RawValue::Plain("");
            }
        }
        Ok(())
    }

    /// Whether a bound could stand beside the metric's own labels.
    pub(super) fn has_room_for(&self, bound: &str) -> bool {
        self.list.iter().all(|label| label.name != bound || label.is_empty())
    }

    /// Goes back to the metric's own labels, and adds the one that says which bucket or quantile it is.
    pub(super) fn set_bound(&mut self, bound: Option<(&'static str, f64)>) -> Result<(), ParseError> {
        self.list.truncate(self.own);
        let Some((name, value)) = bound else { return Ok(()) };
        match self.list.iter().find(|label| label.name == name) {
            None => self.list.push(Label { name: name.into(), raw: RawValue::Number(value), at: 0 }),
            Some(own) if own.is_empty() => {}
            Some(own) => return fail(own.at, again(name)),
        }
        Ok(())
    }
}

#[cold]
fn again(name: &str) -> String {
    format!("Metric.label: expected each label once, found {name:?} again")
}
