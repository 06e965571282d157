//! `--format`: the subset of Go's templates in common use with Docker.
//!
//! | written | printed |
//! |---|---|
//! | `{{.Name}}`, `{{.IPAM.Driver}}`, `{{.}}` | a field, or all |
//! | `{{json .Labels}}` | as JSON |
//! | `{{len .Containers}}`, `{{index .Labels "team"}}`, `{{.Label "team"}}` | length; an entry of a map |
//! | `{{range .IPAM.Config}}{{.Subnet}}{{end}}` | its body for each element |
//! | `{{range $id, $it := .Containers}}{{$id}} {{$it.Name}}{{end}}` | the same, by key and value |
//! | `{{if .Internal}}…{{else}}…{{end}}` | one branch or the other |
//!
//! Pipes, comparisons and other functions are reported as errors. `\t` and `\n` are escapes.

use std::collections::BTreeMap;

use comfy_table::{Row, Table};
use serde_json::Value;

use vswitch_model::Error;

/// A parsed template.
#[derive(Debug)]
pub(super) struct Template(Vec<Part>);

#[derive(Debug)]
enum Part {
    Text(String),
    Print(Expression),
    Range { names: Vec<String>, over: Expression, inside: Vec<Self> },
    If { condition: Expression, yes: Vec<Self>, no: Vec<Self> },
}

#[derive(Debug)]
enum Expression {
    /// A variable (`.` is the empty name) and the fields from there.
    Path(String, Vec<String>),
    Json(Box<Self>),
    Len(Box<Self>),
    Index(Box<Self>, String),
}

/// Renders a list by `format`: `json`, `table`, a template for each row, or `table` and a template for its columns.
///
/// # Errors
/// The template is invalid, or names a missing field.
pub(super) fn render_list(
    format: &str,
    default: &str,
    headings: &[(&str, &str)],
    rows: &[Value],
) -> Result<String, Error> {
    if format == "json" {
        return Ok(rows.iter().map(|row| format!("{row}\n")).collect());
    }
    let (is_table, template) = match format.strip_prefix("table") {
        Some("") => (true, default.strip_prefix("table ").unwrap_or(default)),
        Some(rest) => (true, rest.trim_start()),
        None => (false, format),
    };
    let template = Template::parse(template)?;
    let lines = rows.iter().map(|row| template.render(row));
    if !is_table {
        return lines.map(|line| Ok(line? + "\n")).collect();
    }
    let heading: Value =
        headings.iter().map(|(field, text)| ((*field).to_owned(), Value::from(*text))).collect();
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header(Row::from(template.render(&heading)?.split('\t').collect::<Vec<_>>()));
    for line in lines {
        table.add_row(Row::from(line?.split('\t').collect::<Vec<_>>()));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 3));
    }
    Ok(table.trim_fmt() + "\n")
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// It is invalid, or uses an unsupported feature.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let text = text.replace("\\t", "\t").replace("\\n", "\n");
        let mut tokens = tokens(&text)?.into_iter();
        let (parts, end) = parts(&mut tokens)?;
        match end {
            None => Ok(Self(parts)),
            Some(word) => Err(wrong(&format!("{{{{{word}}}}} without {{{{range}}}} or {{{{if}}}}"))),
        }
    }

    /// Renders it with `value`.
    ///
    /// # Errors
    /// It names a missing field.
    pub(super) fn render(&self, value: &Value) -> Result<String, Error> {
        let mut text = String::new();
        print(&self.0, &BTreeMap::from([(String::new(), value)]), &mut text)?;
        Ok(text)
    }
}

enum Token {
    Text(String),
    Action(String),
}

fn wrong(what: &str) -> Error {
    Error::invalid(format!("template parsing error: {what}: see `--help` for what is supported"))
}

fn tokens(mut text: &str) -> Result<Vec<Token>, Error> {
    let mut tokens = Vec::new();
    while let Some((before, rest)) = text.split_once("{{") {
        let (action, after) = rest.split_once("}}").ok_or_else(|| wrong("{{ without }}"))?;
        tokens.push(Token::Text(before.into()));
        tokens.push(Token::Action(action.trim().trim_matches('-').trim().into()));
        text = after;
    }
    tokens.push(Token::Text(text.into()));
    Ok(tokens)
}

