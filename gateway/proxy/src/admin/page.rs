//! The page for people: plain HTML, no scripts, nothing from elsewhere.

use crate::admin::views;
use crate::server::State;
use std::fmt::{self, Display, Formatter, Write};

pub(super) const STYLE: &str = "\
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
td, th { border-bottom: 1px solid #ccc; padding: .3rem .6rem; text-align: left; vertical-align: top; }
label { display: block; margin: .5rem 0; }
input { width: 30rem; max-width: 100%; }
.error { color: #a00; } .warning { color: #850; } .note { color: #555; }
";

/// Text with the characters that mean something in HTML written as entities.
struct Text<T>(T);

impl<T: Display> Display for Text<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        struct Escape<'a, 'b>(&'a mut Formatter<'b>);
        impl Write for Escape<'_, '_> {
            fn write_str(&mut self, s: &str) -> fmt::Result {
                s.chars().try_for_each(|c| match c {
                    '&' => self.0.write_str("&amp;"),
                    '<' => self.0.write_str("&lt;"),
                    '>' => self.0.write_str("&gt;"),
                    '"' => self.0.write_str("&quot;"),
                    '\'' => self.0.write_str("&#39;"),
                    c => self.0.write_char(c),
                })
            }
        }
        write!(Escape(f), "{}", self.0)
    }
}

/// The page at `/`.
pub(super) fn page(state: &State) -> String {
    let mut out = String::from(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Tidegate</title>\
         <link rel=\"stylesheet\" href=\"/style.css\"></head><body><h1>Tidegate</h1>\n",
    );
    // Writing to a string cannot fail.
    let _ = write_body(&mut out, state);
    out.push_str("</body></html>\n");
    out
}

fn write_body(out: &mut String, state: &State) -> fmt::Result {
    let since = state.shown().since.map(|t| humantime::format_rfc3339_seconds(t).to_string());
    let since = since.as_deref().unwrap_or("no config yet");
    let ready = state.readiness().map_or_else(|why| format!("not ready: {why}"), |()| "ready".to_owned());
    writeln!(out, "<p>Generation {}, live since {since}, {ready}.</p>", state.live.generation())?;
    out.push_str(
        "<p><a href=\"/config\">objects and diagnostics</a>, <a href=\"/config/table\">routing table</a>, \
         <a href=\"/generation\">generation</a>, <a href=\"/stats/prometheus\">metrics</a></p>\n\
         <h2>Explain a request</h2>\n<form action=\"/explain\">\
         <label>Method <input name=\"method\" value=\"GET\"></label>\
         <label>URL <input name=\"url\" placeholder=\"http://host/path\" required></label>\
         <label>Header <input name=\"header\" placeholder=\"NAME:VALUE\"></label>\
         <label>Gateway <input name=\"gateway\" placeholder=\"NAMESPACE/NAME, or mesh\"></label>\
         <button>Explain</button></form>\n",
    );
    write_listeners(out, state)?;
    write_diagnostics(out, state)
}

fn write_listeners(out: &mut String, state: &State) -> fmt::Result {
    let shown = state.shown();
    out.push_str("<h2>Listeners</h2>\n<table><tr><th>Listener<th>Bound to<th>Speaks<th>Asked for by</tr>\n");
    for (key, listener) in &shown.model.listeners {
        let bound = shown.addresses.iter().find(|(k, _)| k == key).map(|(_, at)| at.to_string());
        let speaks = match &listener.protocol {
            tidegate_model::ListenerProtocol::Http(table) => format!("HTTP, {table}"),
            tidegate_model::ListenerProtocol::Tls(servers) => {
                let hosts: Vec<&str> = servers.iter().flat_map(|s| &s.hosts).map(AsRef::as_ref).collect();
                format!("TLS for {}", hosts.join(", "))
            }
            tidegate_model::ListenerProtocol::Tcp(route) => {
                let to: Vec<_> = route.destinations.iter().map(|d| d.cluster.to_string()).collect();
                format!("TCP to {}", to.join(", "))
            }
        };
        let owners: Vec<_> = listener.owners.iter().map(ToString::to_string).collect();
        writeln!(
            out,
            "<tr><td>{}<td>{}<td>{}<td>{}</tr>",
            Text(key),
            Text(bound.as_deref().unwrap_or("not open")),
            Text(speaks),
            Text(owners.join(", "))
        )?;
    }
    out.push_str("</table>\n");
    Ok(())
}

fn write_diagnostics(out: &mut String, state: &State) -> fmt::Result {
    let diagnostics = views::diagnostics(state);
    out.push_str("<h2>Diagnostics</h2>\n");
    if diagnostics.is_empty() {
        out.push_str("<p>None.</p>\n");
        return Ok(());
    }
    out.push_str("<table>\n");
    for d in &diagnostics {
        writeln!(out, "<tr><td class=\"{}\">{}</tr>", d.severity, Text(d))?;
    }
    out.push_str("</table>\n");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_cannot_become_markup() {
        let hostile = "<script>alert('1' & \"2\")</script>";
        let escaped = Text(hostile).to_string();
        assert_eq!(escaped, "&lt;script&gt;alert(&#39;1&#39; &amp; &quot;2&quot;)&lt;/script&gt;");
    }
}
