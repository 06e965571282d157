//! The manual pages: of each command, from its help, and net.toml(5), from docs/config.md.

use std::{fs, io, path::Path};

use clap::CommandFactory;
use clap_mangen::Man;

use super::Cli;

/// What net.toml(5) is made from.
const CONFIG: &str = include_str!("../../../../docs/config.md");

/// Sections of vswitchctl(1) that clap has no words for.
const MORE: &str = r#".SH FILES
.TP
\fI/run/vswitch/api.sock\fR
The daemon's socket: HTTP and JSON, described at /v1/openapi.json.
.TP
\fI/etc/cni/net.d/80\-vswitch\-NETWORK.conflist\fR
Written by \fBvswitchctl cni conflist\fR.
.SH ENVIRONMENT
.TP
\fBVSWITCH_SOCKET\fR
The daemon's socket, without \fB\-\-socket\fR.
.SH EXIT STATUS
.TP
\fB0\fR
Done.
.TP
\fB1\fR
Refused by the daemon, or by the kernel; \fBstatus \-\-check\fR: something does not work.
.TP
\fB2\fR
The command line is invalid.
.TP
\fB3\fR
The daemon is unreachable, or has ended.
.TP
\fB4\fR
A named object does not exist.
.TP
\fB5\fR
Permission denied.
.SH SEE ALSO
\fBvswitchd\fR(8), \fBnet.toml\fR(5), \fBvswitch\-cni\fR(8)
"#;

/// Prints the page of vswitchctl, or writes all pages into a folder.
pub(super) fn man(folder: Option<&Path>) -> io::Result<String> {
    let Some(folder) = folder else {
        return Ok(String::from_utf8_lossy(&of_command(Cli::command())?).into_owned());
    };
    fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Cli::command(), folder)?;
    fs::write(folder.join("vswitchctl.1"), of_command(Cli::command())?)?;
    fs::write(folder.join("net.toml.5"), config())?;
    Ok(format!("manual pages written to {}\n", folder.display()))
}

/// The page of vswitchctl itself.
fn of_command(command: clap::Command) -> io::Result<Vec<u8>> {
    let page = Man::new(command);
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    page.render_subcommands_section(&mut text)?;
    text.extend_from_slice(MORE.as_bytes());
    Ok(text)
}

/// net.toml(5).
fn config() -> String {
    let body = CONFIG.split_once('\n').map_or("", |(_title, body)| body);
    format!(
        ".TH net.toml 5 \"\" \"vswitchd {}\"\n.SH NAME\nnet.toml \\- configuration of vswitchd\n.SH DESCRIPTION\n{}\
         .SH FILES\n\\fI/etc/vswitch/net.toml\\fR\n.SH SEE ALSO\n\\fBvswitchd\\fR(8), \\fBvswitchctl\\fR(1)\n",
        env!("CARGO_PKG_VERSION"),
        roff(body)
    )
}

/// Markdown as roff: headings, paragraphs, lists, tables as tagged lists, code.
fn roff(markdown: &str) -> String {
    let mut text = String::new();
    let mut is_code = false;
    let mut head: Vec<String> = Vec::new();
    for line in markdown.lines() {
        if line.starts_with("```") {
            is_code = !is_code;
            text += if is_code { ".PP\n.nf\n.RS 4\n" } else { ".RE\n.fi\n" };
        } else if is_code {
            // An empty line, or one that begins like a request, is text here.
            text += &format!("\\&{}\n", escape(line));
        } else if let Some(title) =
            line.trim_start_matches('#').strip_prefix(' ').filter(|_| line.starts_with('#'))
        {
            let request = if line.starts_with("## ") { ".SH" } else { ".SS" };
            text += &format!("{request} \"{}\"\n", inline(title).replace('"', "\\(dq"));
        } else if let Some(row) = line.strip_prefix('|') {
            table_row(&mut text, &mut head, row);
            continue;
        } else if let Some(item) = line.strip_prefix("- ") {
            text += &format!(".IP \\(bu 2\n\\&{}\n", inline(item));
        } else if line.is_empty() {
            text += ".PP\n";
        } else {
            text += &format!("\\&{}\n", inline(line.trim_start()));
        }
        head.clear();
    }
    text
}