/// Everything up to the end, or up to `end` or `else`, which is returned.
fn parts(tokens: &mut std::vec::IntoIter<Token>) -> Result<(Vec<Part>, Option<String>), Error> {
    let mut found = Vec::new();
    while let Some(token) = tokens.next() {
        let action = match token {
            Token::Text(text) => {
                found.push(Part::Text(text));
                continue;
            }
            Token::Action(action) => action,
        };
        let (word, rest) = action.split_once(' ').unwrap_or((&action, ""));
        match word {
            "end" | "else" => return Ok((found, Some(word.into()))),
            "range" => {
                let (names, over) = match rest.split_once(":=") {
                    None => (Vec::new(), rest),
                    Some((names, over)) => {
                        (names.split(',').map(|name| name.trim().to_owned()).collect(), over)
                    }
                };
                let over = expression(over)?;
                let (inside, end) = parts(tokens)?;
                if end.as_deref() != Some("end") {
                    return Err(wrong("{{range}} without {{end}}"));
                }
                found.push(Part::Range { names, over, inside });
            }
            "if" => {
                let condition = expression(rest)?;
                let (yes, mut end) = parts(tokens)?;
                let mut no = Vec::new();
                if end.as_deref() == Some("else") {
                    (no, end) = parts(tokens)?;
                }
                if end.as_deref() != Some("end") {
                    return Err(wrong("{{if}} without {{end}}"));
                }
                found.push(Part::If { condition, yes, no });
            }
            _ => found.push(Part::Print(expression(&action)?)),
        }
    }
    Ok((found, None))
}

fn expression(text: &str) -> Result<Expression, Error> {
    let text = text.trim();
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    let quoted = |text: &str| text.trim().strip_prefix('"')?.strip_suffix('"').map(str::to_owned);
    match word {
        "json" => Ok(Expression::Json(Box::new(expression(rest)?))),
        "len" => Ok(Expression::Len(Box::new(expression(rest)?))),
        "index" => {
            let (of, key) =
                rest.trim().split_once(' ').ok_or_else(|| wrong("index needs a map and a key"))?;
            let key = quoted(key).ok_or_else(|| wrong("a key must be in quotes"))?;
            Ok(Expression::Index(Box::new(expression(of)?), key))
        }
        ".Label" => {
            let key = quoted(rest).ok_or_else(|| wrong("a label must be in quotes"))?;
            Ok(Expression::Index(Box::new(expression(".Labels")?), key))
        }
        path if rest.is_empty() && path.starts_with(['.', '$']) => {
            let mut fields = path.split('.');
            let variable = fields.next().unwrap_or_default().to_owned();
            Ok(Expression::Path(variable, fields.filter(|it| !it.is_empty()).map(str::to_owned).collect()))
        }
        _ => Err(wrong(&format!("{{{{{text}}}}} is not supported"))),
    }
}

type Scope<'v> = BTreeMap<String, &'v Value>;

fn print(parts: &[Part], scope: &Scope<'_>, text: &mut String) -> Result<(), Error> {
    for part in parts {
        match part {
            Part::Text(literal) => text.push_str(literal),
            Part::Print(expression) => text.push_str(&shown(&evaluate(expression, scope)?)),
            Part::If { condition, yes, no } => {
                let value = evaluate(condition, scope)?;
                print(if is_true(&value) { yes } else { no }, scope, text)?;
            }
            Part::Range { names, over, inside } => {
                let value = evaluate(over, scope)?;
                let items: Vec<(Value, &Value)> = match &value {
                    Value::Array(items) => items.iter().enumerate().map(|(at, it)| (at.into(), it)).collect(),
                    Value::Object(map) => map.iter().map(|(key, it)| (key.as_str().into(), it)).collect(),
                    Value::Null => Vec::new(),
                    _ => return Err(wrong("{{range}} over a value that is not a list")),
                };
                for (key, item) in &items {
                    let mut scope = scope.clone();
                    scope.insert(String::new(), item);
                    match names.as_slice() {
                        [] => {}
                        [name] => drop(scope.insert(name.clone(), item)),
                        [first, second, ..] => {
                            scope.insert(first.clone(), key);
                            scope.insert(second.clone(), item);
                        }
                    }
                    print(inside, &scope, text)?;
                }
            }
        }
    }
    Ok(())
}

