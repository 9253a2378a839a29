//! Reads a regex as Go does (RE2's syntax with Perl's additions) and writes what Rust's engine must be
//! given to find the same.
//!
//! The two languages look alike and are not: `\s` and `\d` are ASCII in Go, `\<` is a plain `<`, `[a&&b]`
//! and `[[a]` are plain sets, `{,3}` is text, `\Q` quotes, octal escapes exist, `a**` is an error. So
//! nothing is passed through. Every construct is read with Go's rules and written in a form that can
//! mean one thing only: flags stand at the atom that they change, characters that might be syntax are
//! written by their number. What is written is large, and only machines read it.

mod class;
mod escape;
mod reader;

use reader::Reader;

/// The most times that repetitions, one within the other, may repeat together; as in Go.
const MAX_REPEAT: u32 = 1000;

/// What Prometheus puts around a regex.
const BEFORE: &str = "^(?s:";
const AFTER: &str = ")$";

/// A pattern for Rust's engine.
#[derive(Debug)]
pub(super) struct Translated {
    pub(super) pattern: String,
    /// The names of the groups, from 0 on, which is the whole match.
    pub(super) groups: Vec<Option<String>>,
}

/// Translates a `regex:` of a rule, with the anchors around it that Prometheus puts there.
///
/// # Errors
/// What is wrong with it in Go's eyes.
pub(super) fn translate(pattern: &str) -> Result<Translated, String> {
    // The anchors are read as text too, for a pattern can break out of them, as `a)|(b` does.
    let wrapped = format!("{BEFORE}{pattern}{AFTER}");
    let shown = BEFORE.len()..BEFORE.len() + pattern.len();
    let mut translator = Translator {
        reader: Reader::new(&wrapped, shown),
        flags: Flags::default(),
        out: String::with_capacity(2 * wrapped.len()),
        open: Vec::new(),
        groups: vec![None],
        last: None,
        repeat: 1,
    };
    translator.run()?;
    Ok(Translated { pattern: translator.out, groups: translator.groups })
}

/// What `(?ims)` and the like switch on.
#[derive(Clone, Copy, Debug, Default)]
struct Flags {
    fold_case: bool,
    multi_line: bool,
    dot_is_any: bool,
    lazy: bool,
}

struct Translator<'p> {
    reader: Reader<'p>,
    flags: Flags,
    out: String,
    /// The groups around the place that is read.
    open: Vec<Open>,
    groups: Vec<Option<String>>,
    /// What a repetition would repeat.
    last: Option<Atom>,
    /// How often the repetitions in this group repeat together, at most.
    repeat: u32,
}

/// A group that is not closed yet, with what holds outside of it.
struct Open {
    start: usize,
    flags: Flags,
    repeat: u32,
}

struct Atom {
    /// Where it begins in the output.
    start: usize,
    /// How often the repetitions in it repeat together.
    repeat: u32,
    /// Whether it is a repetition itself.
    is_repetition: bool,
}