/// A row of a table: the first cell is the tag, the last its meaning, those between are named by the table's head.
fn table_row(text: &mut String, head: &mut Vec<String>, row: &str) {
    let cells: Vec<_> =
        row.trim_end().trim_end_matches('|').split(" | ").map(|cell| inline(cell.trim())).collect();
    if head.is_empty() {
        *head = cells;
        return;
    }
    if row.starts_with("--") {
        return;
    }
    let [tag, between @ .., meaning] = &cells[..] else { return };
    *text += &format!(".TP\n{tag}\n\\&{meaning}\n");
    let named = head.iter().skip(1).zip(between).filter(|(_, cell)| !cell.is_empty());
    let named: Vec<_> = named.map(|(name, cell)| format!("{name}: {cell}")).collect();
    if !named.is_empty() {
        *text += &format!(".br\n({})\n", named.join("; "));
    }
}

/// A line of text: code in bold, links as their text.
fn inline(line: &str) -> String {
    let part = |(index, part): (usize, &str)| match index % 2 {
        0 => escape(&part.replace("**", "")),
        _ => format!("\\fB{}\\fR", escape(part)),
    };
    unlinked(line).split('`').enumerate().map(part).collect()
}

/// A line with `[text](target)` replaced by the text.
fn unlinked(line: &str) -> String {
    let Some((text, rest)) = line.split_once("](") else { return line.to_owned() };
    let Some((_target, after)) = rest.split_once(')') else { return line.to_owned() };
    // The bracket that this one closes: there may be others in the text.
    let mut depth = 0;
    let opening = text.char_indices().rev().find(|(_, letter)| {
        depth += match letter {
            ']' => 1,
            '[' => -1,
            _ => 0,
        };
        depth < 0
    });
    let Some((at, _)) = opening else { return line.to_owned() };
    format!("{}{}{}", &text[..at], &text[at + 1..], unlinked(after))
}

/// Text in which roff sees no request and no escape.
fn escape(text: &str) -> String {
    text.replace('\\', "\\e")
        .replace('-', "\\-")
        .replace('\'', "\\(aq")
        .replace('…', "...")
        .replace('–', "\\-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_of_keys_is_a_tagged_list() {
        let text = roff(
            "## `[api]`\n\n| key | type | meaning |\n|---|---|---|\n| `socket` | path | the [unix](u.md) [`[x]`](#x) socket |\n\n```toml\n[api]\n```\n",
        );
        assert_eq!(
            text,
            ".SH \"\\fB[api]\\fR\"\n.PP\n.TP\n\\fBsocket\\fR\n\\&the unix \\fB[x]\\fR socket\n.br\n(type: path)\n.PP\n.PP\n.nf\n.RS 4\n\\&[api]\n.RE\n.fi\n"
        );
    }

    #[test]
    fn every_key_of_the_manual_is_on_the_page() {
        let page = config();
        for key in ["workers", "metrics", "learn_peers", "native_tagged", "persist"] {
            assert!(page.contains(&format!("\\fB{key}\\fR")), "{key}");
        }
        assert!(!page.contains("```") && !page.contains("]("), "markdown is left");
    }

    #[test]
    fn the_page_of_vswitchctl_has_its_exit_codes() {
        let page = String::from_utf8(of_command(Cli::command()).unwrap()).unwrap();
        for line in super::super::EXIT_CODES.lines().skip(1) {
            let (code, _) = line.trim().split_once("  ").unwrap();
            assert!(page.contains(&format!("\\fB{code}\\fR\n")), "{code}");
        }
    }
}