fn evaluate(expression: &Expression, scope: &Scope<'_>) -> Result<Value, Error> {
    match expression {
        Expression::Path(variable, fields) => {
            let start =
                scope.get(variable).ok_or_else(|| wrong(&format!("undefined variable {variable:?}")))?;
            let mut value = *start;
            for field in fields {
                value = value.get(field).ok_or_else(|| {
                    Error::invalid(format!("template: can't evaluate field {field}: there is no such field"))
                })?;
            }
            Ok(value.clone())
        }
        Expression::Json(inner) => Ok(evaluate(inner, scope)?.to_string().into()),
        Expression::Len(inner) => Ok(match evaluate(inner, scope)? {
            Value::Array(items) => items.len().into(),
            Value::Object(map) => map.len().into(),
            Value::String(text) => text.len().into(),
            _ => return Err(wrong("len of a value without length")),
        }),
        Expression::Index(of, key) => Ok(match evaluate(of, scope)? {
            Value::Object(map) => map.get(key).cloned().unwrap_or_else(|| "".into()),
            // The labels in a list are a single text.
            Value::String(text) => {
                let of = |pair: &str| pair.strip_prefix(key.as_str())?.strip_prefix('=').map(str::to_owned);
                text.split(',').find_map(of).unwrap_or_default().into()
            }
            _ => return Err(wrong("index of a value that is not a map")),
        }),
    }
}

fn is_true(value: &Value) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(answer) => *answer,
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::String(text) => !text.is_empty(),
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// As Go prints values: text unquoted, maps as `map[a:1 b:2]`, lists as `[1 2]`.
fn shown(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", items.iter().map(shown).collect::<Vec<_>>().join(" ")),
        Value::Object(map) => {
            let pairs: Vec<_> = map.iter().map(|(key, value)| format!("{key}:{}", shown(value))).collect();
            format!("map[{}]", pairs.join(" "))
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filled(template: &str) -> Result<String, String> {
        let value = json!({
            "Name": "blue", "Internal": false, "Labels": {"team": "a"},
            "IPAM": {"Driver": "default", "Config": [{"Subnet": "10.9.0.0/24"}, {"Subnet": "fd09::/64"}]},
            "Containers": {"ep-1": {"Name": "web"}, "ep-2": {"Name": "db"}},
        });
        Template::parse(template).and_then(|it| it.render(&value)).map_err(|error| error.sentence)
    }

    #[test]
    fn what_dockers_users_write() {
        for (template, expected) in [
            ("{{.Name}}", "blue"),
            ("{{ .Name }}: {{.IPAM.Driver}}\\n", "blue: default\n"),
            ("{{json .Labels}}", r#"{"team":"a"}"#),
            ("{{.Labels}}", "map[team:a]"),
            ("{{len .Containers}}", "2"),
            ("{{index .Labels \"team\"}}", "a"),
            ("{{range .IPAM.Config}}{{.Subnet}} {{end}}", "10.9.0.0/24 fd09::/64 "),
            ("{{range $id, $it := .Containers}}{{$id}}={{$it.Name}};{{end}}", "ep-1=web;ep-2=db;"),
            ("{{range .Containers}}{{.Name}},{{end}}", "web,db,"),
            ("{{if .Internal}}in{{else}}out{{end}}", "out"),
            ("{{if .Labels}}labelled{{end}}", "labelled"),
            ("", ""),
        ] {
            assert_eq!(filled(template).as_deref(), Ok(expected), "{template}");
        }
        for (template, part) in [
            ("{{.Colour}}", "can't evaluate field Colour"),
            ("{{.Name", "{{ without }}"),
            ("{{range .Labels}}", "{{range}} without {{end}}"),
            ("{{end}}", "{{end}} without"),
            ("{{upper .Name}}", "{{upper .Name}} is not supported"),
            ("{{$x}}", "undefined variable"),
        ] {
            let error = filled(template).unwrap_err();
            assert!(error.contains(part), "{template}: {error}");
        }
    }

    #[test]
    fn lists_are_tables_lines_or_json() {
        let rows = [json!({"ID": "1", "Name": "blue"}), json!({"ID": "2", "Name": "red"})];
        let headings = [("ID", "NETWORK ID"), ("Name", "NAME")];
        let list = |format| render_list(format, "table {{.ID}}\t{{.Name}}", &headings, &rows).unwrap();
        assert_eq!(list("table"), "NETWORK ID   NAME\n1            blue\n2            red\n");
        assert_eq!(list("table {{.Name}}"), "NAME\nblue\nred\n");
        assert_eq!(list("{{.Name}}"), "blue\nred\n");
        assert_eq!(list("json").lines().count(), 2);
    }
}