impl Translator<'_> {
    fn run(&mut self) -> Result<(), String> {
        let mut after_repetition = false;
        while let Some(c) = self.reader.next() {
            let repetition = match c {
                '*' => Some((0, None)),
                '+' => Some((1, None)),
                '?' => Some((0, Some(1))),
                '{' => self.reader.counts()?,
                _ => None,
            };
            match repetition {
                Some(_) if after_repetition => {
                    return Err(format!("at {:?} a repetition follows another", self.reader.around()));
                }
                Some((least, most)) => self.repetition(c, least, most)?,
                None => self.construct(c)?,
            }
            after_repetition = repetition.is_some();
        }
        if self.open.is_empty() { Ok(()) } else { Err("a ( is never closed".to_owned()) }
    }

    fn construct(&mut self, c: char) -> Result<(), String> {
        match c {
            '(' => self.open_group()?,
            ')' => self.close_group()?,
            '|' => {
                self.settle();
                self.out.push('|');
            }
            '^' => self.atom(if self.flags.multi_line { "(?m:^)" } else { r"\A" }),
            '$' => self.atom(if self.flags.multi_line { "(?m:$)" } else { r"\z" }),
            '.' => self.atom(if self.flags.dot_is_any { "(?s:.)" } else { r"[^\n]" }),
            '[' => {
                let class = class::read(&mut self.reader)?;
                self.folding_atom(&class);
            }
            '\\' => self.escape()?,
            c => self.literal(u32::from(c)),
        }
        Ok(())
    }

    fn escape(&mut self) -> Result<(), String> {
        match self.reader.peek() {
            Some('A') => self.escape_atom(r"\A"),
            Some('z') => self.escape_atom(r"\z"),
            Some('b') => self.escape_atom(r"(?-u:\b)"),
            Some('B') => self.escape_atom(r"(?-u:\B)"),
            Some('Q') => {
                self.reader.next();
                for c in self.reader.until_quote_end().chars() {
                    self.literal(u32::from(c));
                }
            }
            _ => match escape::class(&mut self.reader)? {
                Some(class) => self.folding_atom(&class),
                None => {
                    let c = escape::character(&mut self.reader)?;
                    self.literal(c);
                }
            },
        }
        Ok(())
    }

    fn escape_atom(&mut self, text: &str) {
        self.reader.next();
        self.atom(text);
    }

    fn literal(&mut self, c: u32) {
        let mut text = String::new();
        escape::write_character(c, &mut text);
        self.folding_atom(&text);
    }

    /// Writes what `(?i)` changes.
    fn folding_atom(&mut self, text: &str) {
        if self.flags.fold_case {
            self.atom(&format!("(?i:{text})"));
        } else {
            self.atom(text);
        }
    }

    fn atom(&mut self, text: &str) {
        self.settle();
        self.last = Some(Atom { start: self.out.len(), repeat: 1, is_repetition: false });
        self.out.push_str(text);
    }

    /// Nothing more will repeat what is written last.
    fn settle(&mut self) {
        let repeat = self.last.take().map_or(0, |atom| atom.repeat);
        self.repeat = self.repeat.max(repeat);
    }

    /// Writes a repetition, lazy where a `?` or the flag `U` says so, and greedy where both do.
    fn repetition(&mut self, sign: char, least: u32, most: Option<u32>) -> Result<(), String> {
        let Some(atom) = &mut self.last else {
            return Err(format!("at {:?} there is nothing to repeat", self.reader.around()));
        };
        let lazy = self.reader.skip('?') != self.flags.lazy;
        if atom.is_repetition {
            self.out.insert_str(atom.start, "(?:");
            self.out.push(')');
        }
        atom.is_repetition = true;
        if sign == '{' {
            let most = most.map(|most| most.to_string()).unwrap_or_default();
            self.out.push_str(&format!("{{{least},{most}}}"));
            let times = if most.is_empty() { least.max(1) } else { most.parse().unwrap_or(MAX_REPEAT) };
            atom.repeat = if times == 0 { 0 } else { times.saturating_mul(atom.repeat.max(1)) };
        } else {
            self.out.push(sign);
        }
        if lazy {
            self.out.push('?');
        }
        if atom.repeat > MAX_REPEAT {
            return Err(format!("repetitions within repetitions are more than {MAX_REPEAT} together"));
        }
        Ok(())
    }

    /// Opens a group, or changes flags within the one that is open.
    fn open_group(&mut self) -> Result<(), String> {
        let mut flags = self.flags;
        let mut start = "(?:";
        if self.reader.skip('?') {
            if let Some(name) = self.reader.group_name()? {
                self.groups.push(Some(name));
                start = "(";
            } else if self.read_flags(&mut flags)? {
                self.flags = flags;
                return Ok(());
            }
        } else {
            self.groups.push(None);
            start = "(";
        }
        self.settle();
        self.open.push(Open { start: self.out.len(), flags: self.flags, repeat: self.repeat });
        self.out.push_str(start);
        (self.flags, self.repeat) = (flags, 1);
        Ok(())
    }

    /// Reads `i-s:` or `i-s)`. True after the latter, where no group begins.
    fn read_flags(&mut self, flags: &mut Flags) -> Result<bool, String> {
        let (mut on, mut needs_flag) = (true, false);
        loop {
            let flag = match self.reader.next() {
                Some('i') => &mut flags.fold_case,
                Some('m') => &mut flags.multi_line,
                Some('s') => &mut flags.dot_is_any,
                Some('U') => &mut flags.lazy,
                Some('-') if on => {
                    (on, needs_flag) = (false, true);
                    continue;
                }
                Some(end @ (':' | ')')) if !needs_flag => return Ok(end == ')'),
                _ => {
                    let message = "begins a kind of group that RE2 does not have";
                    return Err(format!("at {:?} {message}", self.reader.around()));
                }
            };
            *flag = on;
            needs_flag = false;
        }
    }

    fn close_group(&mut self) -> Result<(), String> {
        self.settle();
        let open = self.open.pop().ok_or("a ) closes nothing")?;
        self.out.push(')');
        self.last = Some(Atom { start: open.start, repeat: self.repeat, is_repetition: false });
        self.flags = open.flags;
        self.repeat = open.repeat;
        Ok(())
    }
}
